//! Bases that are datasets, each with a snapshot that volumes are cloned from.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use super::name::{self, DatasetName, c_text};
use super::place::{BUSY, Found, Place, of_a_stranger, program, text, unless_busy, until_noted};
use super::{Role, ZfsVolume, note, values};
use crate::base_name::BaseName;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::sys::detached::Access;
use crate::volume::{BasePool, RebuildableVolume, Slot, VolumeId, VolumeLock};

/// The snapshot of a base that is cloned.
pub(super) const ORIGIN: &str = "reroot-base";
/// The dataset that the bases lie in.
const FOLDER: &str = "reroot-bases";

/// The bases of a pool on ZFS: datasets `POOL/reroot-bases/NAME`, of which the snapshot `@reroot-base` is cloned.
///
/// A volume becomes a clone of one, whatever its size. It depends on the base from then on: a base stays as long as there are clones of it, and its
/// removal is refused, naming them. A base has no limits; a volume's count what it shares with one.
#[derive(Debug)]
pub struct ZfsBases {
    /// The dataset of the bases.
    place: Place,
}

impl ZfsBases {
    /// The bases in the dataset `pool`, which may be a pool's own: `tank` or `tank/lxd` for the volume `tank/lxd/containers/c1`. Nothing is changed.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`] if this is not the name of a dataset.
    /// - [`ErrorKind::Unsupported`] if the library or the kernel's module is missing; [`ErrorKind::NotFound`] if there is no such dataset.
    pub fn open(pool: &str) -> Result<ZfsBases> {
        const OPERATION: &str = "open the pool";
        let id = VolumeId::new("zfs", pool);
        let invalid = |why| Error::new(ErrorKind::InvalidInput, OPERATION, why).with_context("pool", &id);
        name::check(pool).map_err(invalid)?;
        let name = DatasetName::within(pool, FOLDER).map_err(|error| error.with_context("pool", &id))?;
        let bases = ZfsBases { place: Place::open(name, OPERATION)? };
        let found = bases.place.ask(program!("exists"), &[text("name", pool)], OPERATION)?;
        if found.contains_key("is") {
            return Ok(bases);
        }
        Err(Error::new(ErrorKind::NotFound, OPERATION, "there is no such dataset")
            .with_context("pool", id)
            .with_remedy(format!("make it: zfs create -p {pool}")))
    }

    fn add_pool(&self, error: Error) -> Error {
        error.with_context("pool", self.id())
    }

    fn place_of(&self, name: &BaseName) -> Result<Place> {
        let name = DatasetName::within(self.place.name.as_str(), &name.to_string())?;
        Ok(Place { zfs: self.place.zfs.clone(), name })
    }

    /// Our notes on the dataset of the bases; `None` if there is none.
    fn folder(&self, operation: &'static str) -> Result<Option<Found>> {
        let found = until_noted(operation, || {
            Ok(match self.place.look(operation)?.live {
                Some(found) if !found.notes.contains_key(note::MADE) => {
                    Err(self.add_pool(of_a_stranger(self.place.name.as_str(), operation)))
                }
                found => Ok(found),
            })
        });
        match found {
            // Or what a loss of power has left of one.
            Err(stranger)
                if stranger.kind() == ErrorKind::AlreadyExists
                    && self.place.is_unnoted(self.place.name.as_str(), operation).unwrap_or(false) =>
            {
                Ok(None)
            }
            found => found,
        }
    }

    fn make_folder(&self, operation: &'static str) -> Result<()> {
        if self.folder(operation)?.is_some() {
            return Ok(());
        }
        let mut properties = vec![text(note::MADE, "1")];
        properties.extend(values::word("mountpoint", "none"));
        properties.extend(values::word("canmount", "off"));
        let name = c_text(self.place.name.as_str());
        let mut made = self.place.zfs.create(&name, &properties);
        // Who is making it notes that in a moment.
        if made == Err(Errno::EEXIST) && self.folder(operation)?.is_none() {
            let _lock = self.place.lock(&Wait::new(BUSY, CancelToken::new()))?;
            // Somebody else may have made it anew meanwhile.
            if self.folder(operation)?.is_none() {
                self.remove_unnoted(&name, operation)?;
                made = self.place.zfs.create(&name, &properties);
            }
        }
        match made {
            // Someone else was faster.
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(self.add_pool(Error::io(operation, "cannot make the dataset of its bases", errno))),
        }
    }

