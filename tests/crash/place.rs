//! Where a stand has its volume.

use std::fs;
use std::path::{Path, PathBuf};

use reroot::RebuildableVolume;
use reroot::conformance::manifest::{DirectoryTimes, Manifest, ManifestOptions};
use reroot::volume::{BasePool, Commit};

use super::common::Folder;
use super::common::loopfs::{Kind, LoopFs};
use super::common::pools::{Backend, left_of_bases};
use super::stand::report;

/// A pool with one volume, which is called `c1`, and a folder for images.
pub(crate) trait Place: Sync {
    fn folder(&self) -> &Path;

    /// As it is opened.
    fn volume(&self) -> PathBuf;

    /// Opens the volume.
    fn open(&self, backend: Backend, commit: Commit) -> reroot::Result<Box<dyn RebuildableVolume>> {
        backend.open(&self.volume(), commit)
    }

    /// Opens the bases of the pool, which lie beside what the volume is in.
    fn bases(&self, backend: Backend) -> reroot::Result<Box<dyn BasePool>> {
        backend.pool_of(&self.volume())
    }

    /// The live root of a volume, by the name that it is opened by, if there is one.
    fn root_of(&self, volume: &Path) -> Result<Option<Manifest>, String>;

    /// The live root of the volume, if there is one.
    fn live(&self) -> Result<Option<Manifest>, String> {
        self.root_of(&self.volume())
    }

    /// What the pool holds, sorted; snapshots too, where they are in it.
    fn names(&self) -> Result<Vec<String>, String>;

    /// Takes a snapshot of the live root.
    fn snapshot(&self) -> Result<(), String>;

    /// Whether snapshots are independent of the root that they were taken of.
    fn snapshots_outlive(&self) -> bool {
        false
    }

    /// What is left of bases besides complete ones.
    fn left_of_bases(&self) -> Result<Vec<String>, String>;
}

pub(crate) fn new(backend: Backend) -> Result<Box<dyn Place>, String> {
    Ok(match backend {
        #[cfg(feature = "ceph")]
        Backend::Ceph(_) => Box::new(super::images::Images::new()?),
        #[cfg(feature = "lvm")]
        Backend::Lvm => Box::new(super::volumes::Volumes::new()?),
        #[cfg(feature = "zfs")]
        Backend::Zfs => Box::new(super::datasets::Datasets::new()?),
        backend => Box::new(Folders::new(backend)?),
    })
}

/// Reads a root.
pub(crate) fn read(root: &Path) -> Result<Manifest, String> {
    ManifestOptions::new().with_directory_times(DirectoryTimes::IgnoredOfRoot).read(root).map_err(report)
}

/// A folder with the images, and the place of the pool, which is a folder too.
pub(crate) struct Folders {
    // Dropped in this order: the folder before the file system it lies on.
    folder: Folder,
    at: PathBuf,
    _memory: Option<LoopFs>,
}

impl Folders {
    fn new(backend: Backend) -> Result<Self, String> {
        // In memory where that can be had: processes are killed here and not machines, so the disk would only make it slower.
        let memory = match backend {
            #[cfg(feature = "btrfs")]
            Backend::Btrfs(_) => Some(LoopFs::new(Kind::Btrfs, 1024)?),
            _ => LoopFs::new(Kind::Tmpfs, 256).ok(),
        };
        memory.as_ref().map_or(Ok(()), |memory| backend.set_up(&memory.path()))?;
        let place = memory.as_ref().map_or_else(|| "/dev/shm".into(), LoopFs::path);
        let folder = Folder::new(&place).or_else(|_| Folder::new(&std::env::temp_dir())).map_err(|error| error.to_string())?;
        fs::create_dir(folder.path().join("pool")).map_err(|error| error.to_string())?;
        Ok(Folders { at: folder.path().to_owned(), folder, _memory: memory })
    }

    /// In a file system that has the pool already; the images lie in a folder beside it.
    #[allow(dead_code, reason = "not every program mounts one")]
    pub(crate) fn on(at: PathBuf, folder: Folder) -> Self {
        Folders { folder, at, _memory: None }
    }

    fn pool(&self) -> PathBuf {
        self.at.join("pool")
    }
}

impl Place for Folders {
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn volume(&self) -> PathBuf {
        self.pool().join("c1")
    }

    fn root_of(&self, volume: &Path) -> Result<Option<Manifest>, String> {
        if volume.exists() { read(volume).map(Some) } else { Ok(None) }
    }

    fn names(&self) -> Result<Vec<String>, String> {
        let mut names: Vec<_> = fs::read_dir(self.pool())
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| error.to_string())?
            .into_iter()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    fn snapshot(&self) -> Result<(), String> {
        Err("no job of a folder needs a snapshot".into())
    }

    fn left_of_bases(&self) -> Result<Vec<String>, String> {
        left_of_bases(&self.at).map_err(|error| error.to_string())
    }
}
