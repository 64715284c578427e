//! A root in a filesystem of its own: read where it is live, and made, filled and finished where it is staged.

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::syncfs;

use super::{Device, FilesystemKind, Recipe, Storage, grow_online, renew_mounted};
use crate::error::{Error, ErrorKind, Result};
use crate::properties::{self, Properties};
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::sys::call::retry;
use crate::sys::detached::Access;
use crate::sys::remove;
use crate::volume::Warning;

/// How a staged root begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a> {
    /// In a new filesystem.
    Empty(&'a Recipe, Storage),
    /// As a clone of a base, which holds this.
    Clone(FilesystemKind, CloneSize),
}

/// How large a clone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloneSize {
    OfBase,
    /// Its device was made larger.
    Larger(ByteSize),
}

/// A staged root while it is filled.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Open since before the first byte, so that `syncfs` reports every write that failed since then.
    root: OwnedFd,
    kind: FilesystemKind,
    warnings: Vec<Warning>,
}

/// The kind of the filesystem on a device, and the properties of the root in it.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if nothing is on it, or nothing that is a root's.
pub(crate) fn capture(device: &Device<'_>, options: &str) -> Result<(FilesystemKind, Properties)> {
    let kind = kind_of(device)?;
    let root = look_into(device, kind, options)?;
    let top = Properties::capture(root.as_fd()).map_err(|error| device.io("cannot read the properties of its root", error))?;
    Ok((kind, top))
}

/// The record that the root on a device has.
pub(crate) fn record(device: &Device<'_>, options: &str) -> Result<Option<ImageRecord>> {
    let root = look_into(device, kind_of(device)?, options)?;
    properties::record(root.as_fd()).map_err(|error| device.named(error))
}

/// The same of a filesystem whose log is not to be replayed: what only that holds is missing.
#[cfg(feature = "ceph")]
pub(crate) fn record_without_log(device: &Device<'_>, options: &str) -> Result<Option<ImageRecord>> {
    let kind = kind_of(device)?;
    let without_log = match kind {
        FilesystemKind::Ext4 => "noload",
        FilesystemKind::Xfs => "norecovery",
        FilesystemKind::Btrfs => "rescue=nologreplay",
    };
    let root = device.mount(kind, Access::Snapshot, &format!("{options},{without_log}"))?;
    properties::record(root.as_fd()).map_err(|error| device.named(error))
}

/// The root on a device, to be read.
pub(crate) fn open(device: &Device<'_>, options: &str) -> Result<OwnedFd> {
    look_into(device, kind_of(device)?, options)
}

fn kind_of(device: &Device<'_>) -> Result<FilesystemKind> {
    if let Some(kind) = device.sniff()? {
        return Ok(kind);
    }
    match device.probe()? {
        Some(found) => Ok(found.kind),
        None => Err(device
            .error(ErrorKind::Unsupported, "there is no filesystem on it")
            .with_remedy("make one, or remove the volume and let a rebuild make it anew")),
    }
}

/// Mounts a filesystem that nothing is to be written to. The log of one that was not unmounted is replayed, where its device can be written to; one
/// that the kernel does not take is checked if that mends nothing, so that its tool says what is wrong.
fn look_into(device: &Device<'_>, kind: FilesystemKind, options: &str) -> Result<OwnedFd> {
    match device.mount(kind, Access::Snapshot, options) {
        Err(error) => match error.raw_os_error() {
            // Someone has mounted it to write to it.
            Some(libc::EBUSY) => device.mount(kind, Access::ReadOnly, options),
            // That of an ext4 mends: it has thrown away the journal of a root that was only to be looked at.
            Some(libc::EUCLEAN | libc::EBADMSG | libc::EIO) if kind != FilesystemKind::Ext4 => {
                let _checked = device.check(kind)?;
                crate::trace::warning!(device = %device.path.display(), checked = ?_checked, "the kernel did not mount it before it was checked");
                device.mount(kind, Access::Snapshot, options)
            }
            _ => Err(error),
        },
        mounted => mounted,
    }
}

