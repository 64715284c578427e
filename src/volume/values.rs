//! The values that a volume and its caller exchange.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;

#[cfg(doc)]
use super::RebuildableVolume;
use crate::error::Error;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::size::ByteSize;
use crate::text::Escaped;

/// The identity of a volume: its backend's name and its own, shown as `dir:/srv/pool/containers/c1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId {
    scheme: Cow<'static, str>,
    name: OsString,
}

impl VolumeId {
    /// The volume `name` of the backend `scheme`.
    pub fn new(scheme: impl Into<Cow<'static, str>>, name: impl Into<OsString>) -> Self {
        VolumeId { scheme: scheme.into(), name: name.into() }
    }

    /// The backend's name: `dir`, `zfs`.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The volume's name within its backend, raw.
    pub fn name(&self) -> &OsStr {
        &self.name
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme, Escaped::from(self.name.as_os_str()))
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for VolumeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One of the three names a volume may exist under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum Slot {
    /// The volume's own name: what users see.
    Live,
    /// The new root while it is filled; after an exchange, the old root.
    Staged,
    /// The old root between the two renames of a commit and its disposal.
    Retired,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Slot::Live => "live root",
            Slot::Staged => "staged root",
            Slot::Retired => "retired root",
        })
    }
}

/// Tells one root of a volume from another, whatever name it bears.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RootId(String);

impl RootId {
    /// The root that its backend calls so.
    pub fn new(id: impl Into<String>) -> Self {
        RootId(id.into())
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which of the three names exist. This is the whole state of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Names {
    /// The volume's own name exists.
    pub live: bool,
    /// A staged root exists.
    pub staged: bool,
    /// A retired root exists.
    pub retired: bool,
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.live, "live"), (self.staged, "staged"), (self.retired, "retired")];
        let present: Vec<_> = names.iter().filter(|(exists, _)| *exists).map(|(_, name)| *name).collect();
        f.write_str(if present.is_empty() { "none" } else { "" })?;
        f.write_str(&present.join(" + "))
    }
}

/// What a backend can do. Start from [`Capabilities::new`], the least, and add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Capabilities {
    /// How a commit switches roots.
    pub commit: Commit,
    /// Whether a root goes in one step.
    pub removal: Removal,
    /// Whether snapshots can outlive the root they were taken of.
    pub snapshots: SnapshotSupport,
    /// Whether a volume has a size.
    pub sizing: Sizing,
    /// How a root comes from a base.
    pub cloning: Cloning,
}

impl Capabilities {
    /// Two renames, gradual removal, no snapshots that could be kept, no size, no clones.
    pub fn new() -> Self {
        Capabilities {
            commit: Commit::TwoRenames,
            removal: Removal::Gradual,
            snapshots: SnapshotSupport::Dependent,
            sizing: Sizing::Unsized,
            cloning: Cloning::Copied,
        }
    }

    /// Sets [`Capabilities::commit`].
    #[must_use]
    pub fn with_commit(mut self, commit: Commit) -> Self {
        self.commit = commit;
        self
    }

    /// Sets [`Capabilities::removal`].
    #[must_use]
    pub fn with_removal(mut self, removal: Removal) -> Self {
        self.removal = removal;
        self
    }

    /// Sets [`Capabilities::snapshots`].
    #[must_use]
    pub fn with_snapshots(mut self, snapshots: SnapshotSupport) -> Self {
        self.snapshots = snapshots;
        self
    }

    /// Sets [`Capabilities::sizing`].
    #[must_use]
    pub fn with_sizing(mut self, sizing: Sizing) -> Self {
        self.sizing = sizing;
        self
    }

    /// Sets [`Capabilities::cloning`].
    #[must_use]
    pub fn with_cloning(mut self, cloning: Cloning) -> Self {
        self.cloning = cloning;
        self
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Self::new()
    }
}

