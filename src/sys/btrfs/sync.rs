//! Transactions: written out, and what follows from that.
//!
//! `BTRFS_IOC_START_SYNC` is not here although it looks like the cheaper half of this: with Linux 6.18 it was seen to wait for the periodic
//! transaction, for up to half a minute, when the thread that it wakes had not yet gone to sleep.

use std::os::fd::BorrowedFd;

use super::{Ioctl, MAGIC, Refused};

pub(super) const SYNC: Ioctl = Ioctl { request: nix::request_code_none!(MAGIC, 8), name: "BTRFS_IOC_SYNC", since: "2.6.29" };

/// Writes everything out and waits for it, as `syncfs` does; then wakes the cleaner, which gives back what destroyed subvolumes took.
pub(crate) fn all(fd: BorrowedFd<'_>) -> Result<(), Refused> {
    // SAFETY: the request wants no argument.
    unsafe { SYNC.call(fd, std::ptr::null_mut::<u64>()) }.map(drop)
}
