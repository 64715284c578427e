//! What is measured: which image, unpacked by whom, onto which file system, and what the ratios have to be.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::loopfs::Kind;
use crate::measure::Line;

/// A root filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    Minbase,
    Development,
}

impl Root {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Root::Minbase => "minbase",
            Root::Development => "development",
        }
    }
}

/// What comes after the contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    Syncfs,
}

/// How many times as fast, or as cheap, the least is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// The contestants of this group; where there are several, the best of them counts.
    pub(crate) against: Group,
    pub(crate) wall: Option<f64>,
    pub(crate) processor: Option<f64>,
    pub(crate) memory: Option<f64>,
}

/// Ways to unpack, of which the best is what we are measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Ours,
    /// What Incus runs.
    Managers,
    /// The same with a larger record of GNU tar.
    LargeRecords,
    Bsdtar,
    TarCrate,
    /// Decompressing alone.
    Decoding,
    /// Making the tree from memory alone.
    Creating,
}

impl Group {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Group::Ours => "reroot",
            Group::Managers => "what Incus runs",
            Group::LargeRecords => "tar -b 2048",
            Group::Bsdtar => "bsdtar",
            Group::TarCrate => "the tar crate",
            Group::Decoding => "decompressing alone",
            Group::Creating => "creating from memory alone",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) root: Root,
    /// The file in the folder of the image.
    pub(crate) file: &'static str,
    pub(crate) kind: Kind,
    pub(crate) then: Then,
    pub(crate) targets: Vec<Target>,
    /// How many times the bound the wall time may be.
    pub(crate) bound: Option<f64>,
}

impl Case {
    /// `development/tar.zst/ext4/syncfs`.
    pub(crate) fn name(&self) -> String {
        let file = self.file.trim_start_matches("rootfs.");
        let then = if self.then == Then::Syncfs { "/syncfs" } else { "" };
        format!("{}/{file}/{}{then}", self.root.name(), self.kind.name())
    }

    pub(crate) fn is_squashfs(&self) -> bool {
        self.file.ends_with(".squashfs")
    }

    fn new(root: Root, file: &'static str, kind: Kind) -> Self {
        Case { root, file, kind, then: Then::Nothing, targets: Vec::new(), bound: None }
    }

    fn synced(mut self) -> Self {
        self.then = Then::Syncfs;
        self
    }

    fn at_least(mut self, against: Group, wall: Option<f64>, processor: Option<f64>) -> Self {
        self.targets.push(Target { against, wall, processor, memory: None });
        self
    }

    fn managers(self, wall: f64, processor: f64) -> Self {
        self.at_least(Group::Managers, Some(wall), Some(processor))
    }

    fn bounded(mut self, times: f64) -> Self {
        self.bound = Some(times);
        self
    }
}

/// All cases, those with demands first.
pub(crate) fn all() -> Vec<Case> {
    use Root::{Development, Minbase};
    let new = Case::new;
    let mut squashfs = new(Development, "rootfs.zstd.squashfs", Kind::Ext4);
    squashfs.targets.push(Target { against: Group::Managers, wall: Some(1.0), processor: Some(1.0), memory: Some(8.0) });
    vec![
        new(Development, "rootfs.tar.zst", Kind::Ext4).managers(2.1, 1.8).bounded(1.25),
        new(Development, "rootfs.tar.zst", Kind::Ext4).synced().at_least(Group::Managers, Some(1.8), None),
        new(Minbase, "rootfs.tar.zst", Kind::Ext4).managers(1.8, 1.9),
        new(Development, "rootfs.tar.gz", Kind::Ext4).managers(2.1, 2.0),
        new(Development, "rootfs.tar.xz", Kind::Ext4).managers(2.4, 1.5),
        new(Development, "rootfs.tar", Kind::Ext4).managers(2.4, 1.6).at_least(Group::LargeRecords, Some(1.8), Some(1.6)),
        squashfs.clone(),
        Case { file: "rootfs.xz.squashfs", ..squashfs },
        new(Development, "rootfs.tar.zst", Kind::Xfs).managers(1.9, 1.7).bounded(1.25),
        new(Development, "rootfs.tar.zst", Kind::Btrfs).managers(1.45, 1.7),
        new(Development, "rootfs.tar.zst", Kind::Tmpfs).managers(1.8, 1.7),
        new(Development, "rootfs.tar.zst", Kind::Xfs).synced(),
        new(Development, "rootfs.tar.zst", Kind::Btrfs).synced(),
        new(Minbase, "rootfs.tar.zst", Kind::Ext4).synced(),
        new(Minbase, "rootfs.tar.zst", Kind::Tmpfs),
        new(Minbase, "rootfs.tar.gz", Kind::Ext4),
        new(Minbase, "rootfs.tar", Kind::Ext4),
    ]
}

/// One way to unpack an image into a directory.
#[derive(Debug, Clone)]
pub(crate) struct Contestant {
    pub(crate) name: String,
    pub(crate) group: Group,
    pub(crate) line: Line,
    pub(crate) figures: Source,
}

/// Where the figures of a run come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The whole command is measured.
    Outside,
    /// The command measures a part of what it does, and prints it.
    Itself,
}

