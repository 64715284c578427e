//! Snapshots of a volume, and what was cloned from them.

use std::sync::PoisonError;
use std::time::Duration;

use nix::errno::Errno;

use super::name::Place;
use super::state::LOCK_OF_FEATURE;
use super::{CephVolume, ChildrenPolicy, Role, bases};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::sys::ceph::{Access, Child, Image, Pool, Snap, SnapKind, Which, features};
use crate::text::Escaped;
use crate::volume::{Slot, Snapshot, SnapshotOwner};

/// How LXD and Incus name theirs.
const MANAGERS: &str = "snapshot_";
/// How long copying what a clone shares may take.
const FLATTEN_LIMIT: Duration = Duration::from_secs(24 * 3600);
const OPERATION: &str = "purge the snapshots";

/// A clone, for a person.
pub(super) fn shown(child: &Child) -> String {
    let namespace = if child.namespace.is_empty() { String::new() } else { format!("{}/", child.namespace) };
    let whole = format!("{}/{namespace}{}", child.pool, child.name);
    let whole = Escaped(whole.as_bytes()).to_string();
    if child.trash { format!("{whole} (in the trash, id {})", child.id) } else { whole }
}

/// The name of a snapshot, for a person and as the plan keeps it.
fn name_of(snapshot: &Snap) -> &str {
    match &snapshot.kind {
        // Its own is a number in the namespace of the trash.
        SnapKind::Trash { original } => original,
        _ => &snapshot.name,
    }
}

