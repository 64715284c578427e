//! The btrfs backend against real file systems: subvolumes in subvolumes, snapshots anywhere, quotas of both kinds, and callers without
//! privileges. What it did is checked with the command `btrfs`, which the library itself does not use.

#![cfg(all(feature = "btrfs", feature = "conformance"))]

#[path = "../common/loopfs.rs"]
mod loopfs;
#[path = "../common/small.rs"]
mod small;

mod kept;
mod nested;
mod power;
mod quotas;
mod snapshots;
mod space;
mod unprivileged;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use loopfs::{Kind, LoopFs, need, run};
use reroot::btrfs::BtrfsVolume;
use reroot::conformance::Tree;
use reroot::{ErrorKind, Image, Rebuild, Report};
use small::{image, new, old, refused, soon};

/// A btrfs with a pool as LXD lays it out.
struct Pool {
    fs: LoopFs,
}

impl Pool {
    fn new(mib: u64) -> Result<Pool, String> {
        let fs = LoopFs::new(Kind::Btrfs, mib)?;
        for folder in ["containers", "containers-snapshots/c1", "backup"] {
            fs::create_dir_all(fs.path().join(folder)).unwrap();
        }
        Ok(Pool { fs })
    }

    /// With a volume that holds [`old`].
    fn with_old(mib: u64) -> Result<Pool, String> {
        let pool = Pool::new(mib)?;
        rebuild(&mut pool.volume(), &old()).unwrap();
        Ok(pool)
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.fs.path().join(path)
    }

    fn root(&self) -> PathBuf {
        self.path("containers/c1")
    }

    fn volume(&self) -> BtrfsVolume {
        BtrfsVolume::open(self.root()).unwrap()
    }

    /// Runs `btrfs` with these words and then these paths of the file system.
    fn btrfs(&self, words: &[&str], paths: &[&str]) -> String {
        let paths = paths.iter().map(|path| self.path(path));
        run(Command::new("btrfs").args(words).args(paths)).unwrap()
    }

    /// The paths of all subvolumes, as the command lists them, sorted; without the time that has to pass until the cleaner was there.
    fn subvolumes(&self) -> Vec<String> {
        let listed = self.btrfs(&["subvolume", "list"], &["."]);
        let mut paths: Vec<_> = listed
            .lines()
            .filter(|line| line.starts_with("ID "))
            .filter_map(|line| Some(line.split_once(" path ")?.1.to_owned()))
            .collect();
        paths.sort();
        paths
    }

    /// Waits until the cleaner has given back all that is destroyed.
    fn cleaned(&self) {
        let begun = Instant::now();
        while !self.btrfs(&["subvolume", "list", "-d"], &["."]).is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(90), "the cleaner does not come to an end");
            self.btrfs(&["filesystem", "sync"], &["."]);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Demands that the pool holds the live root with this file and no trace of another.
    fn expect_only(&self, file: &str) {
        assert!(self.root().join(file).exists(), "{file} is not in the root");
        let mut names: Vec<_> = fs::read_dir(self.path("containers")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [OsStr::new("c1")]);
    }
}

/// One that can be read twice.
fn file_image(folder: &Path, tree: &Tree) -> Image {
    let path = folder.join("image.tar");
    fs::write(&path, tree.to_tar().unwrap()).unwrap();
    Image::open(path).unwrap()
}

fn rebuild(volume: &mut BtrfsVolume, tree: &Tree) -> reroot::Result<Report> {
    // Between its fork and its exec a process that another test starts holds copies of our descriptors.
    Rebuild::new(image(tree)).busy_wait(Duration::from_secs(5)).run(volume)
}

#[test]
fn what_is_no_subvolume_is_refused() {
    let pool = need!(Pool::new(128));
    let refused = |path: PathBuf| refused(BtrfsVolume::open(path), ErrorKind::InvalidInput);
    fs::create_dir(pool.path("containers/plain")).unwrap();
    assert!(refused(pool.path("containers/plain")).contains("dir:"));
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(refused(elsewhere.path().join("c1")).contains("does not lie on btrfs"));
    fs::write(pool.path("containers/file"), "").unwrap();
    refused(pool.path("containers/file"));
    for reserved in ["c1.reroot-staged", "c1.reroot-retired", "c1.reroot-doomed", "c1.reroot-lock"] {
        refused(pool.path("containers").join(reserved));
    }
    // A plain directory under a reserved name is not ours.
    rebuild(&mut pool.volume(), &old()).unwrap();
    fs::create_dir(pool.path("containers/c1.reroot-staged")).unwrap();
    let error = rebuild(&mut pool.volume(), &new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.report());
    assert!(pool.root().join("old").exists() && pool.path("containers/c1.reroot-staged").exists());
}
