//! From a tar stream to a tree on disk, faithful, contained and bounded.
//!
//! What GNU tar keeps with `--numeric-owner --xattrs --acls -p` is kept: every type of entry, owners by number, modes with setuid, times
//! to the nanosecond, extended attributes with `security.capability`, POSIX ACLs, hard links, holes. Access times, names of owners and SELinux
//! labels in headers of their own are not.
//!
//! An ACL that names a user or a group without its number is counted as a loss, and the entry's group gets no more than the ACL granted it:
//! whom a name means is known only where the archive was made. GNU tar writes such ACLs for whoever has a name, up to 1.34 with `--numeric-owner` too;
//! bsdtar writes the numbers, and so does GNU tar with `--xattrs --xattrs-include='*'` and without `--acls`.
//!
//! # Trust
//! The archive may hold anything. Nothing lands outside the root: `..` in a path or in a hard link's target is refused, a symbolic link on the
//! way is resolved with the root as `/` ([openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html), `RESOLVE_IN_ROOT`), a final one
//! is never followed, and what has an entry's name is replaced, never written through. [`Limits`] bound what it costs; memory does not grow
//! with the number of entries. The directory itself has to be out of the reach of others while it is filled: give it mode 0700.
//!
//! # Needs
//! Linux 5.6, and `/proc` for the attributes of links and nodes. Root, to keep owners, device nodes and attributes other than the caller's own;
//! what an ordinary user, or the file system, cannot keep is counted in [`Losses`].
//!
//! # Formats
//! v7, ustar, GNU (long names, binary numbers, sparse files) and PAX
//! ([POSIX](https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html), with the `SCHILY` and `LIBARCHIVE` records and GNU tar's
//! sparse formats 0.0, 0.1 and 1.0). Multi-volume archives are refused.
//!
//! With the feature `squashfs`, squashfs images of version 4.0 too. They hold times in whole seconds, and no ACLs.

mod acl;
mod archive;
mod chunks;
mod disk;
mod entry;
mod loss;
mod meta;
mod options;
mod path;
#[cfg(feature = "squashfs")]
mod squashfs;
mod tar;
mod tree;
mod write;

#[cfg(feature = "squashfs")]
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
#[cfg(feature = "squashfs")]
use std::sync::{Arc, atomic::AtomicU64};

pub use self::loss::{Loss, LossKind, Losses};
pub use self::options::{DevicePolicy, Limits, LossPolicy, StripPrefix, UnpackOptions};

use self::archive::Archive;
use self::chunks::Inline;
use self::disk::Disk;
use self::entry::{Entry, Kind};
#[cfg(feature = "squashfs")]
use self::squashfs::Squashfs;
use self::tar::Tar;
use self::write::Writer;
use crate::error::{Error, ErrorKind, Result, Space};
use crate::size::ByteSize;

/// Follows an unpacking, and may stop it.
pub trait Hooks {
    /// Called at every entry, and about every MiB of file data.
    ///
    /// # Errors
    /// An error stops the unpacking, which returns it.
    fn entry(&mut self, so_far: &Tally) -> Result<()>;

    /// Called when there is no room: `Ok` means that some was made, and the call that failed is made again, at the same place.
    ///
    /// # Errors
    /// An error stops the unpacking, which returns it. Without an implementation that is `error`, which says what was to be written.
    fn full(&mut self, space: Space, error: Error) -> Result<()> {
        let _ = space;
        Err(error)
    }
}

/// Follows nothing and stops nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn entry(&mut self, _: &Tally) -> Result<()> {
        Ok(())
    }
}

/// What has been unpacked so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Tally {
    /// Entries, the current one among them.
    pub entries: u64,
    /// File data, holes not counted.
    pub bytes: ByteSize,
}

/// What was unpacked in all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Unpacked {
    /// How much.
    pub tally: Tally,
    /// What could not be kept.
    pub losses: Losses,
}

/// Unpacks a tar stream into the directory `root`, open for reading.
///
/// Reads up to the end marker; what follows it is left in the stream. What is in the directory already stays, but for what an entry replaces.
/// If `stream` returns an error that wraps an [`Error`] of ours, that one comes out.
///
/// # Errors
/// With the entry and the offset in the tar stream in the context:
/// [`InvalidImage`](crate::ErrorKind::InvalidImage), [`UnsafePath`](crate::ErrorKind::UnsafePath),
/// [`LimitExceeded`](crate::ErrorKind::LimitExceeded), [`NoSpace`](crate::ErrorKind::NoSpace), [`Lossy`](crate::ErrorKind::Lossy) by policy, and
/// what the hooks and the system return. What was unpacked until then stays, without the metadata of the directories on the current path:
/// remove it.
pub fn unpack<R: Read>(mut stream: R, root: BorrowedFd<'_>, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Unpacked> {
    let mut chunks = Inline::new(&mut stream);
    unpack_archive(&mut Tar::new(&mut chunks, options.limits), root, options, hooks)
}

