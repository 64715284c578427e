//! How long calls are asked whether to go on.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use super::Failed;
use super::answer::check;
use crate::progress::Wait;

/// Ends a call when the caller's wait does.
pub(super) struct Patience<'a> {
    call: &'static str,
    wait: &'a Wait,
    /// Why it ended; 0 while it has not.
    ended: AtomicI32,
}

impl<'a> Patience<'a> {
    pub(super) fn new(call: &'static str, wait: &'a Wait) -> Self {
        Patience { call, wait, ended: AtomicI32::new(0) }
    }

    /// Runs a call that is given [`go_on`] and its context. `ECANCELED` and `ETIMEDOUT` say that it was us who ended it.
    pub(super) fn run(self, call: impl FnOnce(*mut c_void) -> c_int) -> Result<(), Failed> {
        let result = call((&raw const self).cast_mut().cast());
        self.judge(result)
    }

    /// The same for a callback that takes a pair: the patience, and something else.
    pub(super) fn run_with<T: Sync>(self, other: &T, call: impl FnOnce(*mut c_void) -> c_int) -> Result<(), Failed> {
        let context = (&self, other);
        let result = call((&raw const context).cast_mut().cast());
        self.judge(result)
    }

    fn judge(&self, result: c_int) -> Result<(), Failed> {
        let result = check(self.call, result).map(drop);
        match self.ended.load(Ordering::Acquire) {
            0 => result,
            // It may have come to its end all the same.
            ended => result.map_err(|failed| Failed { errno: Errno::from_raw(ended), ..failed }),
        }
    }

    /// 0, or the negative number that ends a call.
    pub(super) fn ask(&self) -> c_int {
        let ended = match self.wait.pause(self.call, Duration::ZERO) {
            Ok(true) => return 0,
            Ok(false) => Errno::ETIMEDOUT,
            Err(_) => Errno::ECANCELED,
        };
        self.ended.store(ended as c_int, Ordering::Release);
        -(ended as c_int)
    }
}

/// What a long call is given beside a [`Patience`]; it may come from any thread.
pub(super) extern "C" fn go_on(_done: u64, _total: u64, patience: *mut c_void) -> c_int {
    // SAFETY: it is what `run` gave to the call, which has not returned.
    unsafe { &*patience.cast::<Patience<'_>>() }.ask()
}
