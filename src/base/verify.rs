//! Whether a base still holds what it was made with.

use std::fmt;
use std::time::Duration;

use super::Bases;
use crate::base_name::BaseName;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::unpack::{Hooks, Tally};

/// What a verification found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Verdict {
    /// It holds what it was made with.
    Intact,
    /// It was changed, or the disk lost something: remove it, and it is made again from its image.
    Changed,
    /// It does not say what it was made with.
    Unrecorded,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Intact => "intact",
            Verdict::Changed => "changed since it was made",
            Verdict::Unrecorded => "it is not recorded what it held",
        })
    }
}

/// Heeds the cancel token.
struct Heed<'a>(&'a CancelToken);

impl Hooks for Heed<'_> {
    fn entry(&mut self, _: &Tally) -> Result<()> {
        self.0.check("verify the base")
    }
}

impl Bases {
    /// Reads a base whole and compares it with what was recorded when it was made. Changes nothing; the base is held meanwhile.
    ///
    /// The root directory's own metadata is left out: every volume has its own.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such base; what reading it returns, [`ErrorKind::Io`] for data that the file system knows to be
    /// damaged; [`ErrorKind::Cancelled`].
    pub fn verify(&self, name: &BaseName, cancel: &CancelToken) -> Result<Verdict> {
        let verified = self.verify_base(name, cancel);
        verified.map_err(|error| self.add_pool(error.with_context("base", name)))
    }

    fn verify_base(&self, name: &BaseName, cancel: &CancelToken) -> Result<Verdict> {
        let hold = || self.pool.hold(name, &Wait::new(Duration::ZERO, cancel.clone()));
        let Some(base) = self.open_held(name, hold)? else {
            return Err(Error::new(ErrorKind::NotFound, "verify the base", "there is none of this name, or it is unfinished"));
        };
        if base.record().contents.is_none() {
            return Ok(Verdict::Unrecorded);
        }
        Ok(if base.root.is_unchanged(&mut Heed(cancel))? { Verdict::Intact } else { Verdict::Changed })
    }
}