    fn remove_unnoted(&self, name: &CStr, operation: &'static str) -> Result<()> {
        match unless_busy(|| self.place.zfs.destroy(name)) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => {
                let name = self.place.name.as_str();
                let why = format!("cannot remove what a loss of power has left of {name}");
                Err(self.add_pool(Error::io(operation, why, errno)).with_remedy(format!("unmount it: zfs unmount {name}")))
            }
        }
    }
}

impl BasePool for ZfsBases {
    fn id(&self) -> VolumeId {
        VolumeId::new("zfs", self.place.name.parent())
    }

    fn names(&self) -> Result<Vec<BaseName>> {
        const OPERATION: &str = "list the bases";
        if self.folder(OPERATION)?.is_none() {
            return Ok(Vec::new());
        }
        let found = self.place.ask(program!("children"), &[text("name", self.place.name.as_str())], OPERATION)?;
        let mut names: Vec<BaseName> = found
            .keys()
            .filter_map(|child| {
                let last = child.rsplit('/').next()?;
                let known = [Slot::Staged, Slot::Retired].iter().find_map(|slot| last.strip_suffix(name::suffix(*slot)));
                // Whatever else lies there is not ours.
                known.unwrap_or(last).parse().ok()
            })
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn volume(&self, name: &BaseName) -> Result<Box<dyn RebuildableVolume>> {
        self.make_folder("open the base")?;
        Ok(Box::new(ZfsVolume::at(self.place_of(name)?, Role::Base)?))
    }

    fn hold(&self, name: &BaseName, wait: &Wait) -> Result<VolumeLock> {
        self.place_of(name)?.lock_shared(wait).map_err(|error| self.add_pool(error))
    }

    fn open(&self, name: &BaseName) -> Result<Option<OwnedFd>> {
        const OPERATION: &str = "open the base";
        let place = self.place_of(name)?;
        let origin = format!("{}@{ORIGIN}", place.name);
        if !place.ask(program!("exists"), &[text("name", origin.as_str())], OPERATION)?.contains_key("is") {
            return Ok(None);
        }
        place.mount(&origin, Access::Snapshot, OPERATION).map(Some)
    }

    fn clones(&self, name: &BaseName) -> Result<Vec<String>> {
        const OPERATION: &str = "find out what was cloned from the base";
        let base = ZfsVolume::at(self.place_of(name)?, Role::Base)?;
        let details = base.details(&base.place.name.slot(Slot::Live), OPERATION)?;
        Ok(details.into_iter().flat_map(|detail| detail.clones).collect())
    }

    fn used(&self, name: &BaseName) -> Result<Option<SystemTime>> {
        let Some(found) = self.place_of(name)?.look("find out when the base was used")?.live else { return Ok(None) };
        let seconds = found.notes.get(note::USED).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        Ok(seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))))
    }

    fn touch(&self, name: &BaseName) -> Result<()> {
        let place = self.place_of(name)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
        place.note(place.name.as_str(), &[(note::USED, now.as_bytes())], "note that the base is used")
    }

    fn forget(&self, _: &BaseName) -> Result<()> {
        // Nothing is kept of a base but with it.
        Ok(())
    }

    fn memo(&self) -> Result<Vec<u8>> {
        let found = self.folder("read the pool's memo")?;
        Ok(found.and_then(|mut found| found.notes.remove(note::MEMO)).unwrap_or_default())
    }

    fn set_memo(&self, memo: &[u8]) -> Result<()> {
        const OPERATION: &str = "write the pool's memo";
        self.make_folder(OPERATION)?;
        self.place.note(self.place.name.as_str(), &[(note::MEMO, memo)], OPERATION)
    }
}