/// How a commit switches roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Commit {
    /// In one step: at every moment the name shows one root or the other.
    Exchange,
    /// In two renames: for a moment the name shows nothing, and `recover` rolls forward.
    TwoRenames,
}

/// Whether a root goes in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Removal {
    /// In one step: a retired root that exists is whole, and can be rolled back to.
    Atomic,
    /// File by file: a retired root that stands alone may be a part of one.
    Gradual,
}

/// How snapshots relate to the root they were taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum SnapshotSupport {
    /// Independent copies: they can stay when the root goes.
    Independent,
    /// Bound to the root: they go with it.
    Dependent,
    /// Bound to the root as well; but it can be rebuilt where it stands ([`Placement::Within`]), and they stay.
    Within,
}

impl SnapshotSupport {
    /// Whether a snapshot goes with the root that it was taken of.
    pub fn is_bound(self) -> bool {
        self != SnapshotSupport::Independent
    }
}

/// Whether a volume has a size of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Sizing {
    /// No: it takes what the pool has, and a size that is asked for is refused.
    Unsized,
    /// A limit, which can be raised for a staged root while it is filled. What counts is what its data takes, compressed or shared.
    Growable,
    /// That of a device with a file system of its own, which can grow while it is filled. It holds no more data than its size.
    Device,
    /// The same, and the device takes its whole size from the pool at once.
    Reserved,
}

impl Sizing {
    /// Whether a staged root can grow while it is filled.
    pub fn can_grow(self) -> bool {
        self != Sizing::Unsized
    }

    /// Whether it is the size of a device.
    pub fn is_of_device(self) -> bool {
        matches!(self, Sizing::Device | Sizing::Reserved)
    }
}

/// How a staged root comes from a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Cloning {
    /// By the backend, in one step, whatever the size of the base.
    Instant,
    /// Entry by entry, by the caller, into an empty staged root. Files share the data of the base's where the file system can.
    Copied,
}

/// What keeps a volume busy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Holder {
    /// A process.
    Process {
        /// Its id, in the caller's pid namespace.
        pid: u32,
        /// Its command, escaped.
        command: String,
        /// How it holds: `working directory`, `root directory`, `open file etc/passwd`.
        how: String,
    },
    /// A mount on or under the root, or of a part of it elsewhere.
    Mount {
        /// Where, escaped, as the mount namespace it is in shows it.
        path: String,
        /// A process of that namespace, if it is not the caller's own.
        namespace_of: Option<u32>,
    },
    /// A block device backed by a file in the root.
    Device {
        /// The device: `/dev/loop3`.
        device: String,
        /// The file, escaped.
        file: String,
    },
    /// Anything else, described in a few words.
    Other(String),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Process { pid, command, how } => write!(f, "process {pid} ({command}): {how}"),
            Holder::Mount { path, namespace_of: None } => write!(f, "mount {path}"),
            Holder::Mount { path, namespace_of: Some(pid) } => {
                write!(f, "mount {path} in the mount namespace of process {pid}")
            }
            Holder::Device { device, file } => write!(f, "{device} backed by {file}"),
            Holder::Other(what) => f.write_str(what),
        }
    }
}

/// A snapshot of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its name within the volume, raw.
    pub name: OsString,
    /// Whose it is.
    pub owner: SnapshotOwner,
    /// What would break if it went: the names of clones and the like, escaped.
    pub dependents: Vec<String>,
    /// How it relates to the root, where that is not as [`Capabilities::snapshots`] says: one that lies in the root goes with it.
    pub support: Option<SnapshotSupport>,
}

impl Snapshot {
    /// A snapshot without dependents.
    pub fn new(name: impl Into<OsString>, owner: SnapshotOwner) -> Self {
        Snapshot { name: name.into(), owner, dependents: Vec::new(), support: None }
    }

    /// Sets [`Snapshot::dependents`].
    #[must_use]
    pub fn with_dependents(mut self, dependents: Vec<String>) -> Self {
        self.dependents = dependents;
        self
    }

