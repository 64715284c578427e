//! The names of datasets.

use std::ffi::CString;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::volume::Slot;

const STAGED: &str = ".reroot-staged";
const RETIRED: &str = ".reroot-retired";
/// The snapshot that keeps the old root while a new one is made within its dataset.
pub(super) const SAFETY: &str = "reroot-staged";
/// ZFS takes 255 characters, of which the names beside a volume's and those of snapshots need some.
const LONGEST: usize = 200;

/// The name of a dataset below a pool: `tank/containers/c1`.
///
/// Components of letters, digits, spaces and `-_.:`, as zfs(8) has them; no component is `.` or `..`. It is at most 200 characters long, and does not end in
/// a name that is reserved for what lies beside a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetName(String);

impl DatasetName {
    /// The pool it is in.
    pub fn pool(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The dataset that it lies in.
    pub(super) fn parent(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    /// The dataset of this name in another one.
    pub(super) fn within(parent: &str, name: &str) -> Result<Self> {
        format!("{parent}/{name}").parse()
    }

    /// The name of a root of the volume of this name.
    pub(super) fn slot(&self, slot: Slot) -> String {
        format!("{}{}", self.0, suffix(slot))
    }

    /// The snapshot that keeps the old root while a new one is made within it.
    pub(super) fn safety(&self) -> String {
        format!("{}@{SAFETY}", self.0)
    }
}

impl FromStr for DatasetName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: String| {
            Error::new(ErrorKind::InvalidInput, "name a dataset", why).with_remedy("write it like tank/containers/c1")
        };
        check(text).map_err(invalid)?;
        if !text.contains('/') {
            return Err(invalid(format!("{text} is a pool, and a pool's own dataset cannot be renamed")));
        }
        if let Some(suffix) = [STAGED, RETIRED].iter().find(|suffix| text.ends_with(*suffix)) {
            return Err(invalid(format!("names that end in {suffix} are reserved")));
        }
        Ok(DatasetName(text.to_owned()))
    }
}

/// What is added to a volume's name to get that of one of its roots.
pub(super) fn suffix(slot: Slot) -> &'static str {
    match slot {
        Slot::Live => "",
        Slot::Staged => STAGED,
        Slot::Retired => RETIRED,
    }
}

/// Whether this can be the name of a dataset, be it that of a pool.
pub(super) fn check(text: &str) -> Result<(), String> {
    if text.len() > LONGEST {
        return Err(format!("it is {} characters long; {LONGEST} are the most", text.len()));
    }
    for component in text.split('/') {
        if matches!(component, "" | "." | "..") {
            return Err(format!("{text:?} has a component that is no name"));
        }
        if let Some(other) = component.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_.: ".contains(*c)) {
            return Err(format!("{text:?} holds {other:?}, which the name of a dataset cannot"));
        }
    }
    if !text.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return Err(format!("{text:?} does not begin with a letter, as pools do"));
    }
    Ok(())
}

/// A text without NUL bytes, as all names of datasets are.
pub(super) fn c_text(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).unwrap_or_default()
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_datasets_below_a_pool() {
        let name: DatasetName = "tank/a b/c1.x:y_z-1".parse().unwrap();
        assert_eq!((name.pool(), name.parent()), ("tank", "tank/a b"));
        assert_eq!(name.slot(Slot::Staged), "tank/a b/c1.x:y_z-1.reroot-staged");
        assert_eq!(name.safety(), "tank/a b/c1.x:y_z-1@reroot-staged");
        let long = format!("tank/{}", "x".repeat(LONGEST));
        for bad in [
            "",
            "tank",
            "/tank/x",
            "tank/",
            "tank//x",
            "tank/../x",
            "tank/.",
            "tank/x@y",
            "tank/x#y",
            "tank/ü",
            "tank/a\nb",
            "1/x",
            "-t/x",
            &long,
        ] {
            assert!(bad.parse::<DatasetName>().is_err(), "{bad:?}");
        }
        assert!("tank/c1.reroot-staged".parse::<DatasetName>().is_err());
    }
}
