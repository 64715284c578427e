//! An image unpacked into a directory, without a volume.

use std::os::fd::AsFd;
use std::time::Duration;

use super::{Image, Position, Reading};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::CancelToken;
use crate::unpack::{Hooks, UnpackOptions, Unpacked};

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
        let reading = Reading { cancel, patience, position: Position::default() };
        let (unpacked, digest) = self.fill(root.as_fd(), options, hooks, &reading)?;
        match digest {
            Some(digest) => Ok((unpacked, digest)),
            None => Err(Error::new(ErrorKind::InvalidInput, "unpack", "the empty image has nothing to unpack")),
        }
    }
}
