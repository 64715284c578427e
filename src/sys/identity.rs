//! The UUID of a mounted ext4: changed by an ioctl, in no time, where its tools take a check and two programs.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::ioctl::ioctl_num_type;

use super::call::retry;

/// `struct fsuuid` of fs/ext4/ext4.h.
#[repr(C)]
struct FsUuid {
    length: u32,
    flags: u32,
    uuid: [u8; 16],
}

/// `_IOW('f', 44, struct fsuuid)`, whose size is told without the UUID behind it. Linux 6.0.
const EXT4_SET_UUID: ioctl_num_type = nix::request_code_write!(b'f', 44, 8);

/// Gives a mounted ext4 a new random UUID.
///
/// # Errors
/// `ENOTTY` from older kernels; `EOPNOTSUPP` where checksums depend on the UUID. It has its old one then.
pub(crate) fn renew_ext4(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut uuid = [0u8; 16];
    retry(|| {
        // SAFETY: there is room for what is written.
        let length = unsafe { libc::getrandom(uuid.as_mut_ptr().cast(), uuid.len(), 0) };
        Errno::result(length)
    })?;
    // Random, of the usual variant: RFC 9562.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let request = FsUuid { length: 16, flags: 0, uuid };
    retry(|| {
        // SAFETY: the request reads a `FsUuid`, which lives through the call.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_SET_UUID as _, &raw const request) };
        Errno::result(result).map(drop)
    })
}
