//! [`RebuildableVolume`], the trait a backend implements, and the values it speaks in.
//!
//! The trait is what only a backend can do. Policy, order, unpacking, retries, progress and the decision table of `recover` are written
//! once, above it, in [`Rebuild`](crate::Rebuild). Anyone can write another backend: implement the trait, then run the suite of the
//! `conformance` feature on it.

mod pool;
mod values;

use std::fmt;
use std::os::fd::OwnedFd;

#[cfg(doc)]
use crate::error::Outcome;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::record::ImageRecord;
use crate::size::ByteSize;

pub use self::pool::BasePool;
pub use self::values::*;

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
/// `rename(Staged, Live)`, and `purge` if they are [`SnapshotSupport::Independent`], so that they outlive a rebuild that fails. Within the live
/// root: `lock`, `names`, `capture`, `stage`, *fill*, `seal`, `exchange`.
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

    /// Who keeps the live root busy: mounts on or under it, overlays of which it is a layer, processes in it, devices backed by it.
    ///
    /// - Empty if there is no live root.
    /// - An overlay whose layer was given by a relative path is not found: the kernel tells no more than that path.
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

    /// What the live root was filled from, as [`seal`](Self::seal) recorded it; `None` if unknown. Without a live root, the retired one.
    fn record(&self) -> Result<Option<ImageRecord>>;

    /// Reads, and keeps in `self`, the properties of the live root that the next staged root must have.
    ///
    /// - Forgets what an earlier call kept. Without a live root it takes those of the retired one, if they can still be read; without
    ///   either, the next staged root gets the backend's defaults.
    fn capture(&mut self) -> Result<()>;

    /// Refuses a root that [`stage`](Self::stage) is known to refuse, before anything is changed.
    ///
    /// - Changes nothing, and may be called at any time.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] or [`ErrorKind::PermissionDenied`], with what would help.
    fn check_spec(&self, spec: &StageSpec) -> Result<()> {
        let _ = spec;
        Ok(())
    }

    /// Makes a new staged root and returns its directory, open for filling: an empty one, or a clone of the base that `spec` names.
    ///
    /// - Requires that no staged root exists. Fails with [`ErrorKind::AlreadyExists`] if one does, and leaves it alone.
    /// - Limits are set before this returns, so before the first byte.
    /// - An empty directory no one but its owner can enter. Properties that would change what is made inside it (a
    ///   default ACL, say) wait for [`seal`](Self::seal).
    /// - A clone holds all that the base holds and is complete: the caller adds nothing to it.
    /// - The caller closes the descriptor before the next call on the volume.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if the limits are too low for what the base holds; [`ErrorKind::NotFound`] and [`ErrorKind::Unsupported`] if there is no such
    /// base, or none that this volume could be cloned from. On any error no staged root is left, or one that [`discard`](Self::discard) removes.
    fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd>;

    /// Makes the staged root larger while it is being filled; returns its new size, which may be rounded up.
    ///
    /// - Online: descriptors stay valid. The size never shrinks.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless [`Capabilities::sizing`] [can grow](Sizing::can_grow), and then nothing has changed.
    fn grow(&mut self, to: ByteSize) -> Result<ByteSize> {
        let _ = to;
        Err(Error::new(ErrorKind::Unsupported, "grow the staged root", "this backend has volumes without a size"))
    }

    /// Whether there is still room for the staged root, of which so much was written so far. Called from time to time while it is filled.
    ///
    /// - Costs a few system calls. For a store that lets its writers wait when it is full, or that others need too: it is asked before it is.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`], which ends the filling.
    fn check_room(&mut self, written: ByteSize) -> Result<()> {
        let _ = written;
        Ok(())
    }

    /// Says of an error that filling the staged root met what the store knows of its cause: that it is full, for one, where the file system in
    /// it only says that it cannot write.
    fn explain(&self, error: Error) -> Error {
        error
    }

    /// Finishes the staged root: applies the captured properties, records the image with it, and makes it durable.
    ///
    /// - After `Ok` the staged root would survive a loss of power, complete. A clone may leave the wait for that to the rename or exchange that
    ///   follows, if the two can only survive together.
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
    /// [`ErrorKind::Busy`] where the backend cannot rename what is in use, naming the holder where it can. [`Outcome::Interrupted`] with whatever kind: what
    /// [`names`](Self::names) shows now need not be what is on the disk.
    fn rename(&mut self, from: Slot, to: Slot) -> Result<()>;

    /// Exchanges the live and the staged root in one step, durably: the staged one is live, the old one is staged.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], with nothing changed, if the file system or the kernel cannot; the caller then renames twice. [`Outcome::Interrupted`] as for
    /// [`rename`](Self::rename).
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

    /// What was removed, of this volume or of others in its pool, and still takes space that the backend gives back by and by.
    ///
    /// - `None` where space is back at once, or where the caller may not know.
    fn reclaiming(&self) -> Result<Option<Reclaiming>> {
        Ok(None)
    }

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
            fn check_spec(&self, spec: &StageSpec) -> Result<()> { (**self).check_spec(spec) }
            fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd> { (**self).stage(spec) }
            fn grow(&mut self, to: ByteSize) -> Result<ByteSize> { (**self).grow(to) }
            fn check_room(&mut self, written: ByteSize) -> Result<()> { (**self).check_room(written) }
            fn explain(&self, error: Error) -> Error { (**self).explain(error) }
            fn seal(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
                (**self).seal(record, root)
            }
            fn rename(&mut self, from: Slot, to: Slot) -> Result<()> { (**self).rename(from, to) }
            fn exchange(&mut self) -> Result<()> { (**self).exchange() }
            fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()> { (**self).purge(snapshots) }
            fn discard(&mut self, slot: Slot) -> Result<()> { (**self).discard(slot) }
            fn reclaiming(&self) -> Result<Option<Reclaiming>> { (**self).reclaiming() }
            fn tidy(&mut self) -> Result<Tidied> { (**self).tidy() }
        }
    )*};
}
forward_volume!(&mut V, Box<V>);

/// Holds a volume's lock until it is dropped.
#[derive(Debug)]
pub struct VolumeLock {
    _guard: Box<dyn Guard>,
}

trait Guard: fmt::Debug + Send + Sync {}
impl<T: fmt::Debug + Send + Sync> Guard for T {}

impl VolumeLock {
    /// A lock that is released when `guard` is dropped.
    pub fn new(guard: impl fmt::Debug + Send + Sync + 'static) -> Self {
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
}
