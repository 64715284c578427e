//! The Ceph backend: `ceph:rbd/c1`.
//!
//! A volume is an RBD image with a filesystem of its own: ext4, xfs or btrfs. Any host that reaches the cluster may rebuild it, and no two at once. Its staged and
//! retired roots are images beside it, `c1.reroot-staged` and `c1.reroot-retired`; names with these endings are reserved.
//!
//! Images are made, cloned, renamed and removed through librbd and librados, which are loaded at run time: one login of some 50 ms, and a few milliseconds for a call,
//! where each `rbd` command takes hundreds. The locks of all volumes of a namespace, and notes of what this library made, are on one object in it, `reroot.locks`.
//! To be filled, an image is mapped on this host, by the kernel or by rbd-nbd.

mod bases;
mod cluster;
mod lock;
mod mapped;
mod name;
mod notes;
mod snapshots;
mod space;
mod stage;
mod state;
mod switch;
mod trash;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

pub use self::bases::CephBases;
pub use self::cluster::CephCluster;
pub use self::mapped::Mapping;
pub use self::name::ImageName;
pub use crate::filesystem::UnreadablePolicy;

use self::lock::Holding;
use self::mapped::Mapped;
use self::space::Room;
use self::state::Look;
use crate::base_name::BaseName;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::filesystem::{FilesystemKind, Recipe, Staged};
use crate::progress::Wait;
use crate::properties::Properties;
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::sys::ceph::{Failed, Layout, Pool};
use crate::volume::{
    Capabilities, Cloning, Commit, Holder, Names, RebuildableVolume, Removal, RootId, RootMetadata, Sizing, Slot, Snapshot,
    SnapshotSupport, StageSpec, Tidied, Usage, UsageDetail, VolumeId, VolumeLock, Warning,
};

/// The size of a new volume.
const DEFAULT_SIZE: ByteSize = ByteSize::gib(10);
/// How long a filesystem's tool may take on a device.
const TOOL_LIMIT: Duration = Duration::from_secs(300);

/// A volume that is an RBD image.
///
/// - Its filesystem is mounted by this library where no path leads, and its image is mapped only while that is so. Whoever watches the image, on any host, has
///   it mapped on this one, or has an advisory lock on it is a holder. A mapping that is only for reading, on another host, the cluster does not know of.
/// - A rebuild makes a new image with the old one's size, features, object size, striping, data pool and metadata (QoS settings among them), and in it a filesystem of the
///   same kind, with the label, features and geometry of the old one as far as its tools tell them, and a UUID of its own.
///   [`with_recipe`](Self::with_recipe) decides otherwise.
/// - Snapshots are bound to the old image and go with it, if the policy is to purge them: protected ones too. Those named `snapshot_NAME` are the manager's, as LXD and Incus name
///   theirs; others are [foreign](crate::volume::SnapshotOwner::Foreign). What was cloned from one depends on it ([`ChildrenPolicy`]).
/// - The lock is in the cluster. That of a host that died is broken when the cluster misses the host, after half a minute, and shuts it out: the new holder needs
///   the right to do that, which `mon 'profile rbd'` has.
/// - Mirrored images, and members of a group, are refused.
/// - Needs root, librados and librbd 16 or later, and Linux 5.2 with krbd, or rbd-nbd; and the tools of the filesystem: e2fsprogs, xfsprogs or btrfs-progs.
#[derive(Debug)]
pub struct CephVolume {
    name: ImageName,
    cluster: CephCluster,
    pool: Pool,
    data_pool: Option<String>,
    recipe: Option<Recipe>,
    options: String,
    size: ByteSize,
    unreadable: UnreadablePolicy,
    mapping: Mapping,
    removal: RemovalPolicy,
    children: ChildrenPolicy,
    clones: ClonePolicy,
    role: Role,
    holding: Holding,
    last_look: Mutex<Option<Look>>,
    captured: Option<Captured>,
    /// Whether a staged root was made since then.
    begun: bool,
    /// The snapshots that the live root was seen to have since then, if they were asked for.
    listed: Mutex<Option<Vec<Snapshot>>>,
    staging: Staging,
}

