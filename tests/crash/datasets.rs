//! Datasets of the lab's pool.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use reroot::conformance::manifest::Manifest;

use super::common::Folder;
use super::common::lab::{Dataset, zfs};
use super::common::pools::{Visited, is_left};
use super::place::{Place, read};
use super::stand::SNAPSHOT;

/// A dataset with the pool in it, and beside the pool the bases.
pub(crate) struct Datasets {
    folder: Folder,
    dataset: Dataset,
}

impl Datasets {
    pub(crate) fn new() -> Result<Self, String> {
        let dataset = Dataset::new()?;
        zfs(&["create", &format!("{}/containers", dataset.0)])?;
        Ok(Datasets { folder: Folder::new(&std::env::temp_dir()).map_err(|error| error.to_string())?, dataset })
    }

    fn name(&self) -> String {
        format!("{}/containers/c1", self.dataset.0)
    }

    /// All that is in the dataset, by names within it.
    fn list(&self) -> Result<Vec<String>, String> {
        let list = zfs(&["list", "-H", "-r", "-o", "name", "-t", "filesystem,snapshot", &self.dataset.0])?;
        let within = |name: &str| Some(name.strip_prefix(&self.dataset.0)?.strip_prefix('/')?.to_owned());
        Ok(list.lines().filter_map(within).collect())
    }
}

impl Place for Datasets {
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn volume(&self) -> PathBuf {
        self.name().into()
    }

    fn live(&self) -> Result<Option<Manifest>, String> {
        match Visited::new(&self.name(), self.folder()) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(None),
            visited => read(visited.map_err(|error| error.to_string())?.path()).map(Some),
        }
    }

    fn names(&self) -> Result<Vec<String>, String> {
        let mut names: Vec<_> =
            self.list()?.iter().filter_map(|name| name.strip_prefix("containers/")).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    fn snapshot(&self) -> Result<(), String> {
        zfs(&["snapshot", &format!("{}@{SNAPSHOT}", self.name())]).map(drop)
    }

    fn left_of_bases(&self) -> Result<Vec<String>, String> {
        let mut list = self.list()?;
        list.retain(|name| is_left(name, &BTreeSet::from(["c1".into()])));
        Ok(list)
    }
}
