//! The runs: a fresh file system for each, the contestants in a random order in each round, and the tree compared each time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use reroot::conformance::Manifest;
use reroot::conformance::manifest::{Change, Differences};

use crate::cases::{Case, Contestant, Group, Programs, Root, Source, Then, contestants};
use crate::loopfs::{Kind, LoopFs, run};
use crate::measure::{Figures, from_json, measure};
use crate::table::NOT_RUN;

/// What came of a case.
pub(crate) struct Results {
    pub(crate) case: Case,
    pub(crate) all: Vec<Contested>,
}

/// What came of one contestant.
pub(crate) struct Contested {
    pub(crate) name: String,
    pub(crate) group: Group,
    pub(crate) samples: Vec<Figures>,
    /// What its tree lacks or has otherwise; or why it could not make one.
    pub(crate) lost: String,
}

pub(crate) struct Runner {
    programs: Programs,
    folders: BTreeMap<&'static str, PathBuf>,
    /// Parts of names; none: everyone runs.
    chosen: Vec<String>,
    rounds: usize,
    random: u64,
    /// What the trees have to be, by image and by whether it is a squashfs.
    references: BTreeMap<(&'static str, bool), Manifest>,
}

impl Runner {
    pub(crate) fn new(
        programs: Programs,
        folders: BTreeMap<&'static str, PathBuf>,
        chosen: Vec<String>,
        rounds: usize,
        seed: u64,
    ) -> Self {
        Runner { programs, folders, chosen, rounds, random: seed | 1, references: BTreeMap::new() }
    }

    pub(crate) fn case(&mut self, case: &Case) -> Result<Results, String> {
        let folder = &self.folders[case.root.name()];
        let image = folder.join(case.file);
        let warm = || -> io::Result<u64> { io::copy(&mut File::open(&image)?, &mut io::sink()) };
        warm().map_err(|error| format!("{}: {error}", image.display()))?;
        self.reference(case)?;
        let names = contestants(case, &self.programs, &image, Path::new("/"));
        let contested =
            |one: &Contestant| Contested { name: one.name.clone(), group: one.group, samples: Vec::new(), lost: String::new() };
        let mut results = Results { case: case.clone(), all: names.iter().map(contested).collect() };
        // The first round warms up, and shows who keeps what; those who cannot do it at all are left out of the others.
        let mut able = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let chosen = self.chosen.is_empty() || self.chosen.iter().any(|text| name.name.contains(text.as_str()));
            if !chosen && name.group != Group::Ours {
                results.all[index].lost = NOT_RUN.into();
                continue;
            }
            match self.once(case, &image, index, Check::Show) {
                Ok((_, lost)) => {
                    results.all[index].lost = lost;
                    able.push(index);
                }
                Err(error) if name.group != Group::Ours => results.all[index].lost = format!("fails: {error}"),
                Err(error) => return Err(format!("{}: {error}", case.name())),
            }
        }
        for _ in 0..self.rounds {
            self.shuffle(&mut able);
            for &index in &able {
                let check = if names[index].group == Group::Ours { Check::Demand } else { Check::No };
                let (figures, _) = self
                    .once(case, &image, index, check)
                    .map_err(|error| format!("{}: {}: {error}", case.name(), names[index].name))?;
                results.all[index].samples.push(figures);
            }
        }
        Ok(results)
    }

    /// One run on a file system of its own.
    fn once(&self, case: &Case, image: &Path, index: usize, check: Check) -> Result<(Figures, String), String> {
        let place = fresh(case.kind, case.root)?;
        let directory = place.path().join("root");
        fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let contestant = contestants(case, &self.programs, image, &directory).swap_remove(index);
        // What others left to be written is not to be written now.
        nix::unistd::sync();
        let figures = match contestant.figures {
            Source::Outside => measure(&contestant.line, (case.then == Then::Syncfs).then_some(&*directory))?,
            Source::Itself => {
                let [program, rest @ ..] = &*contestant.line.words else { return Err("no command".into()) };
                from_json(Command::new(program).args(rest))?
            }
        };
        if check == Check::No || contestant.group == Group::Decoding {
            return Ok((figures, String::new()));
        }
        let expected = &self.references[&(case.root.name(), case.is_squashfs())];
        let found = Manifest::of(&directory).map_err(|error| error.report().to_string())?;
        let differences = expected.diff(&found);
        if contestant.group == Group::Ours && !differences.is_empty() {
            return Err(format!("the tree is not what it has to be, so the run does not count:\n{differences}"));
        }
        Ok((figures, summary(&differences)))
    }

