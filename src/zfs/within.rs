//! A new root within the live one's dataset, behind a snapshot that brings the old one back.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::limits::Limits;
use super::name::{SAFETY, c_text};
use super::place::{BUSY, BUSY_STEP, program, text};
use super::{ZfsVolume, command, note};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::size::ByteSize;
use crate::sys::detached::Access;
use crate::sys::remove;
use crate::sys::zfs::Value;
use crate::volume::{Slot, StageSpec};

impl ZfsVolume {
    pub(super) fn stage_within(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        const OPERATION: &str = "stage a root within the live one";
        let look = self.place.look(OPERATION)?;
        if look.staged.is_some() || look.safety.is_some() {
            return Err(self.is_staged());
        }
        let live = self.place.name.slot(Slot::Live);
        let Some(found) = look.live else {
            return Err(self.place.add_volume(Error::new(ErrorKind::NotFound, OPERATION, "there is no live root")));
        };
        let limits = self.place.space(&live, OPERATION)?.limits;
        // A rollback brings back no property: those that may change are noted with the snapshot.
        let bytes = |limit: Option<ByteSize>| limit.map_or(0, ByteSize::bytes).to_string();
        let notes = [
            text(note::OF, found.guid.to_string()),
            text(note::QUOTA, bytes(limits.quota)),
            text(note::REFQUOTA, bytes(limits.refquota)),
        ];
        let taken = self.place.zfs.snapshot(&c_text(self.place.name.safety()), &notes);
        taken
            .map_err(|errno| self.place.failed(OPERATION, "cannot take the snapshot that would bring the old root back", errno))?;
        if let Some(size) = spec.size {
            command::set(&self.place, &live, &limits.changes(limits.raised(size)), OPERATION)?;
        }
        let root = self.place.mount(&live, Access::ReadWrite, OPERATION)?;
        // What the old root holds stays with the snapshot.
        remove::empty(&root, c".zfs").map_err(|error| self.place.add_volume(error))?;
        self.prepare(live, &root, Vec::new(), Vec::new())?;
        Ok(root)
    }

    /// Lets go of the snapshot that would bring the old root back: the new one is the live one from here on.
    pub(super) fn exchange_within(&mut self) -> Result<()> {
        const OPERATION: &str = "exchange the roots";
        if self.place.look(OPERATION)?.safety.is_none() {
            let why = "ZFS has no exchange of two datasets";
            return Err(self.place.add_volume(Error::new(ErrorKind::Unsupported, OPERATION, why)));
        }
        self.destroy_safety(OPERATION)
    }

    /// Brings the old root back.
    pub(super) fn roll_back(&mut self) -> Result<()> {
        const OPERATION: &str = "bring the old root back";
        self.refuse_in_use(OPERATION)?;
        let live = self.place.name.slot(Slot::Live);
        let safety = self.place.name.safety();
        let snapshots = self.details(&live, OPERATION)?;
        let Some(point) = snapshots.iter().find(|snapshot| snapshot.name == SAFETY) else { return Ok(()) };
        // Others were taken of an unfinished root, and are in the way.
        let later: Vec<_> =
            snapshots.iter().filter(|snapshot| snapshot.txg > point.txg).map(|snapshot| snapshot.name.as_str()).collect();
        self.destroy_all(&live, &later, OPERATION)?;
        let rolled = self.place.zfs.roll_back(&c_text(live.as_str()), &c_text(safety.as_str()));
        rolled.map_err(|errno| match errno {
            Errno::EEXIST | Errno::EBUSY => self
                .place
                .failed(OPERATION, "a snapshot was taken meanwhile, or the dataset is in use", errno)
                .with_remedy("run recover again"),
            errno => self.place.failed(OPERATION, format!("cannot roll back to {safety}"), errno),
        })?;
        let now = self.place.space(&live, OPERATION)?.limits;
        let before = self.noted_limits(&safety, OPERATION)?;
        command::set(&self.place, &live, &now.changes(before), OPERATION)?;
        self.destroy_safety(OPERATION)
    }

    /// The kernel rolls back under who uses the dataset: an instance that was started on the unfinished root would lose what it wrote.
    fn refuse_in_use(&self, operation: &'static str) -> Result<()> {
        let wait = Wait::new(BUSY, CancelToken::new());
        loop {
            let holders = self.state_holders()?;
            let Some(holder) = holders.first() else { return Ok(()) };
            if wait.pause(operation, BUSY_STEP)? {
                continue;
            }
            let error = Error::new(ErrorKind::Busy, operation, format!("the unfinished root is in use: {holder}"));
            let remedy = "save what it wrote there, end this use and run recover, which brings back the root from before";
            return Err(self.place.add_volume(error).with_remedy(remedy));
        }
    }

    fn noted_limits(&self, safety: &str, operation: &'static str) -> Result<Limits> {
        let answer = self.place.ask(program!("notes"), &[text("name", safety)], operation)?;
        let limit = |name: &str| {
            let bytes: u64 = answer.get(name).and_then(Value::as_str)?.parse().ok()?;
            (bytes > 0).then(|| ByteSize::from_bytes(bytes))
        };
        Ok(Limits { quota: limit(note::QUOTA), refquota: limit(note::REFQUOTA) })
    }

    fn destroy_safety(&self, operation: &'static str) -> Result<()> {
        self.destroy_all(&self.place.name.slot(Slot::Live), &[SAFETY], operation)
    }
}
