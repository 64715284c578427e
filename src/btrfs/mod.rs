//! The btrfs backend: `btrfs:/srv/pool/containers/c1`.
//!
//! A volume is a subvolume. Its staged and retired roots and its lock lie beside it, as `c1.reroot-staged`, `c1.reroot-retired` and
//! `c1.reroot-lock`; an old root that has subvolumes in it is called `c1.reroot-doomed` while they go, one by one. Names with these endings
//! are reserved.
//!
//! All is done by ioctls: neither the command `btrfs` nor a C library is needed.

mod foreign;
mod nested;
mod quota;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{fstat, fstatat};
use nix::sys::statvfs::fstatvfs;

pub use self::quota::{Quota, QuotaPolicy};

use self::foreign::Foreign;
use self::nested::Nested;
use self::quota::Kept;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::record::ImageRecord;
use crate::siblings::snapshots::{self, SnapshotsDir};
use crate::siblings::{DOOMED, Siblings, Staging};
use crate::size::ByteSize;
use crate::sys::btrfs::subvolume::{self, Access};
use crate::sys::btrfs::{self, Refused, Uuid, lookup, sync, tree};
use crate::sys::holders::Tables;
use crate::sys::rename;
use crate::text::Escaped;
use crate::volume::{
    Capabilities, Commit, Holder, Names, RebuildableVolume, Reclaiming, Removal, RootId, RootMetadata, Sizing, Slot, Snapshot,
    SnapshotOwner, SnapshotSupport, StageSpec, Tidied, Usage, UsageDetail, VolumeId, VolumeLock, Warning,
};

/// The inode number of every subvolume's top directory.
const TOP: u64 = 256;
/// How long a new root waits for the space of an old one.
const RECLAIM_WAIT: Duration = Duration::from_secs(120);
const RECLAIM_STEP: Duration = Duration::from_millis(5);

/// A volume that is a btrfs subvolume.
///
/// - Snapshots of the manager's are subvolumes where LXD keeps them: those of `POOL/containers/NAME` are
///   `POOL/containers-snapshots/NAME/SNAP`. [`with_snapshots_dir`](Self::with_snapshots_dir) says otherwise.
/// - Every other snapshot of the live root, anywhere on the file system, is listed as [foreign](SnapshotOwner::Foreign) by its path from the top
///   of the file system (`/backup/c1`), or from that of the root if it lies in it (`./.snapshots/1`). Only root sees those outside. One that
///   can be written to may be an instance of its own, a copy for example: it is listed too, and never purged.
/// - Subvolumes in the old root go with it, whatever they are called and however deep they lie.
/// - A rebuild keeps what the directory backend keeps, compression and the absence of copy on write among it, and the limits and parents of the
///   root's qgroup, which are set before the first byte. The qgroup of what is gone is removed by the kernel when it has given the space back
///   (seen with Linux 6.18). An older one leaves it: the value that removed a root removes its qgroup in a later call, and
///   `btrfs qgroup clear-stale` the others.
/// - What is removed is gone at once, and its space comes back by and by ([`reclaiming`](RebuildableVolume::reclaiming)). In place of the
///   old root, and where less than a quarter of the file system is free, a new root waits for that, two minutes at most.
/// - The size of a volume is the lower of its qgroup's limits. Without quotas it has none; [`with_quota`](Self::with_quota) says what becomes
///   of a size that is asked for then. A limit on a group that holds both roots counts both.
/// - [`usage`](RebuildableVolume::usage) says of the live root what would come back if it went.
/// - Works without root where the file system lets the caller make and remove subvolumes (`user_subvol_rm_allowed`; without that option what
///   is removed goes file by file). Without root no limit is kept or set, and no snapshot outside the root and the snapshots' folder is seen.
/// - Needs Linux 5.6 and `/proc`; to purge foreign snapshots 5.7, for simple quotas 6.7.
#[derive(Debug)]
pub struct BtrfsVolume {
    place: Siblings,
    snapshots: SnapshotsDir,
    commit: Commit,
    quota_policy: QuotaPolicy,
    read_only: ReadOnlyPolicy,
    staging: Staging,
    kept: Kept,
    access: Access,
    /// The live root as it was captured: its snapshots carry this.
    uuid: Uuid,
    /// Subvolumes that this value destroyed and that the kernel has not given back yet.
    destroyed: Vec<u64>,
    told: Vec<Warning>,
}

/// How far the kernel has come with giving back space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleaner {
    Done,
    Busy,
}

