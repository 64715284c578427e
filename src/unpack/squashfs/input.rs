//! The file that holds a squashfs image, read at any place and by any thread.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::truncated;
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug, Clone)]
pub(super) struct Input {
    file: Arc<File>,
    size: u64,
}

impl Input {
    /// A handle of our own on `file`, whose position is never used.
    pub(super) fn new(file: &File) -> Result<Self> {
        let failed = |error| Error::io("unpack", "cannot open the image again", error);
        let metadata = file.metadata().map_err(failed)?;
        // The size of a block device is not among its metadata; reading beyond its end fails as well.
        let size = if metadata.is_file() { metadata.len() } else { u64::MAX };
        Ok(Input { file: Arc::new(file.try_clone().map_err(failed)?), size })
    }

    /// The same, up to `size`.
    pub(super) fn up_to(self, size: u64) -> Result<Self> {
        if size > self.size {
            return Err(truncated().with_context("size", self.size).with_context("expected", size));
        }
        Ok(Input { size, ..self })
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(truncated().with_context("offset", offset));
        }
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => truncated().with_context("offset", offset),
            _ => Error::io("unpack", "cannot read the image", error).with_kind(ErrorKind::Io).with_context("offset", offset),
        })
    }

    pub(super) fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }
}