/// What becomes of an old root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum RemovalPolicy {
    /// It is removed.
    #[default]
    Remove,
    /// It is moved to the pool's trash for so long. Until then any host brings it back under a name of its own: `rbd trash ls`, `rbd trash restore --image NAME`. The next rebuild or
    /// recovery of the volume after that removes it; so does `rbd trash purge`. Until it is gone it depends on its base, if it was cloned from one.
    /// The old root of a rebuild in place goes there too: it takes its room until then, and can be brought back where the new one cannot be made.
    Trash(Duration),
}

/// What becomes of images that were cloned from a snapshot that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ChildrenPolicy {
    /// The rebuild is refused, and names them.
    #[default]
    Refuse,
    /// They are given a copy of what they share, and depend on nothing then. That takes as long as copying their data, and happens after the commit.
    Flatten,
}

/// Whether a root that is cloned from a base goes on sharing with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ClonePolicy {
    /// It shares what neither has changed; the base stays for as long as there are clones.
    #[default]
    Linked,
    /// It is given a copy of everything before it becomes live.
    Flattened,
}

/// What a volume is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// The root of an instance.
    Volume,
    /// To be cloned.
    Base(BaseName),
}

/// What a live root had when it was captured.
#[derive(Debug)]
struct Captured {
    id: String,
    /// The slot in which it is by now.
    slot: Slot,
    size: ByteSize,
    layout: Layout,
    metadata: BTreeMap<String, Vec<u8>>,
    /// Unless it could not be read, and why its top could not.
    kind: Option<FilesystemKind>,
    top: Result<Properties, String>,
    /// How its filesystem was made, once that was asked.
    recipe: Option<Recipe>,
}

/// A root that is being filled. The filesystem goes before the device.
#[derive(Debug, Default)]
struct Staging {
    filesystem: Option<Staged>,
    mapped: Option<Mapped>,
    room: Room,
}

impl Drop for Staging {
    /// What was not sealed is going to be discarded.
    fn drop(&mut self) {
        if let Some(abandon) = self.filesystem.as_ref().and_then(Staged::abandon) {
            abandon.now();
        }
    }
}

impl CephVolume {
    /// The volume `POOL/IMAGE` or `POOL/NAMESPACE/IMAGE` of the cluster `ceph`, as `client.admin`; see [`open_in`](Self::open_in).
    ///
    /// # Errors
    /// As [`open_in`](Self::open_in).
    pub fn open(name: &str) -> Result<CephVolume> {
        Self::open_in(&CephCluster::new(), name)
    }

    /// The volume `POOL/IMAGE` or `POOL/NAMESPACE/IMAGE` of a cluster. It need not exist: then a rebuild makes it, of 10 GiB ([`with_size`](Self::with_size)) and with ext4. Logs in;
    /// nothing is changed.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`] if that can be no name.
    /// - [`ErrorKind::NotFound`] if there is no such cluster, pool or namespace; [`ErrorKind::Unsupported`] if the libraries of Ceph are not installed.
    /// - [`ErrorKind::PermissionDenied`] if the cluster does not know the user or its key; [`ErrorKind::TimedOut`] if no monitor answers.
    pub fn open_in(cluster: &CephCluster, name: &str) -> Result<CephVolume> {
        const OPERATION: &str = "open the volume";
        let name: ImageName = name.parse().map_err(|error: Error| error.with_context("volume", VolumeId::new("ceph", name)))?;
        let pool = cluster.connect(name.place(), OPERATION);
        let pool = pool.map_err(|error| error.with_context("volume", VolumeId::new("ceph", name.to_string())))?;
        Ok(Self::at(cluster, pool, name, Role::Volume))
    }

    fn at(cluster: &CephCluster, pool: Pool, name: ImageName, role: Role) -> CephVolume {
        CephVolume {
            name,
            cluster: cluster.clone(),
            pool,
            data_pool: None,
            recipe: None,
            options: String::new(),
            size: DEFAULT_SIZE,
            unreadable: UnreadablePolicy::default(),
            mapping: Mapping::default(),
            removal: RemovalPolicy::default(),
            children: ChildrenPolicy::default(),
            clones: ClonePolicy::default(),
            role,
            holding: Holding::default(),
            last_look: Mutex::default(),
            captured: None,
            begun: false,
            listed: Mutex::default(),
            staging: Staging::default(),
        }
    }

    /// Sets how the filesystem of every new root is made. Unless set, as the old root's was, and for a new volume as ext4 by the defaults of its tool.
    #[must_use]
    pub fn with_recipe(mut self, recipe: Recipe) -> Self {
        self.recipe = Some(recipe);
        self
    }

