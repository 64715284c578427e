//! A thin pool that fills up although a rebuild leaves it some room: others write to it too.
//!
//! Unless it is told to fail them, a pool that is full keeps its writers waiting, for a minute or for ever, and who waits in the kernel cannot be woken. So while a
//! root is staged a thread looks at the pool. When that is full, and stays so, the staged root's device is given a table that fails all writes at
//! once: those of no one else, and of a root that could not be completed anyway. LVM's metadata is not touched, and removes the root as any other.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::command;
use crate::sys::command::Program;
use crate::sys::dm::{self, Mode};

const STEP: Duration = Duration::from_millis(200);
/// How long a pool may be full: whoever watches it, dmeventd for one, may extend it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The thread that looks at a pool. Ended and waited for when it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    ended: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// `None` where no thread can be had: then the pool's own patience is what there is.
    pub(super) fn begin(pool: &str, staged: &str) -> Option<Self> {
        let ended = Arc::<(Mutex<bool>, Condvar)>::default();
        let (pool, staged, told) = (pool.to_owned(), staged.to_owned(), Arc::clone(&ended));
        let thread = std::thread::Builder::new().name("reroot-pool".into()).spawn(move || look(&pool, &staged, &told)).ok()?;
        Some(Watch { ended, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (ended, waiting) = &*self.ended;
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        waiting.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn look(pool: &str, staged: &str, (ended, waiting): &(Mutex<bool>, Condvar)) {
    let mut full_since = None;
    let mut over = ended.lock().unwrap_or_else(PoisonError::into_inner);
    while !*over {
        if dm::pool(pool).is_ok_and(|pool| pool.is_some_and(|pool| pool.mode == Mode::OutOfData)) {
            if full_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                return fail(staged);
            }
        } else {
            full_since = None;
        }
        over = waiting.wait_timeout(over, STEP).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Has a device fail all that is written to it.
fn fail(staged: &str) {
    let wipe = ["wipe_table", "--force", "--noflush", "--nolockfs", "--noudevsync", staged];
    let done = Program::find("dmsetup", "dmsetup")
        .and_then(|dmsetup| dmsetup.command().args(wipe).run("fail what waits for a full pool", &command::limit()));
    match done {
        Ok(done) if done.status.success() => {}
        _other => crate::trace::warning!(device = staged, result = ?_other, "what waits for the full pool could not be failed"),
    }
}
