//! Images of a namespace of the lab's cluster.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use reroot::conformance::manifest::Manifest;

use super::common::Folder;
use super::common::cluster::{Space, Visited};
use super::common::pools::is_left_among_images;
use super::place::{Place, read};
use super::stand::SNAPSHOT;

/// A namespace with the volume, and beside it the bases.
pub(crate) struct Images {
    // Dropped in this order: what is mounted in the folder is gone before.
    space: Space,
    folder: Folder,
}

impl Images {
    pub(crate) fn new() -> Result<Self, String> {
        Ok(Images { space: Space::new()?, folder: Folder::new(&std::env::temp_dir()).map_err(|error| error.to_string())? })
    }
}

impl Place for Images {
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn volume(&self) -> PathBuf {
        self.space.full("c1").into()
    }

    fn root_of(&self, volume: &Path) -> Result<Option<Manifest>, String> {
        Visited::new(&volume.to_string_lossy(), self.folder())?.map(|visited| read(visited.path())).transpose()
    }

    fn names(&self) -> Result<Vec<String>, String> {
        let mut names = self.space.images()?;
        names.retain(|name| name.starts_with("c1"));
        let snapshots = self.space.facts("c1")?.map(|facts| facts.snapshots).unwrap_or_default();
        names.extend(snapshots.into_iter().map(|name| format!("c1@{name}")));
        // What is mapped, locked, announced or in the trash is seen too.
        // Bases are another question; one may be held by many, and the hold of one that was killed goes with the next one's.
        names.extend(self.space.beside()?.into_iter().filter(|left| !left.contains("reroot-base-")));
        names.sort();
        Ok(names)
    }

    fn snapshot(&self) -> Result<(), String> {
        self.space.snapshot("c1", SNAPSHOT)
    }

    fn left_of_bases(&self) -> Result<Vec<String>, String> {
        let mut list = self.space.images()?;
        list.retain(|name| is_left_among_images(name, &BTreeSet::from(["c1".into()])));
        let is_of_base = |left: &String| left.contains("reroot-base-") && !left.starts_with("the lock of ");
        list.extend(self.space.beside()?.into_iter().filter(is_of_base));
        Ok(list)
    }
}
