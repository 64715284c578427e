//! Sources that fail: a stream that ends too soon, that returns an error, or from which nothing comes any more.

use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use reroot::{CancelToken, ErrorKind, Image, Outcome, Rebuild};

use super::bench::{Bench, PLACES, Trials};
use super::child::Job;
use super::common::ledger::Ledger;
use super::common::pools::Backend;
use super::stand::Found;

pub(crate) fn trials(backend: Backend) -> Vec<(&'static str, Trials)> {
    vec![
        ("source::cut", Box::new(move || cut(backend))),
        ("source::error", Box::new(move || error(backend))),
        ("source::stall", Box::new(move || stall(backend))),
    ]
}

/// The image of the other root, packed in each way.
fn packed(bench: &Bench) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    let failed = |error: io::Error| error.to_string();
    let tar = fs::read(bench.stand.image(bench.live.other())).map_err(failed)?;
    let (gzip, zstd) = (through("gzip", &tar).map_err(failed)?, through("zstd", &tar).map_err(failed)?);
    Ok(vec![("tar", tar), ("tar.gz", gzip), ("tar.zst", zstd)])
}

/// What a program makes of its input.
fn through(program: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
    use std::process::{Command, Stdio};
    let mut child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    if output.status.success() { Ok(output.stdout) } else { Err(io::Error::other(format!("{program}: {}", output.status))) }
}

/// Places in a stream of this length, its first bytes, its last and the borders of blocks among them.
fn places(length: usize, backend: Backend) -> Vec<usize> {
    let count = PLACES.on(backend);
    let spread = (0..count).map(|number| number * length / count);
    let mut places: Vec<_> = if backend.is_slow() {
        spread.collect()
    } else {
        let blocks = spread.clone().map(|place| place / 512 * 512);
        spread
            .chain(blocks)
            .chain([1, 511, 512, 513, length.saturating_sub(1024), length.saturating_sub(513), length - 1])
            .collect()
    };
    places.retain(|place| *place < length);
    places.sort_unstable();
    places.dedup();
    places
}

/// Rebuilds from an image, in this process, and makes the three checks.
fn rebuild(bench: &mut Bench, rebuild: Rebuild) -> Result<Result<(), ErrorKind>, String> {
    let mut volume = bench.stand.volume(Job::SWAP)?;
    let result = rebuild.busy_wait(Duration::from_secs(10)).run(&mut *volume);
    drop(volume);
    match result {
        Ok(_) => bench.check(Job::SWAP, "done".into(), Some(Found::New)).map(|_| Ok(())),
        Err(error) => {
            let told = Ledger::told(&error);
            if !matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack) {
                return Err(format!("it was told: {}", error.report()));
            }
            bench.check(Job::SWAP, told, Some(Found::Old)).map_err(|why| format!("{why}\n  (it was told: {})", error.report()))?;
            Ok(Err(error.kind()))
        }
    }
}

fn cut(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("a stream that is cut", backend, 20)?;
    for kind in 0..3 {
        let length = packed(&bench)?[kind].1.len();
        for place in places(length, backend) {
            let (name, mut bytes) = packed(&bench)?.swap_remove(kind);
            bytes.truncate(place);
            // All that follows the last entry may be missing, as GNU tar has it.
            let tail = bytes.len();
            let image = Image::from_reader(Cursor::new(bytes), "a cut stream");
            let result =
                rebuild(&mut bench, Rebuild::new(image)).map_err(|why| format!("{name}, cut at {place} of {length}: {why}"))?;
            match result {
                Err(ErrorKind::InvalidImage) => {}
                Ok(()) if name == "tar" && length - tail <= 1024 => {}
                other => return Err(format!("{name}, cut at {place} of {length}: {other:?}")),
            }
        }
    }
    Ok(())
}

/// A reader that fails where its bytes end.
struct Failing(Cursor<Vec<u8>>, i32);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::from_raw_os_error(self.1)),
            length => Ok(length),
        }
    }
}

fn error(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("a stream that returns an error", backend, 20)?;
    let errors = [nix::libc::EIO, nix::libc::ECONNRESET, nix::libc::ENOSPC, nix::libc::ESTALE];
    for kind in 0..3 {
        let length = packed(&bench)?[kind].1.len();
        for (number, place) in places(length, backend).into_iter().enumerate() {
            let (name, mut bytes) = packed(&bench)?.swap_remove(kind);
            bytes.truncate(place);
            let image = Image::from_reader(Failing(Cursor::new(bytes), errors[number % errors.len()]), "a failing stream");
            let result =
                rebuild(&mut bench, Rebuild::new(image)).map_err(|why| format!("{name}, fails at {place} of {length}: {why}"))?;
            if result.is_ok() {
                return Err(format!("{name}, fails at {place} of {length}: nobody noticed"));
            }
        }
    }
    Ok(())
}

/// A reader from which nothing comes any more until it is let go; then it fails, as one does whose connection was closed.
struct Stalling(Cursor<Vec<u8>>, Receiver<()>, Arc<AtomicBool>);

impl Read for Stalling {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read(buffer)?;
        if length == 0 {
            self.2.store(true, Ordering::Release);
            let _ = self.1.recv();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(length)
    }
}

/// A descriptor that is silent for ever is given up by a cancel or a deadline. A reader cannot be interrupted: there the caller ends it, and a
/// cancel holds
/// as soon as it returns.
fn stall(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("a stream from which nothing comes any more", backend, 20)?;
    let length = packed(&bench)?[2].1.len();
    for place in places(length, backend) {
        for way in ["cancel", "deadline", "reader"] {
            let mut bytes = packed(&bench)?.swap_remove(2).1;
            bytes.truncate(place);
            let begun = Instant::now();
            let cancel = CancelToken::new();
            let (result, wanted) = if way == "reader" {
                let (release, released) = channel();
                let stalled = Arc::new(AtomicBool::new(false));
                let image = Image::from_reader(Stalling(Cursor::new(bytes), released, Arc::clone(&stalled)), "a silent stream");
                let own = cancel.clone();
                let canceller = std::thread::spawn(move || {
                    while !stalled.load(Ordering::Acquire) && begun.elapsed() < SOON {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    own.cancel();
                    drop(release);
                });
                let result = rebuild(&mut bench, Rebuild::new(image).cancel(cancel));
                let _ = canceller.join();
                (result, ErrorKind::Cancelled)
            } else {
                let (reader, writer) = io::pipe().map_err(|error| error.to_string())?;
                let feeder = std::thread::spawn(move || {
                    let mut writer = writer;
                    let _ = writer.write_all(&bytes);
                    writer
                });
                let image = Image::from_fd(OwnedFd::from(reader), "a silent pipe");
                let limit = if way == "cancel" { SOON } else { Duration::from_millis(100) };
                let own = cancel.clone();
                let canceller = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(100));
                    own.cancel();
                });
                let token = if way == "cancel" { cancel } else { CancelToken::new() };
                let result = rebuild(&mut bench, Rebuild::new(image).stall_limit(limit).cancel(token));
                let _ = canceller.join();
                drop(feeder.join());
                (result, if way == "cancel" { ErrorKind::Cancelled } else { ErrorKind::TimedOut })
            };
            let result = result.map_err(|why| format!("silent after {place} of {length}, {way}: {why}"))?;
            if result != Err(wanted) {
                return Err(format!("silent after {place} of {length}, {way}: {result:?}"));
            }
            if begun.elapsed() > SOON {
                return Err(format!("silent after {place} of {length}, {way}: it took {:?}", begun.elapsed()));
            }
        }
    }
    Ok(())
}

const SOON: Duration = Duration::from_secs(60);
