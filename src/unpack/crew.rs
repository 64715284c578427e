//! A second thread that makes small files, while the first one reads the archive and makes everything else.
//!
//! Jobs are done in the order in which they were given, so that a directory is finished after the files in it. The helper decides nothing:
//! what it cannot do at once it undoes and gives back, with all that follows, to be done by the thread that knows the policies. Whoever is
//! about to look at what may still be on its way calls [`Crew::settle`] first.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::uio::pwrite;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::archive::Piece;
use super::entry::EntryPath;
use super::make::{Dir, Made, Maker, Plain, again};

/// How many jobs may wait, and how many bytes of data with them.
const JOBS_MAX: usize = 64;
const BYTES_MAX: usize = 4 << 20;
/// How many directories may wait to be finished: each is held open.
const FINISHES_MAX: usize = 16;
/// How many jobs a sleeping helper is woken for.
const WORTH_WAKING: usize = 6;
/// How often jobs may come back before no more are given: where most fail, trying twice only costs.
const RETURNS_MAX: usize = 64;

/// What can be left to the helper.
#[derive(Debug)]
pub(super) enum Job {
    File(FileJob),
    Finish(FinishJob),
}

/// A new file in a directory.
#[derive(Debug)]
pub(super) struct FileJob {
    pub(super) path: EntryPath,
    /// Where its header is in the archive; for messages.
    pub(super) offset: u64,
    pub(super) dir: Arc<Dir>,
    pub(super) plain: Plain,
    pub(super) pieces: Vec<Piece>,
}

/// The metadata of a directory that is complete.
#[derive(Debug)]
pub(super) struct FinishJob {
    pub(super) path: EntryPath,
    pub(super) dir: Arc<Dir>,
    pub(super) made: Made,
    pub(super) plain: Plain,
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::File(file) => file.pieces.iter().map(|piece| piece.len()).sum(),
            Job::Finish(_) => 0,
        }
    }

    fn is_finish(&self) -> bool {
        matches!(self, Job::Finish(_))
    }
}

/// What the two threads share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is work, or there will be none.
    wake: Condvar,
    /// All work is done.
    idle: Condvar,
    /// Jobs that are neither done nor given back, and what they hold.
    jobs: AtomicUsize,
    bytes: AtomicUsize,
    finishes: AtomicUsize,
    /// Whether a job came back: those after it do too, until someone has seen to it.
    stuck: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Job>,
    returned: Vec<Job>,
    sleeping: bool,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of anyone else's runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does jobs until the crew is dropped. For the helper's thread.
    pub(super) fn work(&self, maker: &Maker<'_>) {
        let mut batch = VecDeque::new();
        while self.next_batch(&mut batch) {
            for job in batch.drain(..) {
                let (bytes, finishes) = (job.bytes(), usize::from(job.is_finish()));
                if self.stuck.load(Ordering::Relaxed) || !perform(&job, maker) {
                    self.stuck.store(true, Ordering::Relaxed);
                    self.lock().returned.push(job);
                } else {
                    // Its files are closed before it counts as done.
                    drop(job);
                }
                self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.finishes.fetch_sub(finishes, Ordering::Relaxed);
                self.jobs.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// Waits for jobs and takes all there are; `false` if there will be no more.
    fn next_batch(&self, batch: &mut VecDeque<Job>) -> bool {
        let mut state = self.lock();
        loop {
            if state.closed {
                return false;
            }
            if !state.queue.is_empty() {
                std::mem::swap(&mut state.queue, batch);
                return true;
            }
            state.sleeping = true;
            self.idle.notify_all();
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeping = false;
        }
    }
}

/// The helper, as the thread that reads the archive sees it. Dropped, it lets the helper end, whatever was left to do.
#[derive(Debug)]
pub(super) struct Crew<'a> {
    shared: &'a Shared,
    returns: usize,
}

impl<'a> Crew<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Crew { shared, returns: 0 }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.jobs.load(Ordering::Acquire) == 0 && !self.shared.stuck.load(Ordering::Relaxed)
    }

    /// Whether there is room for a job of `bytes` bytes.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.returns < RETURNS_MAX
            && self.shared.jobs.load(Ordering::Relaxed) < JOBS_MAX
            && self.shared.bytes.load(Ordering::Relaxed) + bytes <= BYTES_MAX
            && !self.shared.stuck.load(Ordering::Relaxed)
    }

    /// Whether one more directory may wait to be finished.
    pub(super) fn may_finish(&self) -> bool {
        self.shared.finishes.load(Ordering::Relaxed) < FINISHES_MAX
    }

    /// Leaves a job to the helper.
    pub(super) fn give(&self, job: Job) {
        self.shared.bytes.fetch_add(job.bytes(), Ordering::Relaxed);
        self.shared.finishes.fetch_add(usize::from(job.is_finish()), Ordering::Relaxed);
        self.shared.jobs.fetch_add(1, Ordering::Relaxed);
        let mut state = self.shared.lock();
        state.queue.push_back(job);
        if state.sleeping && state.queue.len() >= WORTH_WAKING {
            self.shared.wake.notify_one();
        }
    }

    /// Waits until all is done, and returns what could not be, in order: nothing of it is there, or its metadata may be set in part.
    pub(super) fn settle(&mut self) -> Vec<Job> {
        let mut state = self.shared.lock();
        while !(state.queue.is_empty() && state.sleeping) {
            if state.sleeping {
                self.shared.wake.notify_one();
            }
            state = self.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.shared.stuck.store(false, Ordering::Relaxed);
        let returned = std::mem::take(&mut state.returned);
        self.returns += usize::from(!returned.is_empty());
        returned
    }
}

impl Drop for Crew<'_> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

/// Whether a job could be done. If not, a file it made is gone again.
fn perform(job: &Job, maker: &Maker<'_>) -> bool {
    match job {
        Job::Finish(finish) => maker.finish(finish.dir.as_fd(), finish.made, &finish.plain).is_ok(),
        Job::File(job) => {
            let Some((_, name)) = job.path.split() else { return false };
            let Ok((file, made)) = again(|| maker.file(&job.dir, name, job.plain.mode)) else { return false };
            let filled = write_all(file.as_fd(), &job.pieces).and_then(|()| maker.finish(file.as_fd(), made, &job.plain));
            if filled.is_err() {
                // It is ours, made a moment ago; what cannot be removed the next one replaces.
                let _ = unlinkat(&job.dir, name, UnlinkatFlags::NoRemoveDir);
            }
            filled.is_ok()
        }
    }
}

fn write_all(file: std::os::fd::BorrowedFd<'_>, pieces: &[Piece]) -> nix::Result<()> {
    let mut offset = 0;
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let written = again(|| pwrite(file, rest, offset))?;
            if written == 0 {
                return Err(Errno::EIO);
            }
            offset += written as i64;
            rest = rest.get(written..).unwrap_or_default();
        }
    }
    Ok(())
}
