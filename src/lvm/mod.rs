//! The LVM backend: `lvm:vg0/c1`.
//!
//! A volume is a logical volume with a filesystem of its own: ext4, xfs or btrfs. In a thin pool it costs what is written to it, and is a clone of a base in
//! the time of a snapshot; a thick one takes its whole size from the group. Its staged and retired roots are logical volumes in the same group,
//! `c1.reroot-staged` and `c1.reroot-retired`; names with these endings are reserved, and what this library made there has the tag `reroot-made`. The locks of
//! all volumes lie in `/run/reroot`.
//!
//! All that changes anything goes through the `lvm` command, with reports in JSON. Device-mapper is asked directly, and only asked: whether a volume
//! is active, open or suspended, and how full a thin pool is. Device nodes are found by their numbers, so udev's links are not waited for.
//!
//! LVM writes its metadata past the kernel's cache and does not have the disks write theirs, so a rename is made durable here: the group's disks are flushed
//! after it. In between, LVM writes the text of its metadata before the header that leads to it, and relies on the disk to keep that order. Where power is lost
//! and a disk has kept the header alone, the group is not found until `vgck --updatemetadata`, whoever changed it.

mod bases;
mod command;
mod device;
mod group;
mod name;
mod note;
mod report;
mod room;
mod snapshots;
mod stage;
mod state;
mod switch;
mod watch;

use std::os::fd::OwnedFd;

pub use self::bases::LvmBases;
pub use self::name::LogicalVolumeName;

use self::command::Lvm;
use self::group::Seen;
use self::report::{Layout, Volume};
use self::room::Room;
use self::watch::Watch;
use crate::error::{Error, ErrorKind, Result};
pub use crate::filesystem::UnreadablePolicy;
use crate::filesystem::{FilesystemKind, Recipe, Staged};
use crate::progress::Wait;
use crate::properties::Properties;
use crate::record::ImageRecord;
use crate::run_lock;
use crate::size::ByteSize;
use crate::volume::{
    Capabilities, Cloning, Commit, Holder, Names, RebuildableVolume, Removal, RootId, RootMetadata, Sizing, Slot, Snapshot,
    SnapshotSupport, StageSpec, Usage, UsageDetail, VolumeId, VolumeLock, Warning,
};

/// What is ours has it, so that a stranger's volume under one of our names is told.
const MADE: &str = "reroot-made";
/// The size of a new volume.
const DEFAULT_SIZE: ByteSize = ByteSize::gib(10);

/// A volume that is a logical volume.
///
/// - Its filesystem is mounted by this library where no path leads. Whoever has it or its device open is a holder.
/// - A rebuild makes a new filesystem of the same kind, with the label, features and geometry of the old one as far as its tools tell them, and a UUID of
///   its own. [`with_recipe`](Self::with_recipe) decides otherwise. The new logical volume has the old one's size, tags, permission, activation skip,
///   allocation policy and read-ahead, and of a thick one the stripes; it is active afterwards if the old one was.
/// - A live root that is not active is activated while it is looked at. Before it is renamed it is deactivated, which fails if anyone has it open.
/// - Thin snapshots are volumes of their own and can stay ([`SnapshotPolicy::Keep`](crate::SnapshotPolicy::Keep)). Read-only ones named `c1-NAME` are the manager's, as LXD and
///   Incus name theirs; others that were taken of the volume, or of such a snapshot, are [foreign](crate::volume::SnapshotOwner::Foreign). A writable
///   one is taken for another volume. Snapshots of a thick volume go with it.
/// - A thin pool is not filled to its end, for what lies in it besides would wait or fail: a rebuild that finds too little left stops with
///   [`Space::ThinData`](crate::Space::ThinData) or [`Space::ThinMetadata`](crate::Space::ThinMetadata).
/// - Thick volumes are linear or striped. Their new roots are zeroed, so that nobody's old data shows.
/// - Needs root, LVM 2.03 and Linux 5.2, and the tools of the filesystem: e2fsprogs, xfsprogs or btrfs-progs.
#[derive(Debug)]
pub struct LvmVolume {
    name: LogicalVolumeName,
    pool: Option<String>,
    recipe: Option<Recipe>,
    options: String,
    size: ByteSize,
    unreadable: UnreadablePolicy,
    role: Role,
    /// Whether it lies in a thin pool, as far as that is known.
    lies: Lies,
    seen: Seen,
    lvm: Lvm,
    captured: Option<Captured>,
    staging: Staging,
}

