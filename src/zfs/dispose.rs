//! Removing roots.

use nix::errno::Errno;

use super::name::c_text;
use super::place::unless_busy;
use super::{Staging, ZfsVolume, refuse_live};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::holders::{self, FileSystem};
use crate::volume::Slot;

const OPERATION: &str = "remove a root";

impl ZfsVolume {
    pub(super) fn dispose_of(&mut self, slot: Slot) -> Result<()> {
        if slot == Slot::Live {
            return Err(self.place.add_volume(refuse_live()));
        }
        if slot == Slot::Staged {
            self.staging = Staging::default();
        }
        let dataset = self.place.name.slot(slot);
        // Most retired roots have neither snapshots nor children, and go at once.
        if slot == Slot::Retired && self.place.zfs.destroy(&c_text(dataset.as_str())).is_ok() {
            return Ok(());
        }
        let look = self.place.look(OPERATION)?;
        if slot == Slot::Staged && look.live.is_some() && look.safety.is_some() {
            self.roll_back()?;
        }
        let Some(found) = look.of(slot) else { return Ok(()) };
        if slot == Slot::Retired && look.live.is_some() {
            self.adopt_children(&look, OPERATION)?;
        } else if found.has_children {
            return Err(self.with_children_left(slot)?);
        }
        self.promote_clones(&dataset, OPERATION)?;
        let snapshots = self.details(&dataset, OPERATION)?;
        let names: Vec<_> = snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
        self.destroy_all(&dataset, &names, OPERATION)?;
        match unless_busy(|| self.place.zfs.destroy(&c_text(dataset.as_str()))) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EBUSY) => Err(self.named_busy(&dataset, OPERATION, Errno::EBUSY)),
            Err(errno) => Err(self.place.failed(OPERATION, format!("cannot destroy {dataset}"), errno)),
        }
    }

    /// Says of a root that it is not only one.
    pub(super) fn with_children_left(&self, slot: Slot) -> Result<Error> {
        let children = self.children_of(slot, OPERATION)?.join(", ");
        let error = Error::new(ErrorKind::HasDependents, OPERATION, format!("it has child datasets: {children}"));
        // Without a live root there is no other for them to go to.
        let remedy = match slot {
            Slot::Retired => "rebuild by swap, which has a root that they can go to",
            _ => "move them out of it (zfs rename) and run recover",
        };
        Ok(self.place.add_volume(error).with_remedy(remedy))
    }

    /// Names who keeps a dataset busy.
    pub(super) fn named_busy(&self, dataset: &str, operation: &'static str, errno: Errno) -> Error {
        let error = self.place.failed(operation, format!("{dataset} is in use"), errno);
        let file_system = FileSystem { fs_type: Some("zfs"), sources: &[dataset.to_owned()], device: None, block: None };
        match holders::of_file_system(&file_system, &[]).unwrap_or_default().first() {
            Some(holder) => error.with_remedy(format!("end this use and run recover: {holder}")).with_context("holder", holder),
            None => error.with_remedy("end what uses it, a send or a receive for example, and run recover"),
        }
    }
}
