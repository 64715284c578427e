//! What can be seen of a volume.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;

use nix::sys::stat::fstat;

use super::limits::Limits;
use super::place::{Found, Place, program, text};
use super::{Captured, Delegated, DelegationPolicy, Form, Kept, ZfsVolume, note};
use crate::error::{Error, ErrorKind, Result};
use crate::properties::{self, Properties};
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::sys::detached::Access;
use crate::sys::holders::{self, FileSystem};
use crate::sys::zfs::Value;
use crate::volume::{Holder, Names, RootId, Slot, Usage};

/// What a dataset takes, and what is left.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SpaceOf {
    free: ByteSize,
    pub(super) used: Option<ByteSize>,
    pub(super) limits: Limits,
}

impl Place {
    /// Refuses what is not a file system under the volume's own name, and a pool that is not there.
    pub(super) fn check_live(&self, operation: &'static str) -> Result<()> {
        match self.look(operation) {
            // Something beside the volume is told of when it is in the way.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !error.message().starts_with(&format!("{} ", self.name)) => {
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error.with_kind(ErrorKind::InvalidInput)),
            looked => looked.map(drop),
        }
    }

    pub(super) fn space(&self, dataset: &str, operation: &'static str) -> Result<SpaceOf> {
        let found = self.ask(program!("space"), &[text("name", dataset), text("parent", self.name.parent())], operation)?;
        let bytes = |key: &str| found.get(key).and_then(Value::as_number).map(ByteSize::from_bytes);
        let Some(free) = bytes("free") else { return Err(self.without_parent(operation)) };
        Ok(SpaceOf { free, used: bytes("used"), limits: Limits::told(&found) })
    }
}

impl ZfsVolume {
    pub(super) fn state_names(&self) -> Result<Names> {
        let look = self.place.look("look at the volume")?;
        let staged = look.staged.is_some() || look.live.is_some() && look.safety.is_some();
        Ok(Names { live: look.live.is_some(), staged, retired: look.retired.is_some() })
    }

    pub(super) fn state_identity(&self, slot: Slot) -> Result<Option<RootId>> {
        let look = self.place.look("tell one root from another")?;
        let dataset = |guid: u64| RootId::new(format!("dataset {guid:016x}"));
        // Of a rebuild within the live root, the new one has the dataset, and the old one lives in a snapshot.
        Ok(match (slot, look.safety, &look.live, &look.staged) {
            (Slot::Live, Some(safety), Some(_), _) => Some(RootId::new(format!("snapshot {safety:016x}"))),
            (Slot::Staged, Some(_), Some(live), None) => Some(dataset(live.guid)),
            _ => look.of(slot).map(|found| dataset(found.guid)),
        })
    }

    pub(super) fn state_holders(&self) -> Result<Vec<Holder>> {
        const OPERATION: &str = "find out who uses the volume";
        let dataset = self.place.name.slot(Slot::Live);
        if self.place.ask(program!("unheld"), &[text("name", dataset.as_str())], OPERATION)?.contains_key("unheld") {
            return Ok(Vec::new());
        }
        // What was unmounted while a file in it is open shows in no table of mounts, but has the number of the device. Where the key
        // is not loaded nobody has it mounted.
        let device = match self.place.mount(&dataset, Access::ReadOnly, OPERATION) {
            Ok(top) => fstat(&top).ok().map(|stat| stat.st_dev),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        let file_system = FileSystem { fs_type: Some("zfs"), sources: std::slice::from_ref(&dataset), device, block: None };
        holders::of_file_system(&file_system, &[]).map_err(|error| self.place.add_volume(error))
    }

    pub(super) fn state_usage(&self) -> Result<Usage> {
        let space = self.place.space(&self.place.name.slot(Slot::Live), "measure the space")?;
        let mut usage = Usage::new(space.free);
        usage.used = space.used;
        usage.size = space.limits.size();
        Ok(usage)
    }

    /// The live root, or the retired one of an interrupted in-place rebuild, where something is to be read.
    fn mount_live_or_retired(&self, operation: &'static str) -> Result<Option<(String, Found, OwnedFd)>> {
        let look = self.place.look(operation)?;
        let (slot, found) = match (look.live, look.retired) {
            (Some(live), _) => (Slot::Live, live),
            (None, Some(retired)) => (Slot::Retired, retired),
            (None, None) => return Ok(None),
        };
        let dataset = self.place.name.slot(slot);
        let top = self.place.mount(&dataset, Access::ReadOnly, operation)?;
        Ok(Some((dataset, found, top)))
    }

    pub(super) fn state_record(&self) -> Result<Option<ImageRecord>> {
        const OPERATION: &str = "read the record of the image";
        let Some((_, _, top)) = self.mount_live_or_retired(OPERATION)? else { return Ok(None) };
        properties::record(top.as_fd()).map_err(|error| self.place.add_volume(error))
    }

    pub(super) fn capture_live(&mut self) -> Result<()> {
        const OPERATION: &str = "read the properties of the live root";
        self.captured = None;
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let Some((dataset, found, top)) = self.mount_live_or_retired(OPERATION)? else { return Ok(()) };
        let kept = Kept::read(&self.place, &dataset, &found, OPERATION)?;
        let form = Form::of(&self.place, &dataset, &found, OPERATION)?;
        let top = Properties::capture(top.as_fd())
            .map_err(|error| self.place.add_volume(Error::io(OPERATION, "the kernel refused", error)))?;
        let delegated = match self.delegation {
            DelegationPolicy::Keep => Delegated::read(&self.place, &dataset, OPERATION)?,
            DelegationPolicy::Leave => Delegated::default(),
        };
        let made = found.notes.contains_key(note::MADE);
        self.captured = Some(Captured { kept, made, form, delegated, top });
        Ok(())
    }
}
