//! The ZFS backend: `zfs:tank/containers/c1`.
//!
//! A volume is a dataset, at any depth below a pool. Its staged and retired roots are datasets beside it, `c1.reroot-staged` and
//! `c1.reroot-retired`; names with these endings are reserved, and so is that of the snapshot `@reroot-staged`. The locks of all volumes lie in
//! `/run/reroot`.
//!
//! All is done in process through `libzfs_core`, loaded at run time: it is the interface that OpenZFS keeps stable, and with it neither a header nor a
//! library is needed to build. What it cannot do, to set a native property of a dataset that exists, the `zfs` command does.
//!
//! The pool makes a dataset in one transaction, and notes whose it is in the next. Where power is lost in between, a dataset without a note stays under the staged name. One that
//! nothing was set on, and that holds nothing but what its base does, is taken for that and removed by the next recovery; any other is a stranger's and refused. Where the
//! parent's `mountpoint` had it mounted meanwhile, it has to be unmounted first: the error names the mount.

mod bases;
mod command;
mod delegation;
mod dispose;
mod form;
mod limits;
mod mount;
mod name;
mod note;
mod park;
mod place;
mod properties;
mod snapshots;
mod stage;
mod state;
mod switch;
mod unnoted;
mod values;
mod within;

use std::os::fd::OwnedFd;
use std::sync::Mutex;

pub use self::bases::ZfsBases;
pub use self::name::DatasetName;

use self::delegation::Delegated;
use self::form::Form;
use self::place::Place;
use self::properties::Kept;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::properties::Properties;
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::volume::{
    Capabilities, Cloning, Commit, Holder, Names, Placement, RebuildableVolume, Removal, RootId, RootMetadata, Sizing, Slot,
    Snapshot, SnapshotSupport, StageSpec, Tidied, Usage, UsageDetail, VolumeId, VolumeLock, Warning,
};

/// What the names of a manager's snapshots begin with, unless it is told: LXD and Incus call them so.
const MANAGER_PREFIX: &str = "snapshot-";

/// A volume that is a ZFS dataset.
///
/// - It is mounted by this library where no path leads, and never by changing `mountpoint`. Whoever else has it mounted, in any mount namespace, is a holder.
/// - Snapshots are those of the dataset, by their names. Whose name begins with `snapshot-`
///   ([`with_manager_prefix`](Self::with_manager_prefix)) is the manager's, every other [foreign](crate::volume::SnapshotOwner::Foreign). Clones of a snapshot, and holds on it, are its dependents.
/// - Snapshots go with the dataset. [`SnapshotPolicy::Keep`](crate::SnapshotPolicy::Keep) therefore rebuilds within it: behind a snapshot of
///   its own, `@reroot-staged`, the dataset is emptied and filled, and a failure rolls back to that. The dataset's GUID, its snapshots, bookmarks, clones and
///   children stay, and so does the lineage that `zfs send -i` needs. Until such a rebuild is complete the dataset shows the unfinished root,
///   so [`recover`](crate::recover()) is to run before an instance starts; while one uses it, nothing is rolled back. Snapshots that others take
///   of an unfinished root go when it is rolled back.
///   `quota` counts what the snapshots keep: it may not leave room for a new root, where `refquota` does.
/// - A rebuild keeps what was set on the dataset: native properties, the limits before the first byte, and user properties. Of what it cannot keep it
///   warns or refuses: values that were received with a stream become local ones; a dataset with a key of its own, or with child datasets that are not
///   [named](Self::with_children), is rebuilt only within. What `zfs allow` delegated is kept [on demand](Self::with_delegation). `userquota@` and
///   bookmarks belong to the old dataset and are kept only within.
/// - The size of a volume is the lower of `quota` and `refquota`. A clone of a base that has only a `quota` gets a `refquota` of the same size, for its
///   `quota` does not count what it shares.
/// - A new volume has `mountpoint=legacy` and `canmount=noauto`. One that would be mounted by itself, at boot for example, is not as long as it
///   has a reserved name.
/// - A pool that is suspended keeps its callers waiting until it is back; the kernel gives no way to end such a call.
/// - Needs root, OpenZFS 2.1 or later and Linux 5.2.
#[derive(Debug)]
pub struct ZfsVolume {
    place: Place,
    prefix: String,
    clones: ClonePolicy,
    delegation: DelegationPolicy,
    children: Vec<String>,
    role: Role,
    captured: Option<Captured>,
    /// The snapshots that the live root was seen to have since then, if they were asked for.
    listed: Mutex<Option<Vec<String>>>,
    staging: Staging,
}

/// What becomes of clones of an old root's snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ClonePolicy {
    /// They are dependents, and a rebuild that would destroy what they depend on is refused, naming them.
    #[default]
    Refuse,
    /// The first clone of the latest snapshot that has any is promoted when the old root goes: the snapshots up to that one become its own, and others
    /// depend on it from then on. So until there are none left.
    Promote,
}

/// What becomes of what `zfs allow` delegated on an old root's dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum DelegationPolicy {
    /// It goes with the old root, unless the rebuild happens within it.
    #[default]
    Leave,
    /// It is delegated on the new one too. To find out what there is takes a call of the `zfs` command, tens of milliseconds, and each of its lines another.
    Keep,
}

/// What a volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The root of an instance.
    Volume,
    /// To be cloned.
    Base,
}

