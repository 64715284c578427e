//! A tar stream in blocks of 512 bytes, with its offset always known.

use std::io::{self, Read};

use crate::error::{Error, ErrorKind, Result};

/// The size of a block, in bytes.
pub(super) const BLOCK: usize = 512;

const BUFFER: usize = 64 << 10;

/// A buffered reader that counts.
pub(super) struct Blocks<'a> {
    stream: &'a mut dyn Read,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    offset: u64,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(stream: &'a mut dyn Read) -> Self {
        Blocks { stream, buffer: vec![0; BUFFER], start: 0, end: 0, offset: 0 }
    }

    /// How many bytes have been taken.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Some bytes, as many as there are at once; 0 at the end of the stream. What does not fit the buffer goes past it.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let length = if self.start < self.end || out.len() < BUFFER {
            if self.start == self.end {
                self.start = 0;
                self.end = 0;
                self.end = read_some(self.stream, &mut self.buffer)?;
            }
            let length = out.len().min(self.end - self.start);
            out[..length].copy_from_slice(&self.buffer[self.start..self.start + length]);
            self.start += length;
            length
        } else {
            read_some(self.stream, out)?
        };
        self.offset += length as u64;
        Ok(length)
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
        let mut scratch = [0; 16 << 10];
        while length > 0 {
            let piece = usize::try_from(length).unwrap_or(usize::MAX).min(scratch.len());
            match self.read(&mut scratch[..piece])? {
                0 => return Err(self.truncated()),
                read => length -= read as u64,
            }
        }
        Ok(())
    }

    pub(super) fn truncated(&self) -> Error {
        Error::new(ErrorKind::InvalidImage, "unpack", "the tar stream is truncated")
            .with_context("offset", self.offset)
            .with_remedy("fetch the image again")
    }

    fn read_full(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            match self.read(&mut out[filled..])? {
                0 => break,
                length => filled += length,
            }
        }
        Ok(filled)
    }
}

fn read_some(stream: &mut dyn Read, out: &mut [u8]) -> Result<usize> {
    loop {
        match stream.read(out) {
            // A reader that claims more than there was room for must not make anyone index beyond it.
            Ok(length) => return Ok(length.min(out.len())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ours(error)),
        }
    }
}

/// The error of ours that a stream wrapped, or one that says the stream failed.
fn ours(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("unpack", "the stream failed", error).with_kind(ErrorKind::Io))
}
