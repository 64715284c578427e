//! The snapshots of a dataset, and what depends on them.

use std::ffi::CString;
use std::sync::PoisonError;

use nix::errno::Errno;

use super::bases::ORIGIN;
use super::name::{SAFETY, c_text};
use super::place::{program, text, unless_busy};
use super::{ClonePolicy, Role, ZfsVolume};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::zfs::Value;
use crate::volume::{Slot, Snapshot, SnapshotOwner};

/// A snapshot, as ZFS has it.
#[derive(Debug, Clone)]
pub(super) struct Detail {
    /// Behind the `@`.
    pub(super) name: String,
    /// When it was taken, in the pool's own count.
    pub(super) txg: u64,
    pub(super) clones: Vec<String>,
    pub(super) holds: Vec<String>,
}

impl ZfsVolume {
    /// The snapshots of a dataset, in the order in which they were taken.
    pub(super) fn details(&self, dataset: &str, operation: &'static str) -> Result<Vec<Detail>> {
        let found = self.place.ask(program!("snapshots"), &[text("name", dataset)], operation)?;
        let names = |entry: &Value, key: &str| -> Vec<String> {
            entry.as_list().and_then(|map| map.get(key)?.as_list()).into_iter().flatten().map(|(name, _)| name.clone()).collect()
        };
        let mut details: Vec<_> = found
            .iter()
            .filter_map(|(full, entry)| {
                Some(Detail {
                    name: full.split_once('@')?.1.to_owned(),
                    txg: entry.as_list()?.get("txg")?.as_number()?,
                    clones: names(entry, "clones"),
                    holds: names(entry, "holds"),
                })
            })
            .collect();
        details.sort_by(|a, b| (a.txg, &a.name).cmp(&(b.txg, &b.name)));
        Ok(details)
    }

    pub(super) fn list_snapshots(&self) -> Result<Vec<Snapshot>> {
        let details = self.details(&self.place.name.slot(Slot::Live), "list the snapshots")?;
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(details.iter().map(|detail| detail.name.clone()).collect());
        let mut snapshots: Vec<_> =
            details.iter().filter(|detail| !self.is_own(&detail.name)).map(|it| self.snapshot(it)).collect();
        snapshots.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(snapshots)
    }

    /// Names a snapshot that a dataset has beyond those that were listed when it was live: it was taken after the last look, and would go with the old root.
    pub(super) fn came_late(&self, dataset: &str, operation: &'static str) -> Result<Option<Error>> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(listed) = listed.as_ref() else { return Ok(None) };
        let late = self.details(dataset, operation)?.into_iter().find(|detail| !listed.contains(&detail.name));
        Ok(late.map(|late| {
            let why = format!("the snapshot {} was taken meanwhile", late.name);
            let error = self.place.add_volume(Error::new(ErrorKind::HasSnapshots, operation, why));
            error.with_remedy("try again, and decide what becomes of it")
        }))
    }

    /// Whether a snapshot is this library's, and not one of the volume's.
    fn is_own(&self, name: &str) -> bool {
        name == SAFETY || self.role == Role::Base && name == ORIGIN
    }

    fn snapshot(&self, detail: &Detail) -> Snapshot {
        let owner = if detail.name.starts_with(&self.prefix) { SnapshotOwner::Manager } else { SnapshotOwner::Foreign };
        let mut dependents: Vec<_> = detail.holds.iter().map(|hold| format!("the hold {hold}")).collect();
        if self.clones == ClonePolicy::Refuse {
            dependents.extend(detail.clones.iter().map(|clone| format!("the clone {clone}")));
        }
        Snapshot::new(detail.name.as_str(), owner).with_dependents(dependents)
    }

