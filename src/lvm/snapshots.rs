//! Snapshots of a volume.

use super::report::{Group, Layout, Volume};
use super::{Lies, LvmVolume, MADE};
use crate::error::{Error, ErrorKind, Result};
use crate::volume::{Slot, Snapshot, SnapshotOwner};

/// How many snapshots one command removes.
const AT_ONCE: usize = 50;

impl LvmVolume {
    pub(super) fn list_snapshots(&self) -> Result<Vec<Snapshot>> {
        const OPERATION: &str = "list the snapshots";
        let group = self.look(OPERATION)?;
        if group.find(self.name.name()).is_none() {
            return Ok(Vec::new());
        }
        let mut snapshots: Vec<_> =
            group.volumes.iter().filter_map(|volume| self.snapshot(&group, volume, self.name.name())).collect();
        snapshots.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(snapshots)
    }

    /// What a volume of the group is to the root of this name, if it is a snapshot of it.
    fn snapshot(&self, group: &Group, volume: &Volume, root: &str) -> Option<Snapshot> {
        if self.is_root(&volume.name) || volume.has_tag(MADE) {
            return None;
        }
        let managers = self.is_managers(&volume.name);
        let pool = group.find(root).and_then(|root| root.pool.as_deref());
        let taken = match self.lies {
            // What a manager keeps may have outlived the root it was taken of.
            Lies::Thin => {
                let in_pool = volume.layout == Layout::Thin && (pool.is_none() || volume.pool.as_deref() == pool);
                let taken = managers && !self.is_of_another(group, volume) || group.descends(volume, root);
                in_pool && volume.is_read_only() && taken && !self.is_anothers(group, volume)
            }
            // Writable or not, it goes with its origin.
            Lies::Thick => volume.origin.as_deref() == Some(root),
        };
        let owner = if managers { SnapshotOwner::Manager } else { SnapshotOwner::Foreign };
        let dependents = if self.lies == Lies::Thin { group.dependents(&volume.name) } else { Vec::new() };
        taken.then(|| Snapshot::new(volume.name.as_str(), owner).with_dependents(dependents))
    }

    fn is_managers(&self, name: &str) -> bool {
        names_snapshot(self.name.name(), name)
    }

    /// Whether a snapshot is another volume's by its name. A copy of an instance has copies of its snapshots, which LXD and Incus take of these; and without
    /// their names, `c1-x-NAME` is of `c1-x` before it is of `c1`.
    fn is_anothers(&self, group: &Group, snapshot: &Volume) -> bool {
        let own = self.name.name();
        let longer = |other: &Volume| !self.is_managers(&snapshot.name) || other.name.len() > own.len();
        let names = |other: &Volume| other.name != own && longer(other) && names_snapshot(&other.name, &snapshot.name);
        group.volumes.iter().any(|other| (!other.is_read_only() || other.has_tag(MADE)) && names(other))
    }

    /// Whether a snapshot was taken of a volume that is there, can be written to, and is not this one.
    fn is_of_another(&self, group: &Group, snapshot: &Volume) -> bool {
        let origin = snapshot.origin.as_deref().and_then(|origin| group.find(origin));
        origin.is_some_and(|origin| !origin.is_read_only() && !self.is_root(&origin.name))
    }

    pub(super) fn purge_snapshots(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        const OPERATION: &str = "purge the snapshots";
        let group = self.look_again(OPERATION)?;
        let root =
            [Slot::Retired, Slot::Staged].map(|slot| self.name.slot(slot)).into_iter().find(|name| group.find(name).is_some());
        let mut doomed = Vec::new();
        for snapshot in snapshots {
            let name = snapshot.name.to_str().unwrap_or_default();
            let Some(volume) = group.find(name) else { continue };
            let root = root.as_deref().unwrap_or_default();
            if self.snapshot(&group, volume, root).or_else(|| self.orphan(volume)).is_none() {
                let why = format!("{} is no snapshot of the volume", self.full(name));
                return Err(self.add_volume(Error::new(ErrorKind::InvalidInput, OPERATION, why)));
            }
            if self.lies == Lies::Thin {
                self.refuse_dependents(&group, name, OPERATION)?;
            }
            doomed.push(self.full(name));
        }
        if doomed.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = snapshots.iter().filter_map(|snapshot| snapshot.name.to_str()).collect();
        // Some at a time: each command has the same time to end in.
        for some in doomed.chunks(AT_ONCE) {
            let some = some.iter().map(String::as_str);
            let done = self.lvm.run("lvremove", ["--yes"].into_iter().chain(some), OPERATION)?;
            self.seen.forget();
            done.success(OPERATION).map_err(|error| self.busy_or(&names, OPERATION, error))?;
        }
        names.iter().try_for_each(|name| self.remove_stray(name, OPERATION))
    }

    /// A thin snapshot whose origin is gone: of a rebuild in place, which purges last.
    fn orphan(&self, volume: &Volume) -> Option<Snapshot> {
        let orphan = volume.layout == Layout::Thin && volume.is_read_only() && volume.origin.is_none() && !volume.has_tag(MADE);
        orphan.then(|| Snapshot::new(volume.name.as_str(), SnapshotOwner::Foreign))
    }
}

/// Whether a manager names a snapshot of a volume so: `c1-NAME`. Hyphens in names are doubled by LXD and Incus, so `c1--x` is another volume.
fn names_snapshot(volume: &str, name: &str) -> bool {
    let rest = name.strip_prefix(volume).and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('-'))
}
