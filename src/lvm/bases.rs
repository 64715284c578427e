//! Bases that are thin volumes, read-only, of which volumes are snapshots.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::command::Lvm;
use super::group::Seen;
use super::name::{self, LogicalVolumeName};
use super::report::{Group, Layout, Volume};
use super::{DEFAULT_SIZE, LvmVolume, Role, command};
use crate::base_name::BaseName;
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{self, Device, FilesystemKind, Recipe};
use crate::progress::Wait;
use crate::run_lock;
use crate::size::ByteSize;
use crate::volume::{BasePool, RebuildableVolume, VolumeId, VolumeLock};

/// What the logical volumes of bases begin with.
const PREFIX: &str = "reroot-base-";
/// The tag that holds a base's whole name, for which a device's has no room.
const NAMED: &str = "reroot-base=";
/// The tag that tells when it was used last, in seconds since 1970.
const USED: &str = "reroot-used=";
/// A base is not marked again within this time: it would cost a command with every rebuild.
const OFTEN: Duration = Duration::from_secs(3600);

/// The bases of a thin pool: read-only thin volumes `reroot-base-KIND-POOL-DIGEST` in it, `POOL` being a hash of the pool's name.
///
/// A volume becomes a thin snapshot of one, with a UUID of its own, whatever its size. It depends on nothing then: a base may go while there are clones of
/// it. A base has a size, and a volume that is cloned from it is no smaller. When a base was used is noted once in an hour.
#[derive(Debug)]
pub struct LvmBases {
    group: String,
    pool: String,
    recipe: Recipe,
    size: ByteSize,
    seen: Seen,
    lvm: Lvm,
}

/// The kind of filesystem that the name of a base tells.
pub(super) fn kind_by_name(name: &str) -> Option<FilesystemKind> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

impl LvmBases {
    /// The bases in the thin pool `GROUP/POOL`, with ext4 and of 10 GiB. Nothing is changed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if that can be no name; [`ErrorKind::NotFound`] if there is no such thin pool; [`ErrorKind::Unsupported`] if LVM
    /// is not installed.
    pub fn open(pool: &str) -> Result<LvmBases> {
        const OPERATION: &str = "open the pool";
        let id = VolumeId::new("lvm", pool);
        let invalid = |why: String| {
            Error::new(ErrorKind::InvalidInput, OPERATION, why)
                .with_context("pool", &id)
                .with_remedy("write it as GROUP/POOL: vg0/thin")
        };
        let (group, name) = pool.split_once('/').ok_or_else(|| invalid(format!("{pool:?} does not say which group it is in")))?;
        name::check(group).and_then(|()| name::check(name)).map_err(invalid)?;
        let bases = LvmBases {
            group: group.to_owned(),
            pool: name.to_owned(),
            recipe: Recipe::new(FilesystemKind::Ext4),
            size: DEFAULT_SIZE,
            seen: Seen::default(),
            lvm: Lvm::default(),
        };
        match bases.report(OPERATION)?.find(name) {
            Some(found) if found.layout == Layout::ThinPool => Ok(bases),
            _ => Err(bases.add_pool(Error::new(ErrorKind::NotFound, OPERATION, "there is no such thin pool"))),
        }
    }

    /// The bases for a volume: in its thin pool, with a filesystem of its kind, and no larger than it. The volume is activated for a moment if it is not active.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if it lies in no thin pool, or holds no filesystem of a kind that is known.
    pub fn for_volume(volume: &LvmVolume) -> Result<LvmBases> {
        const OPERATION: &str = "find the bases for a volume";
        let Some(pool) = volume.thin_pool()? else {
            let why = "it lies in no thin pool: bases are for thin volumes";
            return Err(volume
                .add_volume(Error::new(ErrorKind::Unsupported, OPERATION, why))
                .with_remedy("rebuild it from the image"));
        };
        let bases = LvmBases::open(&format!("{}/{pool}", volume.name.group()))?;
        let (kind, size) = volume.form(OPERATION)?;
        Ok(bases.with_recipe(Recipe::new(kind)).with_size(size))
    }

    /// Sets how the filesystems of new bases are made. Those of other kinds are other bases.
    #[must_use]
    pub fn with_recipe(mut self, recipe: Recipe) -> Self {
        self.recipe = recipe;
        self
    }

    /// Sets the size of new bases, which is the least of the volumes that are cloned from them. It is virtual: what is not written costs nothing.
    #[must_use]
    pub fn with_size(mut self, size: ByteSize) -> Self {
        self.size = size;
        self
    }

    fn add_pool(&self, error: Error) -> Error {
        error.with_context("pool", self.id())
    }

    fn report(&self, operation: &'static str) -> Result<Arc<Group>> {
        let group = self.lvm.report(&self.group, operation).map_err(|error| self.add_pool(error))?;
        let group = Arc::new(group);
        self.seen.keep(&group);
        Ok(group)
    }

    /// What the logical volumes of the pool's bases begin with: names are the group's, and a base is a pool's.
    fn prefix(&self) -> String {
        format!("{PREFIX}{}-{:08x}-", self.recipe.kind(), fnv(self.pool.as_bytes()))
    }

