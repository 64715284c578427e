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

    fn name() -> String {
        format!("{GROUP}/c1")
    }

    fn list() -> Result<Vec<String>, String> {
        let volumes = group::volumes(GROUP)?;
        Ok(volumes.iter().filter_map(|volume| volume.split('/').next_back()).map(str::to_owned).collect())
    }
}

impl Place for Volumes {
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn volume(&self) -> PathBuf {
        Self::name().into()
    }

    fn live(&self) -> Result<Option<Manifest>, String> {
        Visited::new(&Self::name(), self.folder())?.map(|visited| read(visited.path())).transpose()
    }

    fn names(&self) -> Result<Vec<String>, String> {
        let volumes = Self::list()?;
        let snapshot = format!("c1-{SNAPSHOT}");
        let spell = |name: &String| if *name == snapshot { format!("c1@{SNAPSHOT}") } else { name.clone() };
        let mut names: Vec<_> = volumes.iter().filter(|name| name.starts_with("c1")).map(spell).collect();
        // What is neither a volume nor anything else that has a right to be there is seen too.
        let all: Vec<_> = group::volumes(GROUP)?;
        names.extend(group::stray_devices(GROUP, &all));
        names.sort();
        Ok(names)
    }

    fn snapshot(&self) -> Result<(), String> {
        let options = "--yes --snapshot --permission r --setactivationskip y";
        group::lvm(&format!("lvcreate {options} --name c1-{SNAPSHOT} {}", Self::name())).map(drop)
    }

    fn snapshots_outlive(&self) -> bool {
        true
    }

    fn left_of_bases(&self) -> Result<Vec<String>, String> {
        let mut list = Self::list()?;
        list.retain(|name| is_left_in_group(name, &BTreeSet::from(["c1".into()])));
        Ok(list)
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
