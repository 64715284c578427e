//! [`RebuildableVolume`], the trait a backend implements, and the values it speaks in.
//!
//! The trait is what only a backend can do. Policy, order, unpacking, retries, progress and the decision table of `recover` are written
//! once, above it, in [`Rebuild`](crate::Rebuild). Anyone can write another backend: implement the trait, then run the suite of the
//! `conformance` feature on it.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::text::Escaped;

/// A named root volume on one backend.
///
/// The volume may exist under three names ([`Slot`]): its own, and two beside it that no one but this library uses. A staged root is
/// complete and durable before the first rename, so which names exist *is* the state.
///
/// # What every method may rely on
/// - Between [`lock`](Self::lock) and the drop of what it returned, no other rebuild or recovery of the volume runs. Methods that change
///   anything are called only then. [`id`](Self::id), [`capabilities`](Self::capabilities), [`names`](Self::names),
///   [`identity`](Self::identity), [`holders`](Self::holders), [`snapshots`](Self::snapshots), [`usage`](Self::usage) and [`record`](Self::record) may be called at
///   any time and change nothing.
/// - A method that returns an error has changed nothing that a later [`names`](Self::names) and [`discard`](Self::discard) could not
///   see and undo.
/// - No method blocks for ever, prints, or panics on what it finds.
///
/// # Order of calls
/// A swap: `lock`, `names`, `capture`, `stage`, *(the caller fills the directory)*, `seal`, then `exchange`, or `rename(Live, Retired)`
/// and `rename(Staged, Live)`, then `purge` and `discard` of the old root. In place: `lock`, `names`, `capture`,
/// `rename(Live, Retired)`, `purge` if snapshots are [`SnapshotSupport::Dependent`], `discard(Retired)`, `stage`, *fill*, `seal`,
/// `rename(Staged, Live)`, and `purge` if they are [`SnapshotSupport::Independent`], so that they outlive a rebuild that fails.
pub trait RebuildableVolume: fmt::Debug + Send {
    /// The volume's identity.
    ///
    /// - Never changes, and costs nothing.
    fn id(&self) -> VolumeId;

    /// What this backend can do, as data.
    ///
    /// - Costs nothing. A capability that only an attempt can prove is claimed, and the attempt then fails with
    ///   [`ErrorKind::Unsupported`].
    fn capabilities(&self) -> Capabilities;

    /// Takes the volume's lock, held until the returned guard is dropped or the process dies.
    ///
    /// - Excludes every other holder: in other processes, other threads, and other values for the same volume in this thread.
    /// - Works for a volume that does not exist yet.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when `wait` ended first, naming the holder where it can; [`ErrorKind::Cancelled`]; whatever prevents a lock.
    fn lock(&self, wait: &Wait) -> Result<VolumeLock>;

    /// Which of the three names exist.
    ///
    /// - Tells "no" from "could not ask": anything but a clear answer is an error.
    /// - Something that is not a root (a file, a symbolic link) under one of the names is an error naming it, and stays.
    fn names(&self) -> Result<Names>;

    /// Which root bears this name; `None` if none does.
    ///
    /// - Stays with the root through [`rename`](Self::rename) and [`exchange`](Self::exchange), and no two roots of the volume share one: an
    ///   inode, a dataset's GUID, a logical volume's UUID. It is how the caller of an exchange that returned an error finds out whether
    ///   it took place.
    fn identity(&self, slot: Slot) -> Result<Option<RootId>>;

    /// Who keeps the live root busy: mounts on or under it, processes in it, devices backed by it.
    ///
    /// - Empty if there is no live root.
    /// - What the caller has no right to see is not reported; an error means that nothing could be seen.
    /// - The library's own file descriptors are not holders.
    fn holders(&self) -> Result<Vec<Holder>>;

    /// All snapshots of the live root, with what depends on each; those that no manager made too.
    ///
    /// - Sorted by name. Empty if there is no live root or no snapshot.
    fn snapshots(&self) -> Result<Vec<Snapshot>>;

