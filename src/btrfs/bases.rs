//! Bases that are read-only subvolumes.

use std::os::fd::AsFd;
use std::path::Path;

use super::foreign::{self, Foreign};
use super::{BtrfsVolume, Role};
use crate::base_name::BaseName;
use crate::error::{Error, ErrorKind, Result};
use crate::siblings::bases::{BasesDir, forward_to_folder};
use crate::sys::btrfs::{self, subvolume};
use crate::text::Escaped;
use crate::volume::{BasePool, RebuildableVolume};

/// The bases of a pool on btrfs: read-only subvolumes `POOL/reroot-bases-btrfs/NAME`, in a folder that only its owner may enter.
///
/// A volume becomes a snapshot of one, whatever its size. Nothing ties it to the base then: the base can be removed, and what they share stays
/// with the volume. A base has no limits, and those of a volume count what it shares. Where the volume's qgroup is a member of another, the
/// kernel has to count everything afresh after each clone; that is begun, and a warning tells of it.
#[derive(Debug)]
pub struct BtrfsBases(BasesDir);

impl BtrfsBases {
    /// The bases of the pool whose directory is `path`: `/srv/pool` for the volume `/srv/pool/containers/c1`. Nothing is changed.
    ///
    /// # Errors
    /// - Those of opening the directory.
    /// - [`ErrorKind::InvalidInput`] if it does not lie on btrfs.
    pub fn open(path: impl AsRef<Path>) -> Result<BtrfsBases> {
        const OPERATION: &str = "open the pool";
        let dir = BasesDir::open("btrfs", path.as_ref())?;
        match btrfs::is_btrfs(dir.pool()) {
            Ok(true) => Ok(BtrfsBases(dir)),
            Ok(false) => Err(Error::new(ErrorKind::InvalidInput, OPERATION, "it does not lie on btrfs")
                .with_remedy(format!("write dir:{}", Escaped::from(path.as_ref())))
                .with_context("pool", dir.id())),
            Err(error) => Err(dir.failed(OPERATION, "fstatfs failed", error)),
        }
    }
}

impl BasePool for BtrfsBases {
    forward_to_folder!();

    fn volume(&self, name: &BaseName) -> Result<Box<dyn RebuildableVolume>> {
        let mut volume = self.0.volume(name, BtrfsVolume::open)?;
        volume.role = Role::Base;
        Ok(Box::new(volume))
    }

    fn clones(&self, name: &BaseName) -> Result<Vec<String>> {
        const OPERATION: &str = "find out what was cloned from the base";
        let Some(base) = self.0.open_base(name)? else { return Ok(Vec::new()) };
        let add = |error: Error| error.with_context("base", name).with_context("pool", self.0.id());
        let info = subvolume::info(base.as_fd()).map_err(|refused| add(refused.explain(OPERATION, "cannot look at it")))?;
        let clones = foreign::find(self.0.pool(), None, info.uuid, &[], OPERATION).map_err(add)?;
        Ok(clones.iter().map(Foreign::name).map(|name| Escaped::from(name.as_os_str()).to_string()).collect())
    }
}
