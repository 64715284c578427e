//! A root to unpack into, and beside it what no archive may touch.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use reroot::Result;
use reroot::unpack::Unpacked;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Removed when it is dropped. In memory, where there is some.
pub(crate) struct Arena(PathBuf);

impl Arena {
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let arena = Arena(place.join(format!("reroot-fuzz-{}-{number}", std::process::id())));
        for folder in ["", "root", "canaries"] {
            fs::create_dir(arena.0.join(folder)).expect("a folder to work in");
        }
        fs::write(arena.canary(), "alive").expect("a file to watch");
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        for watched in [arena.canary(), arena.0.join("canaries")] {
            File::open(watched).and_then(|file| file.set_modified(long_ago)).expect("a time to compare");
        }
        arena
    }

    /// A path beside the root, for what is to be unpacked.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn canary(&self) -> PathBuf {
        self.0.join("canaries/x")
    }

    /// Unpacks, and sees to what came of it but in the root.
    pub(crate) fn run(&self, unpack: impl FnOnce(BorrowedFd<'_>) -> Result<Unpacked>) -> Result<Unpacked> {
        let names = || -> Vec<_> {
            let mut names: Vec<_> = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        let root = File::open(self.root()).expect("the root");
        let result = unpack(root.as_fd());
        assert_eq!(before, names(), "something lies beside the root");
        let canary = fs::symlink_metadata(self.canary()).expect("the canary is gone");
        assert_eq!((canary.nlink(), canary.mtime(), canary.len()), (1, 1, 5), "the canary was touched");
        let cage = fs::symlink_metadata(self.0.join("canaries")).expect("the cage is gone");
        assert_eq!((cage.mtime(), cage.uid()), (1, canary.uid()), "the cage was touched");
        assert_eq!(fs::read(self.canary()).expect("the canary"), b"alive");
        match &result {
            Ok(unpacked) => super::assert_harmless(&unpacked.losses.to_string()),
            Err(error) => super::assert_orderly(error),
        }
        result
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if fs::remove_dir_all(&self.0).is_err() {
            // A user's own folders that they may not enter.
            let _ = std::process::Command::new("chmod").args(["-R", "u+rwx", "--"]).arg(&self.0).status();
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Whose process this is.
pub(crate) fn owner() -> (u32, u32) {
    fs::metadata("/proc/self").map_or((0, 0), |metadata| (metadata.uid(), metadata.gid()))
}

/// Whether the kernel may refuse what an archive asks for because of who asks.
pub(crate) fn is_limited() -> bool {
    owner().0 != 0
}