    /// The tree that is to come out: of a tar stream GNU tar's, with all it can keep; of a squashfs that of `unsquashfs`, likewise.
    fn reference(&mut self, case: &Case) -> Result<(), String> {
        let key = (case.root.name(), case.is_squashfs());
        if self.references.contains_key(&key) {
            return Ok(());
        }
        let place = fresh(Kind::Ext4, case.root)?;
        let directory = place.path().join("root");
        fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let folder = &self.folders[case.root.name()];
        if case.is_squashfs() {
            run(Command::new("unsquashfs").args(["-f", "-n", "-xattrs", "-d"]).arg(&directory).arg(folder.join(case.file)))?;
        } else {
            let flags = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-xpf"];
            run(Command::new("tar").arg("-C").arg(&directory).args(flags).arg(folder.join("rootfs.tar")))?;
        }
        let manifest = Manifest::of(&directory).map_err(|error| error.report().to_string())?;
        let size = run(Command::new("du").args(["-sm", "--apparent-size"]).arg(&directory))?;
        let size = size.split_whitespace().next().unwrap_or("?");
        println!("The {} tree{}: {} entries, {size} MiB.", key.0, if key.1 { " in a squashfs" } else { "" }, manifest.len());
        self.references.insert(key, manifest);
        Ok(())
    }

    /// Fisher and Yates, on xorshift.
    fn shuffle(&mut self, order: &mut [usize]) {
        for last in (1..order.len()).rev() {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            order.swap(last, (self.random % (last as u64 + 1)) as usize);
        }
    }
}

/// What is done about the tree of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Nothing: it was looked at before.
    No,
    /// Ours has to be right; of the others it is shown how theirs differs.
    Show,
    /// It has to be right.
    Demand,
}

/// A file system with room for one tree.
pub(crate) fn fresh(kind: Kind, root: Root) -> Result<LoopFs, String> {
    let place = LoopFs::new(kind, if root == Root::Minbase { 1 << 10 } else { 4 << 10 })?;
    // The loop device keeps it; without a name it goes with the mount, even if this process is killed.
    if kind != Kind::Tmpfs
        && let Some(folder) = place.path().parent()
    {
        fs::remove_file(folder.join("image")).map_err(|error| format!("cannot unlink the image: {error}"))?;
    }
    if kind == Kind::Ext4 {
        // No thread of the kernel that zeroes inode tables meanwhile.
        run(Command::new("mount").args(["-o", "remount,noinit_itable"]).arg(place.path()))?;
    }
    Ok(place)
}

/// The differences by what they are about: `missing 3, mtime 120, no security.capability 2`.
fn summary(differences: &Differences<'_>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for difference in differences.iter() {
        match &difference.change {
            Change::Missing => *counts.entry("missing".into()).or_default() += 1,
            Change::Unexpected => *counts.entry("unexpected".into()).or_default() += 1,
            Change::Differs(facts) => {
                for fact in facts {
                    let mut words = fact.split(' ');
                    let first = words.next().unwrap_or("");
                    let about = match (first, words.next()) {
                        ("no" | "unexpected", Some(second)) => format!("{first} {second}"),
                        _ => first.to_owned(),
                    };
                    *counts.entry(about).or_default() += 1;
                }
            }
            _ => *counts.entry("other".into()).or_default() += 1,
        }
    }
    counts.iter().map(|(about, count)| format!("{about} {count}")).collect::<Vec<_>>().join(", ")
}
