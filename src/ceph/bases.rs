//! Bases that are images with a snapshot, of which volumes are clones.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cluster::CephCluster;
use super::mapped::{self, Mapped, Mapping, Target, What, Writes};
use super::name::{ImageName, Place};
use super::{CephVolume, DEFAULT_SIZE, Role, TOOL_LIMIT, lock, notes};
use crate::base_name::BaseName;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::filesystem::{self, Device, FilesystemKind, Recipe};
use crate::progress::{CancelToken, Wait};
use crate::size::ByteSize;
use crate::sys::ceph::{Access, Failed, Image, Pool, Which};
use crate::volume::{BasePool, RebuildableVolume, VolumeId, VolumeLock};

/// What is cloned of a base: it is taken when the base is complete.
pub(super) const SNAPSHOT: &str = "reroot";

/// What the images of bases begin with.
const PREFIX: &str = "reroot-base-";
/// A base is not marked again within this time.
const OFTEN: Duration = Duration::from_secs(3600);

/// The bases of a pool, or of a namespace in it: images `reroot-base-KIND-DIGEST`, made once and shared by all hosts.
///
/// A volume becomes a clone of the snapshot that a base is given when it is complete, in format 2, which takes no protection; never of one that is not. It depends on the base
/// until it is flattened ([`ClonePolicy`](super::ClonePolicy)), and the base stays until then. It is one image deep: a base is no clone. A base has a size, and a volume that
/// is cloned from it is no smaller.
#[derive(Debug)]
pub struct CephBases {
    place: Place,
    cluster: CephCluster,
    pool: Pool,
    data_pool: Option<String>,
    recipe: Recipe,
    size: ByteSize,
    mapping: Mapping,
    /// Those that are open.
    open: Mutex<Vec<(BaseName, Mapped)>>,
}

impl CephBases {
    /// The bases in `POOL` or `POOL/NAMESPACE` of the cluster `ceph`, as `client.admin`; see [`open_in`](Self::open_in).
    ///
    /// # Errors
    /// As [`open_in`](Self::open_in).
    pub fn open(pool: &str) -> Result<CephBases> {
        Self::open_in(&CephCluster::new(), pool)
    }

    /// The bases in `POOL` or `POOL/NAMESPACE` of a cluster, with ext4 and of 10 GiB. Logs in; nothing is changed.
    ///
    /// # Errors
    /// As [`CephVolume::open_in`].
    pub fn open_in(cluster: &CephCluster, pool: &str) -> Result<CephBases> {
        const OPERATION: &str = "open the pool";
        let add = |error: Error| error.with_context("pool", VolumeId::new("ceph", pool));
        let place: Place = pool.parse().map_err(add)?;
        let connected = cluster.connect(&place, OPERATION).map_err(add)?;
        Ok(CephBases {
            place,
            cluster: cluster.clone(),
            pool: connected,
            data_pool: None,
            recipe: Recipe::new(FilesystemKind::Ext4),
            size: DEFAULT_SIZE,
            mapping: Mapping::default(),
            open: Mutex::default(),
        })
    }

    /// The bases for a volume: in its pool and namespace, with a filesystem of its kind. Those that are made are of its size; one that is there already may be larger, and a rebuild from
    /// it is refused then, or grows the volume. The volume is mapped for a moment.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if it holds no filesystem of a kind that is known.
    pub fn for_volume(volume: &CephVolume) -> Result<CephBases> {
        let (kind, size) = volume.form("find the bases for a volume")?;
        Ok(CephBases {
            place: volume.name.place().clone(),
            cluster: volume.cluster.clone(),
            pool: volume.pool.clone(),
            data_pool: volume.data_pool.clone(),
            recipe: Recipe::new(kind),
            size,
            mapping: volume.mapping,
            open: Mutex::default(),
        })
    }

    /// Sets how the filesystems of new bases are made. Those of other kinds are other bases.
    #[must_use]
    pub fn with_recipe(mut self, recipe: Recipe) -> Self {
        self.recipe = recipe;
        self
    }

    /// Sets the size of new bases, which is the least of the volumes that are cloned from them. What is not written costs nothing.
    #[must_use]
    pub fn with_size(mut self, size: ByteSize) -> Self {
        self.size = size;
        self
    }

    /// Sets the pool for the data of new bases; the images' own unless set.
    #[must_use]
    pub fn with_data_pool(mut self, pool: impl Into<String>) -> Self {
        self.data_pool = Some(pool.into());
        self
    }

    /// Sets how bases become devices of this host while they are filled; [`Mapping::Automatic`] unless set.
    #[must_use]
    pub fn with_mapping(mut self, mapping: Mapping) -> Self {
        self.mapping = mapping;
        self
    }

    fn add_pool(&self, error: Error) -> Error {
        error.with_context("pool", self.id())
    }

    fn failed(&self, failed: Failed, operation: &'static str, what: &str) -> Error {
        self.add_pool(self.cluster.failed(failed, operation, what))
    }

    fn prefix(&self) -> String {
        format!("{PREFIX}{}-", self.recipe.kind())
    }

    fn image_name(&self, name: &BaseName) -> Result<ImageName> {
        let short = format!("{}{}", self.prefix(), name.shortened());
        ImageName::at(&self.place, &short).map_err(|error| self.add_pool(error))
    }