    /// Sets [`Snapshot::support`].
    #[must_use]
    pub fn with_support(mut self, support: SnapshotSupport) -> Self {
        self.support = Some(support);
        self
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped::from(self.name.as_os_str()).fmt(f)?;
        match self.owner {
            SnapshotOwner::Manager => Ok(()),
            SnapshotOwner::Foreign => f.write_str(" (foreign)"),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Snapshot {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut state = serializer.serialize_struct("Snapshot", 3)?;
        state.serialize_field("name", &Escaped::from(self.name.as_os_str()).to_string())?;
        state.serialize_field("owner", &self.owner)?;
        state.serialize_field("dependents", &self.dependents)?;
        state.end()
    }
}

/// Whose a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum SnapshotOwner {
    /// It lies where a container manager keeps its snapshots.
    Manager,
    /// Another tool's: a backup job's, an administrator's.
    Foreign,
}

/// How much [`RebuildableVolume::usage`] should find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UsageDetail {
    /// What a system call or two can tell.
    Free,
    /// Also what the live root takes, whatever that costs.
    Full,
}

/// What a chunk takes of a thin pool's metadata: its mapping, in nodes that are half full, and its place in the space maps.
const CHUNK_METADATA: u64 = 64;

/// Space on a volume and in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Usage {
    /// What the live root takes; `None` if unknown or not asked for.
    pub used: Option<ByteSize>,
    /// The volume's size or limit, if it has one.
    pub size: Option<ByteSize>,
    /// What is left in the pool for a new root.
    pub free: ByteSize,
    /// Inodes left in the pool, where they are counted.
    pub free_inodes: Option<u64>,
    /// What is left of a thin pool's metadata, where that is a space of its own.
    pub free_metadata: Option<ByteSize>,
    /// What a new root would take of it for so much data: by the chunk, of this size.
    pub chunk: Option<ByteSize>,
    /// What sizes are rounded up to, if they are.
    pub unit: Option<ByteSize>,
}

impl Usage {
    /// So much left, all else unknown.
    pub fn new(free: ByteSize) -> Self {
        Usage { free, ..Usage::default() }
    }

    /// Sets [`Usage::used`].
    #[must_use]
    pub fn with_used(mut self, used: ByteSize) -> Self {
        self.used = Some(used);
        self
    }

    /// Sets [`Usage::size`].
    #[must_use]
    pub fn with_size(mut self, size: ByteSize) -> Self {
        self.size = Some(size);
        self
    }

    /// Sets [`Usage::free_inodes`].
    #[must_use]
    pub fn with_free_inodes(mut self, inodes: u64) -> Self {
        self.free_inodes = Some(inodes);
        self
    }

    /// Sets [`Usage::free_metadata`].
    #[must_use]
    pub fn with_free_metadata(mut self, free: ByteSize) -> Self {
        self.free_metadata = Some(free);
        self
    }

    /// Sets [`Usage::unit`].
    #[must_use]
    pub fn with_unit(mut self, unit: ByteSize) -> Self {
        self.unit = Some(unit);
        self
    }

    /// Sets [`Usage::chunk`].
    #[must_use]
    pub fn with_chunk(mut self, chunk: ByteSize) -> Self {
        self.chunk = Some(chunk);
        self
    }

    /// What so much data takes of a thin pool's metadata, at most: 64 bytes for each chunk. `None` where that is no space of its own.
    pub fn metadata_for(&self, data: ByteSize) -> Option<ByteSize> {
        let chunk = self.chunk?.bytes().max(1);
        Some(ByteSize::from_bytes(data.bytes().div_ceil(chunk).saturating_mul(CHUNK_METADATA)))
    }
}