/// What a live root had when it was captured.
#[derive(Debug)]
struct Captured {
    kept: Kept,
    /// Whether this library made its dataset.
    made: bool,
    form: Form,
    delegated: Delegated,
    top: Properties,
}

/// A root that is being filled.
#[derive(Debug, Default)]
struct Staging {
    /// Open since before the first byte, so that `syncfs` reports every write that failed since then.
    root: Option<OwnedFd>,
    /// What it is the top of.
    dataset: Option<String>,
    /// What could not be kept when it was made, for `seal` to tell.
    warnings: Vec<Warning>,
    /// Properties for `seal` to set, as the command takes them.
    last: Vec<String>,
    start: Start,
}

/// How a root begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Start {
    #[default]
    Empty,
    Clone,
}

impl ZfsVolume {
    /// The volume `dataset`, which need not exist. Its parent dataset must by the time it is made. Nothing is changed.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`] if this is not the name of a dataset below a pool.
    /// - [`ErrorKind::Unsupported`] if the library or the kernel's module is missing; [`ErrorKind::NotFound`] if there is no such pool.
    /// - [`ErrorKind::AlreadyExists`] if something else has one of its names, or [`ErrorKind::InvalidInput`] if that is its own.
    pub fn open(dataset: &str) -> Result<ZfsVolume> {
        const OPERATION: &str = "open the volume";
        let name: DatasetName =
            dataset.parse().map_err(|error: Error| error.with_context("volume", VolumeId::new("zfs", dataset)))?;
        let place = Place::open(name, OPERATION)?;
        Self::at(place, Role::Volume)
    }

    fn at(place: Place, role: Role) -> Result<ZfsVolume> {
        let volume = ZfsVolume {
            place,
            prefix: MANAGER_PREFIX.into(),
            clones: ClonePolicy::default(),
            delegation: DelegationPolicy::default(),
            children: Vec::new(),
            role,
            captured: None,
            listed: Mutex::default(),
            staging: Staging::default(),
        };
        volume.place.check_live("open the volume")?;
        Ok(volume)
    }

    /// Sets what the names of the manager's snapshots begin with; `snapshot-` unless set. Snapshots are listed by their whole names all the same.
    #[must_use]
    pub fn with_manager_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets what becomes of clones of the old root's snapshots; [`ClonePolicy::Refuse`] unless set.
    #[must_use]
    pub fn with_clones(mut self, policy: ClonePolicy) -> Self {
        self.clones = policy;
        self
    }

    /// Sets what becomes of what `zfs allow` delegated; [`DelegationPolicy::Leave`] unless set.
    #[must_use]
    pub fn with_delegation(mut self, policy: DelegationPolicy) -> Self {
        self.delegation = policy;
        self
    }

    /// Names child datasets, by their last components, that are to become children of the new root. A volume with others is refused.
    #[must_use]
    pub fn with_children(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.children = names.into_iter().map(Into::into).collect();
        self
    }

    /// The dataset of the live root.
    pub fn dataset(&self) -> &DatasetName {
        &self.place.name
    }
}

impl RebuildableVolume for ZfsVolume {
    fn id(&self) -> VolumeId {
        self.place.id()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_commit(Commit::TwoRenames)
            .with_removal(Removal::Atomic)
            .with_snapshots(SnapshotSupport::Within)
            .with_sizing(Sizing::Growable)
            .with_cloning(Cloning::Instant)
    }

    fn lock(&self, wait: &Wait) -> Result<VolumeLock> {
        self.place.lock(wait)
    }

    fn names(&self) -> Result<Names> {
        self.state_names()
    }

    fn identity(&self, slot: Slot) -> Result<Option<RootId>> {
        self.state_identity(slot)
    }

    fn holders(&self) -> Result<Vec<Holder>> {
        self.state_holders()
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.list_snapshots()
    }

    fn usage(&self, _: UsageDetail) -> Result<Usage> {
        self.state_usage()
    }

    fn record(&self) -> Result<Option<ImageRecord>> {
        self.state_record()
    }

    fn capture(&mut self) -> Result<()> {
        self.capture_live()
    }

    fn check_spec(&self, spec: &StageSpec) -> Result<()> {
        self.check_stage(spec)
    }

    fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        self.staging = Staging::default();
        match spec.placement {
            Placement::Beside => self.stage_beside(spec),
            Placement::Within => self.stage_within(spec),
        }
    }

    fn grow(&mut self, to: ByteSize) -> Result<ByteSize> {
        self.grow_staged(to)
    }

    fn seal(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
        self.seal_staged(record, root)
    }

    fn rename(&mut self, from: Slot, to: Slot) -> Result<()> {
        self.rename_root(from, to)
    }

    fn exchange(&mut self) -> Result<()> {
        self.exchange_within()
    }

    fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        self.purge_snapshots(snapshots)
    }

    fn discard(&mut self, slot: Slot) -> Result<()> {
        self.dispose_of(slot)
    }

    fn tidy(&mut self) -> Result<Tidied> {
        const OPERATION: &str = "tidy up";
        let look = self.place.look(OPERATION)?;
        self.unpark(look.live.as_ref(), OPERATION)
    }
}

/// Refuses the removal of the live root.
fn refuse_live() -> Error {
    Error::new(ErrorKind::InvalidInput, "remove a root", "the live root is never removed under its name")
}
