//! Sending what is written to the disk, [sync_file_range(2)](https://man7.org/linux/man-pages/man2/sync_file_range.2.html).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::call::retry;

/// Begins to write a file's data to the disk and waits for nothing. Makes nothing durable; where it fails, a later sync has more to do.
pub(crate) fn start_writeback(file: BorrowedFd<'_>) {
    // SAFETY: the descriptor is open, and the call touches no memory of ours.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Writes out a file's data and waits for it, so that every store through a mapping of the file is noticed by the file system from here on. Makes
/// nothing durable.
pub(crate) fn clean(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    retry(|| {
        // SAFETY: the descriptor is open, and the call touches no memory of ours.
        let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
        Errno::result(result).map(drop)
    })
}