/// Reads a tar stream to its end marker and writes nothing: what [`unpack`] would refuse for its form or by a limit or a policy is an error
/// here too, but nothing that depends on the disk.
///
/// # Errors
/// As [`unpack`], without those of the disk.
pub fn scan<R: Read>(mut stream: R, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Tally> {
    let mut chunks = Inline::new(&mut stream);
    scan_archive(&mut Tar::new(&mut chunks, options.limits), options, hooks)
}

/// Unpacks the squashfs image in `file` into the directory `root`, open for reading.
///
/// `file` is a regular file or a block device; its position is neither used nor moved. Data is decoded by up to four threads, within a fixed
/// window of memory; they are gone when this returns. Everything that squashfs holds is kept, with the attributes in `user`, `trusted` and
/// `security`, but for sockets: nobody listens at them, so they are left out and counted as a loss.
///
/// # Errors
/// As [`unpack`], with the offset in the image; [`Unsupported`](crate::ErrorKind::Unsupported) for another version than 4.0, and for a compressor
/// that is not built in: `xz` and `lz4` have features of their own.
#[cfg(feature = "squashfs")]
pub fn unpack_squashfs(file: &File, root: BorrowedFd<'_>, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Unpacked> {
    unpack_squashfs_counted(file, root, options, hooks, &Arc::default())
}

/// The same; `consumed` is kept at the number of bytes of the image that have been read as file data.
#[cfg(feature = "squashfs")]
pub(crate) fn unpack_squashfs_counted(
    file: &File,
    root: BorrowedFd<'_>,
    options: &UnpackOptions,
    hooks: &mut dyn Hooks,
    consumed: &Arc<AtomicU64>,
) -> Result<Unpacked> {
    let mut archive = Squashfs::open(file, options, consumed)?;
    let mut unpacked = unpack_archive(&mut archive, root, options, hooks)?;
    unpacked.losses.append(archive.into_losses());
    Ok(unpacked)
}

/// Reads the squashfs image in `file` to its end and writes nothing, as [`scan`] does a tar stream.
///
/// # Errors
/// As [`unpack_squashfs`], without those of the disk.
#[cfg(feature = "squashfs")]
pub fn scan_squashfs(file: &File, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Tally> {
    scan_archive(&mut Squashfs::open(file, options, &Arc::default())?, options, hooks)
}

/// Unpacks an archive of any format, as [`unpack`] does a tar stream.
fn unpack_archive(
    archive: &mut dyn Archive,
    root: BorrowedFd<'_>,
    options: &UnpackOptions,
    hooks: &mut dyn Hooks,
) -> Result<Unpacked> {
    let mut writer = Writer::new(Disk::new(root, options.losses, hooks), options)?;
    each(archive, options, |entry, archive| writer.entry(entry, archive))?;
    writer.finish()
}

/// Reads an archive of any format, as [`scan`] does a tar stream.
fn scan_archive(archive: &mut dyn Archive, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Tally> {
    let mut tally = Tally::default();
    each(archive, options, |entry, archive| {
        tally.entries += 1;
        hooks.entry(&tally)?;
        if let Kind::CharDevice { .. } | Kind::BlockDevice { .. } = entry.kind {
            write::check_device(options.devices)?;
        }
        while let Some(piece) = archive.piece()? {
            tally.bytes = tally.bytes.saturating_add(ByteSize::from_bytes(piece.len() as u64));
            hooks.entry(&tally)?;
        }
        Ok(())
    })?;
    Ok(tally)
}

/// Calls `act` with every entry that is to be unpacked, in its place below the root.
fn each(
    archive: &mut dyn Archive,
    options: &UnpackOptions,
    mut act: impl FnMut(Entry, &mut dyn Archive) -> Result<()>,
) -> Result<()> {
    let mut found = false;
    while let Some(entry) = archive.next()? {
        let (path, offset) = (entry.path.clone(), entry.offset);
        let add_place = |error: Error| error.with_context("entry", path).with_context("offset", offset);
        let selected = path::select(entry, options.strip.as_ref());
        let done = selected.and_then(|selected| match selected {
            Some(entry) => {
                found = true;
                act(entry, archive)
            }
            None => Ok(()),
        });
        done.map_err(add_place)?;
    }
    if found {
        return Ok(());
    }
    let message = match &options.strip {
        None => "the image holds no entries".to_owned(),
        Some(prefix) => format!("the image holds nothing below {prefix}"),
    };
    Err(Error::new(ErrorKind::InvalidImage, "unpack", message))
}
