//! Giving up a mounted filesystem: what was not written by then is lost, and nothing is waited for.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::call::retry;

/// `FS_IOC_SHUTDOWN` of linux/fs.h, by other names in ext4 and XFS before that had one: `_IOR('X', 125, __u32)`.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Not even the log is written.
const WITHOUT_LOG: u32 = 2;

/// Has a filesystem fail all that is done in it from now on; it can be unmounted at once. btrfs cannot.
pub(crate) fn now(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let how = WITHOUT_LOG;
    retry(|| {
        // SAFETY: the request reads a number, which lives through the call.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN as _, &raw const how) };
        Errno::result(result).map(drop)
    })
}
