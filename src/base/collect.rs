//! Removing bases that no one needs.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::Bases;
use crate::base_name::BaseName;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::rebuild::remove;
use crate::record::ImageRecord;

/// Which bases go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectPolicy {
    /// Those that were not used for so long.
    pub unused_for: Duration,
    /// Whether a base stays because volumes that were cloned from it are still there.
    pub references: References,
}

/// What becomes of a base that volumes were cloned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum References {
    /// It stays as long as one of them is there: what they share with it is stored once.
    #[default]
    Keep,
    /// It goes, unless a volume would break. Where the volumes are independent, as on btrfs, what they share stays with them.
    Ignore,
}

impl CollectPolicy {
    /// Those that were not used for so long and that no volume shares.
    pub fn unused_for(time: Duration) -> Self {
        CollectPolicy { unused_for: time, references: References::default() }
    }

    /// Sets [`CollectPolicy::references`].
    #[must_use]
    pub fn with_references(mut self, references: References) -> Self {
        self.references = references;
        self
    }
}

/// What a collection did.
#[derive(Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Collected {
    /// Bases that are gone, and unfinished ones of which what was left is gone.
    pub removed: Vec<BaseName>,
    /// Those that stay.
    pub kept: Vec<KeptBase>,
}

/// A base that stays, and why.
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KeptBase {
    /// The base.
    pub name: BaseName,
    /// Why it stays.
    pub why: Kept,
}

/// Why a base stays.
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Kept {
    /// It was used lately.
    Recent,
    /// So many volumes and other roots share with it.
    Shared(usize),
    /// It is being made, cloned or verified, or someone is in it.
    Busy(Error),
    /// It could not be removed.
    Failed(Error),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kept::Recent => f.write_str("used lately"),
            Kept::Shared(1) => f.write_str("shared by one"),
            Kept::Shared(count) => write!(f, "shared by {count}"),
            Kept::Busy(error) => write!(f, "in use: {error}"),
            Kept::Failed(error) => write!(f, "could not be removed: {error}"),
        }
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} removed, {} kept", self.removed.len(), self.kept.len())?;
        self.removed.iter().try_for_each(|name| write!(f, "\n{name}: removed"))?;
        self.kept.iter().try_for_each(|kept| write!(f, "\n{}: kept, {}", kept.name, kept.why))
    }
}

impl Bases {
    /// Removes the bases that `policy` names, and what is left of unfinished ones. One that cannot go stays and is told of.
    ///
    /// A base that is held, by a rebuild in any process, is never removed, nor one that a volume depends on.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`]; what prevents a list of the bases. Those that were removed until then are gone.
    pub fn collect(&self, policy: &CollectPolicy, cancel: &CancelToken) -> Result<Collected> {
        let names = self.pool.names().map_err(|error| self.add_pool(error))?;
        let mut collected = Collected::default();
        for name in names {
            cancel.check("collect bases").map_err(|error| self.add_pool(error))?;
            let no_wait = Wait::new(Duration::ZERO, cancel.clone());
            let why = match self.take_away(&name, Some(policy), &no_wait) {
                Ok(None) => {
                    collected.removed.push(name);
                    continue;
                }
                Ok(Some(why)) => why,
                Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::Locked) => Kept::Busy(error),
                Err(error) => Kept::Failed(error),
            };
            collected.kept.push(KeptBase { name, why });
        }
        Ok(collected)
    }

    /// Removes a base, or what is left of an unfinished one, whenever it was last used. `false` if there was none.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] and [`ErrorKind::Busy`] if someone holds it when `wait` has ended, and [`ErrorKind::HasDependents`] if a volume depends
    /// on it: it stays. What fails in the midst of the removal leaves a base that is whole or none.
    pub fn remove(&self, name: &BaseName, wait: &Wait) -> Result<bool> {
        let remove = || match self.pool.names()?.contains(name) {
            true => self.take_away(name, None, wait).map(|_| true),
            false => Ok(false),
        };
        remove().map_err(|error| self.add_pool(error.with_context("base", name)))
    }

    /// Why `policy` has a complete base stay. Who shares with it is asked last: that costs a look at all of them.
    fn keeps(&self, name: &BaseName, record: Option<&ImageRecord>, policy: &CollectPolicy) -> Result<Option<Kept>> {
        let used = self.last_used(name, record)?;
        let age = used.map_or(Duration::MAX, |used| SystemTime::now().duration_since(used).unwrap_or(Duration::ZERO));
        if age < policy.unused_for {
            return Ok(Some(Kept::Recent));
        }
        if policy.references == References::Ignore {
            return Ok(None);
        }
        let shared = self.pool.clones(name)?.len();
        Ok((shared > 0).then_some(Kept::Shared(shared)))
    }

    /// Removes a base, unless `policy` has it stay.
    fn take_away(&self, name: &BaseName, policy: Option<&CollectPolicy>, wait: &Wait) -> Result<Option<Kept>> {
        let mut volume = self.pool.volume(name)?;
        let _lock = volume.lock(wait)?;
        if let Some(policy) = policy
            && volume.names()?.live
            && let Some(why) = self.keeps(name, volume.record().unwrap_or(None).as_ref(), policy)?
        {
            return Ok(Some(why));
        }
        remove(&mut *volume, wait)?;
        self.pool.forget(name)?;
        Ok(None)
    }
}
