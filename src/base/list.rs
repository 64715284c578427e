//! Which bases there are.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::Bases;
use crate::base_name::BaseName;
use crate::error::{Error, Result};
use crate::record::{ImageRecord, Origin};

/// A base, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BaseInfo {
    /// Its name.
    pub name: BaseName,
    /// Whether it is complete.
    pub state: BaseState,
    /// What it was made from, and what it holds.
    pub record: Option<ImageRecord>,
    /// When it was last used, to a minute; when it was made, if it never was.
    #[cfg_attr(feature = "serde", serde(serialize_with = "unix_time"))]
    pub used: Option<SystemTime>,
    /// Volumes and other roots that were cloned from it and still share with it, where the backend can tell.
    pub clones: Vec<String>,
    /// Why it could not be looked at, and what to do.
    pub error: Option<String>,
}

/// Whether a base is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum BaseState {
    /// It is.
    Complete,
    /// It is being made, or a kill left it: the next [`ensure`](Bases::ensure) makes it, and [`collect`](Bases::collect) removes what is left.
    Unfinished,
    /// It could not be looked at, or what has its name is no base: [`BaseInfo::error`] says why.
    Unreadable,
}

impl fmt::Display for BaseInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        match (self.state, &self.error) {
            (BaseState::Unfinished, _) => return f.write_str("\n  unfinished"),
            (BaseState::Unreadable, Some(error)) => return write!(f, "\n  {error}"),
            _ => {}
        }
        if let Some(record) = &self.record {
            write!(f, "\n  of {}", record.origin)?;
            if let Some(contents) = &record.contents {
                write!(f, ": {} entries, {}", contents.entries, contents.bytes)?;
            }
        }
        if let Some(used) = self.used {
            let ago = used.elapsed().unwrap_or(Duration::ZERO);
            write!(f, "\n  last used {} ago", Ago(ago))?;
        }
        if !self.clones.is_empty() {
            write!(f, "\n  shared by {}", self.clones.len())?;
        }
        Ok(())
    }
}

/// A time past, in the largest unit of which it is two or more.
struct Ago(Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..120 => write!(f, "{seconds} s"),
            120..7200 => write!(f, "{} min", seconds / 60),
            7200..172_800 => write!(f, "{} h", seconds / 3600),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

impl Bases {
    /// All bases of the pool, by name, also what is left of unfinished ones, and what cannot be looked at.
    ///
    /// # Errors
    /// What prevents the look at the pool. A record that cannot be read is left out.
    pub fn list(&self) -> Result<Vec<BaseInfo>> {
        let names = self.pool.names().map_err(|error| self.add_pool(error))?;
        Ok(names.into_iter().map(|name| self.info(&name).unwrap_or_else(|error| unreadable(name, &error))).collect())
    }

    /// When a base was last used; when it was made, if it never was.
    pub(super) fn last_used(&self, name: &BaseName, record: Option<&ImageRecord>) -> Result<Option<SystemTime>> {
        Ok(self.pool.used(name)?.or(record.map(|record| record.time)))
    }

    fn info(&self, name: &BaseName) -> Result<BaseInfo> {
        let volume = self.pool.volume(name)?;
        let complete = volume.names()?.live;
        let record = if complete { volume.record().unwrap_or(None) } else { None };
        let used = self.last_used(name, record.as_ref())?;
        let clones = if complete { self.pool.clones(name)? } else { Vec::new() };
        let state = if complete { BaseState::Complete } else { BaseState::Unfinished };
        Ok(BaseInfo { name: name.clone(), state, record, used, clones, error: None })
    }
}

fn unreadable(name: BaseName, error: &Error) -> BaseInfo {
    let remedy = error.remedy().map(|remedy| format!(": {remedy}")).unwrap_or_default();
    let error = Some(format!("{error}{remedy}"));
    BaseInfo { name, state: BaseState::Unreadable, record: None, used: None, clones: Vec::new(), error }
}

/// The record of a base that has none: its name says what it was made from.
pub(super) fn unrecorded(name: &BaseName) -> ImageRecord {
    ImageRecord::new(Origin::Stream("an image that is not recorded".into())).with_digest(name.image())
}

#[cfg(feature = "serde")]
fn unix_time<S: serde::Serializer>(time: &Option<SystemTime>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let seconds = time.map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs());
    serde::Serialize::serialize(&seconds, serializer)
}
