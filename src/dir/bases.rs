//! Bases that are directories.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::SystemTime;

use super::DirVolume;
use crate::base_name::BaseName;
use crate::error::Result;
use crate::progress::Wait;
use crate::siblings::bases::BasesDir;
use crate::volume::{BasePool, RebuildableVolume, VolumeId, VolumeLock};

/// The bases of a pool that is a directory: `POOL/reroot-bases-dir/NAME`, in a folder that only its owner may enter.
///
/// A volume's files share the data of the base's by reflink, where the file system can and both lie on the same one (btrfs, XFS); elsewhere
/// they are copies. Nothing ties a volume to the base it came from.
#[derive(Debug)]
pub struct DirBases(BasesDir);

impl DirBases {
    /// The bases of the pool whose directory is `path`: `/srv/pool` for the volume `/srv/pool/containers/c1`. Nothing is changed.
    ///
    /// # Errors
    /// Those of opening the directory.
    pub fn open(path: impl AsRef<Path>) -> Result<DirBases> {
        BasesDir::open("dir", path.as_ref()).map(DirBases)
    }
}

impl BasePool for DirBases {
    fn id(&self) -> VolumeId {
        self.0.id()
    }

    fn names(&self) -> Result<Vec<BaseName>> {
        self.0.names()
    }

    fn volume(&self, name: &BaseName) -> Result<Box<dyn RebuildableVolume>> {
        Ok(Box::new(self.0.volume(name, DirVolume::open)?))
    }

    fn hold(&self, name: &BaseName, wait: &Wait) -> Result<VolumeLock> {
        self.0.hold(name, wait)
    }

    fn open(&self, name: &BaseName) -> Result<Option<OwnedFd>> {
        self.0.open_base(name)
    }

    fn clones(&self, _: &BaseName) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn used(&self, name: &BaseName) -> Result<Option<SystemTime>> {
        self.0.used(name)
    }

    fn touch(&self, name: &BaseName) -> Result<()> {
        self.0.touch(name)
    }

    fn forget(&self, name: &BaseName) -> Result<()> {
        self.0.forget(name)
    }

    fn memo(&self) -> Result<Vec<u8>> {
        self.0.memo()
    }

    fn set_memo(&self, memo: &[u8]) -> Result<()> {
        self.0.set_memo(memo)
    }
}
