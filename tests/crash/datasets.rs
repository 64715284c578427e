//! Datasets of the lab's pool.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use reroot::conformance::manifest::Manifest;

use super::common::Folder;
use super::common::lab::{Dataset, zfs};
use super::common::pools::{is_left, visit_dataset};
use super::place::{Place, read};
use super::stand::SNAPSHOT;

/// A dataset with the pool in it, and beside the pool the bases.
pub(crate) struct Datasets {
    folder: Folder,
    dataset: String,
    _own: Option<Dataset>,
}

impl Datasets {
    pub(crate) fn new() -> Result<Self, String> {
        let own = Dataset::new()?;
        zfs(&["create", &format!("{}/containers", own.0)])?;
        let mut datasets = Datasets::within(&own.0)?;
        datasets._own = Some(own);
        Ok(datasets)
    }

    /// In a dataset that has the pool already.
    pub(crate) fn within(dataset: &str) -> Result<Self, String> {
        let folder = Folder::new(&std::env::temp_dir()).map_err(|error| error.to_string())?;
        Ok(Datasets { folder, dataset: dataset.to_owned(), _own: None })
    }

    fn name(&self) -> String {
        format!("{}/containers/c1", self.dataset)
    }

    /// All that is in the dataset, by names within it.
    fn list(&self) -> Result<Vec<String>, String> {
        let list = zfs(&["list", "-H", "-r", "-o", "name", "-t", "filesystem,snapshot", &self.dataset])?;
        let within = |name: &str| Some(name.strip_prefix(&self.dataset)?.strip_prefix('/')?.to_owned());
        Ok(list.lines().filter_map(within).collect())
    }
}

/// The root that a dataset shows, if there is one.
pub(crate) fn root_of(dataset: &Path, folder: &Path) -> Result<Option<Manifest>, String> {
    match visit_dataset(&dataset.to_string_lossy(), folder) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(None),
        visited => read(visited.map_err(|error| error.to_string())?.path()).map(Some),
    }
}

impl Place for Datasets {
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn volume(&self) -> PathBuf {
        self.name().into()
    }

    fn root_of(&self, volume: &Path) -> Result<Option<Manifest>, String> {
        root_of(volume, self.folder())
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
