//! Bases that are directories.

use std::path::Path;

use super::DirVolume;
use crate::base_name::BaseName;
use crate::error::Result;
use crate::siblings::bases::{BasesDir, forward_to_folder};
use crate::volume::{BasePool, RebuildableVolume};

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
    forward_to_folder!();

    fn volume(&self, name: &BaseName) -> Result<Box<dyn RebuildableVolume>> {
        Ok(Box::new(self.0.volume(name, DirVolume::open)?))
    }

    fn clones(&self, _: &BaseName) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}