/// What becomes of the read-only flag of a live root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ReadOnlyPolicy {
    /// The new root is read-only if the old one was.
    #[default]
    Keep,
    /// The new root can be written to.
    Clear,
}

impl BtrfsVolume {
    /// The volume at `path`, which need not exist. Its parent directory must, and is held open from here on.
    ///
    /// A relative path is taken from the current directory. Nothing is changed.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`] if the path does not end in a name that a volume can have, does not lie on btrfs, or is a symbolic
    ///   link, a file or a plain directory.
    /// - [`ErrorKind::NotFound`] if the parent directory does not exist.
    pub fn open(path: impl AsRef<Path>) -> Result<BtrfsVolume> {
        const OPERATION: &str = "open the volume";
        let place = Siblings::open("btrfs", path.as_ref())?;
        let shown = Escaped::from(place.path()).to_string();
        match btrfs::is_btrfs(place.parent()) {
            Ok(true) => {}
            Ok(false) => {
                return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "it does not lie on btrfs")
                    .with_remedy(format!("write dir:{shown}"))
                    .with_context("volume", place.id()));
            }
            Err(error) => return Err(place.failed(OPERATION, "fstatfs failed", error)),
        }
        let volume = BtrfsVolume {
            snapshots: SnapshotsDir::beside(place.path()),
            place,
            commit: Commit::Exchange,
            quota_policy: QuotaPolicy::default(),
            read_only: ReadOnlyPolicy::default(),
            staging: Staging::default(),
            kept: Kept::Nothing,
            access: Access::ReadWrite,
            uuid: Uuid::default(),
            destroyed: Vec::new(),
            told: Vec::new(),
        };
        volume.is_there(Slot::Live, OPERATION).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => error.with_kind(ErrorKind::InvalidInput),
            _ => error,
        })?;
        Ok(volume)
    }

    /// Sets the directory that holds this volume's snapshots, each a subvolume in it. It need not exist.
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

    /// Sets what to do when a size is asked for and quotas are off; [`QuotaPolicy::Refuse`] unless set.
    #[must_use]
    pub fn with_quota(mut self, policy: QuotaPolicy) -> Self {
        self.quota_policy = policy;
        self
    }

    /// Sets what becomes of the read-only flag; [`ReadOnlyPolicy::Keep`] unless set.
    #[must_use]
    pub fn with_read_only(mut self, policy: ReadOnlyPolicy) -> Self {
        self.read_only = policy;
        self
    }

    /// Waits until the kernel has given back the space of what this value removed; returns what is still to come when the wait ended first.
    ///
    /// Writes out what the file system has to write, for the kernel gives nothing back before.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`]: only root can know; [`ErrorKind::Cancelled`].
    pub fn wait_reclaimed(&mut self, wait: &Wait) -> Result<Reclaiming> {
        const OPERATION: &str = "wait for the space of what was removed";
        self.wait_for_cleaner(wait, OPERATION)?;
        Ok(Reclaiming::new(self.destroyed.len() as u64))
    }

    /// The absolute path of the live root.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    fn add_volume(&self, error: Error) -> Error {
        error.with_context("volume", self.place.id())
    }

    fn refusal(&self, operation: &'static str, message: &str, refused: Refused) -> Error {
        self.add_volume(refused.explain(operation, message))
    }

    /// Whether a root is there. Anything but a subvolume under its name is an error.
    fn is_there(&self, slot: Slot, operation: &'static str) -> Result<bool> {
        if !self.place.kind_of(slot, operation)? {
            return Ok(false);
        }
        let name = self.place.name_of(slot);
        match fstatat(self.place.parent(), name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_ino == TOP => Ok(true),
            Ok(_) => {
                let shown = Escaped::from(name.as_os_str());
                let error =
                    Error::new(ErrorKind::AlreadyExists, operation, format!("{shown} is a plain directory, not a subvolume"));
                Err(self.add_volume(match slot {
                    Slot::Live => error.with_remedy(format!("write dir:{}", Escaped::from(self.place.path()))),
                    _ => error.with_remedy("move it away: the name is reserved"),
                }))
            }
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(self.place.failed(operation, &format!("cannot look at the {slot}"), error)),
        }
    }

    /// The name under which a root goes that has subvolumes in it.
    fn doomed(&self) -> OsString {
        let mut name = self.place.name_of(Slot::Live);
        name.push(DOOMED);
        name
    }

    /// Holders that only this file system knows of: the root, or a subvolume in it, is what a mount shows that names none.
    fn default_subvolume(&self) -> Result<Option<Holder>> {
        const OPERATION: &str = "find out who uses the volume";
        const FILE_SYSTEM_TOP: u64 = 5;
        // Only root may ask; and only root may choose one.
        let Ok(Some(id)) = tree::default_subvolume(self.place.parent()) else { return Ok(None) };
        if id == FILE_SYSTEM_TOP {
            return Ok(None);
        }
        let Some(root) = self.place.open_root(Slot::Live, OPERATION)? else { return Ok(None) };
        let own = lookup::id(root.as_fd()).map_err(|refused| self.refusal(OPERATION, "cannot tell its id", refused))?;
        let said = |what: String| Some(Holder::Other(format!("{what} is the file system's default subvolume")));
        if own == id {
            return Ok(said("it".into()));
        }
        let nested = nested::list(root.as_fd(), OPERATION).map_err(|error| self.add_volume(error))?;
        let inner = nested.iter().find(|inner| inner.info.id == id);
        Ok(inner.and_then(|inner| said(format!("the subvolume {} in it", Escaped::from(inner.path.as_path())))))
    }

    /// The manager's snapshots by their folder, for they are not foreign.
    fn snapshots_folder(&self, operation: &'static str) -> Result<Option<(u64, u64)>> {
        let Some(dir) = self.snapshots.open(operation)? else { return Ok(None) };
        let stat = fstat(&dir).map_err(|error| self.place.failed(operation, "cannot look at the snapshots' folder", error))?;
        // It may lie on another file system, and then holds none of these.
        let Ok(tree) = lookup::id(dir.as_fd()) else { return Ok(None) };
        Ok(Some((tree, stat.st_ino)))
    }

    fn foreign(&self, top: Option<BorrowedFd<'_>>, uuid: Uuid, operation: &'static str) -> Result<Vec<Foreign>> {
        let folder = self.snapshots_folder(operation)?;
        foreign::find(self.place.parent(), top, uuid, folder.as_slice(), operation).map_err(|error| self.add_volume(error))
    }

    /// Destroys those snapshots of the old root that are not in the manager's folder.
    fn purge_foreign(&mut self, wanted: &[Snapshot]) -> Result<()> {
        const OPERATION: &str = "purge the snapshots";
        let mut roots = vec![(None, self.uuid)];
        for slot in [Slot::Retired, Slot::Staged] {
            if let Some(root) = self.place.open_root(slot, OPERATION)? {
                let info =
                    subvolume::info(root.as_fd()).map_err(|refused| self.refusal(OPERATION, "cannot look at the root", refused))?;
                roots.retain(|(_, uuid)| *uuid != info.uuid);
                roots.push((Some(root), info.uuid));
            }
        }
        let mounts = Tables::read()?;
        for (root, uuid) in &roots {
            let top = root.as_ref().map(AsFd::as_fd);
            for foreign in self.foreign(top, *uuid, OPERATION)? {
                if wanted.iter().any(|snapshot| snapshot.name == foreign.name()) {
                    foreign::destroy(&foreign, self.place.parent(), top, &mounts).map_err(|error| self.add_volume(error))?;
                }
            }
        }
        Ok(())
    }

    /// Removes a root that bears none of the three names any more, or that has no subvolume in it.
    fn remove(&mut self, name: &OsStr, going: impl IntoIterator<Item = u64>) -> Result<()> {
        nested::remove(self.place.parent(), name).map_err(|error| self.add_volume(error))?;
        self.destroyed.extend(going);
        self.reclaim();
        Ok(())
    }

    /// Removes the qgroups that the kernel left behind when it gave back what was destroyed.
    fn reclaim(&mut self) {
        if self.destroyed.is_empty() {
            return;
        }
        let fd = self.place.parent();
        let Ok(going) = tree::reclaiming(fd) else {
            // Who may not ask cannot wait either.
            self.destroyed.clear();
            return;
        };
        self.destroyed.retain(|id| {
            let gone = !going.contains(id);
            if gone {
                let _ = crate::sys::btrfs::quota::destroy(fd, *id);
            }
            !gone
        });
    }

    /// Waits until what this value destroyed is given back, if the new root may need it: in place of an old one, or where space is scarce.
    fn wait_for_space(&mut self) -> Result<()> {
        const OPERATION: &str = "wait for the space of a removed root";
        let needed = || Ok::<_, Error>(self.is_scarce() || !self.is_there(Slot::Live, OPERATION)?);
        if self.destroyed.is_empty() || !needed()? {
            return Ok(());
        }
        if self.wait_for_cleaner(&Wait::new(RECLAIM_WAIT, CancelToken::new()), OPERATION)? == Cleaner::Busy {
            self.told.push(Warning::new("the space of a removed root was not back before the new one was filled"));
        }
        Ok(())
    }

    /// Has the kernel give back what this value has destroyed, and waits for it.
    fn wait_for_cleaner(&mut self, wait: &Wait, operation: &'static str) -> Result<Cleaner> {
        let refused = |refused: Refused| self.refusal(operation, "the kernel refused", refused);
        let fd = self.place.parent();
        let mut step = RECLAIM_STEP;
        loop {
            // The cleaner sleeps for half a minute at a time unless it is woken.
            sync::all(fd).map_err(refused)?;
            if !tree::reclaiming(fd).map_err(refused)?.iter().any(|id| self.destroyed.contains(id)) {
                break;
            }
            if !wait.pause(operation, step)? {
                return Ok(Cleaner::Busy);
            }
            step = (step * 2).min(Duration::from_secs(1));
        }
        // What was given back can be used after the next transaction.
        sync::all(fd).map_err(refused)?;
        self.reclaim();
        Ok(Cleaner::Done)
    }

    /// Whether less than a quarter of the file system is free.
    fn is_scarce(&self) -> bool {
        fstatvfs(self.place.parent()).is_ok_and(|stat| stat.blocks_available() < stat.blocks() / 4)
    }

    /// Refuses to remove what a mount shows: the kernel would not.
    fn refuse_mounted(&self, mounts: &Tables, dir: BorrowedFd<'_>, name: &OsStr, operation: &'static str) -> Result<()> {
        let found = mounts.of(dir, name).map_err(|error| self.add_volume(error))?;
        let Some(holder) = found.first() else { return Ok(()) };
        let what = Escaped::from(name);
        let error = Error::new(ErrorKind::Busy, operation, format!("{what} is in use: {holder}"))
            .with_remedy("unmount it and run recover")
            .with_context("holder", holder);
        Err(self.add_volume(error))
    }

    /// Refuses to remove a root that is not only ours; returns the subvolumes in one that is.
    fn refuse_removal(&self, name: &OsStr, root: BorrowedFd<'_>) -> Result<Vec<Nested>> {
        let mounts = Tables::read().map_err(|error| self.add_volume(error))?;
        self.refuse_mounted(&mounts, self.place.parent(), name, nested::OPERATION)?;
        let uuid = subvolume::info(root).map_err(|refused| self.refusal(nested::OPERATION, "cannot look at it", refused))?.uuid;
        let nested = nested::list(root, nested::OPERATION).map_err(|error| self.add_volume(error))?;
        match nested.iter().find(|inner| inner.info.parent_uuid == uuid && !uuid.is_none()) {
            Some(snapshot) => {
                let path = Escaped::from(snapshot.path.as_path());
                let error = Error::new(ErrorKind::HasSnapshots, nested::OPERATION, format!("its snapshot {path} lies in it"))
                    .with_remedy("move the snapshot out of it or delete it, and run recover");
                Err(self.add_volume(error))
            }
            None => Ok(nested),
        }
    }
}

