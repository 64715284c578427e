//! The btrfs backend: `btrfs:/srv/pool/containers/c1`.
//!
//! A volume is a subvolume. Its staged and retired roots and its lock lie beside it, as `c1.reroot-staged`, `c1.reroot-retired` and
//! `c1.reroot-lock`; an old root that has subvolumes in it is called `c1.reroot-doomed` while they go, one by one. Names with these endings
//! are reserved.
//!
//! All is done by ioctls: neither the command `btrfs` nor a C library is needed.

mod bases;
mod clone;
mod dispose;
mod foreign;
mod nested;
mod quota;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{fstat, fstatat};

pub use self::bases::BtrfsBases;
pub use self::quota::{Quota, QuotaPolicy};

use self::foreign::Foreign;
use self::quota::Kept;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::properties::{close, top_of};
use crate::record::ImageRecord;
use crate::siblings::snapshots::SnapshotsDir;
use crate::siblings::{Siblings, Staging, Start};
use crate::size::ByteSize;
use crate::sys::btrfs::subvolume::{self, Access};
use crate::sys::btrfs::{self, Refused, Uuid, lookup, tree};
use crate::sys::holders::Tables;
use crate::text::Escaped;
use crate::volume::{
    Capabilities, Cloning, Commit, Holder, Names, RebuildableVolume, Reclaiming, Removal, RootId, RootMetadata, Sizing, Slot,
    Snapshot, SnapshotSupport, StageSpec, Tidied, Usage, UsageDetail, VolumeId, VolumeLock, Warning,
};

/// The inode number of every subvolume's top directory.
const TOP: u64 = 256;

/// A volume that is a btrfs subvolume.
///
/// - Snapshots of the manager's are subvolumes where LXD keeps them: those of `POOL/containers/NAME` are
///   `POOL/containers-snapshots/NAME/SNAP`. [`with_snapshots_dir`](Self::with_snapshots_dir) says otherwise.
/// - Every other snapshot of the live root, anywhere on the file system, is listed as [foreign](crate::volume::SnapshotOwner::Foreign) by its path from the top
///   of the file system (`/backup/c1`), or from that of the root if it lies in it (`./.snapshots/1`). Only root sees those outside. One that
///   can be written to may be an instance of its own, a copy for example: it is listed too, and never purged.
/// - Subvolumes in the old root go with it, whatever they are called and however deep they lie.
/// - A rebuild keeps what the directory backend keeps, compression and the absence of copy on write among it, and the limits and parents of the
///   root's qgroup, which are set before the first byte. The qgroup of what is gone is removed by the kernel when it has given the space back
///   (seen with Linux 6.18). An older one leaves it, and so does a count of all that is under way then, as a clone in a group of others begins one: the
///   value that removed a root removes its qgroup in a later call, and `btrfs qgroup clear-stale` the others.
/// - What is removed is gone at once, and its space comes back by and by ([`reclaiming`](RebuildableVolume::reclaiming)). In place of the
///   old root, and where less than an eighth of the file system is free, a new root waits for that, two minutes at most.
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
    role: Role,
    staging: Staging,
    kept: Kept,
    access: Access,
    /// The live root as it was captured: its snapshots carry this.
    uuid: Uuid,
    /// Subvolumes that this value destroyed and that the kernel has not given back yet.
    destroyed: Vec<u64>,
    told: Vec<Warning>,
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

/// What a volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The root of an instance.
    Volume,
    /// To be cloned: it is read-only once it is sealed.
    Base,
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
            role: Role::Volume,
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
            .with_cloning(Cloning::Instant)
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
        self.check_quota(spec, "size the volume")?;
        self.check_base(spec)
    }

    fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        const OPERATION: &str = "stage a root";
        self.told.clear();
        if spec.base.is_none() {
            self.wait_for_space()?;
        }
        if let Some(mode) = self.check_quota(spec, OPERATION)? {
            self.enable_quota(mode, OPERATION)?;
        }
        let parents = match &self.kept {
            Kept::Group(group) => Some(group.parents.as_slice()),
            _ => None,
        };
        let grouped = parents.is_some_and(|parents| !parents.is_empty());
        let base = spec.base.as_ref().map(|base| self.open_base(base, OPERATION)).transpose()?;
        let start = if base.is_some() { Start::Clone } else { Start::Empty };
        let mut staging = std::mem::take(&mut self.staging);
        let staged = staging.stage(
            &self.place,
            start,
            |parent, name| {
                let made = match &base {
                    Some(base) => subvolume::snapshot(base.as_fd(), parent, name, Access::ReadWrite, parents),
                    None => subvolume::create(parent, name, parents),
                };
                made.map_err(|refused| refused.errno)
            },
            |root, warnings| self.limit(root, spec, warnings),
            |parent, name| subvolume::destroy(parent, name).map_err(|refused| refused.errno),
        );
        self.staging = staging;
        if base.is_none() {
            return staged;
        }
        if grouped {
            self.recount_clone(OPERATION);
        }
        self.warn_of_clone();
        staged.map_err(Self::explain_clone)
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
        let kept = root == RootMetadata::Keep && self.access == Access::ReadOnly && self.read_only == ReadOnlyPolicy::Keep;
        let read_only = kept || self.role == Role::Base;
        let staged = if self.role == Role::Base { self.place.open_root(Slot::Staged, OPERATION)? } else { None };
        let top = staged.map(|staged| top_of(staged.as_fd())).transpose();
        let top = top.map_err(|error| self.place.failed(OPERATION, "cannot look at it", error))?;
        let closed = top.map(|top| record.clone().with_top(top));
        let mut staging = std::mem::take(&mut self.staging);
        let sealed = staging.seal(&self.place, closed.as_ref().unwrap_or(record), root, |root, _| {
            if closed.is_some() {
                close(root).map_err(|error| self.place.failed(OPERATION, "cannot close it to others", error))?;
            }
            match read_only {
                true => subvolume::set_access(root, Access::ReadOnly)
                    .map_err(|refused| self.refusal(OPERATION, "cannot make it read-only", refused)),
                false => Ok(()),
            }
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
        self.place.exchange(self.commit)
    }

    fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        self.destroy_snapshots(snapshots)
    }

    fn discard(&mut self, slot: Slot) -> Result<()> {
        self.place.refuse_live(slot)?;
        if slot == Slot::Staged {
            self.staging.forget();
        }
        self.dispose(slot)
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
