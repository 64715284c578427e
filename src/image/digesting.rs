//! A digest that a thread of its own may compute, beside a decoder that has enough to do.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::digest::{Hasher, Sha256};

/// What is digested before a thread is worth starting, in bytes.
const ALONE: u64 = 1 << 20;
/// How many pieces may wait for the thread.
const WAITING: usize = 4;

/// Digests bytes as they pass. Dropped, it waits for its thread, which has little left to do.
#[derive(Debug)]
pub(super) struct Digesting {
    hasher: Option<Hasher>,
    passed: u64,
    place: Place,
    thread: Option<Thread>,
}

/// Who computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Here,
    Apart,
}

#[derive(Debug)]
struct Thread {
    full: SyncSender<Vec<u8>>,
    spent: Receiver<Vec<u8>>,
    handle: JoinHandle<Hasher>,
}

impl Digesting {
    /// Goes on with what `hasher` has digested, on the caller's thread.
    pub(super) fn new(hasher: Hasher) -> Self {
        Digesting { hasher: Some(hasher), passed: 0, place: Place::Here, thread: None }
    }

    /// From now on, if there is much of it, on a thread of its own.
    pub(super) fn go_apart(&mut self) {
        self.place = Place::Apart;
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.passed += bytes.len() as u64;
        if self.thread.is_none() && self.place == Place::Apart && self.passed > ALONE {
            self.thread = self.hasher.as_ref().and_then(Thread::start);
        }
        match (&self.thread, &mut self.hasher) {
            (Some(thread), _) => thread.update(bytes),
            (None, Some(hasher)) => hasher.update(bytes),
            (None, None) => {}
        }
    }

    /// The digest of all that has passed.
    pub(super) fn finish(mut self) -> Sha256 {
        let hasher = match self.thread.take() {
            Some(thread) => Some(thread.join()),
            None => self.hasher.take(),
        };
        hasher.unwrap_or_else(Hasher::new).finish()
    }
}

impl Drop for Digesting {
    fn drop(&mut self) {
        if let Some(Thread { full, handle, .. }) = self.thread.take() {
            drop(full);
            let _ = handle.join();
        }
    }
}

impl Thread {
    /// `None`: no thread can be had.
    fn start(hasher: &Hasher) -> Option<Self> {
        let (full, from_reader) = sync_channel::<Vec<u8>>(WAITING);
        let (to_reader, spent) = sync_channel(WAITING);
        let mut hasher = hasher.clone();
        let digest = move || {
            for bytes in from_reader {
                hasher.update(&bytes);
                // What no one takes back is freed.
                let _ = to_reader.try_send(bytes);
            }
            hasher
        };
        let handle = Builder::new().name("reroot-digest".into()).spawn(digest).ok()?;
        Some(Thread { full, spent, handle })
    }

    fn update(&self, bytes: &[u8]) {
        let mut copy = self.spent.try_recv().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(bytes);
        // The thread ends after this sender.
        let _ = self.full.send(copy);
    }

    fn join(self) -> Hasher {
        drop(self.full);
        match self.handle.join() {
            Ok(hasher) => hasher,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_same_whoever_computes_it() {
        for length in [0, 1, ALONE as usize, 5 << 20] {
            let bytes: Vec<u8> = (0..length).map(|n| ((n * n) >> 7) as u8).collect();
            let (mut alone, mut together) = (Hasher::new(), Digesting::new(Hasher::new()));
            alone.update(&bytes);
            together.go_apart();
            bytes.chunks(100_003).for_each(|piece| together.update(piece));
            assert_eq!(together.finish(), alone.finish());
        }
    }
}