    /// The image of a base, if there is one.
    fn find(&self, name: &BaseName, operation: &'static str) -> Result<Option<Image>> {
        let image = self.image_name(name)?;
        match self.pool.open(&Which::Name(image.image()), Access::ReadOnly) {
            Err(error) if error.errno == nix::errno::Errno::ENOENT => Ok(None),
            opened => opened.map(Some).map_err(|error| self.failed(error, operation, "cannot open the image of the base")),
        }
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Vec<(BaseName, Mapped)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BasePool for CephBases {
    fn id(&self) -> VolumeId {
        VolumeId::new("ceph", self.place.to_string())
    }

    fn names(&self) -> Result<Vec<BaseName>> {
        const OPERATION: &str = "list the bases";
        let noted = notes::below(&self.pool, &notes::base(""));
        let noted = noted.map_err(|error| self.failed(error, OPERATION, "cannot read what is noted of the bases"))?;
        let prefix = self.prefix();
        let ours = noted.into_iter().filter(|(image, _)| image.starts_with(&prefix));
        let mut names: Vec<BaseName> = ours.filter_map(|(_, name)| String::from_utf8(name).ok()?.parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    fn volume(&self, name: &BaseName) -> Result<Box<dyn RebuildableVolume>> {
        let mut volume = CephVolume::at(&self.cluster, self.pool.clone(), self.image_name(name)?, Role::Base(name.clone()));
        volume.data_pool.clone_from(&self.data_pool);
        volume.mapping = self.mapping;
        Ok(Box::new(volume.with_recipe(self.recipe.clone()).with_size(self.size)))
    }

    fn hold(&self, name: &BaseName, wait: &Wait) -> Result<VolumeLock> {
        lock::share(&self.cluster, &self.pool, &self.image_name(name)?, wait)
    }

    fn open(&self, name: &BaseName) -> Result<Option<OwnedFd>> {
        const OPERATION: &str = "open the base";
        let Some(image) = self.find(name, OPERATION)? else { return Ok(None) };
        let told = |error| self.failed(error, OPERATION, "cannot look at the image of the base");
        let name_of_image = self.image_name(name)?;
        let mut opened = self.opened();
        let node = match opened.iter().find(|(open, _)| open == name) {
            Some((_, mapped)) => mapped.node().to_owned(),
            None => {
                let (image_name, id) = (name_of_image.image(), &image.id().map_err(told)?);
                let what = What {
                    of: Target { cluster: &self.cluster, pool: &self.pool, place: &self.place, image: image_name, id },
                    snapshot: Some(SNAPSHOT),
                    features: image.features().map_err(told)?,
                    writes: Writes::Refused,
                };
                let mapped = mapped::map(&what, self.mapping, OPERATION).map_err(|error| self.add_pool(error))?;
                let node = mapped.node().to_owned();
                opened.push((name.clone(), mapped));
                node
            }
        };
        drop(opened);
        let wait = Wait::new(TOOL_LIMIT, CancelToken::new());
        let root = filesystem::open(&Device { path: &node, operation: OPERATION, wait: &wait }, "");
        if root.is_err() {
            self.close(name);
        }
        root.map(Some).map_err(|error| self.add_pool(error))
    }

    fn close(&self, name: &BaseName) {
        let mut opened = self.opened();
        if let Some(place) = opened.iter().position(|(open, _)| open == name) {
            let (_, mapped) = opened.swap_remove(place);
            drop(opened);
            if let Err(_error) = mapped.unmap("close the base") {
                crate::trace::warning!(base = %name, error = %_error, "it stays mapped");
            }
        }
    }

    fn clones(&self, name: &BaseName) -> Result<Vec<String>> {
        const OPERATION: &str = "find out what was cloned from the base";
        let Some(image) = self.find(name, OPERATION)? else { return Ok(Vec::new()) };
        let told = |error| self.failed(error, OPERATION, "cannot ask what was cloned from the base");
        let mut clones = Vec::new();
        for snapshot in image.snapshots().map_err(told)? {
            let children = image.children(snapshot.id).map_err(told)?;
            clones.extend(children.iter().map(super::snapshots::shown));
        }
        clones.sort();
        Ok(clones)
    }

    fn used(&self, name: &BaseName) -> Result<Option<SystemTime>> {
        let key = notes::used(self.image_name(name)?.image());
        let noted = notes::read(&self.pool, std::slice::from_ref(&key));
        let noted =
            noted.map_err(|error| self.failed(error, "find out when the base was used", "cannot read what is noted of it"))?;
        let seconds = noted.get(&key).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        Ok(seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))))
    }

    fn touch(&self, name: &BaseName) -> Result<()> {
        let now = SystemTime::now();
        if let Some(before) = self.used(name)?
            && now.duration_since(before).is_ok_and(|since| since < OFTEN)
        {
            return Ok(());
        }
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let note = (notes::used(self.image_name(name)?.image()), seconds.to_string().into_bytes());
        let noted = notes::write(&self.pool, &[note]);
        noted.map_err(|error| self.failed(error, "note that the base is used", "cannot write it down"))
    }

    fn forget(&self, name: &BaseName) -> Result<()> {
        let image = self.image_name(name)?;
        let keys = [notes::base(image.image()), notes::used(image.image())];
        let removed = notes::remove(&self.pool, &keys);
        removed.map_err(|error| self.failed(error, "forget the base", "cannot remove what is noted of it"))
    }

    fn memo(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn set_memo(&self, _: &[u8]) -> Result<()> {
        // It tells files by what only one host knows of them, and all hosts would share it.
        Ok(())
    }
}