/// What Incus always passes; then comes the decompressor, and `-xf -`.
const TAR: &str = "--anchored --wildcards --exclude=dev/* --exclude=/dev/* --exclude=./dev/* --exclude=rootfs/dev/* \
    --exclude=/rootfs/dev/* --exclude=./rootfs/dev/* --restrict --force-local";
const TAR_KEEP: &str = "--numeric-owner --xattrs-include=*";

/// What we built.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The example `unpack`.
    pub(crate) unpack: PathBuf,
    pub(crate) this: PathBuf,
}

/// Everyone who can unpack the image of `case`, here into `directory`.
pub(crate) fn contestants(case: &Case, programs: &Programs, image: &Path, directory: &Path) -> Vec<Contestant> {
    let all = Everyone { this: &programs.this, image, directory };
    let sync: &[&str] = if case.then == Then::Syncfs { &["--sync"] } else { &[] };
    let mut line = all.line(&[&programs.unpack]);
    line.words.extend([image.into(), directory.into()]);
    line.words.extend(sync.iter().map(OsString::from));
    let mut contestants = vec![Contestant { name: "reroot".into(), group: Group::Ours, line, figures: Source::Outside }];
    if case.is_squashfs() {
        for flags in ["-n -user-xattrs", "-n"] {
            let mut line = all.line(&["unsquashfs", "-f", "-d"]);
            line.words.push(directory.into());
            line.words.extend(flags.split(' ').map(OsString::from));
            line.words.push(image.into());
            contestants.push(Contestant {
                name: format!("unsquashfs {flags}"),
                group: Group::Managers,
                line,
                figures: Source::Outside,
            });
        }
        return contestants;
    }
    let (option, command) = match case.file {
        "rootfs.tar.zst" => ("--zstd", "zstd -dc"),
        "rootfs.tar.gz" => ("-Ipigz", "pigz -dc"),
        "rootfs.tar.xz" => ("-J", "xz -dc -T0"),
        _ => ("", ""),
    };
    contestants.push(all.tar(&format!("tar {option} -xf").replace("  ", " "), Group::Managers, option));
    if command.is_empty() {
        contestants.push(all.tar("tar -b 2048 -xf", Group::LargeRecords, "-b 2048"));
    } else {
        contestants.push(all.pipe(command));
    }
    let mut line = all.line(&["bsdtar", "-xpf"]);
    line.words.extend([image.into(), "-C".into(), directory.into()]);
    line.words.extend(["--numeric-owner", "--acls", "--xattrs"].map(OsString::from));
    // It cannot name one file in this locale, says so, and makes it all the same.
    line.warning = 1;
    contestants.push(Contestant { name: "bsdtar -xpf".into(), group: Group::Bsdtar, line, figures: Source::Outside });
    contestants.push(all.this("tar crate", Group::TarCrate, Source::Outside, "tar-crate"));
    if case.bound.is_some() {
        contestants.push(all.this("decompressing alone", Group::Decoding, Source::Itself, "decode"));
        contestants.push(all.this("creating alone", Group::Creating, Source::Itself, "create"));
    }
    contestants
}

struct Everyone<'a> {
    this: &'a Path,
    image: &'a Path,
    directory: &'a Path,
}

impl Everyone<'_> {
    fn line<T: AsRef<std::ffi::OsStr>>(&self, words: &[T]) -> Line {
        Line { words: words.iter().map(OsString::from).collect(), input: None, warning: 0 }
    }

    /// A mode of this program.
    fn this(&self, name: &str, group: Group, figures: Source, mode: &str) -> Contestant {
        let mut line = self.line(&[self.this]);
        line.words.extend([mode.into(), self.image.into(), self.directory.into()]);
        Contestant { name: name.into(), group, line, figures }
    }

    /// As Incus calls it, with the image as its standard input.
    fn tar(&self, name: &str, group: Group, option: &str) -> Contestant {
        let mut line = self.line(&["tar"]);
        line.words.extend(TAR.split_whitespace().map(OsString::from));
        line.words.extend(["-C".into(), self.directory.into()]);
        line.words.extend(TAR_KEEP.split_whitespace().chain(option.split_whitespace()).map(OsString::from));
        line.words.extend(["-xf", "-"].map(OsString::from));
        line.input = Some(PathBuf::from(self.image));
        Contestant { name: name.into(), group, line, figures: Source::Outside }
    }

    /// The decompressor and tar as a pipeline.
    fn pipe(&self, command: &str) -> Contestant {
        // Quoted for the shell, that expands no pattern.
        let flags: Vec<_> = TAR.split_whitespace().map(|flag| format!("'{flag}'")).collect();
        let keep: Vec<_> = TAR_KEEP.split_whitespace().map(|flag| format!("'{flag}'")).collect();
        let script = format!("set -o pipefail; {command} < \"$1\" | tar {} -C \"$2\" {} -xf -", flags.join(" "), keep.join(" "));
        let mut line = self.line(&["bash", "-c", &script, "bash"]);
        line.words.extend([self.image.into(), self.directory.into()]);
        Contestant { name: format!("{command} | tar -xf -"), group: Group::Managers, line, figures: Source::Outside }
    }
}
