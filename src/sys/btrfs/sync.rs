//! Transactions: begun, and waited for.

use std::os::fd::BorrowedFd;

use super::{Ioctl, MAGIC, Refused};

pub(super) const START: Ioctl =
    Ioctl { request: nix::request_code_read!(MAGIC, 24, size_of::<u64>()), name: "BTRFS_IOC_START_SYNC", since: "2.6.37" };
pub(super) const WAIT: Ioctl =
    Ioctl { request: nix::request_code_write!(MAGIC, 22, size_of::<u64>()), name: "BTRFS_IOC_WAIT_SYNC", since: "2.6.37" };

/// Begins to write the running transaction out, and returns its number without waiting for it. It also wakes the cleaner, which gives back
/// what destroyed subvolumes took.
///
/// File data that was not asked to be written is not a part of it: for that there is `syncfs`.
pub(crate) fn start(fd: BorrowedFd<'_>) -> Result<u64, Refused> {
    let mut transaction = 0u64;
    // SAFETY: the request wants a `u64`.
    unsafe { START.call(fd, &raw mut transaction)? };
    Ok(transaction)
}

/// Waits until a transaction is on the disk.
#[cfg_attr(not(test), allow(dead_code, reason = "a clone of a base is made durable by it"))]
pub(crate) fn wait(fd: BorrowedFd<'_>, transaction: u64) -> Result<(), Refused> {
    let mut transaction = transaction;
    // SAFETY: the request wants a `u64`.
    unsafe { WAIT.call(fd, &raw mut transaction) }.map(drop)
}
