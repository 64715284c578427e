//! The metadata half of an LXD image in two files.

use std::fs::File;
use std::io::{Cursor, Read};
use std::time::Duration;

use super::decode::Decoding;
use super::source::{Input, Source};
use super::stream::Stream;
use crate::digest::Hasher;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::CancelToken;
use crate::size::ByteSize;
use crate::unpack::{Limits, holds_file};

/// The largest metadata file that is read: real ones are a few KiB.
const LARGEST: ByteSize = ByteSize::mib(16);

/// What the metadata may unpack to.
const LIMITS: (u64, ByteSize) = (100_000, ByteSize::mib(256));

/// Reads a metadata tarball, checks that it holds `metadata.yaml`, and returns the digest that the root's file is to be added to.
pub(super) fn read_metadata(file: &File) -> Result<Hasher> {
    let mut bytes = Vec::new();
    file.take(LARGEST.bytes() + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read the metadata of the image", "it cannot be read", error))?;
    if bytes.len() as u64 > LARGEST.bytes() {
        return Err(Error::new(ErrorKind::LimitExceeded, "read the metadata of the image", "it is no metadata: it is too large")
            .with_context("limit", LARGEST)
            .with_remedy("name the metadata first, then the root"));
    }
    let mut hasher = Hasher::new();
    hasher.update(&bytes);
    let input = Input::Reader(Box::new(Cursor::new(bytes)));
    let mut stream = Stream::new(Source::new(input, CancelToken::new(), Duration::ZERO), Decoding::default())?;
    let limits = Limits::default().with_entries(LIMITS.0).with_bytes(LIMITS.1);
    if !holds_file(&mut stream, limits, b"metadata.yaml")? {
        return Err(Error::new(ErrorKind::InvalidImage, "read the metadata of the image", "it holds no metadata.yaml")
            .with_remedy("name the metadata first, then the root"));
    }
    stream.finish()?;
    Ok(hasher)
}
