//! The file mode creation mask, [umask(2)](https://man7.org/linux/man-pages/man2/umask.2.html), which all threads of a process share.

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};

/// What the mask of a thread does to the mode of what it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Umask {
    /// Nothing. The process's own, as it was, is for code of others.
    Clear(Mode),
    /// What no one here knows: another thread may change it at any time.
    Unknown,
}

/// Gives the calling thread a mask of its own, and a working directory, and clears the mask. For a thread that ends before its caller
/// does: there is no way back.
///
/// Where a filter of system calls forbids it, the mask stays shared, and unknown.
pub(crate) fn clear_for_this_thread() -> Umask {
    match unshare(CloneFlags::CLONE_FS) {
        Ok(()) => Umask::Clear(umask(Mode::empty())),
        Err(_) => Umask::Unknown,
    }
}

impl Umask {
    /// Calls code of others, who are to find the process's mask.
    pub(crate) fn lend<T>(self, call: impl FnOnce() -> T) -> T {
        let Umask::Clear(own) = self else { return call() };
        umask(own);
        let result = call();
        umask(Mode::empty());
        result
    }
}
