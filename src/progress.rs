//! What a rebuild tells its caller while it runs, and how the caller stops it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;

/// Receives the events of a rebuild. Called on the rebuild's own thread, often: return soon.
///
/// A panic in `event` unwinds through the rebuild like a kill at that point: the old root stays, and the next rebuild or `recover`
/// tidies up.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

impl fmt::Debug for dyn Progress + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dyn Progress")
    }
}

/// What happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A phase begins; the one before it is over.
    Phase(Phase),
    /// Filling: so far, at most ten times a second.
    Filled {
        /// Bytes read from the image's source, compressed.
        read: ByteSize,
        /// The length of the source, where it is known.
        total: Option<ByteSize>,
        /// Bytes of file content written, holes not counted.
        written: ByteSize,
        /// Entries made.
        entries: u64,
    },
    /// The volume ran full and was grown to this size; filling goes on.
    Grown(ByteSize),
    /// Something the report will say too.
    Warning(&'a str),
}

/// The phases of a rebuild, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for the lock and tidying up after an earlier run.
    Recover,
    /// Looking at the volume and deciding.
    Plan,
    /// Reading the whole image without writing (in-place only).
    Check,
    /// Removing the old root before the new one is made (in-place only).
    Remove,
    /// Making an empty root beside the live one.
    Stage,
    /// Unpacking the image into it.
    Fill,
    /// Applying what is kept, and waiting for the disk.
    Seal,
    /// Switching. From here on a cancel comes too late and is ignored.
    Commit,
    /// Removing the old root.
    Dispose,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Recover => "recover",
            Phase::Plan => "plan",
            Phase::Check => "check",
            Phase::Remove => "remove",
            Phase::Stage => "stage",
            Phase::Fill => "fill",
            Phase::Seal => "seal",
            Phase::Commit => "commit",
            Phase::Dispose => "dispose",
        })
    }
}

/// Stops a rebuild from another thread or a signal handler. Clones share one flag.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token over a flag of the caller's, such as one that a signal handler sets.
    pub fn from_flag(flag: Arc<AtomicBool>) -> Self {
        CancelToken(flag)
    }

    /// Asks for the stop. Safe in a signal handler; cannot be taken back.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// [`ErrorKind::Cancelled`] if a stop was asked for.
    pub fn check(&self, operation: &'static str) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, operation, "cancelled by the caller"));
        }
        Ok(())
    }
}

/// How long to wait for something that others hold. Waiting ends early when the token is set.
#[derive(Debug, Clone)]
pub struct Wait {
    deadline: Instant,
    cancel: CancelToken,
}

impl Wait {
    /// Waits no longer than `limit` from now; zero asks once.
    pub fn new(limit: Duration, cancel: CancelToken) -> Self {
        let now = Instant::now();
        // A limit too far off to be written as an instant is no limit that anyone will live to see.
        let deadline = now.checked_add(limit).unwrap_or(now + Duration::from_secs(1 << 31));
        Wait { deadline, cancel }
    }

    /// What is left of the time.
    #[cfg(feature = "tar")]
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Sleeps a little, at most `step`. `Ok(false)` once the deadline has passed.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when the token is set.
    pub fn pause(&self, operation: &'static str, step: Duration) -> Result<bool> {
        self.cancel.check(operation)?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(step.min(left));
        self.cancel.check(operation)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_at_the_deadline_or_at_a_cancel() {
        let cancel = CancelToken::new();
        let wait = Wait::new(Duration::ZERO, cancel.clone());
        assert!(!wait.pause("test", Duration::from_secs(9)).unwrap());
        let wait = Wait::new(Duration::MAX, cancel.clone());
        assert!(wait.pause("test", Duration::from_millis(1)).unwrap());
        cancel.cancel();
        assert_eq!(wait.pause("test", Duration::from_secs(9)).unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