/// Where a new root is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Placement {
    /// Beside the live root, under a name of its own.
    #[default]
    Beside,
    /// In the live root, emptied, while a snapshot keeps what it held: with it the volume's snapshots and its identity stay. Until the
    /// [exchange](RebuildableVolume::exchange), which lets go of that snapshot, there is a staged root, and
    /// to [discard](RebuildableVolume::discard) it is to bring back what the snapshot holds.
    Within,
}

/// What a staged root has to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StageSpec {
    /// Its size or limit; `None` keeps the live root's, or takes the backend's default. Never set for [`Sizing::Unsized`].
    pub size: Option<ByteSize>,
    /// The base that it is a clone of; `None`: it is empty. Never set for [`Cloning::Copied`], nor within the live root.
    pub base: Option<VolumeId>,
    /// How many entries it will hold, or more, where that is known before it is filled.
    pub entries: Option<u64>,
    /// Where it is made. [`Placement::Within`] is asked for only of a volume that has a live root and [`SnapshotSupport::Within`].
    pub placement: Placement,
}

impl StageSpec {
    /// Empty, with the size of the live root.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`StageSpec::size`].
    #[must_use]
    pub fn with_size(mut self, size: ByteSize) -> Self {
        self.size = Some(size);
        self
    }

    /// Sets [`StageSpec::entries`].
    #[must_use]
    pub fn with_entries(mut self, entries: u64) -> Self {
        self.entries = Some(entries);
        self
    }

    /// Sets [`StageSpec::placement`].
    #[must_use]
    pub fn with_placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets [`StageSpec::base`].
    #[must_use]
    pub fn with_base(mut self, base: VolumeId) -> Self {
        self.base = Some(base);
        self
    }
}

/// Whose owner, mode, ACLs and extended attributes the root directory gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RootMetadata {
    /// Those of the live root, captured before: it is the volume's root, whatever image fills it.
    Keep,
    /// Those that the image has for its root: the volume is new.
    FromImage,
}

/// What [`RebuildableVolume::reclaiming`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Reclaiming {
    /// So many roots and snapshots.
    pub objects: u64,
    /// What they still take, if that is known.
    pub space: Option<ByteSize>,
}

impl Reclaiming {
    /// So many, of unknown size.
    pub fn new(objects: u64) -> Self {
        Reclaiming { objects, space: None }
    }

    /// Sets [`Reclaiming::space`].
    #[must_use]
    pub fn with_space(mut self, space: ByteSize) -> Self {
        self.space = Some(space);
        self
    }
}

impl fmt::Display for Reclaiming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} removed {}", self.objects, if self.objects == 1 { "root or snapshot" } else { "roots and snapshots" })?;
        match self.space {
            Some(space) => write!(f, ", {space}"),
            None => Ok(()),
        }
    }
}

/// Whether [`RebuildableVolume::tidy`] found anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tidied {
    /// There was nothing to do.
    Nothing,
    /// Leftovers are gone.
    Something,
}

/// Something that did not stop the rebuild but that its caller should know.
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Warning {
    /// What, and what to do about it, in a sentence.
    pub message: String,
    /// The error behind it.
    pub error: Option<Error>,
}

impl Warning {
    /// A warning without an error behind it.
    pub fn new(message: impl Into<String>) -> Self {
        Warning { message: message.into(), error: None }
    }

    /// Sets [`Warning::error`].
    #[must_use]
    pub fn with_error(mut self, error: Error) -> Self {
        self.error = Some(error);
        self
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.error {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_show_themselves() {
        assert_eq!(VolumeId::new("dir", "/srv/c\n1").to_string(), "dir:/srv/c\\n1");
        assert_eq!(Names::default().to_string(), "none");
        assert_eq!(Names { live: true, staged: false, retired: true }.to_string(), "live + retired");
        assert_eq!(Snapshot::new("daily", SnapshotOwner::Foreign).to_string(), "daily (foreign)");
        let holder = Holder::Mount { path: "/mnt".into(), namespace_of: Some(7) };
        assert_eq!(holder.to_string(), "mount /mnt in the mount namespace of process 7");
    }
}
