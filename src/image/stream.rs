//! A tar stream out of whatever an image is.

use std::fmt;
use std::io::{self, BufRead, Read};

use super::decode::{Decode, Decoding, Fault, Padding, decoder};
use super::format::{Format, PEEK};
use super::source::{Input, Position, Source};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};

/// How much may follow the end of the archive when it is decompressed, in bytes. Writers pad to a record, 10 KiB by default and 10 MiB
/// in practice; a few KiB of a bomb are more.
const TRAILER: u64 = 64 << 20;

/// The decompressed bytes of an image. Every error it returns is a [`crate::Error`] inside an [`io::Error`].
pub(crate) struct Stream {
    source: Source,
    /// `None`: it is not compressed.
    decoder: Option<Box<dyn Decode>>,
    place: Place,
    format: Format,
    position: Position,
}

/// Where in a compressed stream the next byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a member, or right before its first byte.
    Member,
    /// After a member and this many NUL bytes.
    Gap(u64),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("format", &self.format).field("position", &self.position).finish_non_exhaustive()
    }
}

impl Stream {
    /// Reads the first bytes of `source` and chooses the decoder.
    pub(super) fn new(mut source: Source, decoding: Decoding) -> Result<Self> {
        let format = Format::detect(source.peek(PEEK).map_err(unwrap)?)?;
        let position = source.position();
        let decoder = decoder(format, decoding).map_err(|fault| explain(format, fault))?;
        if decoder.is_some() {
            source.digest_apart();
        }
        Ok(Stream { source, decoder, place: Place::Member, format, position })
    }

    /// Reads the rest, so that checksums at the end are checked too, and returns the digest of the compressed bytes with the way to
    /// read them again.
    pub(super) fn finish(mut self) -> Result<(Sha256, Input)> {
        let mut rest = vec![0; 64 << 10];
        let mut length = 0;
        loop {
            match self.read(&mut rest).map_err(unwrap)? {
                0 => return self.source.finish().map_err(unwrap),
                more => length += more as u64,
            }
            if self.decoder.is_some() && length > TRAILER {
                let message = "more than 64 MiB follow the end of the archive";
                return Err(self
                    .at(Error::new(ErrorKind::LimitExceeded, "decompress the image", message))
                    .with_remedy("make the image again, without padding"));
            }
        }
    }

    /// Fills some of `buffer`, which is not empty; 0 at the end.
    fn decode(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Some(decoder) = &mut self.decoder else { return self.source.read(buffer).map_err(unwrap) };
        // Decoders may buffer what they took and come forward only when asked again, but not twice.
        let mut stalled = false;
        loop {
            let input = self.source.fill_buf().map_err(unwrap)?;
            let (more, format) = (!input.is_empty(), self.format);
            let fault = |fault| Err(explain(format, fault).with_context("offset", self.position.bytes()));
            if let Place::Gap(nuls) = &mut self.place {
                if more && input[0] == 0 {
                    let length = input.iter().position(|&byte| byte != 0).unwrap_or(input.len());
                    *nuls += length as u64;
                    self.source.consume(length);
                    continue;
                }
                let allowed = match decoder.padding() {
                    Padding::AtEnd => *nuls == 0 || !more,
                    Padding::Quads => *nuls % 4 == 0,
                };
                if !allowed {
                    return fault(Fault::Corrupt("what follows it is neither padding nor more of it".into()));
                }
                if !more {
                    return Ok(0);
                }
                if let Err(error) = decoder.restart() {
                    return fault(error);
                }
                self.place = Place::Member;
            }
            let step = match decoder.step(input, buffer) {
                Ok(step) => step,
                Err(error) => return fault(error),
            };
            self.source.consume(step.taken);
            if step.ended {
                self.place = Place::Gap(0);
            }
            if step.written > 0 {
                return Ok(step.written);
            }
            let moved = step.taken > 0 || step.ended;
            if !moved && !more {
                return Err(self
                    .at(Error::new(
                        ErrorKind::InvalidImage,
                        "decompress the image",
                        format!("the {} stream is truncated", self.format),
                    ))
                    .with_remedy(FETCH));
            }
            if !moved && stalled {
                return fault(Fault::Corrupt("the decoder cannot go on".into()));
            }
            stalled = !moved;
        }
    }

    fn at(&self, error: Error) -> Error {
        error.with_context("offset", self.position.bytes())
    }
}

const FETCH: &str = "fetch the image again";

fn explain(format: Format, fault: Fault) -> Error {
    let error = |kind, message: &str, remedy: &str| {
        Error::new(kind, "decompress the image", format!("the {format} stream {message}")).with_remedy(remedy)
    };
    match fault {
        Fault::Corrupt(cause) => error(ErrorKind::InvalidImage, "is corrupt", FETCH).with_source(cause),
        Fault::Memory { asks, remedy } => error(ErrorKind::LimitExceeded, &format!("asks for {asks}"), remedy),
        Fault::Unsupported { uses, remedy } => error(ErrorKind::Unsupported, &format!("uses {uses}"), remedy),
        Fault::Start(cause) => {
            error(ErrorKind::Io, "cannot be decoded: its decoder has no memory", "free some memory").with_source(cause)
        }
    }
}

/// The error of ours inside an [`io::Error`] that came out of a [`Source`] or a [`Stream`].
pub(super) fn unwrap(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("read the image", "its source failed", error))
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.decode(buffer).map_err(io::Error::other)
    }
}
