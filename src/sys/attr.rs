//! Inode flags and file attributes: what `chattr` sets, and project ids.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat};

use super::call::retry;

/// `chattr +i`.
const IMMUTABLE: u32 = 0x0000_0010;
/// `chattr +a`.
const APPEND: u32 = 0x0000_0020;
/// The flags that hinder removal.
const PROTECTED: u32 = IMMUTABLE | APPEND;

/// Flags of a root directory that its new entries inherit or that are a choice of its owner: sync, nodump, noatime, (no) compression,
/// dirsync, no copy on write, dax, case folding.
const KEPT_FLAGS: u32 = 0x0008 | 0x0040 | 0x0080 | 0x0004 | 0x0400 | 0x0001_0000 | 0x0080_0000 | 0x0200_0000 | 0x4000_0000;

/// `chattr +C`.
#[cfg(feature = "btrfs")]
const NO_COW: u32 = 0x0080_0000;

/// Whether flags have data written in place.
#[cfg(feature = "btrfs")]
pub(crate) fn is_not_copied_on_write(flags: u32) -> bool {
    flags & NO_COW != 0
}

/// Attributes kept besides the project id: real-time, extent size and project inheritance, copy-on-write extent size.
const KEPT_XFLAGS: u32 = 0x0100 | 0x1000 | PROJECT_INHERIT | 0x0001_0000;
const PROJECT_INHERIT: u32 = 0x0200;

/// The kernel's `struct fsxattr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct FsXattr {
    xflags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// The attributes of a root directory that a rebuild keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) project: u32,
    xflags: u32,
    extent_size: u32,
    cow_extent_size: u32,
}

impl Attributes {
    /// Whether new entries inherit the project id, as they do under a project quota.
    pub(crate) fn inherits_project(&self) -> bool {
        self.xflags & PROJECT_INHERIT != 0
    }
}

/// Which of the flags that hinder removal an inode has, as `chattr` writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Protection(u32);

impl Protection {
    pub(crate) fn letters(self) -> &'static str {
        match (self.0 & IMMUTABLE != 0, self.0 & APPEND != 0) {
            (true, true) => "ia",
            (true, false) => "i",
            _ => "a",
        }
    }
}

/// Turns "this file system has none" into `None`.
fn known<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

fn get_flags(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut flags: libc::c_int = 0;
    // SAFETY: the kernel writes one `int` through the pointer, whatever the request's number says of a `long`.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    Errno::result(result).map(|_| flags as u32)
}

fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> Result<(), Errno> {
    let flags = flags as libc::c_int;
    // SAFETY: the kernel reads one `int` through the pointer.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    Errno::result(result).map(drop)
}

fn get_xattr(fd: BorrowedFd<'_>) -> Result<FsXattr, Errno> {
    let mut value = FsXattr::default();
    let request = nix::request_code_read!(b'X', 31, size_of::<FsXattr>());
    // SAFETY: the request's number carries the size of `FsXattr`, and the kernel writes that much.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw mut value) };
    Errno::result(result).map(|_| value)
}

fn set_xattr(fd: BorrowedFd<'_>, value: &FsXattr) -> Result<(), Errno> {
    let request = nix::request_code_write!(b'X', 32, size_of::<FsXattr>());
    // SAFETY: the kernel reads one `FsXattr` through the pointer.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw const *value) };
    Errno::result(result).map(drop)
}

/// The attributes of an open directory; `None` where the file system has none.
pub(crate) fn attributes(fd: BorrowedFd<'_>) -> Result<Option<Attributes>, Errno> {
    Ok(known(get_xattr(fd))?.map(|value| Attributes {
        project: value.project,
        xflags: value.xflags & KEPT_XFLAGS,
        extent_size: value.extent_size,
        cow_extent_size: value.cow_extent_size,
    }))
}

/// Gives an open directory these attributes; does nothing if it has them already.
pub(crate) fn set_attributes(fd: BorrowedFd<'_>, wanted: &Attributes) -> Result<(), Errno> {
    if attributes(fd)?.as_ref() == Some(wanted) {
        return Ok(());
    }
    let value = get_xattr(fd)?;
    let xflags = value.xflags & !KEPT_XFLAGS | wanted.xflags;
    let Attributes { project, extent_size, cow_extent_size, .. } = *wanted;
    set_xattr(fd, &FsXattr { xflags, project, extent_size, cow_extent_size, ..value })
}

/// The flags of an open directory that a rebuild keeps; `None` where the file system has none.
pub(crate) fn kept_flags(fd: BorrowedFd<'_>) -> Result<Option<u32>, Errno> {
    Ok(known(get_flags(fd))?.map(|flags| flags & KEPT_FLAGS))
}

/// Gives an open directory these of the flags that are kept; does nothing if it has them already.
pub(crate) fn set_kept_flags(fd: BorrowedFd<'_>, wanted: u32) -> Result<(), Errno> {
    let flags = get_flags(fd)?;
    let changed = flags & !KEPT_FLAGS | wanted & KEPT_FLAGS;
    if changed == flags { Ok(()) } else { set_flags(fd, changed) }
}

/// The flags of an open file or directory that hinder its removal and its renaming.
pub(crate) fn protection(fd: BorrowedFd<'_>) -> Result<Option<Protection>, Errno> {
    let flags = known(get_flags(fd))?.unwrap_or(0) & PROTECTED;
    Ok((flags != 0).then_some(Protection(flags)))
}

/// Clears the flags that hinder removal; returns those that were set.
pub(crate) fn unprotect(fd: BorrowedFd<'_>) -> Result<Option<Protection>, Errno> {
    let Some(protection) = protection(fd)? else { return Ok(None) };
    set_flags(fd, get_flags(fd)? & !PROTECTED)?;
    Ok(Some(protection))
}

/// Sets again what [`unprotect`] cleared.
pub(crate) fn protect(fd: BorrowedFd<'_>, protection: Protection) -> Result<(), Errno> {
    set_flags(fd, get_flags(fd)? | protection.0)
}

/// Clears the flags that hinder the removal of an entry, if it is a regular file or a directory. Opens nothing else, ever: to open a
/// device or a fifo does things.
pub(crate) fn unprotect_entry(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Protection>, Errno> {
    let (entry, kind) = open_path(dir, name)?;
    if kind != SFlag::S_IFREG && kind != SFlag::S_IFDIR {
        return Ok(None);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = retry(|| open(descriptor_path(&entry).as_str(), flags, Mode::empty()))?;
    unprotect(file.as_fd())
}

/// Lets the owner of a directory read and change it, by its name in `dir`.
pub(crate) fn make_accessible(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let (entry, kind) = open_path(dir, name)?;
    if kind != SFlag::S_IFDIR {
        return Err(Errno::ENOTDIR);
    }
    fchmodat(AT_FDCWD, descriptor_path(&entry).as_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)
}

/// The entry itself, without opening what it stands for, and its type.
fn open_path(dir: BorrowedFd<'_>, name: &CStr) -> Result<(OwnedFd, SFlag), Errno> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
    let how = how.resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV);
    let entry = retry(|| openat2(dir, name, how))?;
    let kind = SFlag::from_bits_truncate(fstat(&entry)?.st_mode & SFlag::S_IFMT.bits());
    Ok((entry, kind))
}

fn descriptor_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
