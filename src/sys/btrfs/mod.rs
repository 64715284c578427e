//! btrfs by its ioctls (`linux/btrfs.h`), without its command and without a C library.
//!
//! Every call takes an open directory of the file system. What only a privileged caller may ask is said at the call; the kernel answers
//! `EPERM` to the others.

pub(crate) mod lookup;
pub(crate) mod quota;
pub(crate) mod subvolume;
pub(crate) mod sync;
pub(crate) mod tree;

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::ioctl::ioctl_num_type;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};

use super::call::retry;
use crate::error::{Error, ErrorKind};

const MAGIC: u8 = 0x94;

/// An ioctl, and the kernel it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ioctl {
    request: ioctl_num_type,
    name: &'static str,
    since: &'static str,
}

/// A call that the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) errno: Errno,
    call: Ioctl,
}

impl Refused {
    /// The error for a person: what could not be done, or which kernel is needed to do it.
    pub(crate) fn explain(self, operation: &'static str, message: impl Into<String>) -> Error {
        let Ioctl { name, since, .. } = self.call;
        let error = if self.errno == Errno::ENOTTY {
            Error::new(ErrorKind::Unsupported, operation, format!("{}: the kernel has no {name}", message.into()))
                .with_source(std::io::Error::from(self.errno))
                .with_remedy(format!("use Linux {since} or later"))
        } else {
            Error::io(operation, message, self.errno)
        };
        error.with_context("ioctl", name)
    }

    /// Whether the caller lacks a privilege that another has.
    pub(crate) fn is_denied(self) -> bool {
        matches!(self.errno, Errno::EPERM | Errno::EACCES)
    }
}

impl Ioctl {
    /// Makes the call; what it returns besides an error is seldom of use.
    ///
    /// # Safety
    /// `arg` is what the request wants: readable, writable, or both, for as long as its number says, or longer.
    unsafe fn call<T>(self, fd: BorrowedFd<'_>, arg: *mut T) -> Result<libc::c_int, Refused> {
        // SAFETY: the caller vouches for the argument; the descriptor is borrowed.
        let made = retry(|| Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), self.request as _, arg) }));
        made.map_err(|errno| Refused { errno, call: self })
    }

    fn refuse(self, errno: Errno) -> Refused {
        Refused { errno, call: self }
    }
}

/// A value with nothing but integers in it, all zero.
macro_rules! zeroed {
    ($ty:ty) => {{
        // SAFETY: `$ty` is made of integers and arrays of integers, for which zeros are a value.
        unsafe { std::mem::zeroed::<$ty>() }
    }};
}
use zeroed;

/// What tells one subvolume from all others, on every file system; all zero if there is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub(crate) struct Uuid(pub(crate) [u8; 16]);

impl Uuid {
    pub(crate) fn is_none(self) -> bool {
        self == Uuid::default()
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            f.write_str(if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" })?;
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// `struct btrfs_ioctl_fs_info_args`, of which only this is of use here.
#[repr(C)]
struct FsInfoArgs {
    max_device: u64,
    devices: u64,
    fsid: Uuid,
    rest: [u64; 124],
}

const FS_INFO: Ioctl =
    Ioctl { request: nix::request_code_read!(MAGIC, 31, size_of::<FsInfoArgs>()), name: "BTRFS_IOC_FS_INFO", since: "2.6.39" };

/// What tells the file system from others, as `/sys/fs/btrfs` spells it.
pub(crate) fn file_system(fd: BorrowedFd<'_>) -> Result<Uuid, Refused> {
    let mut args = zeroed!(FsInfoArgs);
    // SAFETY: the request wants a `FsInfoArgs`.
    unsafe { FS_INFO.call(fd, &raw mut args)? };
    Ok(args.fsid)
}

/// Whether the file system is btrfs.
pub(crate) fn is_btrfs(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(retry(|| fstatfs(fd))?.filesystem_type() == BTRFS_SUPER_MAGIC)
}

/// The bytes of a name as the kernel wrote it, up to its NUL.
fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn le_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn le_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn le_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