impl RebuildableVolume for BtrfsVolume {
    fn id(&self) -> VolumeId {
        self.place.id()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_commit(self.commit)
            .with_removal(Removal::Atomic)
            .with_snapshots(SnapshotSupport::Independent)
            .with_sizing(Sizing::Growable)
    }

    fn lock(&self, wait: &Wait) -> Result<VolumeLock> {
        self.place.lock(wait)
    }

    fn names(&self) -> Result<Names> {
        self.place.names(|slot, operation| self.is_there(slot, operation))
    }

    fn identity(&self, slot: Slot) -> Result<Option<RootId>> {
        const OPERATION: &str = "tell one root from another";
        let Some(root) = self.place.open_root(slot, OPERATION)? else { return Ok(None) };
        let id = lookup::id(root.as_fd()).map_err(|refused| self.refusal(OPERATION, "cannot tell its id", refused))?;
        Ok(Some(RootId::new(format!("subvolume {id}"))))
    }

    fn holders(&self) -> Result<Vec<Holder>> {
        let holders = self.place.holders()?;
        if holders.is_empty() { Ok(self.default_subvolume()?.into_iter().collect()) } else { Ok(holders) }
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        const OPERATION: &str = "list the snapshots";
        let Some(root) = self.place.open_root(Slot::Live, OPERATION)? else { return Ok(Vec::new()) };
        let mut snapshots = self.snapshots.list().map_err(|error| self.add_volume(error))?;
        let info = subvolume::info(root.as_fd()).map_err(|refused| self.refusal(OPERATION, "cannot look at the root", refused))?;
        let foreign = self.foreign(Some(root.as_fd()), info.uuid, OPERATION)?;
        snapshots.extend(foreign.iter().map(Foreign::to_snapshot));
        snapshots.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(snapshots)
    }

