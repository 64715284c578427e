//! What was seen of a volume's group, for as long as it can be relied on.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::name::device;
use super::report::{Group, Layout, Volume};
use super::{LvmVolume, MADE};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::sys::dm;
use crate::volume::{Slot, VolumeLock};

/// How long an answer is used again: a report takes tens of milliseconds, and the looks at the beginning of a rebuild come one after another.
const FRESH: Duration = Duration::from_millis(50);
/// The same while the volume's lock is held: then no other rebuild changes its names.
const FRESH_LOCKED: Duration = Duration::from_millis(300);

/// The last report of a group.
#[derive(Debug, Default)]
pub(super) struct Seen {
    lock: Mutex<Weak<()>>,
    last: Mutex<Option<(Instant, Arc<Group>)>>,
    /// What the group lies on, while the volume's lock is held.
    disks: Mutex<Option<Arc<[PathBuf]>>>,
}

impl Seen {
    /// Ties what is kept to a lock.
    pub(super) fn while_locked(&self, lock: VolumeLock) -> VolumeLock {
        let held = Arc::new(());
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&held);
        *self.disks.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.forget();
        VolumeLock::new((lock, held))
    }

    pub(super) fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn fresh(&self) -> Option<Arc<Group>> {
        let locked = self.lock.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0;
        let limit = if locked { FRESH_LOCKED } else { FRESH };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(time, _)| time.elapsed() < limit).map(|(_, group)| Arc::clone(group))
    }

    pub(super) fn keep(&self, group: &Arc<Group>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Arc::clone(group)));
    }

    /// What another saw a moment ago.
    pub(super) fn take_from(&self, other: &Seen) {
        let last = other.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

impl LvmVolume {
    /// What the group lies on.
    pub(super) fn disks(&self, operation: &'static str) -> Result<Arc<[PathBuf]>> {
        let mut known = self.seen.disks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(disks) = &*known {
            return Ok(Arc::clone(disks));
        }
        let disks = self.lvm.disks(self.name.group(), operation).map_err(|error| self.add_volume(error))?;
        if disks.is_empty() {
            let why = format!("LVM names no disk of the volume group {}", self.name.group());
            return Err(self.add_volume(Error::new(ErrorKind::Io, operation, why)).with_remedy("see which disks LVM sees: pvs"));
        }
        Ok(Arc::clone(known.insert(disks.into())))
    }

    /// Has disks write what they keep in a cache. LVM writes its metadata past the kernel's, and does not see to the disk's.
    pub(super) fn flush(&self, disks: &[PathBuf], operation: &'static str) -> Result<()> {
        disks.iter().try_for_each(|disk| {
            let flushed = File::open(disk).and_then(|disk| disk.sync_all());
            flushed.map_err(|error| {
                let why = format!("cannot make {} write what it keeps in its cache", disk.display());
                self.add_volume(Error::io(operation, why, error)).with_outcome(Outcome::Interrupted)
            })
        })
    }

    /// The group; a stranger's volume under one of our names is an error naming it.
    pub(super) fn look(&self, operation: &'static str) -> Result<Arc<Group>> {
        if let Some(group) = self.seen.fresh() {
            return Ok(group);
        }
        let group =
            self.lvm.report(self.name.group(), operation).map_err(|error| self.add_volume(self.or_unreadable(error, operation)))?;
        for slot in [Slot::Staged, Slot::Retired] {
            let name = self.name.slot(slot);
            if group.find(&name).is_some_and(|found| !found.has_tag(MADE)) {
                let full = format!("{}/{name}", self.name.group());
                let error = Error::new(ErrorKind::AlreadyExists, operation, format!("{full} was not made by this library"));
                let remedy = format!("rename it, for the name is reserved: lvrename {full} OTHER");
                return Err(self.add_volume(error).with_remedy(remedy));
            }
        }
        let group = Arc::new(group);
        self.seen.keep(&group);
        Ok(group)
    }

    /// LVM does not find a group whose disk cannot be read, and says nothing of the disk. Where a volume of it is active, there is one.
    fn or_unreadable(&self, error: Error, operation: &'static str) -> Error {
        let device = device(self.name.group(), self.name.name());
        if error.kind() != ErrorKind::NotFound || !dm::state(&device).is_ok_and(|state| state.is_some()) {
            return error;
        }
        let why =
            format!("LVM does not find the volume group {}, of which {device} is active: a disk cannot be read", self.name.group());
        Error::new(ErrorKind::Io, operation, why)
            .with_source(error)
            .with_remedy("see the kernel's log, and which disks LVM sees: pvs")
    }

    /// The live root, or the retired one of an interrupted in-place rebuild.
    pub(super) fn root_in<'a>(&self, group: &'a Group) -> Option<&'a Volume> {
        group.find(self.name.name()).or_else(|| group.find(&self.name.slot(Slot::Retired)))
    }

    /// Whether this is the name of one of the volume's roots.
    pub(super) fn is_root(&self, name: &str) -> bool {
        [Slot::Live, Slot::Staged, Slot::Retired].iter().any(|slot| name == self.name.slot(*slot))
    }

    /// As [`look`](Self::look), not earlier than now.
    pub(super) fn look_again(&self, operation: &'static str) -> Result<Arc<Group>> {
        self.seen.forget();
        self.look(operation)
    }

    /// Refuses what has the volume's own name and could not be rebuilt, and finds out how the volume lies.
    pub(super) fn check_live(&mut self, operation: &'static str) -> Result<()> {
        let group = match self.look(operation) {
            // Something beside the volume is told of when it is in the way.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Arc::new(self.lvm.report(self.name.group(), operation).map_err(|error| self.add_volume(error))?)
            }
            looked => looked?,
        };
        let volume = self.root_in(&group);
        self.lies = match volume {
            Some(volume) => lies(&group, volume).map_err(|why| {
                let error = Error::new(ErrorKind::InvalidInput, operation, format!("{} {why}", volume.name));
                self.add_volume(error).with_remedy("name a thin volume, or a linear or striped one")
            })?,
            None if group.volumes.iter().any(|found| found.layout == Layout::ThinPool) => super::Lies::Thin,
            None => super::Lies::Thick,
        };
        Ok(())
    }

    /// The thin pool that a root of this volume lies in.
    pub(super) fn pool_of(&self, group: &Group, operation: &'static str) -> Result<String> {
        if let Some(pool) = self.captured.as_ref().and_then(|captured| captured.volume.pool.clone()) {
            return Ok(pool);
        }
        let volume = self.root_in(group);
        if let Some(pool) = volume.and_then(|volume| volume.pool.clone()).or_else(|| self.pool.clone()) {
            return Ok(pool);
        }
        let pools: Vec<_> = group.volumes.iter().filter(|volume| volume.layout == Layout::ThinPool).collect();
        match pools.as_slice() {
            [pool] => Ok(pool.name.clone()),
            [] => Err(self.add_volume(Error::new(ErrorKind::NotFound, operation, "the group has no thin pool"))),
            pools => {
                let names: Vec<_> = pools.iter().map(|pool| pool.name.as_str()).collect();
                let why = format!("the group has several thin pools: {}", names.join(", "));
                Err(self.add_volume(Error::new(ErrorKind::InvalidInput, operation, why)).with_remedy("name the one to use"))
            }
        }
    }
}

/// How a volume lies, or why it cannot be one's root.
fn lies(group: &Group, volume: &Volume) -> Result<super::Lies, String> {
    match &volume.layout {
        Layout::Thin => Ok(super::Lies::Thin),
        Layout::ThinPool => Err("is a thin pool".to_owned()),
        _ if volume.origin.as_deref().is_some_and(|origin| group.find(origin).is_some()) => {
            Err("is a snapshot of a thick volume".to_owned())
        }
        Layout::Linear | Layout::Striped => Ok(super::Lies::Thick),
        Layout::Other(kind) => Err(format!("is of the kind {kind}")),
    }
}
