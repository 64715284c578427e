//! An image unpacked into a directory, without a volume.

use std::os::fd::AsFd;
use std::time::Duration;

use super::Image;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::CancelToken;
use crate::unpack::{Hooks, UnpackOptions, Unpacked, unpack};

impl Image {
    /// Unpacks the image into the directory `root`, open for reading, and digests it in the same pass: what a rebuild does between staging
    /// and sealing. Of the options' [`strip`](UnpackOptions::strip) and the image's own, the image's counts.
    ///
    /// `cancel` is heeded, and a source that stays silent for `patience` is an error, as in a rebuild.
    ///
    /// # Errors
    /// Those of [`unpack`](crate::unpack::unpack), those of reading and decompressing the image, and
    /// [`DigestMismatch`](ErrorKind::DigestMismatch). What was unpacked until then stays: remove it.
    pub fn unpack(
        &mut self,
        root: impl AsFd,
        options: &UnpackOptions,
        hooks: &mut dyn Hooks,
        cancel: &CancelToken,
        patience: Duration,
    ) -> Result<(Unpacked, Sha256)> {
        if self.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "unpack", "the empty image has nothing to unpack"));
        }
        let mut stream = self.start(cancel, patience)?;
        let stripped = self.strip().map(|strip| options.clone().with_strip(strip.clone()));
        let unpacked = unpack(&mut stream, root.as_fd(), stripped.as_ref().unwrap_or(options), hooks)?;
        Ok((unpacked, self.finish(stream)?))
    }
}
