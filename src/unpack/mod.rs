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
mod crew;
mod disk;
mod entry;
mod existing;
mod fingerprint;
#[cfg(feature = "oci")]
mod layer;
mod links;
mod loss;
mod make;
mod meta;
mod options;
mod path;
mod select;
mod shift;
#[cfg(feature = "squashfs")]
mod squashfs;
mod tar;
mod threads;
#[cfg_attr(not(feature = "oci"), allow(dead_code, reason = "layers need more of it than one archive does"))]
mod tree;
mod write;

#[cfg(feature = "squashfs")]
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
#[cfg(feature = "squashfs")]
use std::sync::{Arc, atomic::AtomicU64};

pub use self::loss::{Loss, LossKind, Losses};
pub use self::options::{DevicePolicy, Limits, LossPolicy, StripPrefix, Threads, UnpackOptions, Writeback};
pub use self::shift::{IdMap, IdRange, IdShift, Outside};

pub(crate) use self::fingerprint::fingerprint;
#[cfg(feature = "oci")]
pub(crate) use self::layer::{Layers, scan_layers, unpack_layers};
pub(crate) use self::options::Unified;

use self::archive::Archive;
use self::chunks::{Chunks, Inline};
use self::crew::Crew;
use self::disk::Disk;
use self::entry::{Entry, Kind};
use self::existing::{Existing, Names};
use self::make::Maker;
use self::select::Selection;
#[cfg(feature = "squashfs")]
use self::squashfs::Squashfs;
use self::tar::Tar;
use self::threads::{with_chunks, with_crew};
use self::write::Writer;
use crate::error::{Error, ErrorKind, Result, Space};
use crate::record::Top;
use crate::size::ByteSize;

