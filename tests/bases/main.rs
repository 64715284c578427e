//! Bases: made once, found again, cloned and copied faithfully, limited, verified and removed, on every file system there is.

#![cfg(all(feature = "btrfs", feature = "conformance", feature = "dir"))]

#[path = "../common/mod.rs"]
mod common;

mod collect;
mod crowd;
mod ensure;
mod kept;
mod limits;
mod odd;
mod same;
mod user;
mod verify;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::Folder;
use common::loopfs::{Kind, LoopFs, need, run};
use reroot::base::BaseOptions;
use reroot::btrfs::{BtrfsBases, BtrfsVolume};
use reroot::conformance::Tree;
use reroot::dir::{DirBases, DirVolume};
use reroot::{
    Base, Bases, CancelToken, Error, Event, Image, Phase, Progress, Rebuild, RebuildableVolume, Report, Result, Sha256, Wait,
};

/// The backend of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Dir,
    Btrfs,
}

/// A pool as LXD lays it out, with a folder for images beside it.
struct Stand {
    folder: Folder,
    scheme: Scheme,
    fs: Option<LoopFs>,
}

impl Stand {
    /// In the temporary directory.
    fn new() -> Self {
        Stand::at(Folder::new(&std::env::temp_dir()).unwrap(), Scheme::Dir, None)
    }

    /// On a file system of its own.
    fn on(kind: Kind, scheme: Scheme, mib: u64) -> Result<Self, String> {
        let fs = LoopFs::new(kind, mib)?;
        let folder = Folder::new(&fs.path()).map_err(|error| error.to_string())?;
        Ok(Stand::at(folder, scheme, Some(fs)))
    }

    fn at(folder: Folder, scheme: Scheme, fs: Option<LoopFs>) -> Self {
        for part in ["pool/containers", "images"] {
            fs::create_dir_all(folder.path().join(part)).unwrap();
        }
        Stand { folder, scheme, fs }
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(path)
    }

    fn pool(&self) -> PathBuf {
        self.path("pool")
    }

    fn bases(&self) -> Bases {
        open_bases(self.scheme, &self.pool()).unwrap()
    }

    fn root(&self, name: &str) -> PathBuf {
        self.path("pool/containers").join(name)
    }

    fn volume(&self, name: &str) -> Box<dyn RebuildableVolume> {
        match self.scheme {
            Scheme::Dir => Box::new(DirVolume::open(self.root(name)).unwrap()),
            Scheme::Btrfs => Box::new(self.subvolume(name)),
        }
    }

    fn subvolume(&self, name: &str) -> BtrfsVolume {
        BtrfsVolume::open(self.root(name)).unwrap()
    }

    /// Stores an image.
    fn image(&self, name: &str, tree: &Tree) -> PathBuf {
        let path = self.path("images").join(name);
        fs::write(&path, tree.to_tar().unwrap()).unwrap();
        path
    }

    fn ensure(&self, image: &Path) -> Base {
        shown(self.bases().ensure(Image::open(image).unwrap(), &BaseOptions::default()))
    }

    fn rebuild(&self, name: &str, base: &Base) -> Report {
        shown(from_base(base).run(&mut *self.volume(name)))
    }

    fn folder_of_bases(&self) -> PathBuf {
        self.pool().join(match self.scheme {
            Scheme::Dir => "reroot-bases-dir",
            Scheme::Btrfs => "reroot-bases-btrfs",
        })
    }

    fn path_of(&self, base: &Base) -> PathBuf {
        self.folder_of_bases().join(base.name().to_string())
    }

    /// What lies in the folder of the bases, but for what tells their use and the digests of files.
    fn kept(&self) -> Vec<String> {
        let mut names = list(&self.folder_of_bases());
        names.retain(|name| name != "memo" && !name.ends_with(".reroot-used"));
        names
    }

    /// Demands that the volumes' folder holds these and no trace of others.
    #[track_caller]
    fn expect_volumes(&self, names: &[&str]) {
        assert_eq!(list(&self.path("pool/containers")), names);
    }

    /// Waits until what was destroyed is given back.
    fn settle(&self) {
        if self.scheme == Scheme::Btrfs {
            let begun = Instant::now();
            while !btrfs(&["subvolume", "list", "-d"], &self.fs.as_ref().unwrap().path()).is_empty() {
                assert!(begun.elapsed() < Duration::from_secs(60), "the cleaner does not come to an end");
                btrfs(&["filesystem", "sync"], &self.fs.as_ref().unwrap().path());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn open_bases(scheme: Scheme, pool: &Path) -> Result<Bases> {
    Ok(match scheme {
        Scheme::Dir => Bases::new(DirBases::open(pool)?),
        Scheme::Btrfs => Bases::new(BtrfsBases::open(pool)?),
    })
}

fn btrfs(words: &[&str], path: &Path) -> String {
    run(Command::new("btrfs").args(words).arg(path)).unwrap()
}

fn list(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The value, or a failure that shows the whole error.
#[track_caller]
fn shown<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{}", error.report()))
}

#[track_caller]
fn failed<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("it did not fail"),
        Err(error) => error,
    }
}

/// A rebuild from a base. It waits for a process that another test is just starting: until that is itself, it holds all that this one has open.
fn from_base(base: &Base) -> Rebuild {
    Rebuild::from_base(base).busy_wait(Duration::from_secs(20))
}

/// The same from an image.
fn anew(image: Image) -> Rebuild {
    Rebuild::new(image).busy_wait(Duration::from_secs(20))
}

/// A small tree; what is called `name` tells it from others.
fn tree(name: &str) -> Tree {
    let mut tree = Tree::new();
    tree.file("etc/hostname", name);
    tree.file(name, name.repeat(3000));
    tree.hard_link("etc/same", "etc/hostname");
    tree.symlink("etc/link", name);
    tree
}

fn digest_of(path: &Path) -> Sha256 {
    let told = run(Command::new("sha256sum").arg("--").arg(path)).unwrap();
    told.trim_start_matches('\\').split_whitespace().next().unwrap().parse().unwrap()
}

fn no_wait() -> Wait {
    Wait::new(Duration::ZERO, CancelToken::new())
}

fn soon() -> Wait {
    Wait::new(Duration::from_secs(20), CancelToken::new())
}

/// Remembers the phases it was told of.
#[derive(Default)]
struct Phases(Mutex<Vec<Phase>>);

impl Progress for Phases {
    fn event(&self, event: &Event<'_>) {
        if let Event::Phase(phase) = event {
            self.0.lock().unwrap().push(*phase);
        }
    }
}

/// What an `ensure` had to do.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    read: bool,
    made: bool,
}

fn ensure_and_watch(bases: &Bases, image: Image, options: &BaseOptions) -> Result<(Base, Work)> {
    let phases = Arc::new(Phases::default());
    let base = bases.ensure(image, &options.clone().with_progress(Arc::clone(&phases) as Arc<dyn Progress>))?;
    let seen = phases.0.lock().unwrap();
    Ok((base, Work { read: seen.contains(&Phase::Check), made: seen.contains(&Phase::Fill) }))
}

/// Waits until it is so.
#[track_caller]
fn until(mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_root() -> Result<(), &'static str> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err("not root") }
}

/// A name that no one should trust.
fn odd_name() -> &'static OsStr {
    OsStr::from_bytes(b"odd name\nwith \xff\x1b[31m")
}
