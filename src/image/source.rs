//! The bytes of an image as they come: counted, digested, and never waited for without end.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::digesting::Digesting;
use crate::digest::{Hasher, Sha256};
use crate::error::{Error, ErrorKind};
use crate::progress::CancelToken;

/// How much is read at once. Large enough that system calls do not count, small enough to stay in the second-level cache.
const BUFFER: usize = 128 << 10;

/// What is worth reading to where it is wanted, without a copy.
const PAST: usize = 16 << 10;

/// How long a wait for a pipe goes on before the cancel token is looked at again.
const POLL_STEP: Duration = Duration::from_millis(50);

/// How long a reader that has nothing, and does not wait, is left alone.
const READER_STEP: Duration = Duration::from_millis(5);

/// Where bytes come from.
pub(super) enum Input {
    /// A regular file: reads return at once.
    File(File),
    /// A pipe, a socket, a terminal: reads are waited for with `poll`, so that a cancel and a deadline are heeded.
    Pipe(File),
    /// A reader of the caller's, which may block as long as it likes.
    Reader(Box<dyn Read + Send>),
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Input::File(_) => "File",
            Input::Pipe(_) => "Pipe",
            Input::Reader(_) => "Reader",
        })
    }
}

/// How far a source has been read, for whoever reports progress meanwhile.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position(Arc<AtomicU64>);

impl Position {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What it counts in, for those that count themselves.
    #[cfg(feature = "squashfs")]
    pub(super) fn counter(&self) -> &Arc<AtomicU64> {
        &self.0
    }

    pub(super) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A file from its start, whatever others read of it meanwhile.
#[cfg(any(feature = "oci", feature = "squashfs"))]
pub(super) struct Whole {
    file: File,
    offset: u64,
}

#[cfg(any(feature = "oci", feature = "squashfs"))]
impl Whole {
    pub(super) fn new(file: File) -> Self {
        Whole { file, offset: 0 }
    }
}

#[cfg(any(feature = "oci", feature = "squashfs"))]
impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// A buffered reader over an [`Input`]. Every error it returns is a [`crate::Error`] inside an [`io::Error`].
#[derive(Debug)]
pub(super) struct Source {
    input: Input,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    consumed: Position,
    digest: Digesting,
    cancel: CancelToken,
    /// Set by whoever does not want more.
    stop: CancelToken,
    patience: Duration,
}

impl Source {
    /// Reads `input`, giving up when nothing arrives for `patience`.
    pub(super) fn new(input: Input, cancel: CancelToken, patience: Duration) -> Self {
        Source {
            input,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            consumed: Position::default(),
            digest: Digesting::new(Hasher::new()),
            cancel,
            stop: CancelToken::new(),
            patience,
        }
    }

    /// Makes reads fail from now on when it is set, also one that waits.
    pub(super) fn stop(&self) -> CancelToken {
        self.stop.clone()
    }

    /// Counts what is taken from here on in `position`, which others may count in too.
    #[must_use]
    pub(super) fn counting_in(mut self, position: Position) -> Self {
        self.consumed = position;
        self
    }

    /// Goes on with a digest that others began.
    #[must_use]
    pub(super) fn hashing_after(mut self, hasher: Hasher) -> Self {
        self.digest = Digesting::new(hasher);
        self
    }

    /// Lets another thread compute the digest, for a reader that has enough to do.
    pub(super) fn digest_apart(&mut self) {
        self.digest.go_apart();
    }

    /// How many bytes the decoder has taken so far.
    pub(super) fn position(&self) -> Position {
        self.consumed.clone()
    }

    /// The first bytes, up to `count`, without taking them. Call before anything else is read.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.end < count.min(self.buffer.len()) && self.fill()? != 0 {}
        Ok(&self.buffer[..self.end.min(count)])
    }

    /// Reads to the end what no decoder wanted, and returns the digest of everything with the way to read it again.
    pub(super) fn finish(mut self) -> io::Result<(Sha256, Input)> {
        loop {
            let length = self.fill_buf()?.len();
            if length == 0 {
                return Ok((self.digest.finish(), self.input));
            }
            self.consume(length);
        }
    }

    /// Reads once, behind what is in the buffer.
    fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let free = &mut self.buffer[self.end..];
        let length = read(&mut self.input, free, [&self.cancel, &self.stop], self.patience).map_err(|error| {
            io::Error::other(error.with_context("offset", self.consumed.bytes() + (self.end - self.start) as u64))
        })?;
        self.digest.update(&free[..length]);
        self.end += length;
        Ok(length)
    }

    /// Reads once, past the buffer, which is empty.
    fn read_past(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = read(&mut self.input, buffer, [&self.cancel, &self.stop], self.patience)
            .map_err(|error| io::Error::other(error.with_context("offset", self.consumed.bytes())))?;
        self.digest.update(&buffer[..length]);
        self.consumed.add(length as u64);
        Ok(length)
    }
}