/// Follows an unpacking, and may stop it. Called by one thread at a time.
pub trait Hooks: Send {
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
    /// How much of it is not a copy, but shared with the files of a base.
    pub shared: ByteSize,
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
/// Reads the stream to its end: what follows the end marker is passed over, within a limit. What is in the directory already stays, but for what an entry replaces.
/// If `stream` returns an error that wraps an [`Error`] of ours, that one comes out.
///
/// # Errors
/// With the entry and the offset in the tar stream in the context:
/// [`InvalidImage`](crate::ErrorKind::InvalidImage), [`UnsafePath`](crate::ErrorKind::UnsafePath),
/// [`LimitExceeded`](crate::ErrorKind::LimitExceeded), [`NoSpace`](crate::ErrorKind::NoSpace), [`Lossy`](crate::ErrorKind::Lossy) by policy, and
/// what the hooks and the system return. What was unpacked until then stays, without the metadata of the directories on the current path:
/// remove it.
pub fn unpack<R: Read + Send>(
    mut stream: R,
    root: BorrowedFd<'_>,
    options: &UnpackOptions,
    hooks: &mut dyn Hooks,
) -> Result<Unpacked> {
    unpack_stream(&mut stream, &|| {}, root, options, hooks)
}

/// The same. `stop` makes a read of the stream that waits return, for an unpacking that fails.
pub(crate) fn unpack_stream(
    stream: &mut (dyn Read + Send),
    stop: &(dyn Fn() + Sync),
    root: BorrowedFd<'_>,
    options: &UnpackOptions,
    hooks: &mut dyn Hooks,
) -> Result<Unpacked> {
    with_crew(options.threads, |crew, maker| {
        with_chunks(options.threads, stream, stop, |chunks| {
            let unpacked = unpack_archive(&mut Tar::new(chunks, options.limits), root, options, hooks, crew, maker)?;
            chunks.finish()?;
            Ok(unpacked)
        })
    })
}

/// Reads a tar stream to its end and writes nothing: what [`unpack`] would refuse for its form or by a limit or a policy is an error
/// here too, but nothing that depends on the disk.
///
/// # Errors
/// As [`unpack`], without those of the disk.
pub fn scan<R: Read + Send>(mut stream: R, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Tally> {
    scan_stream(&mut stream, &|| {}, options, hooks)
}

/// The same. `stop` is as for [`unpack_stream`].
pub(crate) fn scan_stream(
    stream: &mut (dyn Read + Send),
    stop: &(dyn Fn() + Sync),
    options: &UnpackOptions,
    hooks: &mut dyn Hooks,
) -> Result<Tally> {
    with_chunks(options.threads, stream, stop, |chunks| {
        let tally = scan_archive(&mut Tar::new(chunks, options.limits), options, hooks)?;
        chunks.finish()?;
        Ok(tally)
    })
}

/// Copies the tree below the open directory `source`, in which nothing changes, into `root` as [`unpack`] does a stream. Files share their data
/// with the original where the file system can. The root directory is as `top` says, if it says something.
pub(crate) fn copy_tree(
    source: BorrowedFd<'_>,
    top: Option<Top>,
    root: BorrowedFd<'_>,
    options: &UnpackOptions,
    hooks: &mut dyn Hooks,
) -> Result<Unpacked> {
    with_crew(options.threads, |crew, maker| {
        let mut source = Existing::open(source, "copy the base", Names::Linked)?.with_top(top);
        unpack_archive(&mut source, root, options, hooks, crew, maker)
    })
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
    with_crew(options.threads, |crew, maker| {
        let mut archive = Squashfs::open(file, options, consumed)?;
        let mut unpacked = unpack_archive(&mut archive, root, options, hooks, crew, maker)?;
        unpacked.losses.append(archive.into_losses());
        Ok(unpacked)
    })
}

/// Reads the squashfs image in `file` to its end and writes nothing, as [`scan`] does a tar stream.
///
/// # Errors
/// As [`unpack_squashfs`], without those of the disk.
#[cfg(feature = "squashfs")]
pub fn scan_squashfs(file: &File, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Tally> {
    scan_archive(&mut Squashfs::open(file, options, &Arc::default())?, options, hooks)
}

/// Checks what can be seen of a squashfs image by its first 96 bytes, and returns how many it has in all.
///
/// # Errors
/// As [`scan_squashfs`].
#[cfg(feature = "squashfs")]
pub(crate) fn squashfs_length(start: &[u8], limits: &Limits) -> Result<ByteSize> {
    squashfs::extent(start, limits).map(|(length, _)| length)
}

/// The same; returns how many inodes the image says that it has.
#[cfg(feature = "squashfs")]
pub(crate) fn squashfs_entries(start: &[u8], limits: &Limits) -> Result<u64> {
    squashfs::extent(start, limits).map(|(_, inodes)| inodes)
}

/// Reads a tar stream to its end and says whether it holds a regular file of this name at its top.
///
/// # Errors
/// As [`scan`].
pub(crate) fn holds_file(stream: &mut (dyn Read + Send), limits: Limits, name: &[u8]) -> Result<bool> {
    let mut chunks = Inline::new(stream);
    let mut tar = Tar::new(&mut chunks, limits);
    let mut holds = false;
    while let Some(entry) = tar.next()? {
        if entry.path.as_bytes() == name {
            holds = matches!(entry.kind, Kind::File(_));
        }
    }
    chunks.finish()?;
    Ok(holds)
}

/// Unpacks an archive of any format, as [`unpack`] does a tar stream.
fn unpack_archive(
    archive: &mut dyn Archive,
    root: BorrowedFd<'_>,
    options: &UnpackOptions,
    hooks: &mut dyn Hooks,
    crew: Option<Crew<'_>>,
    maker: &Maker<'_>,
) -> Result<Unpacked> {
    let mut writer = Writer::new(Disk::new(root, options, hooks, crew, maker), options)?;
    let mut selection = Selection::new(options);
    each(archive, options, &mut selection, |entry, archive| writer.entry(entry, archive))?;
    selection.finish()?;
    writer.finish()
}

/// Reads an archive of any format, as [`scan`] does a tar stream.
fn scan_archive(archive: &mut dyn Archive, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut selection = Selection::new(options);
    each(archive, options, &mut selection, |entry, archive| scan_entry(entry, archive, options, &mut tally, hooks))?;
    selection.finish()?;
    Ok(tally)
}

/// Counts an entry and its data, and checks what does not depend on the disk.
fn scan_entry(
    entry: &Entry,
    archive: &mut dyn Archive,
    options: &UnpackOptions,
    tally: &mut Tally,
    hooks: &mut dyn Hooks,
) -> Result<()> {
    tally.entries += 1;
    hooks.entry(tally)?;
    if let Kind::CharDevice { .. } | Kind::BlockDevice { .. } = entry.kind {
        write::check_device(options.devices)?;
    }
    // An entry that was held back comes when what can be read is already of the next one.
    while let Kind::File(_) = entry.kind
        && let Some(piece) = archive.piece()?
    {
        tally.bytes = tally.bytes.saturating_add(ByteSize::from_bytes(piece.len() as u64));
        hooks.entry(tally)?;
    }
    Ok(())
}

/// What is wrong with an entry whatever is on the disk.
fn check(entry: &Entry) -> Result<()> {
    if entry.path.is_root() && entry.kind != Kind::Directory {
        return Err(Error::new(ErrorKind::UnsafePath, "unpack", "it would replace the root itself"));
    }
    // The kernel takes versions 2 and 3 (linux/capability.h), the version being the last byte of the first word.
    let capability = entry.xattrs.iter().find(|(name, _)| name.as_c_str() == c"security.capability");
    match capability.map(|(_, value)| (value.len(), value.get(3))) {
        None | Some((20, Some(2)) | (24, Some(3))) => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::InvalidImage, "unpack", "its file capability is malformed")),
    }
}

/// Calls `act` with every entry that is to be unpacked, in its place below the root and with the owner it is to have.
fn each(
    archive: &mut dyn Archive,
    options: &UnpackOptions,
    selection: &mut Selection,
    mut act: impl FnMut(&mut Entry, &mut dyn Archive) -> Result<()>,
) -> Result<()> {
    let mut act = |mut entry: Entry, archive: &mut dyn Archive| {
        let shifted = options.shift.as_ref().map_or(Ok(()), |shift| shift.apply(&mut entry));
        let done = shifted.and_then(|()| check(&entry)).and_then(|()| act(&mut entry, archive));
        done.map_err(|error| error.with_context("entry", &entry.path).with_context("offset", entry.offset))
    };
    while let Some(entry) = archive.next()? {
        for entry in selection.select(entry)?.into_iter().flatten() {
            act(entry, archive)?;
        }
    }
    selection.held().map_or(Ok(()), |top| act(top, archive))
}
