//! A stream in chunks, which whoever writes a file shares with whoever reads the archive.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;

/// The size of a chunk. All but the last of a stream are full, so that the blocks of a tar stream never lie across two of them.
const CHUNK: usize = 256 << 10;
/// How many chunks are decoded ahead.
const AHEAD: usize = 6;
/// How many chunks that are done with are kept to be filled again.
const SPARE: usize = 8;
/// What may follow the end of an archive: tar pads to whole records, of 10 KiB and rarely of some MiB.
const REST: ByteSize = ByteSize::mib(64);

/// Where chunks come from.
pub(super) trait Chunks {
    /// The next chunk; an empty one at the end of the stream. `old`, which the caller is done with, may be filled again.
    fn next(&mut self, old: Arc<Vec<u8>>) -> Result<Arc<Vec<u8>>>;

    /// Reads the stream to its end, so that what its last bytes say of it is heeded.
    ///
    /// # Errors
    /// Those of the stream; [`ErrorKind::LimitExceeded`] if more follows than padding could be.
    fn finish(&mut self) -> Result<()> {
        let mut chunk = Arc::default();
        let mut rest = 0u64;
        loop {
            chunk = self.next(chunk)?;
            if chunk.is_empty() {
                return Ok(());
            }
            rest += chunk.len() as u64;
            if rest > REST.bytes() {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    "unpack",
                    format!("more than {REST} follow the end of the archive"),
                )
                .with_remedy("do not trust this image"));
            }
        }
    }
}

/// Chunks that the caller's own thread reads.
pub(super) struct Inline<'a> {
    stream: &'a mut (dyn Read + Send),
    failed: Option<Error>,
}

impl<'a> Inline<'a> {
    pub(super) fn new(stream: &'a mut (dyn Read + Send)) -> Self {
        Inline { stream, failed: None }
    }
}

impl Chunks for Inline<'_> {
    fn next(&mut self, mut old: Arc<Vec<u8>>) -> Result<Arc<Vec<u8>>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if Arc::get_mut(&mut old).is_none() {
            old = Arc::default();
        }
        if let Some(chunk) = Arc::get_mut(&mut old)
            && let Err(error) = fill(self.stream, chunk)
        {
            if chunk.is_empty() {
                return Err(error);
            }
            // What came before it first.
            self.failed = Some(error);
        }
        Ok(old)
    }
}

/// Chunks that another thread reads ahead.
pub(super) struct Ahead {
    full: Receiver<Result<Arc<Vec<u8>>>>,
    spent: Sender<Arc<Vec<u8>>>,
}

/// The other end of [`Ahead`].
pub(super) struct Reader {
    full: SyncSender<Result<Arc<Vec<u8>>>>,
    spent: Receiver<Arc<Vec<u8>>>,
}

/// Both ends.
pub(super) fn ahead() -> (Ahead, Reader) {
    let (to_writer, full) = sync_channel(AHEAD);
    let (spent, from_writer) = channel();
    (Ahead { full, spent }, Reader { full: to_writer, spent: from_writer })
}

impl Chunks for Ahead {
    fn next(&mut self, old: Arc<Vec<u8>>) -> Result<Arc<Vec<u8>>> {
        if !old.is_empty() {
            // Who does not want it any more has ended.
            let _ = self.spent.send(old);
        }
        // The reader ends after the last chunk, or after an error.
        self.full.recv().unwrap_or_else(|_| Ok(Arc::default()))
    }
}

impl Reader {
    /// Reads `stream` until it ends or fails, or no one wants more of it.
    pub(super) fn run(self, stream: &mut (dyn Read + Send)) {
        let mut spare = Vec::new();
        loop {
            spare.extend(self.spent.try_iter());
            let mut chunk = take_unshared(&mut spare);
            spare.truncate(SPARE);
            let mut result = Ok(());
            if let Some(chunk) = Arc::get_mut(&mut chunk) {
                result = fill(stream, chunk);
            }
            let last = chunk.is_empty() || result.is_err();
            if !chunk.is_empty() && self.full.send(Ok(chunk)).is_err() {
                return;
            }
            if let Err(error) = result {
                let _ = self.full.send(Err(error));
            }
            if last {
                return;
            }
        }
    }
}

/// A chunk that no one else looks at any more, or a new one.
fn take_unshared(spare: &mut Vec<Arc<Vec<u8>>>) -> Arc<Vec<u8>> {
    let unshared = spare.iter_mut().position(|chunk| Arc::get_mut(chunk).is_some());
    unshared.map(|at| spare.swap_remove(at)).unwrap_or_default()
}

/// Reads a chunk, full but at the end of the stream or before an error.
fn fill(stream: &mut dyn Read, chunk: &mut Vec<u8>) -> Result<()> {
    chunk.resize(CHUNK, 0);
    let mut filled = 0;
    let result = loop {
        if filled == CHUNK {
            break Ok(());
        }
        match stream.read(&mut chunk[filled..]) {
            Ok(0) => break Ok(()),
            // A reader that claims more than there was room for must not make anyone index beyond it.
            Ok(length) => filled += length.min(CHUNK - filled),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(ours(error)),
        }
    };
    chunk.truncate(filled);
    result
}

/// The error of ours that a stream wrapped, or one that says the stream failed.
fn ours(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("unpack", "the stream failed", error).with_kind(ErrorKind::Io))
}