/// What a volume is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// The root of an instance.
    Volume,
    /// To be cloned, with a tag that names it.
    Base(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lies {
    Thin,
    Thick,
}

/// What a live root had when it was captured.
#[derive(Debug)]
struct Captured {
    volume: Volume,
    /// Unless it could not be read, and why its top could not.
    kind: Option<FilesystemKind>,
    top: Result<Properties, String>,
    /// How its filesystem was made, once that was asked.
    recipe: Option<Recipe>,
    /// Whether it was active before.
    activity: Activity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Active,
    Inactive,
}

/// A root that is being filled.
#[derive(Debug, Default)]
struct Staging {
    /// Whether a staged root was made by this value.
    begun: bool,
    filesystem: Option<Staged>,
    /// What its pool has, and who sees to it that nothing waits for a pool that is full, if it is thin. Goes after the filesystem.
    room: Option<Room>,
    watch: Option<Watch>,
}

impl LvmVolume {
    /// The volume `GROUP/NAME`, which need not exist: then a rebuild makes it, of 10 GiB ([`with_size`](Self::with_size)), in the group's thin pool if it has one, and
    /// with ext4. Nothing is changed.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`] if no logical volume can have this name, or if what has it is none that could be rebuilt: a pool, a snapshot of a thick volume.
    /// - [`ErrorKind::NotFound`] if there is no such group; [`ErrorKind::Unsupported`] if LVM is not installed.
    pub fn open(name: &str) -> Result<LvmVolume> {
        let name: LogicalVolumeName =
            name.parse().map_err(|error: Error| error.with_context("volume", VolumeId::new("lvm", name)))?;
        let mut volume = Self::at(name, Role::Volume);
        volume.check_live("open the volume")?;
        Ok(volume)
    }

    fn at(name: LogicalVolumeName, role: Role) -> LvmVolume {
        LvmVolume {
            name,
            pool: None,
            recipe: None,
            options: String::new(),
            size: DEFAULT_SIZE,
            unreadable: UnreadablePolicy::default(),
            role,
            lies: Lies::Thin,
            seen: Seen::default(),
            lvm: Lvm::default(),
            captured: None,
            staging: Staging::default(),
        }
    }

    /// Sets the thin pool in which a new volume is made; the group's only one unless set.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the group has no such thin pool.
    pub fn with_pool(mut self, pool: &str) -> Result<Self> {
        const OPERATION: &str = "choose the thin pool";
        let group = self.look(OPERATION)?;
        if !group.find(pool).is_some_and(|found| found.layout == Layout::ThinPool) {
            let why = format!("{} has no thin pool of this name", self.name.group());
            return Err(self
                .add_volume(Error::new(ErrorKind::NotFound, OPERATION, why))
                .with_context("pool", format!("{pool:?}"))
                .with_remedy(format!("see which there are: lvs --select segtype=thin-pool {}", self.name.group())));
        }
        self.pool = Some(pool.to_owned());
        Ok(self)
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

    /// The logical volume of the live root.
    pub fn logical_volume(&self) -> &LogicalVolumeName {
        &self.name
    }

    /// The thin pool that it lies in, or is going to lie in; `None` for a thick volume.
    ///
    /// # Errors
    /// As reports of LVM fail; [`ErrorKind::InvalidInput`] if the group has several, and none was named for a new volume.
    pub fn thin_pool(&self) -> Result<Option<String>> {
        const OPERATION: &str = "find the volume's thin pool";
        match self.lies {
            Lies::Thick => Ok(None),
            Lies::Thin => self.pool_of(&*self.look(OPERATION)?, OPERATION).map(Some),
        }
    }

    fn add_volume(&self, error: Error) -> Error {
        error.with_context("volume", self.id())
    }
}

impl RebuildableVolume for LvmVolume {
    fn id(&self) -> VolumeId {
        VolumeId::new("lvm", self.name.to_string())
    }

    fn capabilities(&self) -> Capabilities {
        let capabilities = Capabilities::new().with_commit(Commit::TwoRenames).with_removal(Removal::Atomic);
        match self.lies {
            Lies::Thin => {
                capabilities.with_snapshots(SnapshotSupport::Independent).with_sizing(Sizing::Device).with_cloning(Cloning::Instant)
            }
            Lies::Thick => {
                capabilities.with_snapshots(SnapshotSupport::Dependent).with_sizing(Sizing::Reserved).with_cloning(Cloning::Copied)
            }
        }
    }

    fn lock(&self, wait: &Wait) -> Result<VolumeLock> {
        let lock = VolumeLock::new(run_lock::exclusive(&self.id(), wait)?);
        Ok(self.lvm.while_locked(self.seen.while_locked(lock)))
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
}

impl Drop for LvmVolume {
    /// A rebuild that was given up before it renamed anything leaves the live root as active as it was.
    fn drop(&mut self) {
        self.release();
    }
}
