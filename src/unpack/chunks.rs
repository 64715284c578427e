//! A stream in chunks, which whoever writes a file shares with whoever reads the archive.

use std::io::{self, Read};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The size of a chunk. All but the last of a stream are full, so that the blocks of a tar stream never lie across two of them.
const CHUNK: usize = 256 << 10;

/// Where chunks come from.
pub(super) trait Chunks {
    /// The next chunk; an empty one at the end of the stream. `old`, which the caller is done with, may be filled again.
    fn next(&mut self, old: Arc<Vec<u8>>) -> Result<Arc<Vec<u8>>>;
}

/// Chunks that the caller's own thread reads.
pub(super) struct Inline<'a> {
    stream: &'a mut dyn Read,
    failed: Option<Error>,
}

impl<'a> Inline<'a> {
    pub(super) fn new(stream: &'a mut dyn Read) -> Self {
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
