//! Sharing the data of files, [ioctl_ficlone(2)](https://man7.org/linux/man-pages/man2/ioctl_ficlone.2.html).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::call::retry;

/// Makes all of `source` the content of the empty file `file`, without a copy of its data.
///
/// `EOPNOTSUPP`, `EXDEV`, `ENOTTY` and the like: these two files cannot share; nothing has changed.
pub(crate) fn file(source: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
    retry(|| {
        // SAFETY: both descriptors are borrowed for the call, which touches no memory of ours.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FICLONE as _, source.as_raw_fd()) };
        Errno::result(result).map(drop)
    })
}
