//! Where archives are made, once each, and unpacked by GNU tar and by us.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use reroot::conformance::manifest::{DirectoryTimes, Manifest, ManifestOptions};
use reroot::dir::DirVolume;
use reroot::unpack::{NoHooks, Threads, UnpackOptions, scan, unpack};
use reroot::{Image, Rebuild};

use crate::common::Folder;
use crate::common::loopfs::{Kind, LoopFs};
use crate::judge::Verdict;
use crate::makers::{Maker, PERL, PYTHON};

/// Why an archive was not compared.
#[derive(Debug, Clone)]
pub(crate) enum Obstacle {
    /// Something that it takes is not here.
    Missing(String),
    Failed(String),
}

impl From<std::io::Error> for Obstacle {
    fn from(error: std::io::Error) -> Self {
        Obstacle::Failed(error.to_string())
    }
}

type Once<T> = OnceLock<Result<T, Obstacle>>;

/// By the names of maker and tree.
type Archives = HashMap<(&'static str, &'static str), Arc<Once<PathBuf>>>;

/// File systems, and what has been made on them so far.
#[derive(Debug, Default)]
pub(crate) struct Stand {
    /// Trees and archives: on ext4, which keeps all that trees hold.
    workshop: Once<LoopFs>,
    places: Mutex<HashMap<&'static str, Arc<Once<LoopFs>>>>,
    trees: Mutex<HashMap<&'static str, Arc<Once<PathBuf>>>>,
    archives: Mutex<Archives>,
}

/// An archive, and the tree it was made of.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) archive: PathBuf,
    source: Option<PathBuf>,
}

impl Stand {
    /// The archive that `maker` makes of `tree`.
    pub(crate) fn of_tree(&self, maker: &'static Maker, tree: &'static str) -> Result<Made, Obstacle> {
        let source = once(&self.trees, tree, || {
            let source = self.workshop()?.join(tree);
            fs::create_dir(&source)?;
            succeed(Command::new("python3").args(["-c", include_str!("trees.py"), tree]).current_dir(&source))?;
            Ok(source)
        })?;
        let archive = once(&self.archives, (maker.name, tree), || self.make(maker, tree, "src", &source))?;
        Ok(Made { archive, source: Some(source) })
    }

    /// An archive that `maker` makes of nothing.
    pub(crate) fn of_nothing(&self, maker: &'static Maker) -> Result<Made, Obstacle> {
        let archive = once(&self.archives, (maker.name, ""), || self.make(maker, "odd", "src", Path::new("/nonexistent")))?;
        Ok(Made { archive, source: None })
    }

    /// What `maker` makes of an archive.
    pub(crate) fn of_archive(&self, maker: &'static Maker, made: &Made) -> Result<PathBuf, Obstacle> {
        once(&self.archives, (maker.name, "compressed"), || self.make(maker, "compressed", "tar", &made.archive))
    }