    fn volume_name(&self, name: &BaseName) -> Result<LogicalVolumeName> {
        let short = format!("{}{}", self.prefix(), name.shortened());
        format!("{}/{short}", self.group).parse().map_err(|error| self.add_pool(error))
    }

    /// The base, if it is complete; and all of the group.
    fn find(&self, name: &BaseName, operation: &'static str) -> Result<Option<(Volume, Arc<Group>)>> {
        let group = self.report(operation)?;
        let found = group.find(self.volume_name(name)?.name()).cloned();
        Ok(found.map(|found| (found, group)))
    }

    fn at(&self, name: &BaseName) -> Result<LvmVolume> {
        let mut volume = LvmVolume::at(self.volume_name(name)?, Role::Base(format!("{NAMED}{name}")));
        volume.pool = Some(self.pool.clone());
        volume.seen.take_from(&self.seen);
        Ok(volume.with_recipe(self.recipe.clone()).with_size(self.size))
    }
}

/// The hash FNV-1a, which tells the pools of a group from each other in a few digits.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

impl BasePool for LvmBases {
    fn id(&self) -> VolumeId {
        VolumeId::new("lvm", format!("{}/{}", self.group, self.pool))
    }

    fn names(&self) -> Result<Vec<BaseName>> {
        let group = self.report("list the bases")?;
        let prefix = self.prefix();
        let ours = |volume: &&Volume| volume.name.starts_with(&prefix) && volume.pool.as_deref() == Some(&self.pool);
        let named = |volume: &Volume| volume.tagged(NAMED)?.parse::<BaseName>().ok();
        let mut names: Vec<_> = group.volumes.iter().filter(ours).filter_map(named).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn volume(&self, name: &BaseName) -> Result<Box<dyn RebuildableVolume>> {
        Ok(Box::new(self.at(name)?))
    }

    fn hold(&self, name: &BaseName, wait: &Wait) -> Result<VolumeLock> {
        let id = VolumeId::new("lvm", self.volume_name(name)?.to_string());
        let held = run_lock::shared(&id, wait).map_err(|error| self.add_pool(error))?;
        self.seen.forget();
        Ok(held)
    }

    fn open(&self, name: &BaseName) -> Result<Option<OwnedFd>> {
        const OPERATION: &str = "open the base";
        let Some((found, _)) = self.find(name, OPERATION)? else { return Ok(None) };
        let volume = self.at(name)?;
        if volume.state(&found.name, OPERATION)?.is_none() {
            volume.activate(&found.name, volume.links_in(found.pool.as_deref(), OPERATION)?, OPERATION)?;
        }
        let node = volume.node(&found.name, OPERATION)?;
        let wait = command::limit();
        let root = filesystem::open(&Device { path: &node, operation: OPERATION, wait: &wait }, "");
        root.map(Some).map_err(|error| self.add_pool(error))
    }

    fn close(&self, name: &BaseName) {
        const OPERATION: &str = "close the base";
        let closed = self.at(name).and_then(|volume| match volume.state(volume.name.name(), OPERATION)? {
            Some(state) if state.openers == 0 => volume.deactivate(&[volume.name.name()], OPERATION),
            _ => Ok(()),
        });
        if let Err(_error) = closed {
            crate::trace::warning!(base = %name, error = %_error, "it stays active");
        }
    }

    fn clones(&self, name: &BaseName) -> Result<Vec<String>> {
        let Some((base, group)) = self.find(name, "find out what was cloned from the base")? else { return Ok(Vec::new()) };
        let clones = group.volumes.iter().filter(|volume| volume.origin.as_deref() == Some(&base.name));
        Ok(clones.map(|volume| format!("{}/{}", self.group, volume.name)).collect())
    }

    fn used(&self, name: &BaseName) -> Result<Option<SystemTime>> {
        let group = match self.seen.fresh() {
            Some(group) => group,
            None => self.report("find out when the base was used")?,
        };
        let found = group.find(self.volume_name(name)?.name());
        let seconds = found.and_then(|found| found.tagged(USED)?.parse().ok());
        Ok(seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))))
    }

    fn touch(&self, name: &BaseName) -> Result<()> {
        const OPERATION: &str = "note that the base is used";
        let Some((found, _)) = self.find(name, OPERATION)? else { return Ok(()) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let before = found.tagged(USED).and_then(|seconds| seconds.parse::<u64>().ok());
        if before.is_some_and(|before| before <= now && now - before < OFTEN.as_secs()) {
            return Ok(());
        }
        let mut args = vec!["--addtag".to_owned(), format!("{USED}{now}")];
        if let Some(before) = found.tagged(USED) {
            args.extend(["--deltag".to_owned(), format!("{USED}{before}")]);
        }
        args.push(format!("{}/{}", self.group, found.name));
        let done = self.lvm.must("lvchange", args, OPERATION);
        self.seen.forget();
        done.map_err(|error| self.add_pool(error))
    }

    fn forget(&self, _: &BaseName) -> Result<()> {
        // Nothing is kept of a base but with it.
        Ok(())
    }

    fn memo(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn set_memo(&self, _: &[u8]) -> Result<()> {
        // It would cost more than it saves.
        Ok(())
    }
}
