//! Blocks of data, decoded ahead by threads.
//!
//! Whoever needs a block that no thread has begun decodes it on the spot: so nothing waits for threads that are busy, or that could not be made.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::compress::{Compressor, Decoder};
use super::content::Packed;
use super::input::Input;
use super::{corrupt, invalid};
use crate::error::Result;
use crate::unpack::options::Threads;

/// How many threads there are at most. Writing keeps pace with no more.
const THREADS_MAX: usize = 4;

/// What a block decodes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Exactly(usize),
    UpTo(usize),
}

impl Length {
    fn most(self) -> usize {
        match self {
            Length::Exactly(length) | Length::UpTo(length) => length,
        }
    }
}

/// A block that is being decoded, or is to be.
pub(super) struct Slot {
    packed: Packed,
    length: Length,
    state: Mutex<State>,
    done: Condvar,
    alive: Arc<AtomicUsize>,
}

enum State {
    Waiting,
    Running,
    /// Somebody waits for it.
    Awaited,
    Done(Result<Arc<Vec<u8>>>),
    /// Its error has been told.
    Failed,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.length.most(), Ordering::Relaxed);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("packed", &self.packed).finish_non_exhaustive()
    }
}

/// The threads that decode, and what they share.
#[derive(Debug)]
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    own: Tools,
    alive: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Shared {
    input: Input,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Memory for blocks, used before.
    spare: Mutex<Vec<Vec<u8>>>,
    /// What a block decodes to at most.
    block_size: usize,
    consumed: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Queue {
    slots: VecDeque<Arc<Slot>>,
    idle: usize,
    stopped: bool,
}

/// What each thread has for itself.
#[derive(Debug)]
struct Tools {
    decoder: Decoder,
    stored: Vec<u8>,
}

impl Workers {
    /// Starts the threads, as many as the caller and the system allow. `consumed` counts the bytes of the image that they read.
    pub(super) fn new(
        input: Input,
        compressor: Compressor,
        block_size: usize,
        threads: Threads,
        consumed: Arc<AtomicU64>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            input,
            queue: Mutex::default(),
            wake: Condvar::new(),
            spare: Mutex::default(),
            block_size,
            consumed,
        });
        let own = Tools::new(compressor)?;
        let mut workers = Workers { shared, threads: Vec::new(), own, alive: Arc::default() };
        let count = match threads {
            Threads::Caller => 0,
            Threads::Own => thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX)),
        };
        for _ in 0..count {
            let (shared, tools) = (workers.shared.clone(), Tools::new(compressor)?);
            let thread = thread::Builder::new().name("squashfs".to_owned()).spawn(move || shared.work(tools));
            match thread {
                Ok(thread) => workers.threads.push(thread),
                Err(_) => break,
            }
        }
        Ok(workers)
    }

    /// Has a block decoded as soon as a thread is free.
    pub(super) fn begin(&self, packed: Packed, length: Length) -> Arc<Slot> {
        self.alive.fetch_add(length.most(), Ordering::Relaxed);
        let (state, done, alive) = (Mutex::new(State::Waiting), Condvar::new(), self.alive.clone());
        let slot = Arc::new(Slot { packed, length, state, done, alive });
        if !self.threads.is_empty() {
            let mut queue = lock(&self.shared.queue);
            queue.slots.push_back(slot.clone());
            // A call to the system, which is spared where nobody sleeps.
            if queue.idle > 0 {
                self.shared.wake.notify_one();
            }
        }
        slot
    }

    /// What all blocks take that have been begun and not let go of, in bytes.
    pub(super) fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// Waits for a block.
    pub(super) fn finish(&mut self, slot: &Slot) -> Result<Arc<Vec<u8>>> {
        let mut state = lock(&slot.state);
        loop {
            match &*state {
                State::Done(Ok(block)) => return Ok(block.clone()),
                State::Waiting => {
                    *state = State::Running;
                    drop(state);
                    Running(slot).decode(&self.shared, &mut self.own);
                    state = lock(&slot.state);
                }
                State::Running | State::Awaited => {
                    *state = State::Awaited;
                    state = slot.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                State::Done(Err(_)) | State::Failed => {
                    return match std::mem::replace(&mut *state, State::Failed) {
                        State::Done(result) => result,
                        _ => Err(corrupt().with_context("offset", slot.packed.offset)),
                    };
                }
            }
        }
    }

    /// Takes back the memory of a block that nobody needs any more.
    pub(super) fn reuse(&self, block: Vec<u8>) {
        if block.capacity() > self.shared.block_size {
            lock(&self.shared.spare).push(block);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        {
            let mut queue = lock(&self.shared.queue);
            queue.stopped = true;
            queue.slots.clear();
        }
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A panic in it has been told as the error of its block.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn work(&self, mut tools: Tools) {
        while let Some(slot) = self.next() {
            let mut state = lock(&slot.state);
            if matches!(*state, State::Waiting) {
                *state = State::Running;
                drop(state);
                Running(&slot).decode(self, &mut tools);
            }
        }
    }

    /// The next block that somebody still wants.
    fn next(&self) -> Option<Arc<Slot>> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.stopped {
                return None;
            }
            match queue.slots.pop_front() {
                Some(slot) if Arc::strong_count(&slot) > 1 => return Some(slot),
                Some(_) => {}
                None => {
                    queue.idle += 1;
                    queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                    queue.idle -= 1;
                }
            }
        }
    }

    fn decode(&self, slot: &Slot, tools: &mut Tools) -> Result<Arc<Vec<u8>>> {
        let packed = slot.packed;
        let size = packed.size() as usize;
        let most = slot.length.most();
        let mut block = if most > self.block_size / 2 { self.memory() } else { Vec::new() };
        if packed.is_stored() {
            block.resize(size, 0);
            self.input.read(packed.offset, &mut block)?;
        } else {
            tools.stored.resize(size, 0);
            self.input.read(packed.offset, &mut tools.stored)?;
            tools.decoder.decode(&tools.stored, &mut block, most)?;
        }
        self.consumed.fetch_add(size as u64, Ordering::Relaxed);
        match slot.length {
            Length::Exactly(length) if block.len() != length => Err(invalid("a data block has not the size that it should")),
            Length::UpTo(length) if block.len() > length => Err(corrupt()),
            _ => Ok(Arc::new(block)),
        }
    }

    fn memory(&self) -> Vec<u8> {
        let spare = lock(&self.spare).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(self.block_size + 1))
    }
}

impl Tools {
    fn new(compressor: Compressor) -> Result<Self> {
        Ok(Tools { decoder: compressor.decoder()?, stored: Vec::new() })
    }
}

/// A block that this thread decodes. However that ends, nobody waits for it for ever.
struct Running<'a>(&'a Slot);

impl Running<'_> {
    fn decode(self, shared: &Shared, tools: &mut Tools) {
        let result = shared.decode(self.0, tools);
        self.set(result.map_err(|error| error.with_context("offset", self.0.packed.offset)));
    }

    fn set(&self, result: Result<Arc<Vec<u8>>>) {
        let old = std::mem::replace(&mut *lock(&self.0.state), State::Done(result));
        if matches!(old, State::Awaited) {
            self.0.done.notify_all();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.set(Err(corrupt().with_context("offset", self.0.packed.offset)));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