    fn usage(&self, detail: UsageDetail) -> Result<Usage> {
        let quota = match self.quota() {
            // Who may not read the groups can still count.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
            quota => quota?,
        };
        let counted = quota.as_ref().filter(|quota| quota.consistent).map(|quota| quota.exclusive);
        let mut usage = match (detail, counted) {
            (UsageDetail::Full, Some(exclusive)) => self.place.usage(UsageDetail::Free)?.with_used(exclusive),
            (detail, _) => self.place.usage(detail)?,
        };
        if let Some(quota) = quota {
            usage.size = [quota.max_referenced, quota.max_exclusive].into_iter().flatten().min();
        }
        Ok(usage)
    }

    fn record(&self) -> Result<Option<ImageRecord>> {
        self.place.record()
    }

    fn capture(&mut self) -> Result<()> {
        const OPERATION: &str = "read the properties of the live root";
        (self.kept, self.access, self.uuid) = (Kept::Nothing, Access::ReadWrite, Uuid::default());
        self.staging.capture(&self.place)?;
        if let Some(root) = self.place.open_live_or_retired(OPERATION)? {
            let info =
                subvolume::info(root.as_fd()).map_err(|refused| self.refusal(OPERATION, "cannot look at the root", refused))?;
            (self.access, self.uuid) = (info.access, info.uuid);
            self.kept = self.kept_quota(root.as_fd(), OPERATION)?;
        }
        Ok(())
    }

