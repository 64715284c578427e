//! What the cases share: a pool, a folder for images, two trees to tell apart, and the questions that are asked again and again.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::{Call, FaultPoint, Primitive};
use super::manifest::{DirectoryTimes, Manifest, ManifestOptions};
use super::tree::Tree;
use super::{CaseOutcome, Factory, Failure, Pool};
use crate::base::Bases;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::progress::{CancelToken, Wait};
use crate::rebuild::{Rebuild, Recovery, Report, recover};
use crate::record::{ImageRecord, Origin};
use crate::unpack::{Hooks, Tally, UnpackOptions, unpack};
use crate::volume::{Names, Placement, RebuildableVolume, RootMetadata, Slot, StageSpec};

pub(super) type Outcome = Result<CaseOutcome, Failure>;
pub(super) type Check<T = ()> = Result<T, Failure>;

/// How long a pool may take to count that it has room again.
const COUNTED: Duration = Duration::from_secs(60);

/// Does what has room, or has it as soon as the pool has counted what it was given back: a cluster does so by and by.
pub(super) fn when_counted<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let wait = Wait::new(COUNTED, CancelToken::new());
    loop {
        match work() {
            Err(error)
                if matches!(error.kind(), ErrorKind::NoSpace(_)) && wait.pause("wait for room", Duration::from_secs(1))? => {}
            done => return done,
        }
    }
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failure::new(format!($($words)+)));
        }
    };
}
pub(super) use ensure;

/// The volume that most cases are about.
pub(super) const NAME: &str = "c1";

pub(super) const LIVE: Names = Names { live: true, staged: false, retired: false };
pub(super) const NONE: Names = Names { live: false, staged: false, retired: false };

pub(super) struct Bench {
    pub(super) pool: Box<dyn Pool>,
    scratch: Scratch,
}

impl Bench {
    pub(super) fn new(factory: &dyn Factory) -> Check<Self> {
        Ok(Bench { pool: factory.pool()?, scratch: Scratch::new()? })
    }

