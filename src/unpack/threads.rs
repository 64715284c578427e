//! The threads of an unpacking: one that decodes ahead, one that reads the archive and writes, and one that helps it write.
//!
//! All are joined before the call returns. Where one cannot be had, another does its work.

use std::io::Read;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};

use super::chunks::{Chunks, Inline, ahead};
use super::crew::{Crew, Shared};
use super::make::{Maker, Trust};
use super::options::Threads;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::umask::{Umask, clear_for_this_thread};

/// Runs `act` on a thread of its own that has a helper; or right here, without.
pub(super) fn with_crew<T: Send, F>(threads: Threads, act: F) -> Result<T>
where
    F: FnOnce(Option<Crew<'_>>, &Maker<'_>) -> Result<T> + Send,
{
    let (trust, shared) = (Trust::default(), Shared::default());
    if threads == Threads::Caller {
        return act(None, &Maker::new(Umask::Unknown, &trust));
    }
    let work: Mutex<Option<(F, Option<Crew<'_>>)>> = Mutex::new(None);
    let run = |umask| match take(&work) {
        Some((act, crew)) => act(crew, &Maker::new(umask, &trust)),
        None => Err(Error::new(ErrorKind::Io, "unpack", "a thread lost its work")),
    };
    scope(|scope| {
        let helper = start(scope, "reroot-files", || shared.work(&Maker::new(clear_for_this_thread(), &trust)));
        put(&work, (act, helper.map(|_| Crew::new(&shared))));
        match start(scope, "reroot-unpack", || run(clear_for_this_thread())) {
            Some(lead) => lead.join().unwrap_or_else(|panic| resume_unwind(panic)),
            None => run(Umask::Unknown),
        }
    })
}

/// Runs `act` with the chunks of `stream`, which a thread of its own reads ahead, and reads the stream to its end. If `act` fails, calls `stop`, so that
/// a read that waits does not keep it.
pub(super) fn with_chunks<T>(
    threads: Threads,
    stream: &mut (dyn Read + Send),
    stop: &(dyn Fn() + Sync),
    act: impl FnOnce(&mut dyn Chunks) -> Result<T>,
) -> Result<T> {
    if threads == Threads::Caller {
        return act(&mut Inline::new(stream));
    }
    let (mut chunks, reader) = ahead();
    let stream = Mutex::new(Some((stream, reader)));
    scope(|scope| {
        let read = || {
            if let Some((stream, reader)) = take(&stream) {
                reader.run(stream);
            }
        };
        let decoder = start(scope, "reroot-decode", read);
        let inline = if decoder.is_none() { take(&stream) } else { None };
        let mut stopping = Stopping(Some(stop));
        let result = match inline {
            Some((stream, _)) => act(&mut Inline::new(stream)),
            None => act(&mut chunks),
        };
        if result.is_ok() {
            stopping.0 = None;
        }
        drop(stopping);
        // The decoder, if it is not done yet, learns that no one listens.
        drop(chunks);
        match decoder.map(ScopedJoinHandle::join) {
            Some(Err(panic)) => resume_unwind(panic),
            _ => result,
        }
    })
}

/// Stops a stream that is not wanted any more, also when someone panics.
struct Stopping<'a>(Option<&'a (dyn Fn() + Sync)>);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        if let Some(stop) = self.0 {
            stop();
        }
    }
}

fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.to_owned()).spawn_scoped(scope, work).ok()
}

fn take<T>(cell: &Mutex<Option<T>>) -> Option<T> {
    cell.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn put<T>(cell: &Mutex<Option<T>>, value: T) {
    *cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}