    pub(super) fn purge_snapshots(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        const OPERATION: &str = "purge the snapshots";
        let names: Vec<_> = snapshots.iter().filter_map(|snapshot| snapshot.name.to_str()).collect();
        if names.len() < snapshots.len() || names.iter().any(|name| name.is_empty() || name.contains(['/', '@', '\0'])) {
            return Err(self.place.add_volume(Error::new(
                ErrorKind::InvalidInput,
                OPERATION,
                "one of the names is none of a snapshot",
            )));
        }
        let look = self.place.look(OPERATION)?;
        let slot = match (&look.retired, &look.staged) {
            (Some(_), _) => Slot::Retired,
            (None, Some(_)) => Slot::Staged,
            (None, None) => return Ok(()),
        };
        // Then the root cannot go either, and comes back with its snapshots.
        if look.live.is_none() && look.staged.is_none() && look.of(slot).is_some_and(|root| root.has_children) {
            return Err(self.with_children_left(slot)?);
        }
        let dataset = self.place.name.slot(slot);
        self.promote_clones(&dataset, OPERATION)?;
        self.destroy_all(&dataset, &names, OPERATION)
    }

    /// Destroys these snapshots of a dataset, all or none. Those that are gone are no error.
    pub(super) fn destroy_all(&self, dataset: &str, names: &[&str], operation: &'static str) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let full: Vec<CString> = names.iter().map(|name| c_text(format!("{dataset}@{name}"))).collect();
        unless_busy(|| self.place.zfs.destroy_snapshots(&full))
            .map_err(|errno| self.not_destroyed(dataset, names, operation, errno))
    }

    /// Names what kept snapshots from being destroyed.
    fn not_destroyed(&self, dataset: &str, names: &[&str], operation: &'static str, errno: Errno) -> Error {
        let details = self.details(dataset, operation).unwrap_or_default();
        let kept = details
            .iter()
            .filter(|detail| names.contains(&detail.name.as_str()))
            .find(|detail| !detail.clones.is_empty() || !detail.holds.is_empty());
        match kept {
            Some(Detail { name, clones, holds, .. }) => {
                let (what, remedy) = match (clones.first(), holds.first()) {
                    // The snapshot that keeps the old root would go to the clone.
                    (Some(clone), _) if dataset == self.place.name.as_str() => (
                        format!("the clone {clone}"),
                        "destroy it and run recover; to promote it would lose the old root".to_owned(),
                    ),
                    (Some(clone), _) => (format!("the clone {clone}"), format!("promote it (zfs promote {clone}) or destroy it")),
                    (None, hold) => {
                        let hold = hold.map_or("", String::as_str);
                        (format!("the hold {hold}"), format!("release it: zfs release {hold} {dataset}@{name}"))
                    }
                };
                let error = Error::new(ErrorKind::HasDependents, operation, format!("{what} depends on {dataset}@{name}"));
                self.place.add_volume(error).with_remedy(remedy)
            }
            None if errno == Errno::EBUSY => self
                .place
                .failed(operation, format!("a snapshot of {dataset} is in use"), errno)
                .with_remedy("unmount it, or end what sends it, and run recover"),
            None => self.place.failed(operation, format!("cannot destroy the snapshots of {dataset}"), errno),
        }
    }

    /// Makes the clones of a dataset's snapshots independent of it, if that is the policy.
    pub(super) fn promote_clones(&self, dataset: &str, operation: &'static str) -> Result<()> {
        if self.clones == ClonePolicy::Refuse {
            return Ok(());
        }
        // Each promotion takes at least one clone off the dataset.
        let mut left = usize::MAX;
        loop {
            let details = self.details(dataset, operation)?;
            let count = details.iter().map(|detail| detail.clones.len()).sum();
            let Some(clone) = details.iter().rev().find_map(|detail| detail.clones.first()).filter(|_| count < left) else {
                return Ok(());
            };
            left = count;
            self.place.zfs.promote(&c_text(clone.as_str())).map_err(|errno| match errno {
                Errno::EEXIST => self
                    .place
                    .failed(operation, format!("cannot promote {clone}: it has a snapshot of the same name"), errno)
                    .with_kind(ErrorKind::HasDependents)
                    .with_remedy(format!("rename the snapshots of {clone} and run recover")),
                errno => self.place.failed(operation, format!("cannot promote {clone}"), errno),
            })?;
        }
    }
}
