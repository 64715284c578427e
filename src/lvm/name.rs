//! The names of volume groups and logical volumes.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::volume::Slot;

const STAGED: &str = ".reroot-staged";
const RETIRED: &str = ".reroot-retired";
/// Device-mapper takes names of 127 bytes: that of the group and that of the volume with a hyphen between, and every hyphen in them twice.
const LONGEST_DEVICE: usize = 127;
/// What LVM keeps for itself in names, see lvm(8).
const RESERVED_PREFIXES: [&str; 2] = ["snapshot", "pvmove"];
const RESERVED_PARTS: [&str; 15] = [
    "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_imeta", "_iorig", "_mimage", "_mlog", "_pmspare", "_rimage", "_rmeta",
    "_tdata", "_tmeta", "_vdata",
];
const RESERVED_ENDS: [&str; 2] = ["_vorigin", "_wcorig"];

/// The name of a logical volume in its group: `vg0/c1`.
///
/// Letters, digits and `+_.-` in both, neither beginning with a hyphen; nothing that lvm(8) reserves, and no ending that is reserved for what lies
/// beside a volume. Together they are as long as device-mapper allows, some 90 characters for the volume's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogicalVolumeName {
    group: String,
    name: String,
}

impl LogicalVolumeName {
    /// The volume group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The name in it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of a root of the volume of this name.
    pub(super) fn slot(&self, slot: Slot) -> String {
        format!("{}{}", self.name, suffix(slot))
    }
}

impl fmt::Display for LogicalVolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.name)
    }
}

impl FromStr for LogicalVolumeName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: String| {
            Error::new(ErrorKind::InvalidInput, "name a logical volume", why).with_remedy("write it as GROUP/VOLUME: vg0/c1")
        };
        let Some((group, name)) = text.split_once('/') else {
            return Err(invalid(format!("{text:?} does not say which group it is in")));
        };
        check(group).and_then(|()| check(name)).map_err(invalid)?;
        if let Some(prefix) = RESERVED_PREFIXES.iter().find(|prefix| name.starts_with(*prefix)) {
            return Err(invalid(format!("LVM reserves names that begin with {prefix}")));
        }
        let reserved = RESERVED_PARTS.iter().find(|part| name.contains(*part));
        if let Some(part) = reserved.or_else(|| RESERVED_ENDS.iter().find(|end| name.ends_with(*end))) {
            return Err(invalid(format!("LVM reserves names with {part}")));
        }
        if let Some(suffix) = [STAGED, RETIRED].iter().find(|suffix| name.ends_with(*suffix)) {
            return Err(invalid(format!("names that end in {suffix} are reserved")));
        }
        let device = device(group, &format!("{name}{RETIRED}"));
        if device.len() > LONGEST_DEVICE {
            let over = device.len() - LONGEST_DEVICE;
            return Err(invalid(format!("{text} is {over} characters too long for a device with {RETIRED} added")));
        }
        Ok(LogicalVolumeName { group: group.to_owned(), name: name.to_owned() })
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

/// What device-mapper calls a logical volume.
pub(super) fn device(group: &str, name: &str) -> String {
    format!("{}-{}", group.replace('-', "--"), name.replace('-', "--"))
}

/// What it calls the device of a thin pool that the volumes in it share.
pub(super) fn pool_device(group: &str, pool: &str) -> String {
    format!("{}-tpool", device(group, pool))
}

/// Whether a group or a volume can have this name.
pub(super) fn check(name: &str) -> Result<(), String> {
    if matches!(name, "" | "." | "..") || name.starts_with('-') {
        return Err(format!("{name:?} is no name that LVM takes"));
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !"+_.-".contains(*c)) {
        Some(other) => Err(format!("{name:?} holds {other:?}, which LVM does not take in names")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_lvm_takes() {
        let name: LogicalVolumeName = "vg-0/containers_c--1.x+y".parse().unwrap();
        assert_eq!((name.group(), name.name()), ("vg-0", "containers_c--1.x+y"));
        assert_eq!(name.slot(Slot::Staged), "containers_c--1.x+y.reroot-staged");
        assert_eq!(device(name.group(), name.name()), "vg--0-containers_c----1.x+y");
        assert_eq!(pool_device("vg-0", "a-b"), "vg--0-a--b-tpool");
        let long = format!("vg/{}", "x".repeat(120));
        let hyphens = format!("vg/x{}", "-".repeat(60));
        for bad in [
            "",
            "vg",
            "/c1",
            "vg/",
            "vg/c1/x",
            "vg/.",
            "vg/..",
            "-v/c1",
            "vg/-c1",
            "vg/a b",
            "vg/a\nb",
            "vg/ü",
            "vg/a'b",
            "vg/snapshot1",
            "vg/pvmove0",
            "vg/a_tdata",
            "vg/a_rimage_0",
            "vg/a_pmspare",
            "vg/c1.reroot-staged",
            "vg/c1.reroot-retired",
            &long,
            &hyphens,
        ] {
            assert!(bad.parse::<LogicalVolumeName>().is_err(), "{bad:?}");
        }
    }
}