fn read(input: &mut Input, buffer: &mut [u8], stops: [&CancelToken; 2], patience: Duration) -> Result<usize, Error> {
    let begun = Instant::now();
    loop {
        stops.into_iter().try_for_each(|stop| stop.check("read the image"))?;
        let result = match input {
            Input::File(file) => file.read(buffer),
            Input::Reader(reader) => reader.read(buffer),
            Input::Pipe(pipe) => match wait_readable(pipe) {
                Ok(true) => pipe.read(buffer),
                Ok(false) if begun.elapsed() >= patience => return Err(silent(patience)),
                Ok(false) => continue,
                Err(error) => Err(error),
            },
        };
        match result {
            // A reader that claims more than it was given room for is broken; no one may index by what it says.
            Ok(length) => return Ok(length.min(buffer.len())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if begun.elapsed() >= patience {
                    return Err(silent(patience));
                }
                // A reader that is not to be waited for; there is nothing to poll.
                if matches!(input, Input::Reader(_)) {
                    std::thread::sleep(READER_STEP);
                }
            }
            // Who cancels may end a read that blocks by closing what is read from.
            Err(error) => {
                stops.into_iter().try_for_each(|stop| stop.check("read the image"))?;
                return Err(Error::io("read the image", "its source failed", error).with_kind(ErrorKind::Io));
            }
        }
    }
}

fn silent(patience: Duration) -> Error {
    let seconds = patience.as_secs();
    Error::new(ErrorKind::TimedOut, "read the image", format!("nothing arrived for {seconds} seconds"))
        .with_remedy("see to the program that sends the image, or allow more time")
}

fn wait_readable(pipe: &File) -> io::Result<bool> {
    let step = PollTimeout::try_from(POLL_STEP).unwrap_or(PollTimeout::ZERO);
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, step) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.fill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, length: usize) {
        let length = length.min(self.end - self.start);
        self.start += length;
        self.consumed.add(length as u64);
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end && buffer.len() >= PAST {
            return self.read_past(buffer);
        }
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    fn pipe() -> (File, File) {
        let (reader, writer) = std::io::pipe().unwrap();
        (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
    }

    fn error_of(result: io::Result<&[u8]>) -> ErrorKind {
        result.unwrap_err().downcast::<Error>().unwrap().kind()
    }

    #[test]
    fn everything_is_digested_whoever_reads_it() {
        let mut source = Source::new(Input::Reader(Box::new(&b"abc"[..])), CancelToken::new(), Duration::ZERO);
        assert_eq!(source.peek(2).unwrap(), b"ab");
        let position = source.position();
        assert_eq!(position.bytes(), 0);
        let mut one = [0];
        source.read_exact(&mut one).unwrap();
        assert_eq!((one, position.bytes()), (*b"a", 1));
        let (digest, _) = source.finish().unwrap();
        assert_eq!(position.bytes(), 3);
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_pipe_that_stays_silent_is_given_up() {
        let (reader, mut writer) = pipe();
        writer.write_all(b"x").unwrap();
        let mut source = Source::new(Input::Pipe(reader), CancelToken::new(), Duration::from_millis(60));
        assert_eq!(source.fill_buf().unwrap(), b"x");
        source.consume(1);
        assert_eq!(error_of(source.fill_buf()), ErrorKind::TimedOut);
    }

    /// Does not wait, and has nothing; or fails.
    struct Empty(io::ErrorKind);

    impl Read for Empty {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_does_not_wait_is_given_up_too() {
        let reader = Input::Reader(Box::new(Empty(io::ErrorKind::WouldBlock)));
        let mut source = Source::new(reader, CancelToken::new(), Duration::from_millis(60));
        assert_eq!(error_of(source.fill_buf()), ErrorKind::TimedOut);
    }

    #[test]
    fn a_read_that_fails_after_a_cancel_was_cancelled() {
        struct Closed(CancelToken);
        impl Read for Closed {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.cancel();
                Empty(io::ErrorKind::ConnectionAborted).read(buffer)
            }
        }
        let cancel = CancelToken::new();
        let mut source = Source::new(Input::Reader(Box::new(Closed(cancel.clone()))), cancel, Duration::MAX);
        assert_eq!(error_of(source.fill_buf()), ErrorKind::Cancelled);
        let mut source =
            Source::new(Input::Reader(Box::new(Empty(io::ErrorKind::ConnectionAborted))), CancelToken::new(), Duration::MAX);
        assert_eq!(error_of(source.fill_buf()), ErrorKind::Io);
    }

    #[test]
    fn a_cancel_reaches_a_reader_that_waits() {
        let (reader, _writer) = pipe();
        let cancel = CancelToken::new();
        let mut source = Source::new(Input::Pipe(reader), cancel.clone(), Duration::MAX);
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            cancel.cancel();
        });
        assert_eq!(error_of(source.fill_buf()), ErrorKind::Cancelled);
        canceller.join().unwrap();
    }
}