    /// With a pool whose space can be limited, or the reason why there is none.
    pub(super) fn confined(factory: &dyn Factory) -> Check<Result<Self, String>> {
        match factory.confined_pool() {
            Ok(pool) => Ok(Ok(Bench { pool, scratch: Scratch::new()? })),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(Err(error.message().to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// With a volume [`NAME`] that holds [`old_tree`].
    pub(super) fn with_old(factory: &dyn Factory) -> Check<Self> {
        let bench = Bench::new(factory)?;
        bench.fill(NAME, &old_tree())?;
        Ok(bench)
    }

    pub(super) fn volume(&self) -> Result<Box<dyn RebuildableVolume>> {
        self.pool.volume(NAME)
    }

    /// The bases of the pool, or the reason why the backend has none.
    pub(super) fn bases(&self) -> Check<Result<Bases, String>> {
        match self.pool.bases() {
            Ok(pool) => Ok(Ok(Bases::new(pool))),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(Err(error.message().to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn scratch(&self) -> &Path {
        &self.scratch.0
    }

    /// Writes bytes to a file of their own.
    pub(super) fn file(&self, bytes: &[u8]) -> Result<PathBuf> {
        let failed = |error| Error::io("write an image", "cannot write in the temporary directory", error);
        let count = fs::read_dir(self.scratch()).map_err(failed)?.count();
        for number in count.. {
            let path = self.scratch().join(format!("image-{number}"));
            match fs::File::create_new(&path) {
                Ok(mut file) => {
                    std::io::Write::write_all(&mut file, bytes).map_err(failed)?;
                    return Ok(path);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(std::io::ErrorKind::AlreadyExists.into()))
    }

    pub(super) fn image(&self, tree: &Tree) -> Result<Image> {
        Image::open(self.file(&tar(tree)?)?)
    }

    /// Rebuilds the volume `name` from the tree, the plain way, which has to work.
    pub(super) fn fill(&self, name: &str, tree: &Tree) -> Check<Report> {
        Ok(self.rebuild(name, tree)?)
    }

    /// The same in a pool that was full.
    pub(super) fn fill_when_counted(&self, name: &str, tree: &Tree) -> Check<Report> {
        Ok(when_counted(|| self.rebuild(name, tree))?)
    }

    fn rebuild(&self, name: &str, tree: &Tree) -> Result<Report> {
        let mut volume = self.pool.volume(name)?;
        Rebuild::new(self.image(tree)?).run(&mut *volume)
    }

    pub(super) fn manifest(&self, name: &str, slot: Slot) -> Result<Manifest> {
        let options = ManifestOptions::new().with_directory_times(DirectoryTimes::IgnoredOfRoot);
        let mut manifest = Err(Error::new(ErrorKind::NotFound, "visit a root", "the pool did not show it"));
        self.pool.visit(name, slot, &mut |path| {
            manifest = Ok(options.read(path)?);
            Ok(())
        })?;
        manifest
    }

    /// Demands that the live root is exactly this.
    pub(super) fn expect(&self, name: &str, expected: &Manifest) -> Check {
        let actual = self.manifest(name, Slot::Live)?;
        ensure!(*expected == actual, "the live root is not as expected:\n{}", expected.diff(&actual));
        Ok(())
    }

    /// Demands that the live root is exactly the tree, and the only thing in the pool.
    pub(super) fn expect_only(&self, tree: &Tree) -> Check {
        self.expect(NAME, &tree.manifest())?;
        self.expect_names(LIVE)
    }

    /// Demands these names and, if the volume is at rest, that the pool holds nothing else.
    pub(super) fn expect_names(&self, expected: Names) -> Check {
        let names = self.volume()?.names()?;
        ensure!(names == expected, "the names are {names}, not {expected}");
        if expected == LIVE || expected == NONE {
            let left = self.pool.leftovers()?;
            ensure!(left.is_empty(), "left over in the pool: {}", left.join(", "));
        }
        Ok(())
    }

    pub(super) fn recover(&self) -> Result<Recovery> {
        recover(&mut *self.volume()?, &soon())
    }
}

/// A wait that a healthy volume does not exhaust.
pub(super) fn soon() -> Wait {
    Wait::new(Duration::from_secs(20), CancelToken::new())
}

pub(super) fn tar(tree: &Tree) -> Result<Vec<u8>> {
    tree.to_tar().map_err(|error| Error::io("write an image", "the tree is malformed", error))
}

/// The tree that stands before a rebuild.
pub(super) fn old_tree() -> Tree {
    let mut tree = common("old");
    tree.file("only/in/old", "old");
    // What is a file here is a directory in the new tree, and the other way round.
    tree.file("swapped/one", "file");
    tree.directory("swapped/two").mode = 0o711;
    tree.file("swapped/two/below", "deep");
    tree
}

/// The tree that it is rebuilt from.
pub(super) fn new_tree() -> Tree {
    let mut tree = common("new");
    tree.file("only/in/new", "new");
    tree.directory("swapped/one").mode = 0o1777;
    tree.file("swapped/one/below", "deep");
    tree.symlink("swapped/two", "/etc");
    tree
}

fn common(word: &str) -> Tree {
    let mut tree = Tree::new();
    tree.file("etc/hostname", word).mode = 0o600;
    tree.file("etc/empty", "");
    tree.hard_link("etc/hostname.link", "etc/hostname");
    tree.directory("srv/locked").mode = 0o500;
    tree.file("srv/locked/inside", word.repeat(2000));
    tree.symlink("bin", "usr/bin");
    tree.file("usr/bin/tool", format!("#!/bin/sh\necho {word}\n")).mode = 0o755;
    tree.fifo("run/pipe");
    tree.file("with space\nand\tmore", word);
    for (count, path) in ["etc", "srv", "usr", "usr/bin", "run"].into_iter().enumerate() {
        tree.directory(path).mtime = (1_600_000_000 + count as u64, word.len() as u32);
    }
    tree
}

/// The moments at which these calls are made to fail: before and after what may change something; of what only looks, and so leaves the same
/// behind, before the one and after the next.
pub(super) fn points(calls: &[Call]) -> Vec<FaultPoint> {
    let points = |(number, call): (usize, &Call)| match call.points() {
        [before, _] if looks(call.primitive) && number % 2 == 0 => vec![before],
        [_, after] if looks(call.primitive) => vec![after],
        both => both.to_vec(),
    };
    calls.iter().enumerate().flat_map(points).collect()
}

fn looks(primitive: Primitive) -> bool {
    use Primitive::*;
    matches!(
        primitive,
        Lock | Names
            | Identity
            | Holders
            | Snapshots
            | Usage
            | Record
            | BaseNames
            | BaseHold
            | BaseOpen
            | BaseClones
            | BaseUsed
            | BaseMemo
    )
}

struct NoHooks;

impl Hooks for NoHooks {
    fn entry(&mut self, _: &Tally) -> Result<()> {
        Ok(())
    }
}

/// Unpacks a tree into a directory a volume has staged.
pub(super) fn unpack_into(dir: &OwnedFd, tree: &Tree) -> Result<()> {
    unpack(tar(tree)?.as_slice(), dir.as_fd(), &UnpackOptions::default(), &mut NoHooks).map(drop)
}

/// Makes a complete staged root of the tree, by the primitives.
pub(super) fn stage(volume: &mut dyn RebuildableVolume, tree: &Tree) -> Result<()> {
    stage_at(volume, tree, Placement::Beside)
}

pub(super) fn stage_at(volume: &mut dyn RebuildableVolume, tree: &Tree, placement: Placement) -> Result<()> {
    let root = if volume.names()?.live { RootMetadata::Keep } else { RootMetadata::FromImage };
    volume.capture()?;
    let dir = volume.stage(&StageSpec::new().with_placement(placement))?;
    unpack_into(&dir, tree)?;
    drop(dir);
    volume.seal(&ImageRecord::new(Origin::Stream("conformance".into())), root).map(drop)
}

/// Makes a staged root as an interrupted run leaves it: begun, and no more.
pub(super) fn stage_partly(volume: &mut dyn RebuildableVolume) -> Result<()> {
    stage_partly_at(volume, Placement::Beside)
}

pub(super) fn stage_partly_at(volume: &mut dyn RebuildableVolume, placement: Placement) -> Result<()> {
    volume.capture()?;
    let dir = volume.stage(&StageSpec::new().with_placement(placement))?;
    let mut tree = Tree::new();
    tree.file("half/a/root", "half");
    unpack_into(&dir, &tree)
}

/// A folder in the temporary directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = nix::unistd::mkdtemp(&std::env::temp_dir().join("reroot-conformance-XXXXXX"))
            .map_err(|errno| Error::io("make a folder", "cannot make one in the temporary directory", errno))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
