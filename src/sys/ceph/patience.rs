//! Calls of the libraries that take no limit: they wait for threads of their own, or for the next answer of a monitor.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

/// A pointer that another thread may have: what it points to is made for that.
pub(super) struct Pointer<T>(pub(super) *mut T);

// SAFETY: whoever makes one says so.
unsafe impl<T> Send for Pointer<T> {}

/// Has a thread make a call and waits for it, for so long. `None`: it is late, or there can be no thread. Then it is left with all that was given to it: a call of
/// C++ cannot be ended, and nothing of it may be taken away.
pub(super) fn within<T: Send + 'static>(limit: Duration, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = sync_channel(1);
    let body = move || {
        // Nobody may wait any more.
        let _ = tell.send(call());
    };
    let thread = thread::Builder::new().name("reroot-ceph".into()).spawn(body).ok()?;
    match told.recv_timeout(limit) {
        Err(RecvTimeoutError::Timeout) => None,
        answer => {
            let _ = thread.join();
            answer.ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    #[test]
    fn what_is_late_is_left_with_what_it_has() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (held, (end, ended)) = (Arc::new(()), channel::<()>());
        let theirs = Arc::clone(&held);
        let begun = Instant::now();
        let late = within(Duration::from_millis(50), move || {
            let _ = ended.recv();
            drop(theirs);
        });
        assert!(late.is_none() && begun.elapsed() >= Duration::from_millis(50));
        assert_eq!(Arc::strong_count(&held), 2);
        drop(end);
    }
}