    /// Space: what the live root takes and what is left.
    ///
    /// - With [`UsageDetail::Free`] it costs a system call or two and leaves [`Usage::used`] empty where that would take a walk.
    fn usage(&self, detail: UsageDetail) -> Result<Usage>;

    /// What the live root was filled from, as [`seal`](Self::seal) recorded it; `None` if unknown.
    fn record(&self) -> Result<Option<ImageRecord>>;

    /// Reads, and keeps in `self`, the properties of the live root that the next staged root must have.
    ///
    /// - Forgets what an earlier call kept. Without a live root the next staged root gets the backend's defaults.
    fn capture(&mut self) -> Result<()>;

    /// Makes a new, empty staged root and returns its directory, open for filling.
    ///
    /// - Requires that no staged root exists. Fails with [`ErrorKind::AlreadyExists`] if one does, and leaves it alone.
    /// - Limits are set before this returns, so before the first byte.
    /// - The directory is empty and no one but its owner can enter it. Properties that would change what is made inside it (a
    ///   default ACL, say) wait for [`seal`](Self::seal).
    /// - The caller closes the descriptor before the next call on the volume.
    ///
    /// # Errors
    /// On any error no staged root is left, or one that [`discard`](Self::discard) removes.
    fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd>;

    /// Makes the staged root larger while it is being filled; returns its new size, which may be rounded up.
    ///
    /// - Online: descriptors stay valid. The size never shrinks.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless [`Capabilities::sizing`] is [`Sizing::Growable`], and then nothing has changed.
    fn grow(&mut self, to: ByteSize) -> Result<ByteSize> {
        let _ = to;
        Err(Error::new(ErrorKind::Unsupported, "grow the staged root", "this backend has volumes without a size"))
    }

    /// Finishes the staged root: applies the captured properties, records the image with it, and makes it durable.
    ///
    /// - After `Ok` the staged root would survive a loss of power, complete.
    /// - With `root` [`RootMetadata::Keep`], the owner, mode, ACLs and extended attributes of the root directory become those that were
    ///   captured; with [`RootMetadata::FromImage`] (there was no live root) they stay as the image set them.
    /// - The record moves with the root in [`rename`](Self::rename) and [`exchange`](Self::exchange). A record that cannot be stored is
    ///   a warning, not an error.
    fn seal(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>>;

    /// Renames a root. `from` exists, `to` does not.
    ///
    /// - Atomic and durable: after `Ok` it survives a loss of power; after an error (or a kill) it happened whole or not at all.
    /// - Never replaces anything: if `to` exists it fails with [`ErrorKind::AlreadyExists`].
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where the backend cannot rename what is in use, naming the holder where it can.
    fn rename(&mut self, from: Slot, to: Slot) -> Result<()>;

    /// Exchanges the live and the staged root in one step, durably: the staged one is live, the old one is staged.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], with nothing changed, if the file system or the kernel cannot; the caller then renames twice.
    fn exchange(&mut self) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "exchange the roots", "this backend renames twice"))
    }

    /// Destroys these snapshots of the old root, and only these.
    ///
    /// - Called when the old root is not live any more, with what [`snapshots`](Self::snapshots) returned while it was. One that is gone already is no error.
    /// - What an interrupted purge leaves, [`tidy`](Self::tidy) or [`discard`](Self::discard) removes.
    fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()>;

    /// Removes a root and everything in it. Never called with [`Slot::Live`].
    ///
    /// - A root that does not exist is no error.
    /// - Never leaves the root: not through a symbolic link, not into a mount. A mount inside is [`ErrorKind::Busy`], named.
    /// - If [`Capabilities::removal`] is [`Removal::Gradual`], an interrupted call leaves a part of the root under the same name.
    fn discard(&mut self, slot: Slot) -> Result<()>;

    /// Removes what an interrupted run may have left besides the three names, such as half-purged snapshots or a mount point.
    ///
    /// - Returns whether there was anything. Nothing to do is the common case and cheap.
    fn tidy(&mut self) -> Result<Tidied> {
        Ok(Tidied::Nothing)
    }
}