/// Mounts a clone, and has it use all of its device.
fn mount_clone(device: &Device<'_>, kind: FilesystemKind, size: CloneSize, options: &str) -> Result<OwnedFd> {
    let root = device.mount(kind, Access::ReadWrite, options)?;
    renew_mounted(root.as_fd(), kind);
    let CloneSize::Larger(size) = size else { return Ok(root) };
    match grow_online(root.as_fd(), kind, size, device.operation) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            drop(root);
            device.grow_offline(kind)?;
            device.mount(kind, Access::ReadWrite, options)
        }
        // A small btrfs stays as its base: the device has room to grow later.
        Err(error) if error.kind() == ErrorKind::TooSmall => Ok(root),
        grown => grown.map(|()| root).map_err(|error| device.named(error)),
    }
}

impl Staged {
    /// Makes the filesystem of a staged root, or makes one that was cloned its own, as large as its device; returns its directory for filling too.
    pub(crate) fn begin(
        device: &Device<'_>,
        start: Start<'_>,
        top: Option<&Properties>,
        options: &str,
    ) -> Result<(Staged, OwnedFd)> {
        let (kind, root) = match start {
            Start::Empty(recipe, storage) => {
                device.make(recipe, storage)?;
                (recipe.kind(), device.mount(recipe.kind(), Access::ReadWrite, options)?)
            }
            Start::Clone(kind, size) => {
                device.renew(kind)?;
                (kind, mount_clone(device, kind, size, options)?)
            }
        };
        let refused = |error| device.io("cannot prepare its directory", error);
        let warnings = match start {
            Start::Empty(..) => {
                // ext4 begins with a directory of its own.
                remove::empty(&root, c"").map_err(|error| device.named(error))?;
                properties::prepare(root.as_fd(), top).map_err(refused)?
            }
            Start::Clone(..) if top.is_some() => properties::prepare(root.as_fd(), top).map_err(refused)?,
            Start::Clone(..) => Vec::new(),
        };
        let filled = root.try_clone().map_err(refused)?;
        Ok((Staged { root, kind, warnings }, filled))
    }

    /// Has the filesystem use a device that has grown.
    pub(crate) fn grow(&self, size: ByteSize, operation: &'static str) -> Result<()> {
        grow_online(self.root.as_fd(), self.kind, size, operation)
    }

    /// Something by which to [give up](Abandon::now) the filesystem, whatever becomes of this.
    #[cfg(feature = "ceph")]
    pub(crate) fn abandon(&self) -> Option<Abandon> {
        self.root.try_clone().ok().map(Abandon)
    }

    /// Gives the root its properties and its record, and waits for the disk. It is unmounted when this returns, if no one else has it open.
    pub(crate) fn seal(self, keep: Option<&Properties>, record: &ImageRecord, operation: &'static str) -> Result<Vec<Warning>> {
        let mut warnings = self.warnings;
        let told = properties::apply(self.root.as_fd(), keep, record);
        warnings.extend(told.map_err(|error| Error::io(operation, "cannot set the properties of its directory", error))?);
        retry(|| syncfs(&self.root)).map_err(|errno| Error::io(operation, "what was written did not reach the disk", errno))?;
        Ok(warnings)
    }
}

/// A filesystem that is of no use if its root is not finished.
#[cfg(feature = "ceph")]
#[derive(Debug)]
pub(crate) struct Abandon(OwnedFd);

#[cfg(feature = "ceph")]
impl Abandon {
    /// Gives it up: to unmount it waits for no device that does not answer, and writes nothing that nobody is going to read.
    pub(crate) fn now(self) {
        if let Err(_errno) = crate::sys::shutdown::now(self.0.as_fd()) {
            crate::trace::debug!(error = %_errno, "a filesystem is unmounted as any other");
        }
    }
}
