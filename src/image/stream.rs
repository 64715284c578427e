//! A tar stream out of whatever an image is.

use std::fmt;
use std::io::{self, Read};

use super::format::{Format, PEEK};
use super::source::{Input, Position, Source};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};

/// The largest window a zstd frame may ask for, as a power of two: 32 MiB, what `zstd -19` and `zstd -20` use at most.
///
/// It bounds the decoder's memory; `zstd -22` and `--long` may ask for 128 MiB, which the whole library must stay below.
#[cfg(feature = "zstd")]
const ZSTD_WINDOW_LOG: u32 = 25;

enum Decoder {
    Plain(Source),
    #[cfg(feature = "gzip")]
    Gzip(Box<flate2::bufread::MultiGzDecoder<Source>>),
    #[cfg(feature = "zstd")]
    Zstd(Box<zstd::Decoder<'static, Source>>),
}

/// The decompressed bytes of an image. Every error it returns is a [`crate::Error`] inside an [`io::Error`].
pub(crate) struct Stream {
    decoder: Decoder,
    format: Format,
    position: Position,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("format", &self.format).field("position", &self.position).finish_non_exhaustive()
    }
}

impl Stream {
    /// Reads the first bytes of `source` and chooses the decoder.
    pub(super) fn new(mut source: Source) -> Result<Self> {
        let format = Format::detect(source.peek(PEEK).map_err(unwrap)?)?;
        let position = source.position();
        let decoder = match format {
            Format::Tar => Decoder::Plain(source),
            #[cfg(feature = "gzip")]
            Format::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            #[cfg(feature = "zstd")]
            Format::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(source).map_err(unwrap)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(unwrap)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(Stream { decoder, format, position })
    }

    /// How many compressed bytes have been taken so far.
    pub(crate) fn position(&self) -> Position {
        self.position.clone()
    }

    /// Reads the rest, so that checksums at the end are checked too, and returns the digest of the compressed bytes with the way to
    /// read them again.
    pub(super) fn finish(mut self) -> Result<(Sha256, Input)> {
        let mut rest = vec![0; 64 << 10];
        while self.read(&mut rest).map_err(unwrap)? != 0 {}
        #[cfg_attr(not(any(feature = "gzip", feature = "zstd")), expect(clippy::infallible_destructuring_match))]
        let source = match self.decoder {
            Decoder::Plain(source) => source,
            #[cfg(feature = "gzip")]
            Decoder::Gzip(decoder) => decoder.into_inner(),
            #[cfg(feature = "zstd")]
            Decoder::Zstd(decoder) => decoder.finish(),
        };
        source.finish().map_err(unwrap)
    }

    fn explain(&self, error: io::Error) -> Error {
        let error = match error.downcast::<Error>() {
            Ok(ours) => return ours,
            Err(error) => error,
        };
        let (kind, message, remedy) = if error.kind() == io::ErrorKind::UnexpectedEof {
            (ErrorKind::InvalidImage, "stream is truncated", "fetch the image again")
        } else if error.to_string().contains("too much memory") {
            let remedy = "compress the image again with `zstd -19`, without --ultra and --long";
            (ErrorKind::LimitExceeded, "stream asks for a window of more than 32 MiB", remedy)
        } else {
            (ErrorKind::InvalidImage, "stream is corrupt", "fetch the image again")
        };
        Error::new(kind, "decompress the image", format!("the {} {message}", self.format))
            .with_context("offset", self.position.bytes())
            .with_remedy(remedy)
            .with_source(error)
    }
}

/// The error of ours inside an [`io::Error`] that came out of a [`Source`] or a [`Stream`].
fn unwrap(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("read the image", "its source failed", error))
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.decoder {
            Decoder::Plain(source) => source.read(buffer),
            #[cfg(feature = "gzip")]
            Decoder::Gzip(decoder) => decoder.read(buffer),
            #[cfg(feature = "zstd")]
            Decoder::Zstd(decoder) => decoder.read(buffer),
        };
        result.map_err(|error| io::Error::other(self.explain(error)))
    }
}
