//! The Ceph backend against a real cluster. What it did is checked with Ceph's own tools.

#![cfg(all(feature = "ceph", feature = "conformance"))]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/examples.rs"]
mod examples;
#[path = "../common/lab.rs"]
mod lab;
#[allow(dead_code, reason = "all that recoveries find here is the whole of a row")]
#[path = "../common/ledger.rs"]
mod ledger;
#[path = "../common/shell.rs"]
mod shell;
#[path = "../common/small.rs"]
mod small;
#[path = "../common/streams.rs"]
mod streams;
#[path = "../common/visit.rs"]
mod visit;
#[path = "../common/udev.rs"]
mod without;

mod bases;
mod children;
mod faults;
mod full;
mod holders;
mod hosts;
mod kept;
mod mapping;
mod names;
mod snapshots;
mod trash;
mod users;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cluster::{DATA_POOL, Facts, Mapped, POOL, Space, Visited, ceph};
use lab::{need, run};
use ledger::Ledger;
use reroot::ceph::CephVolume;
use reroot::conformance::Tree;
use reroot::filesystem::{FilesystemKind, Recipe};
use reroot::{ByteSize, ErrorKind, Image, Outcome, Rebuild, RebuildableVolume, Report};
use small::{image, new, old, refused, soon};
use streams::{Meddling, broken, large, seekable};

/// Of the volumes of most tests.
const SIZE: ByteSize = ByteSize::mib(64);

/// Volumes in a namespace of the test's own.
struct Pool {
    // Dropped in this order: what is mounted in the folder is gone before.
    space: Space,
    folder: tempfile::TempDir,
    kind: FilesystemKind,
    size: ByteSize,
}

impl Pool {
    fn new() -> Result<Pool, String> {
        Pool::in_space(Space::new()?)
    }

    /// For a test that disturbs all others.
    fn alone() -> Result<Pool, String> {
        Pool::in_space(Space::alone()?)
    }

    fn in_space(space: Space) -> Result<Pool, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Pool { space, folder, kind: FilesystemKind::Ext4, size: SIZE })
    }

    /// Volumes with this file system, no larger than it needs.
    fn of(kind: FilesystemKind) -> Result<Pool, String> {
        let size = match kind {
            FilesystemKind::Xfs => ByteSize::mib(300),
            FilesystemKind::Btrfs => ByteSize::mib(128),
            _ => SIZE,
        };
        Ok(Pool { kind, size, ..Pool::new()? })
    }

    /// Gives it the volume `c1` that holds [`old`].
    fn and_old(self) -> Pool {
        rebuild(&mut self.volume(), &old()).unwrap();
        self
    }

    /// The same with volumes and bases of another size.
    fn with_size(mut self, size: ByteSize) -> Pool {
        self.size = size;
        self
    }

    fn with_old() -> Result<Pool, String> {
        Pool::new().map(Pool::and_old)
    }

    /// With the volume `c1` that someone else made with these options of `rbd create` and these words of `mkfs`, and that holds a file.
    fn with_foreign(kind: FilesystemKind, options: &str, mkfs: &str) -> Result<Pool, String> {
        let pool = Pool::of(kind)?;
        pool.make("c1", options);
        pool.format("c1", mkfs);
        Ok(pool)
    }

    /// Makes an empty image.
    fn make(&self, rest: &str, options: &str) {
        let options = if options.is_empty() { "--image-feature layering" } else { options };
        ceph(&format!("rbd create --size {}B {options} {}", self.size.bytes(), self.name(rest))).unwrap();
    }

    /// Puts a filesystem with the file `old` into an image.
    fn format(&self, rest: &str, mkfs: &str) {
        let force = if self.kind == FilesystemKind::Ext4 { "-q -F" } else { "-q -f" };
        self.with_device(rest, |device| run_words(&format!("mkfs.{} {force} {mkfs} {}", self.kind, device.display())));
        self.visit(rest, |root| fs::write(root.join("old"), "old").unwrap());
    }

    /// The whole name.
    fn name(&self, rest: &str) -> String {
        self.space.full(rest)
    }

    fn open(&self, rest: &str) -> CephVolume {
        let volume = CephVolume::open(&self.name(rest)).unwrap().with_size(self.size);
        // A volume that exists says itself what it holds.
        if self.list().iter().any(|name| name == rest) { volume } else { volume.with_recipe(Recipe::new(self.kind)) }
    }

    fn volume(&self) -> CephVolume {
        self.open("c1")
    }

    fn facts(&self, rest: &str) -> Facts {
        self.space.facts(rest).unwrap().unwrap_or_else(|| panic!("there is no image {rest}"))
    }

    fn snapshot(&self, rest: &str, name: &str) {
        self.space.snapshot(rest, name).unwrap();
    }

    /// The images in it.
    fn list(&self) -> Vec<String> {
        self.space.images().unwrap()
    }

    /// Shows a volume, mounted for as long as it takes.
    fn visit<T>(&self, rest: &str, look: impl FnOnce(&Path) -> T) -> T {
        let visited = Visited::new(&self.name(rest), self.folder.path()).unwrap();
        look(visited.unwrap_or_else(|| panic!("there is no volume {rest}")).path())
    }

    /// Shows the device of a volume, mapped for as long as it takes.
    fn with_device<T>(&self, rest: &str, look: impl FnOnce(&Path) -> T) -> T {
        look(&Mapped::new(&self.name(rest)).unwrap().device())
    }

    fn uuid(&self, rest: &str) -> String {
        self.with_device(rest, |device| run(Command::new("blkid").args(["-p", "-s", "UUID", "-o", "value"]).arg(device)).unwrap())
    }

    /// What a filesystem says of itself: bytes and inodes.
    fn capacity(&self, rest: &str) -> (u64, u64) {
        self.visit(rest, |root| {
            let stat = nix::sys::statvfs::statvfs(root).unwrap();
            (stat.blocks() * stat.fragment_size(), stat.files())
        })
    }

    /// Demands that the live root holds this file and nothing else of the test is there but these images: nothing in the trash, mapped, locked or announced.
    #[track_caller]
    fn expect(&self, file: &str, all: &[&str]) {
        assert!(self.visit("c1", |root| root.join(file).exists()), "{file} is not in the root");
        self.expect_only(all);
    }

    #[track_caller]
    fn expect_only(&self, all: &[&str]) {
        assert_eq!(self.list(), all);
        let beside = self.space.beside().unwrap();
        assert!(beside.is_empty(), "left are: {beside:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(" /dev/rbd"), "mounted is {mounts}");
    }

    /// Rebuilds it once more, which has to work and leave nothing else.
    #[track_caller]
    fn expect_sound(&self) {
        rebuild(&mut self.volume(), &new()).unwrap();
        self.expect("new", &["c1"]);
    }
}

#[track_caller]
fn run_words(words: &str) -> String {
    ceph(words).unwrap()
}

fn rebuild(volume: &mut CephVolume, tree: &Tree) -> reroot::Result<Report> {
    // Between its fork and its exec a process that another test starts holds copies of our descriptors.
    Rebuild::new(image(tree)).busy_wait(Duration::from_secs(5)).run(volume)
}