    /// Sets what becomes of a live root whose filesystem cannot be read; [`UnreadablePolicy::Refuse`] unless set.
    #[must_use]
    pub fn with_unreadable(mut self, policy: UnreadablePolicy) -> Self {
        self.unreadable = policy;
        self
    }

    /// Sets options of the mounts in which roots are looked at and filled, as mount(8) takes them with commas between; none unless set.
    #[must_use]
    pub fn with_mount_options(mut self, options: impl Into<String>) -> Self {
        self.options = options.into();
        self
    }

    /// Sets the size of a new volume; 10 GiB unless set. One that exists keeps its size, or is given a larger one by [`Rebuild::size`](crate::Rebuild::size).
    #[must_use]
    pub fn with_size(mut self, size: ByteSize) -> Self {
        self.size = size;
        self
    }

    /// Sets the pool for the data of every new root, as for one that is erasure coded. Unless set, that of the old root, or the image's own.
    #[must_use]
    pub fn with_data_pool(mut self, pool: impl Into<String>) -> Self {
        self.data_pool = Some(pool.into());
        self
    }

    /// Sets how images become devices of this host; [`Mapping::Automatic`] unless set.
    #[must_use]
    pub fn with_mapping(mut self, mapping: Mapping) -> Self {
        self.mapping = mapping;
        self
    }

    /// Sets what becomes of old roots; [`RemovalPolicy::Remove`] unless set.
    #[must_use]
    pub fn with_removal(mut self, policy: RemovalPolicy) -> Self {
        self.removal = policy;
        self
    }

    /// Sets what becomes of what was cloned from the volume's snapshots; [`ChildrenPolicy::Refuse`] unless set.
    #[must_use]
    pub fn with_children(mut self, policy: ChildrenPolicy) -> Self {
        self.children = policy;
        self
    }

    /// Sets whether roots that are cloned from a base go on sharing with it; [`ClonePolicy::Linked`] unless set.
    #[must_use]
    pub fn with_clones(mut self, policy: ClonePolicy) -> Self {
        self.clones = policy;
        self
    }

    /// The image of the live root.
    pub fn image(&self) -> &ImageName {
        &self.name
    }

    fn add_volume(&self, error: Error) -> Error {
        error.with_context("volume", self.id())
    }

    fn failed(&self, failed: Failed, operation: &'static str, what: impl Into<String>) -> Error {
        self.add_volume(self.cluster.failed(failed, operation, what))
    }
}

impl RebuildableVolume for CephVolume {
    fn id(&self) -> VolumeId {
        VolumeId::new("ceph", self.name.to_string())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_commit(Commit::TwoRenames)
            .with_removal(Removal::Atomic)
            .with_snapshots(SnapshotSupport::Dependent)
            .with_sizing(Sizing::Device)
            .with_cloning(Cloning::Instant)
    }

    fn lock(&self, wait: &Wait) -> Result<VolumeLock> {
        lock::take(&self.cluster, &self.pool, &self.name, &self.holding, wait)
    }

    fn names(&self) -> Result<Names> {
        self.state_names()
    }

    fn identity(&self, slot: Slot) -> Result<Option<RootId>> {
        let id = self.id_of(slot, "tell one root from another")?;
        Ok(id.map(RootId::new))
    }

    fn holders(&self) -> Result<Vec<Holder>> {
        self.state_holders()
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.list_snapshots()
    }

    fn usage(&self, detail: UsageDetail) -> Result<Usage> {
        self.state_usage(detail)
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
        self.stage_root(spec)
    }

    fn grow(&mut self, to: ByteSize) -> Result<ByteSize> {
        self.grow_staged(to)
    }

    fn check_room(&mut self, written: ByteSize) -> Result<()> {
        self.check_pool(written)
    }

    fn explain(&self, error: Error) -> Error {
        self.explain_full(error)
    }

    fn seal(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
        self.seal_staged(record, root)
    }

    fn rename(&mut self, from: Slot, to: Slot) -> Result<()> {
        self.rename_root(from, to)
    }

    fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        self.purge_snapshots(snapshots)
    }

    fn discard(&mut self, slot: Slot) -> Result<()> {
        self.remove_root(slot)
    }

    fn tidy(&mut self) -> Result<Tidied> {
        self.tidy_up()
    }
}
