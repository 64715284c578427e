//! A tar stream in blocks of 512 bytes, with its offset always known.

use std::sync::Arc;

use super::super::archive::Piece;
use super::super::chunks::Chunks;
use crate::error::{Error, ErrorKind, Result};

/// The size of a block, in bytes.
pub(super) const BLOCK: usize = 512;

/// Chunks of a stream, taken apart.
pub(super) struct Blocks<'a> {
    chunks: &'a mut dyn Chunks,
    chunk: Arc<Vec<u8>>,
    start: usize,
    offset: u64,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(chunks: &'a mut dyn Chunks) -> Self {
        Blocks { chunks, chunk: Arc::default(), start: 0, offset: 0 }
    }

    /// How many bytes have been taken.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Between 1 and `most` bytes, as many as there are at once.
    ///
    /// # Errors
    /// "Truncated" if the stream has ended.
    pub(super) fn piece(&mut self, most: u64) -> Result<Piece> {
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.available()?);
        if length == 0 {
            return Err(self.truncated());
        }
        let piece = Piece::new(Arc::clone(&self.chunk), self.start..self.start + length);
        self.take(length);
        Ok(piece)
    }

    /// Fills `out`.
    ///
    /// # Errors
    /// "Truncated" if the stream ends before.
    pub(super) fn read_exact(&mut self, out: &mut [u8]) -> Result<()> {
        if self.read_full(out)? < out.len() { Err(self.truncated()) } else { Ok(()) }
    }

    /// The next block; `None` if the stream ends right here.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        match self.read_full(&mut block)? {
            BLOCK => Ok(Some(block)),
            0 => Ok(None),
            _ => Err(self.truncated()),
        }
    }

    /// Passes over `length` bytes.
    pub(super) fn skip(&mut self, mut length: u64) -> Result<()> {
        while length > 0 {
            let piece = usize::try_from(length).unwrap_or(usize::MAX).min(self.available()?);
            if piece == 0 {
                return Err(self.truncated());
            }
            self.take(piece);
            length -= piece as u64;
        }
        Ok(())
    }

    pub(super) fn truncated(&self) -> Error {
        Error::new(ErrorKind::InvalidImage, "unpack", "the tar stream is truncated")
            .with_context("offset", self.offset)
            .with_remedy("fetch the image again")
    }

    /// How many bytes can be taken from the current chunk, which is the next one if there was nothing left. 0 at the end of the stream.
    fn available(&mut self) -> Result<usize> {
        if self.start == self.chunk.len() {
            (self.chunk, self.start) = (self.chunks.next(std::mem::take(&mut self.chunk))?, 0);
        }
        Ok(self.chunk.len() - self.start)
    }

    fn take(&mut self, length: usize) {
        self.start += length;
        self.offset += length as u64;
    }

    fn read_full(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            let length = self.available()?.min(out.len() - filled);
            if length == 0 {
                break;
            }
            out[filled..filled + length].copy_from_slice(&self.chunk[self.start..self.start + length]);
            self.take(length);
            filled += length;
        }
        Ok(filled)
    }
}
