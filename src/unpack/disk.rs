//! The disk as an unpacking sees it: calls that wait for room, counts, and what could not be kept.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::geteuid;

use super::entry::EntryPath;
use super::loss::{LossKind, Losses};
use super::options::LossPolicy;
use super::{Hooks, Tally};
use crate::error::{Error, ErrorKind, Result, Space};
use crate::size::ByteSize;

/// Bytes of file data between two calls of the caller's hook.
const DATA_STEP: u64 = 1 << 20;

pub(super) struct Disk<'a> {
    pub(super) root: BorrowedFd<'a>,
    /// Whether the caller is root, who need not ask for permissions.
    pub(super) privileged: bool,
    pub(super) tally: Tally,
    pub(super) losses: Losses,
    policy: LossPolicy,
    hooks: &'a mut dyn Hooks,
    untold: u64,
}

impl<'a> Disk<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, policy: LossPolicy, hooks: &'a mut dyn Hooks) -> Self {
        let privileged = geteuid().is_root();
        Disk { root, privileged, tally: Tally::default(), losses: Losses::default(), policy, hooks, untold: 0 }
    }

    /// Makes a call until it is neither interrupted nor out of space; what else it returns is for the caller to judge.
    ///
    /// # Errors
    /// Only what the caller's hook returns when there is no room.
    pub(super) fn call<T>(&mut self, mut call: impl FnMut() -> nix::Result<T>) -> Result<nix::Result<T>> {
        loop {
            match call() {
                Err(Errno::EINTR) => {}
                Err(error @ (Errno::ENOSPC | Errno::EDQUOT)) => self.full(error)?,
                result => return Ok(result),
            }
        }
    }

    /// The same, where every other failure is an error too.
    pub(super) fn must<T>(&mut self, message: &'static str, call: impl FnMut() -> nix::Result<T>) -> Result<T> {
        self.call(call)?.map_err(|error| Error::io("unpack", message, error))
    }

    /// Asks the caller for room.
    pub(super) fn full(&mut self, error: Errno) -> Result<()> {
        let space = match (error, fstatvfs(self.root)) {
            (Errno::EDQUOT, _) => Space::Quota,
            (_, Ok(stat)) if stat.files() > 0 && stat.files_available() == 0 && stat.blocks_available() > 0 => Space::Inodes,
            _ => Space::Pool,
        };
        let error = Error::io("unpack", "no space is left for it", error).with_kind(ErrorKind::NoSpace(space));
        self.hooks.full(space, error)
    }

    /// Whether there is plenty of room, so that a call that says otherwise hit a limit of another kind.
    pub(super) fn has_room(&self) -> bool {
        fstatvfs(self.root)
            .is_ok_and(|stat| stat.blocks_available() > stat.blocks() / 256 && (stat.files() == 0 || stat.files_available() > 0))
    }

    /// Counts what could not be kept, or refuses it.
    pub(super) fn lose(&mut self, kind: LossKind, path: &EntryPath) -> Result<()> {
        self.losses.add(self.policy, kind, path)
    }

    /// Counts an entry and tells the caller.
    pub(super) fn count_entry(&mut self) -> Result<()> {
        self.tally.entries += 1;
        self.hooks.entry(&self.tally)
    }

    /// Counts data and tells the caller from time to time.
    pub(super) fn count_data(&mut self, length: u64) -> Result<()> {
        self.tally.bytes = self.tally.bytes.saturating_add(ByteSize::from_bytes(length));
        self.untold += length;
        if self.untold < DATA_STEP {
            return Ok(());
        }
        self.untold = 0;
        self.hooks.entry(&self.tally)
    }
}