    fn check_spec(&self, spec: &StageSpec) -> Result<()> {
        self.check_quota(spec, "size the volume").map(drop)
    }

    fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        const OPERATION: &str = "stage a root";
        self.told.clear();
        self.wait_for_space()?;
        if let Some(mode) = self.check_quota(spec, OPERATION)? {
            self.enable_quota(mode, OPERATION)?;
        }
        let parents = match &self.kept {
            Kept::Group(group) => Some(group.parents.as_slice()),
            _ => None,
        };
        let mut staging = std::mem::take(&mut self.staging);
        let staged = staging.stage(
            &self.place,
            |parent, name| subvolume::create(parent, name, parents).map_err(|refused| refused.errno),
            |root, warnings| self.limit(root, spec, warnings),
            |parent, name| subvolume::destroy(parent, name).map_err(|refused| refused.errno),
        );
        self.staging = staging;
        staged
    }

    fn grow(&mut self, to: ByteSize) -> Result<ByteSize> {
        const OPERATION: &str = "grow the staged root";
        match self.place.open_root(Slot::Staged, OPERATION)? {
            Some(root) => self.raise(root.as_fd(), to),
            None => Err(self.add_volume(Error::new(ErrorKind::NotFound, OPERATION, "there is none"))),
        }
    }

    fn seal(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
        const OPERATION: &str = "seal the staged root";
        let read_only = root == RootMetadata::Keep && self.access == Access::ReadOnly && self.read_only == ReadOnlyPolicy::Keep;
        let mut staging = std::mem::take(&mut self.staging);
        let sealed = staging.seal(&self.place, record, root, |root, _| match read_only {
            true => subvolume::set_access(root, Access::ReadOnly)
                .map_err(|refused| self.refusal(OPERATION, "cannot make it read-only as the old root was", refused)),
            false => Ok(()),
        });
        self.staging = staging;
        let mut warnings = sealed?;
        warnings.append(&mut self.told);
        Ok(warnings)
    }

    fn rename(&mut self, from: Slot, to: Slot) -> Result<()> {
        self.place.rename(from, to)
    }

    fn exchange(&mut self) -> Result<()> {
        if self.commit != Commit::Exchange {
            let why = "this volume was told to rename twice";
            return Err(self.add_volume(Error::new(ErrorKind::Unsupported, "exchange the roots", why)));
        }
        self.place.exchange()
    }

    fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        const OPERATION: &str = "purge the snapshots";
        let (mut own, foreign): (Vec<_>, Vec<_>) =
            snapshots.iter().cloned().partition(|snapshot| snapshot.owner == SnapshotOwner::Manager);
        if let Some(dir) = self.snapshots.open(OPERATION).map_err(|error| self.add_volume(error))?.filter(|_| !own.is_empty()) {
            // All of them before the first one goes.
            snapshots::check_names(&own, OPERATION).map_err(|error| self.add_volume(error))?;
            let mounts = Tables::read().map_err(|error| self.add_volume(error))?;
            own.iter().try_for_each(|snapshot| self.refuse_mounted(&mounts, dir.as_fd(), &snapshot.name, OPERATION))?;
            // One step for most. Those with subvolumes in them are renamed first, and so are plain directories.
            own.retain(|snapshot| {
                let gone = subvolume::destroy(dir.as_fd(), &snapshot.name);
                !matches!(gone.map_err(|refused| refused.errno), Ok(()) | Err(Errno::ENOENT))
            });
            let purged = self.snapshots.purge(&own, &mut |dir, name| nested::remove(dir, name));
            purged.map_err(|error| self.add_volume(error))?;
        }
        if !foreign.is_empty() {
            self.purge_foreign(&foreign)?;
        }
        self.reclaim();
        Ok(())
    }

    fn discard(&mut self, slot: Slot) -> Result<()> {
        self.place.refuse_live(slot)?;
        if slot == Slot::Staged {
            self.staging.forget();
        }
        if !self.is_there(slot, nested::OPERATION)? {
            return Ok(());
        }
        let name = self.place.name_of(slot);
        let Some(root) = self.place.open_root(slot, nested::OPERATION)? else { return Ok(()) };
        let nested = self.refuse_removal(&name, root.as_fd())?;
        let own = lookup::id(root.as_fd()).map_err(|refused| self.refusal(nested::OPERATION, "cannot tell its id", refused))?;
        if nested.is_empty() {
            match nested::destroy(self.place.parent(), &name, root.as_fd()) {
                Ok(()) => {
                    self.destroyed.push(own);
                    self.reclaim();
                    return Ok(());
                }
                // Whoever may not destroy it removes it file by file.
                Err(error) if error.kind() == ErrorKind::PermissionDenied && !nested::is_privileged(root.as_fd()) => {}
                Err(error) => return Err(self.add_volume(error)),
            }
        }
        // It goes in more than one step: a part of a root must not bear a name under which a whole one is looked for.
        drop(root);
        self.tidy_doomed()?;
        let doomed = self.doomed();
        let renamed =
            rename::no_replace(self.place.parent(), &name, &doomed).and_then(|()| rename::sync_directory(self.place.parent()));
        renamed.map_err(|error| self.place.failed(nested::OPERATION, "cannot rename it away", error))?;
        let going: Vec<_> = nested.iter().map(|inner| inner.info.id).chain([own]).collect();
        self.remove(&doomed, going)
    }

    fn reclaiming(&self) -> Result<Option<Reclaiming>> {
        const OPERATION: &str = "find out what is still being reclaimed";
        match tree::reclaiming(self.place.parent()) {
            Ok(ids) => Ok(Some(Reclaiming::new(ids.len() as u64))),
            Err(refused) if refused.is_denied() => Ok(None),
            Err(refused) => Err(self.refusal(OPERATION, "the kernel refused", refused)),
        }
    }

    fn tidy(&mut self) -> Result<Tidied> {
        let doomed = self.tidy_doomed()?;
        let tidied = self.snapshots.tidy(&mut |dir, name| {
            self.refuse_mounted(&Tables::read()?, dir, name, nested::OPERATION)?;
            nested::remove(dir, name)
        });
        let snapshots = tidied.map_err(|error| self.add_volume(error))?;
        if !self.destroyed.is_empty() {
            self.reclaim();
        }
        Ok(if doomed == Tidied::Something { doomed } else { snapshots })
    }
}

impl BtrfsVolume {
    /// Removes what is left of a root that was going.
    fn tidy_doomed(&mut self) -> Result<Tidied> {
        let doomed = self.doomed();
        match fstatat(self.place.parent(), doomed.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(Tidied::Nothing),
            Err(error) => return Err(self.place.failed(nested::OPERATION, "cannot look at what is left of an old root", error)),
            Ok(_) => {}
        }
        let mounts = Tables::read().map_err(|error| self.add_volume(error))?;
        self.refuse_mounted(&mounts, self.place.parent(), &doomed, nested::OPERATION)?;
        self.remove(&doomed, [])?;
        Ok(Tidied::Something)
    }
}