    /// Runs `maker` with the variable `name` set to the path of what it begins with.
    fn make(&self, maker: &Maker, what: &str, name: &str, from: &Path) -> Result<PathBuf, Obstacle> {
        let workshop = self.workshop()?;
        let search = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&search).any(|folder| folder.join(maker.tool).exists()) {
            return Err(Obstacle::Missing(format!("{} is not installed", maker.tool)));
        }
        let folder = Folder::new(&workshop)?;
        let out = workshop.join(format!("{}.{what}", maker.name));
        let mut command = Command::new("timeout");
        command.args(["60", "bash", "-euc", maker.script]).current_dir(folder.path()).env("HOME", folder.path());
        command.env(name, from).env("out", &out).env("python", PYTHON).env("perl", PERL).env("LC_ALL", "C.UTF-8");
        // What a format cannot hold its maker leaves out, and says so by its status.
        let output = command.output()?;
        if fs::metadata(&out).map_or(0, |metadata| metadata.len()) < 512 {
            return Err(Obstacle::Failed(format!("{} makes no archive: {}", maker.name, shown(&output))));
        }
        Ok(out)
    }

    /// Rebuilds a root on a file system of `kind` from `image`, which is to become what GNU tar makes of `plain`.
    pub(crate) fn rebuild(&self, kind: Kind, image: &Path, plain: &Path, verdict: Verdict) -> Result<(), Obstacle> {
        let folder = Folder::new(&self.place(kind)?)?;
        let (theirs, ours) = (folder.path().join("theirs"), folder.path().join("ours"));
        fs::create_dir(&theirs)?;
        let fail = |error: reroot::Error| Obstacle::Failed(error.report().to_string());
        let rebuild = Rebuild::new(Image::open(image).map_err(fail)?);
        let rebuilt = rebuild.run(&mut DirVolume::open(&ours).map_err(fail)?);
        if judged(rebuilt, verdict)?.is_none() {
            return if ours.exists() { Err(Obstacle::Failed("there is a root all the same".into())) } else { Ok(()) };
        }
        gnu_tar(verdict, plain, &theirs)?;
        same(verdict, &theirs, &ours)
    }

    /// Unpacks an archive on a file system of `kind`, and judges what comes out.
    pub(crate) fn compare(&self, kind: Kind, made: &Made, verdict: Verdict) -> Result<(), Obstacle> {
        let folder = Folder::new(&self.place(kind)?)?;
        let theirs = folder.path().join("theirs");
        fs::create_dir(&theirs)?;
        if !matches!(verdict, Verdict::Source | Verdict::Error(_)) {
            gnu_tar(verdict, &made.archive, &theirs)?;
        }
        // By several threads, and by one.
        for threads in [Threads::Own, Threads::Caller] {
            let ours = folder.path().join(format!("{threads:?}"));
            fs::create_dir(&ours)?;
            let options = UnpackOptions::default().with_threads(threads);
            let scanned = scan(File::open(&made.archive)?, &options, &mut NoHooks);
            let unpacked = unpack(File::open(&made.archive)?, File::open(&ours)?.as_fd(), &options, &mut NoHooks);
            let Some(unpacked) = judged(unpacked, verdict)? else { continue };
            if scanned.as_ref().ok() != Some(&unpacked.tally) {
                return Err(Obstacle::Failed(format!("a scan finds {scanned:?}, an unpacking {:?}", unpacked.tally)));
            }
            if verdict != Verdict::Source {
                same(verdict, &theirs, &ours)?;
            }
            if let Some(source) = &made.source
                && matches!(verdict, Verdict::Source | Verdict::TarAndSource)
            {
                same(verdict, source, &ours)?;
            }
        }
        Ok(())
    }

    fn workshop(&self) -> Result<PathBuf, Obstacle> {
        self.workshop
            .get_or_init(|| LoopFs::new(Kind::Ext4, 2048).map_err(Obstacle::Missing))
            .as_ref()
            .map(LoopFs::path)
            .map_err(Clone::clone)
    }

    fn place(&self, kind: Kind) -> Result<PathBuf, Obstacle> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(kind.name()).or_default())
        };
        place.get_or_init(|| LoopFs::new(kind, 1024).map_err(Obstacle::Missing)).as_ref().map(LoopFs::path).map_err(Clone::clone)
    }
}

/// What is known under `key`, or is made now; whoever asks meanwhile waits.
fn once<K: std::hash::Hash + Eq, T: Clone>(
    known: &Mutex<HashMap<K, Arc<Once<T>>>>,
    key: K,
    make: impl FnOnce() -> Result<T, Obstacle>,
) -> Result<T, Obstacle> {
    let cell = Arc::clone(known.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
    cell.get_or_init(make).clone()
}

/// What came out, or `None` for the error that was to come.
fn judged<T>(result: reroot::Result<T>, verdict: Verdict) -> Result<Option<T>, Obstacle> {
    match (result, verdict) {
        (Ok(_), Verdict::Error(kind)) => Err(Obstacle::Failed(format!("it unpacks, where it was to fail with {kind:?}"))),
        (Err(error), Verdict::Error(kind)) if error.kind() == kind => Ok(None),
        (Err(error), _) => Err(Obstacle::Failed(error.report().to_string())),
        (Ok(value), _) => Ok(Some(value)),
    }
}

/// What GNU tar makes of an archive.
fn gnu_tar(verdict: Verdict, archive: &Path, into: &Path) -> Result<(), Obstacle> {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-p", "--same-owner"]);
    // Else it loses the times of the directories that an archive comes back to.
    tar.arg("--delay-directory-restore");
    if verdict != Verdict::TarWithoutAcls {
        tar.arg("--acls");
    }
    succeed(tar.env("LC_ALL", "C").arg("-C").arg(into).arg("-xf").arg(archive))
}

/// Whether two trees are the same, but for the time of their top, of which an archive may say nothing.
fn same(verdict: Verdict, expected: &Path, found: &Path) -> Result<(), Obstacle> {
    let times = if verdict == Verdict::TarButDirectoryTimes { DirectoryTimes::Ignored } else { DirectoryTimes::IgnoredOfRoot };
    let read = |path: &Path| -> Result<Manifest, Obstacle> {
        let manifest = ManifestOptions::new().with_directory_times(times).read(path);
        manifest.map_err(|error| Obstacle::Failed(error.report().to_string()))
    };
    let (expected, found) = (read(expected)?, read(found)?);
    let differences = expected.diff(&found);
    if differences.is_empty() { Ok(()) } else { Err(Obstacle::Failed(differences.to_string())) }
}

fn succeed(command: &mut Command) -> Result<(), Obstacle> {
    let output = command.output()?;
    if output.status.success() { Ok(()) } else { Err(Obstacle::Failed(format!("{:?}: {}", command.get_program(), shown(&output)))) }
}

fn shown(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}
