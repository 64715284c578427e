//! The compressors of squashfs, and blocks decoded by them.

use flate2::{Decompress, FlushDecompress, Status};

use super::{corrupt, invalid, lzo};
use crate::error::{Error, ErrorKind, Result};

/// What an xz decoder may take of memory, in bytes. The dictionary is no larger than a block, but in an image that wants to be a bomb.
#[cfg(feature = "xz")]
const XZ_MEMORY: u64 = 8 << 20;

/// How an image's blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compressor {
    Gzip,
    Lzo,
    #[cfg(feature = "xz")]
    Xz,
    #[cfg(feature = "lz4")]
    Lz4,
    Zstd,
}

impl Compressor {
    /// The compressor of the superblock's number.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for lzma, which mksquashfs wrote before xz, and what is not built in.
    pub(super) fn new(id: u16) -> Result<Self> {
        let unsupported = |message: &str| Error::new(ErrorKind::Unsupported, "unpack", message);
        match id {
            1 => Ok(Compressor::Gzip),
            2 => Err(unsupported("this squashfs image is compressed by lzma, which cannot be read")
                .with_remedy("make the image again with another compressor")),
            3 => Ok(Compressor::Lzo),
            #[cfg(feature = "xz")]
            4 => Ok(Compressor::Xz),
            #[cfg(not(feature = "xz"))]
            4 => Err(unsupported("this squashfs image is compressed by xz, which is not built in")
                .with_remedy("build with the feature xz, or make the image again with another compressor")),
            #[cfg(feature = "lz4")]
            5 => Ok(Compressor::Lz4),
            #[cfg(not(feature = "lz4"))]
            5 => Err(unsupported("this squashfs image is compressed by lz4, which is not built in")
                .with_remedy("build with the feature lz4, or make the image again with another compressor")),
            6 => Ok(Compressor::Zstd),
            _ => Err(invalid("its compressor is unknown")),
        }
    }

    pub(super) fn decoder(self) -> Result<Decoder> {
        Ok(match self {
            Compressor::Gzip => Decoder::Gzip(Decompress::new(true)),
            Compressor::Lzo => Decoder::Lzo,
            #[cfg(feature = "xz")]
            Compressor::Xz => Decoder::Xz,
            #[cfg(feature = "lz4")]
            Compressor::Lz4 => Decoder::Lz4,
            Compressor::Zstd => Decoder::Zstd(
                zstd::bulk::Decompressor::new().map_err(|error| Error::io("unpack", "cannot start the zstd decoder", error))?,
            ),
        })
    }
}

/// Decodes blocks, one after the other, in one thread.
pub(super) enum Decoder {
    Gzip(Decompress),
    Lzo,
    #[cfg(feature = "xz")]
    Xz,
    #[cfg(feature = "lz4")]
    Lz4,
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Decoder {
    /// Decodes the block `input` into `output`, whose content it replaces.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidImage`] if it is corrupt, cut off, or larger than `most` bytes.
    pub(super) fn decode(&mut self, input: &[u8], output: &mut Vec<u8>, most: usize) -> Result<()> {
        output.clear();
        // One more, to see what is larger.
        output.reserve(most + 1);
        match self {
            Decoder::Gzip(decoder) => {
                decoder.reset(true);
                match decoder.decompress_vec(input, output, FlushDecompress::Finish) {
                    Ok(Status::StreamEnd) => {}
                    Ok(_) => return Err(corrupt()),
                    Err(error) => return Err(corrupt().with_source(error)),
                }
            }
            Decoder::Lzo => lzo::decode(input, output, most).ok_or_else(corrupt)?,
            #[cfg(feature = "xz")]
            Decoder::Xz => {
                use liblzma::stream::{Action, Status, Stream};
                // It cannot be reset; next to what decoding takes, a new one is cheap.
                let mut decoder = Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(|error| corrupt().with_source(error))?;
                match decoder.process_vec(input, output, Action::Finish) {
                    Ok(Status::StreamEnd) => {}
                    Ok(_) => return Err(corrupt()),
                    Err(error) => return Err(corrupt().with_source(error)),
                }
            }
            #[cfg(feature = "lz4")]
            Decoder::Lz4 => {
                output.resize(most, 0);
                let length = lz4_flex::block::decompress_into(input, output).map_err(|error| corrupt().with_source(error))?;
                output.truncate(length);
            }
            Decoder::Zstd(decoder) => {
                decoder.decompress_to_buffer(input, output).map_err(|error| corrupt().with_source(error))?;
            }
        }
        if output.len() > most {
            return Err(corrupt());
        }
        Ok(())
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}
