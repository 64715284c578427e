//! Decoders, one a format: compressed bytes in, bytes out, a buffer at a time.

use std::error::Error as StdError;

use super::format::Format;

#[cfg(feature = "bzip2")]
mod bzip2;
#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "xz")]
mod xz;
#[cfg(feature = "zstd")]
mod zstd;

/// Whether an image's decoder may use several threads.
///
/// Only xz can: it takes several blocks at a time, where the image has them (`xz -T0` makes them, as xz does by default from 5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Decoding {
    /// A thread a processor, within 128 MiB of memory in all. A block that needs more than its share is decoded alone.
    #[default]
    Parallel,
    /// One thread. An image made by `xz -8` or less takes at most 33 MiB of memory, one made by `xz -9` 65 MiB.
    Serial,
}

/// What turns one format's bytes into those of the tar stream. A stream consists of members: gzip's word for what others call frames or streams.
pub(super) trait Decode: Send {
    /// Decodes some of `input` to the start of `output`, which is not empty. An empty `input` is the end of the image.
    ///
    /// Without any [`Step`] forward, it needs more input.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Fault>;

    /// Prepares for the next member. Called after a member has ended, and only if there is more input.
    fn restart(&mut self) -> Result<(), Fault>;

    /// What NUL bytes after a member mean.
    fn padding(&self) -> Padding {
        Padding::AtEnd
    }
}

/// How far a decoder came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Step {
    /// Bytes of the input that it took.
    pub(super) taken: usize,
    /// Bytes of the output that it wrote.
    pub(super) written: usize,
    /// The member is whole: its checksum is right, and all of its bytes are written.
    pub(super) ended: bool,
}

/// What NUL bytes after a member mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    /// Nothing, up to the end of the image: tapes and block devices pad with them.
    AtEnd,
    /// Nothing, if their count is a multiple of four; another member may follow.
    #[cfg_attr(not(feature = "xz"), expect(dead_code, reason = "only xz has it"))]
    Quads,
}

/// Why a decoder cannot go on.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes are not what the format allows, or a checksum is wrong.
    Corrupt(Box<dyn StdError + Send + Sync>),
    /// The image asks for more memory than a decoder may take.
    #[cfg_attr(not(any(feature = "xz", feature = "zstd")), expect(dead_code, reason = "only these have windows of any size"))]
    Memory {
        /// What it asks for, as in "asks for ..."
        asks: &'static str,
        remedy: &'static str,
    },
    /// The format allows it, but its decoder does not know it.
    #[cfg_attr(not(any(feature = "xz", feature = "lz4")), expect(dead_code, reason = "only these have options"))]
    Unsupported { uses: &'static str, remedy: &'static str },
    /// The decoder could not be made.
    #[cfg_attr(not(any(feature = "xz", feature = "zstd")), expect(dead_code, reason = "others are made without a chance to fail"))]
    Start(Box<dyn StdError + Send + Sync>),
}

impl Fault {
    #[cfg_attr(not(any(feature = "bzip2", feature = "gzip", feature = "lz4", feature = "xz", feature = "zstd")), expect(dead_code))]
    fn corrupt(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Fault::Corrupt(error.into())
    }
}

/// The decoder for `format`; `None` if it is not compressed.
pub(super) fn decoder(format: Format, decoding: Decoding) -> Result<Option<Box<dyn Decode>>, Fault> {
    let _ = decoding;
    match format {
        Format::Tar => Ok(None),
        #[cfg(feature = "gzip")]
        Format::Gzip => Ok(Some(Box::new(gzip::Gzip::new()))),
        #[cfg(feature = "zstd")]
        Format::Zstd => Ok(Some(Box::new(zstd::Zstd::new()?))),
        #[cfg(feature = "xz")]
        Format::Xz => Ok(Some(Box::new(xz::Xz::new(decoding)?))),
        #[cfg(feature = "xz")]
        Format::Lzma => Ok(Some(Box::new(xz::Lzma::new()?))),
        #[cfg(feature = "bzip2")]
        Format::Bzip2 => Ok(Some(Box::new(bzip2::Bzip2::new()))),
        #[cfg(feature = "lz4")]
        Format::Lz4 => Ok(Some(Box::new(lz4::Lz4::new()))),
    }
}
