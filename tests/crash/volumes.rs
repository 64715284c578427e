//! Logical volumes of the lab's group, which is all the stand's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use reroot::conformance::manifest::Manifest;

use super::common::Folder;
use super::common::group::{self, GROUP, POOL, Visited};
use super::common::pools::{Turn, is_left_in_group, whole_group};
use super::place::{Place, read};
use super::stand::SNAPSHOT;

pub(crate) struct Volumes {
    folder: Folder,
    _turn: Turn,
}

impl Volumes {
    pub(crate) fn new() -> Result<Self, String> {
        group::group()?;
        let folder = Folder::new(&std::env::temp_dir()).map_err(|error| error.to_string())?;
        Ok(Volumes { folder, _turn: whole_group() })
    }
}

/// The names of all that is in a group.
fn list(group: &str) -> Result<Vec<String>, String> {
    let volumes = group::volumes(group)?;
    Ok(volumes.iter().filter_map(|volume| volume.split('/').next_back()).map(str::to_owned).collect())
}

/// The root of a volume, `GROUP/NAME`, if there is one.
pub(crate) fn root_of(volume: &Path, folder: &Path) -> Result<Option<Manifest>, String> {
    Visited::new(&volume.to_string_lossy(), folder)?.map(|visited| read(visited.path())).transpose()
}

/// The volume and its snapshots; and what is neither a volume nor anything else that has a right to be there.
pub(crate) fn names(group: &str) -> Result<Vec<String>, String> {
    let snapshot = format!("c1-{SNAPSHOT}");
    let spell = |name: &String| if *name == snapshot { format!("c1@{SNAPSHOT}") } else { name.clone() };
    let mut names: Vec<_> = list(group)?.iter().filter(|name| name.starts_with("c1")).map(spell).collect();
    names.extend(group::stray_devices(group, &group::volumes(group)?));
    names.sort();
    Ok(names)
}

pub(crate) fn snapshot(group: &str) -> Result<(), String> {
    let options = "--yes --snapshot --permission r --setactivationskip y";
    group::lvm(&format!("lvcreate {options} --name c1-{SNAPSHOT} {group}/c1")).map(drop)
}

pub(crate) fn left_of_bases(group: &str) -> Result<Vec<String>, String> {
    let mut list = list(group)?;
    list.retain(|name| is_left_in_group(name, &BTreeSet::from(["c1".into()])));
    Ok(list)
}

impl Place for Volumes {
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn volume(&self) -> PathBuf {
        format!("{GROUP}/c1").into()
    }

    fn root_of(&self, volume: &Path) -> Result<Option<Manifest>, String> {
        root_of(volume, self.folder())
    }

    fn names(&self) -> Result<Vec<String>, String> {
        names(GROUP)
    }

    fn snapshot(&self) -> Result<(), String> {
        snapshot(GROUP)
    }

    fn snapshots_outlive(&self) -> bool {
        true
    }

    fn left_of_bases(&self) -> Result<Vec<String>, String> {
        left_of_bases(GROUP)
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        let mut volumes = group::volumes(GROUP).unwrap_or_default();
        volumes.retain(|volume| ![POOL, "confined"].iter().any(|pool| volume.ends_with(&format!("/{pool}"))));
        if let Err(why) = group::remove(&volumes) {
            eprintln!("cannot remove what the stand had: {why}");
        }
    }
}