macro_rules! forward_volume {
    ($($ty:ty),*) => {$(
        impl<V: RebuildableVolume + ?Sized> RebuildableVolume for $ty {
            fn id(&self) -> VolumeId { (**self).id() }
            fn capabilities(&self) -> Capabilities { (**self).capabilities() }
            fn lock(&self, wait: &Wait) -> Result<VolumeLock> { (**self).lock(wait) }
            fn names(&self) -> Result<Names> { (**self).names() }
            fn identity(&self, slot: Slot) -> Result<Option<RootId>> { (**self).identity(slot) }
            fn holders(&self) -> Result<Vec<Holder>> { (**self).holders() }
            fn snapshots(&self) -> Result<Vec<Snapshot>> { (**self).snapshots() }
            fn usage(&self, detail: UsageDetail) -> Result<Usage> { (**self).usage(detail) }
            fn record(&self) -> Result<Option<ImageRecord>> { (**self).record() }
            fn capture(&mut self) -> Result<()> { (**self).capture() }
            fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd> { (**self).stage(spec) }
            fn grow(&mut self, to: ByteSize) -> Result<ByteSize> { (**self).grow(to) }
            fn seal(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
                (**self).seal(record, root)
            }
            fn rename(&mut self, from: Slot, to: Slot) -> Result<()> { (**self).rename(from, to) }
            fn exchange(&mut self) -> Result<()> { (**self).exchange() }
            fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()> { (**self).purge(snapshots) }
            fn discard(&mut self, slot: Slot) -> Result<()> { (**self).discard(slot) }
            fn tidy(&mut self) -> Result<Tidied> { (**self).tidy() }
        }
    )*};
}
forward_volume!(&mut V, Box<V>);

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
}

impl Capabilities {
    /// Two renames, gradual removal, no snapshots that could be kept, no size.
    pub fn new() -> Self {
        Capabilities {
            commit: Commit::TwoRenames,
            removal: Removal::Gradual,
            snapshots: SnapshotSupport::Dependent,
            sizing: Sizing::Unsized,
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
}

/// Whether a volume has a size of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Sizing {
    /// No: it takes what the pool has, and a size that is asked for is refused.
    Unsized,
    /// Yes, and a staged root can grow while it is filled.
    Growable,
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
}

impl Snapshot {
    /// A snapshot without dependents.
    pub fn new(name: impl Into<OsString>, owner: SnapshotOwner) -> Self {
        Snapshot { name: name.into(), owner, dependents: Vec::new() }
    }

    /// Sets [`Snapshot::dependents`].
    #[must_use]
    pub fn with_dependents(mut self, dependents: Vec<String>) -> Self {
        self.dependents = dependents;
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
}

/// What a staged root has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StageSpec {
    /// Its size or limit; `None` keeps the live root's, or takes the backend's default. Never set for [`Sizing::Unsized`].
    pub size: Option<ByteSize>,
}

impl StageSpec {
    /// With the size of the live root.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`StageSpec::size`].
    #[must_use]
    pub fn with_size(mut self, size: ByteSize) -> Self {
        self.size = Some(size);
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

/// Holds a volume's lock until it is dropped.
#[derive(Debug)]
pub struct VolumeLock {
    _guard: Box<dyn Guard>,
}

trait Guard: fmt::Debug + Send {}
impl<T: fmt::Debug + Send> Guard for T {}

impl VolumeLock {
    /// A lock that is released when `guard` is dropped.
    pub fn new(guard: impl fmt::Debug + Send + 'static) -> Self {
        VolumeLock { _guard: Box::new(guard) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trait_is_dyn_compatible_and_forwards() {
        fn takes(_: &dyn RebuildableVolume) {}
        fn boxed<V: RebuildableVolume>() {}
        boxed::<Box<dyn RebuildableVolume>>();
        boxed::<&mut dyn RebuildableVolume>();
        let _ = takes;
    }

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
