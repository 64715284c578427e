//! [`BasePool`], what a backend implements to keep bases.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use super::{RebuildableVolume, VolumeId, VolumeLock};
use crate::base_name::BaseName;
use crate::error::Result;
use crate::progress::Wait;

/// A place on one backend where bases are kept, for volumes of the same backend and the same pool.
///
/// A base is a volume too, with the same three names and the same lock: it is complete once it has its own name. What only a backend can do is
/// here; when a base is made, used, verified and removed is decided once, above it, in [`Bases`](crate::base::Bases).
pub trait BasePool: fmt::Debug + Send + Sync {
    /// The pool, for messages.
    fn id(&self) -> VolumeId;

    /// All bases of which any of the three names exists, or anything else that was made for one, sorted.
    ///
    /// - A pool in which no base was ever made has none.
    fn names(&self) -> Result<Vec<BaseName>>;

    /// The base as a volume, whether it exists or not. What it seals no one can write to, as far as the backend can see to that.
    ///
    /// - Makes the place for it in the pool, if there is none, open to no one else.
    fn volume(&self, name: &BaseName) -> Result<Box<dyn RebuildableVolume>>;

    /// Holds the base, so that it is neither removed nor made anew until the guard is dropped. Others may hold it too; the volume's
    /// [`lock`](RebuildableVolume::lock) excludes them all.
    ///
    /// # Errors
    /// [`Locked`](crate::ErrorKind::Locked) when `wait` ended first: someone makes or removes it; [`Cancelled`](crate::ErrorKind::Cancelled).
    fn hold(&self, name: &BaseName, wait: &Wait) -> Result<VolumeLock>;

    /// The directory of a complete base, open for reading; `None` if there is no such base.
    fn open(&self, name: &BaseName) -> Result<Option<OwnedFd>>;

    /// Called after a directory that [`open`](Self::open) returned was closed, for what a backend keeps ready meanwhile.
    fn close(&self, name: &BaseName) {
        let _ = name;
    }

    /// Volumes and other roots that were cloned from the base and still share with it, where the backend can tell, by names for a person.
    fn clones(&self, name: &BaseName) -> Result<Vec<String>>;

    /// When the base was last used, as [`touch`](Self::touch) noted it; `None` if nobody did.
    fn used(&self, name: &BaseName) -> Result<Option<SystemTime>>;

    /// Notes that the base is used now.
    fn touch(&self, name: &BaseName) -> Result<()>;

    /// Removes what is kept of a base besides its three names. The volume's lock is held.
    fn forget(&self, name: &BaseName) -> Result<()>;

    /// What [`set_memo`](Self::set_memo) stored last, or nothing. It only saves work: it may be lost.
    fn memo(&self) -> Result<Vec<u8>>;

    /// Stores a text of up to 7 KiB of printable ASCII for the whole pool.
    fn set_memo(&self, memo: &[u8]) -> Result<()>;
}

macro_rules! forward_pool {
    ($($ty:ty),*) => {$(
        impl<P: BasePool + ?Sized> BasePool for $ty {
            fn id(&self) -> VolumeId { (**self).id() }
            fn names(&self) -> Result<Vec<BaseName>> { (**self).names() }
            fn volume(&self, name: &BaseName) -> Result<Box<dyn RebuildableVolume>> { (**self).volume(name) }
            fn hold(&self, name: &BaseName, wait: &Wait) -> Result<VolumeLock> { (**self).hold(name, wait) }
            fn open(&self, name: &BaseName) -> Result<Option<OwnedFd>> { (**self).open(name) }
            fn close(&self, name: &BaseName) { (**self).close(name) }
            fn clones(&self, name: &BaseName) -> Result<Vec<String>> { (**self).clones(name) }
            fn used(&self, name: &BaseName) -> Result<Option<SystemTime>> { (**self).used(name) }
            fn touch(&self, name: &BaseName) -> Result<()> { (**self).touch(name) }
            fn forget(&self, name: &BaseName) -> Result<()> { (**self).forget(name) }
            fn memo(&self) -> Result<Vec<u8>> { (**self).memo() }
            fn set_memo(&self, memo: &[u8]) -> Result<()> { (**self).set_memo(memo) }
        }
    )*};
}
forward_pool!(Box<P>, Arc<P>);