impl CephVolume {
    pub(super) fn list_snapshots(&self) -> Result<Vec<Snapshot>> {
        const OPERATION: &str = "list the snapshots";
        let Some(id) = self.id_of(Slot::Live, OPERATION)? else { return Ok(Vec::new()) };
        if self.begun {
            // The last look before the commit.
            self.look_anew();
        }
        let image = self.look_at(&id, OPERATION)?;
        let mut found = Vec::new();
        for snapshot in self.snapshots_of(&image, OPERATION)? {
            let mut dependents = self.dependents(&image, &snapshot, OPERATION)?.1;
            match snapshot.kind {
                SnapKind::User | SnapKind::Trash { .. } => {}
                // They outlive the image's membership.
                SnapKind::Group => dependents.push("the group that it was taken of: rbd group snap ls".to_owned()),
                // An image with these is refused whatever becomes of them.
                SnapKind::Mirror => continue,
                SnapKind::Other(_) => dependents.push("what made it: it is of a kind that is not known".to_owned()),
            }
            let name = name_of(&snapshot);
            let owner = if name.starts_with(MANAGERS) { SnapshotOwner::Manager } else { SnapshotOwner::Foreign };
            found.push(Snapshot::new(name, owner).with_dependents(dependents));
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(found)
    }

    /// A snapshot that an image has beyond those that were listed when it was live and the new root was made.
    pub(super) fn unlisted(&self, id: &str, operation: &'static str) -> Result<Option<String>> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(listed) = listed.as_ref() else { return Ok(None) };
        let image = self.look_at(id, operation)?;
        let is_listed = |snapshot: &Snap| listed.iter().any(|listed| listed.name.to_str() == Some(name_of(snapshot)));
        let all = self.snapshots_of(&image, operation)?;
        Ok(all.iter().find(|snapshot| !is_listed(snapshot)).map(|snapshot| Escaped(name_of(snapshot).as_bytes()).to_string()))
    }

    /// All but the one of a base that it is for.
    fn snapshots_of(&self, image: &Image, operation: &'static str) -> Result<Vec<Snap>> {
        let all = image.snapshots().map_err(|error| self.failed(error, operation, "cannot list the image's snapshots"))?;
        let is_own = |snapshot: &Snap| matches!(self.role, Role::Base(_)) && snapshot.name == bases::SNAPSHOT;
        Ok(all.into_iter().filter(|snapshot| !is_own(snapshot)).collect())
    }

    fn children_of(&self, image: &Image, snapshot: &Snap, operation: &'static str) -> Result<Vec<Child>> {
        let children = image.children(snapshot.id);
        children.map_err(|error| self.failed(error, operation, "cannot ask what was cloned from the image"))
    }

    /// What was cloned from a snapshot; and what of that keeps it from going, for a person.
    fn dependents(&self, image: &Image, snapshot: &Snap, operation: &'static str) -> Result<(Vec<Child>, Vec<String>)> {
        let children = self.children_of(image, snapshot, operation)?;
        let mut stay = Vec::new();
        for child in &children {
            match self.children {
                ChildrenPolicy::Refuse => stay.push(shown(child)),
                ChildrenPolicy::Flatten => stay.extend(self.bound_by(child, operation)?),
            }
        }
        Ok((children, stay))
    }

    /// What keeps a clone from being freed by flattening it: a lock by hand; or a snapshot of its own, for without the feature deep-flatten only the clone itself is given a copy.
    fn bound_by(&self, child: &Child, operation: &'static str) -> Result<Option<String>> {
        let told = |error| self.failed(error, operation, format!("cannot look at {}", shown(child)));
        let image = self.pool_of(child, operation)?.open(&Which::Id(&child.id), Access::ReadOnly).map_err(told)?;
        if image.lockers().map_err(told)?.held.iter().any(|locker| !locker.cookie.starts_with(LOCK_OF_FEATURE)) {
            return Ok(Some(format!("{} (locked)", shown(child))));
        }
        if image.features().map_err(told)? & features::DEEP_FLATTEN != 0 {
            return Ok(None);
        }
        let snapshots = image.snapshots().map_err(told)?;
        Ok(snapshots.first().map(|snapshot| format!("{}@{}", shown(child), Escaped(name_of(snapshot).as_bytes()))))
    }

    /// Where a clone is.
    fn pool_of(&self, child: &Child, operation: &'static str) -> Result<Pool> {
        if child.pool == self.name.pool() && child.namespace == self.name.namespace() {
            return Ok(self.pool.clone());
        }
        let place = Place { pool: child.pool.clone(), namespace: child.namespace.clone() };
        self.cluster.connect(&place, operation).map_err(|error| self.add_volume(error))
    }

    pub(super) fn purge_snapshots(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        let [_, staged, retired] = self.ids(OPERATION)?;
        let Some(id) = retired.or(staged) else { return Ok(()) };
        if snapshots.is_empty() {
            return Ok(());
        }
        self.look_anew();
        let all = self.snapshots_of(&*self.look_at(&id, OPERATION)?, OPERATION)?;
        let doomed: Vec<_> = all
            .into_iter()
            .filter(|found| snapshots.iter().any(|snapshot| snapshot.name.to_str() == Some(name_of(found))))
            .collect();
        self.remove_these(&id, &doomed, OPERATION)
    }

    /// Removes all snapshots of an image that is to go: of a base that for its clones too.
    pub(super) fn remove_snapshots_of(&self, id: &str, operation: &'static str) -> Result<()> {
        let image = match self.pool.open(&Which::Id(id), Access::ReadOnly) {
            // It was being made or removed when that was ended: no snapshot is on such an image.
            Err(error) if error.errno == Errno::ENOENT => return Ok(()),
            image => image.map_err(|error| self.failed(error, operation, "cannot open the image"))?,
        };
        let all = image.snapshots().map_err(|error| self.failed(error, operation, "cannot list the image's snapshots"))?;
        drop(image);
        self.remove_these(id, &all, operation)
    }

    fn remove_these(&self, id: &str, doomed: &[Snap], operation: &'static str) -> Result<()> {
        if doomed.is_empty() {
            return Ok(());
        }
        let image = self.open_to_change(id, operation)?;
        // First all are looked at: none goes if one has to stay.
        let mut children = Vec::new();
        for snapshot in doomed {
            let (found, stay) = self.dependents(&image, snapshot, operation)?;
            if !stay.is_empty() {
                let why = format!("{} depend on its snapshot {}", stay.join(", "), Escaped(name_of(snapshot).as_bytes()));
                return Err(self
                    .add_volume(Error::new(ErrorKind::HasDependents, operation, why))
                    .with_remedy("flatten them (rbd flatten), with their own snapshots removed, or remove them if they are not needed; then run recover"));
            }
            children.extend(found);
        }
        for child in &children {
            self.flatten_child(child, operation)?;
        }
        for snapshot in doomed {
            self.remove_snapshot(&image, snapshot, operation)?;
        }
        Ok(())
    }

    fn remove_snapshot(&self, image: &Image, snapshot: &Snap, operation: &'static str) -> Result<()> {
        let what = || format!("cannot remove the snapshot {}", Escaped(name_of(snapshot).as_bytes()));
        let told = |error| self.failed(error, operation, what());
        match &snapshot.kind {
            // It goes with its last clone, mostly.
            SnapKind::Trash { .. } => {
                return match image.remove_snapshot_by_id(snapshot.id) {
                    Err(error) if error.errno == Errno::ENOENT => Ok(()),
                    removed => removed.map_err(told),
                };
            }
            SnapKind::User => {}
            SnapKind::Group | SnapKind::Mirror | SnapKind::Other(_) => {
                let why = format!("{}: it is not one that was taken of this image alone", what());
                return Err(self.add_volume(Error::new(ErrorKind::Unsupported, operation, why)));
            }
        }
        if snapshot.protected {
            match image.unprotect(&snapshot.name) {
                // It is not protected any more.
                Err(error) if error.errno == Errno::EINVAL => {}
                unprotected => unprotected.map_err(told)?,
            }
        }
        match image.remove_snapshot(&snapshot.name) {
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            removed => removed.map_err(told),
        }
    }

    /// Gives a clone a copy of all that it shares.
    fn flatten_child(&self, child: &Child, operation: &'static str) -> Result<()> {
        let told = |error| self.failed(error, operation, format!("cannot flatten {}", shown(child)));
        let image = self.pool_of(child, operation)?.open(&Which::Id(&child.id), Access::Write).map_err(told)?;
        self.flatten(&image, operation)
    }

    /// Gives an image a copy of all that it shares with its parent.
    pub(super) fn flatten(&self, image: &Image, operation: &'static str) -> Result<()> {
        let wait = Wait::new(FLATTEN_LIMIT, CancelToken::new());
        match image.flatten(&wait) {
            // It has no parent any more.
            Err(error) if error.errno == Errno::EINVAL => Ok(()),
            flattened => flattened.map_err(|error| self.failed(error, operation, "cannot flatten an image")),
        }
    }
}
