//! The directory backend: `dir:/srv/pool/containers/c1`.
//!
//! A volume is a directory. Its staged and retired roots and its lock lie beside it, as `c1.reroot-staged`, `c1.reroot-retired` and
//! `c1.reroot-lock`; names with these endings are reserved.

mod bases;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

pub use self::bases::DirBases;

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::record::ImageRecord;
use crate::siblings::snapshots::SnapshotsDir;
use crate::siblings::{Siblings, Staging, Start};
use crate::sys::remove::remove_tree;
use crate::volume::{
    Capabilities, Commit, Holder, Names, RebuildableVolume, Removal, RootId, RootMetadata, Sizing, Slot, Snapshot, SnapshotSupport,
    StageSpec, Tidied, Usage, UsageDetail, VolumeId, VolumeLock, Warning,
};

/// A volume that is a directory.
///
/// - Snapshots are directories too, where LXD keeps them: those of `POOL/containers/NAME` are `POOL/containers-snapshots/NAME/SNAP`.
///   [`with_snapshots_dir`](Self::with_snapshots_dir) says otherwise.
/// - A rebuild keeps the root directory's owner, mode, ACLs, extended attributes, project id and inheritable flags. The immutable and the
///   append-only flag are cleared and not kept: a root that bears them can be neither filled nor switched.
/// - Old and new root are under one project quota while both exist. Where it has no room for both, rebuild in place.
/// - Works without root, as far as the kernel lets the caller; what could not be kept is a [`Warning`] from
///   [`seal`](RebuildableVolume::seal).
/// - Needs Linux 5.6 and `/proc`.
#[derive(Debug)]
pub struct DirVolume {
    place: Siblings,
    snapshots: SnapshotsDir,
    commit: Commit,
    staging: Staging,
}

impl DirVolume {
    /// The volume at `path`, which need not exist. Its parent directory must, and is held open from here on.
    ///
    /// A relative path is taken from the current directory. Nothing is changed.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`] if the path does not end in a name that a volume can have, or is a symbolic link or a file.
    /// - [`ErrorKind::NotFound`] if the parent directory does not exist.
    pub fn open(path: impl AsRef<Path>) -> Result<DirVolume> {
        let place = Siblings::open("dir", path.as_ref())?;
        Ok(DirVolume {
            snapshots: SnapshotsDir::beside(place.path()),
            place,
            commit: Commit::Exchange,
            staging: Staging::default(),
        })
    }

    /// Sets the directory that holds this volume's snapshots, each a directory in it. It need not exist.
    #[must_use]
    pub fn with_snapshots_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.snapshots = SnapshotsDir::at(path.into());
        self
    }

    /// Sets how a commit switches roots; [`Commit::Exchange`] unless set. [`Commit::TwoRenames`] never tries an exchange.
    #[must_use]
    pub fn with_commit(mut self, commit: Commit) -> Self {
        self.commit = commit;
        self
    }

    /// The absolute path of the live root.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    fn add_volume(&self, error: Error) -> Error {
        error.with_context("volume", self.id())
    }
}

impl RebuildableVolume for DirVolume {
    fn id(&self) -> VolumeId {
        self.place.id()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_commit(self.commit)
            .with_removal(Removal::Gradual)
            .with_snapshots(SnapshotSupport::Independent)
            .with_sizing(Sizing::Unsized)
    }

    fn lock(&self, wait: &Wait) -> Result<VolumeLock> {
        self.place.lock(wait)
    }

    fn names(&self) -> Result<Names> {
        self.place.names(|slot, operation| self.place.kind_of(slot, operation))
    }

    fn identity(&self, slot: Slot) -> Result<Option<RootId>> {
        const OPERATION: &str = "tell one root from another";
        let Some(root) = self.place.open_root(slot, OPERATION)? else { return Ok(None) };
        let stat = fstat(&root).map_err(|error| self.place.failed(OPERATION, "fstat failed", error))?;
        Ok(Some(RootId::new(format!("{}:{}", stat.st_dev, stat.st_ino))))
    }

    fn holders(&self) -> Result<Vec<Holder>> {
        self.place.holders()
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        if !self.place.kind_of(Slot::Live, "list the snapshots")? {
            return Ok(Vec::new());
        }
        self.snapshots.list().map_err(|error| self.add_volume(error))
    }

    fn usage(&self, detail: UsageDetail) -> Result<Usage> {
        self.place.usage(detail)
    }

    fn record(&self) -> Result<Option<ImageRecord>> {
        self.place.record()
    }

    fn capture(&mut self) -> Result<()> {
        self.staging.capture(&self.place)
    }

    fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        if spec.size.is_some() {
            let why = "a directory has no size";
            return Err(self.add_volume(Error::new(ErrorKind::Unsupported, "stage a root", why)));
        }
        if spec.base.is_some() {
            let why = "a directory is cloned from nothing in one step";
            return Err(self.add_volume(Error::new(ErrorKind::Unsupported, "stage a root", why)));
        }
        let make = |parent: BorrowedFd<'_>, name: &_| mkdirat(parent, name, Mode::S_IRWXU);
        let unmake = |parent: BorrowedFd<'_>, name: &_| unlinkat(parent, name, UnlinkatFlags::RemoveDir);
        self.staging.stage(&self.place, Start::Empty, make, |_, _| Ok(()), unmake)
    }

    fn seal(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
        self.staging.seal(&self.place, record, root, |_, _| Ok(()))
    }

    fn rename(&mut self, from: Slot, to: Slot) -> Result<()> {
        self.place.rename(from, to)
    }

    fn exchange(&mut self) -> Result<()> {
        self.place.exchange(self.commit)
    }

    fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        let purged = self.snapshots.purge(snapshots, &mut |dir, name| remove_tree(dir, name).map(drop));
        purged.map_err(|error| self.add_volume(error))
    }

    fn discard(&mut self, slot: Slot) -> Result<()> {
        self.place.refuse_live(slot)?;
        if slot == Slot::Staged {
            self.staging.forget();
        }
        let removed = remove_tree(self.place.parent(), &self.place.name_of(slot));
        removed.map(drop).map_err(|error| self.add_volume(error))
    }

    fn tidy(&mut self) -> Result<Tidied> {
        let tidied = self.snapshots.tidy(&mut |dir, name| remove_tree(dir, name).map(drop));
        tidied.map_err(|error| self.add_volume(error))
    }
}
