//! Renaming and removing roots.

use std::time::Duration;

use nix::errno::Errno;

use super::{CephVolume, RemovalPolicy, Role, Staging, mapped, notes, trash};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::sys::ceph::{Access, Failed, Image, Which};
use crate::sys::krbd::Mapping as Device;
use crate::volume::{Slot, Tidied};

impl CephVolume {
    pub(super) fn rename_root(&mut self, from: Slot, to: Slot) -> Result<()> {
        const OPERATION: &str = "rename a root";
        let (old, new) = (self.name.slot(from), self.name.slot(to));
        if from == Slot::Live && !self.begun {
            // In place: when the new filesystem is made, the old one is gone.
            self.keep_recipe(OPERATION)?;
        }
        let missing = || self.add_volume(Error::new(ErrorKind::NotFound, OPERATION, format!("there is no {from}")));
        let id = self.id_of(from, OPERATION)?.ok_or_else(missing)?;
        if self.id_of(to, OPERATION)?.is_some() {
            // What is noted of it stays.
            let error = Error::new(ErrorKind::AlreadyExists, OPERATION, format!("there is a {to} already"));
            return Err(self.add_volume(error).with_remedy("run recover"));
        }
        if let Some(captured) = self.captured.as_ref().filter(|captured| captured.slot == from && captured.id != id) {
            let why = format!("the image {old} is another one than when the rebuild began (its id was {})", captured.id);
            return Err(self.add_volume(Error::new(ErrorKind::Busy, OPERATION, why)).with_remedy("see who has replaced it"));
        }
        if from == Slot::Live && self.begun {
            self.refuse_full(OPERATION)?;
        }
        if to != Slot::Live {
            self.announce(to, &id, OPERATION)?;
        }
        self.check_lock(OPERATION)?;
        if from == Slot::Retired {
            self.keep_from_trash(OPERATION)?;
        }
        self.mend_name(to, OPERATION)?;
        self.pool.rename(&old, &new).map_err(|error| self.not_renamed(from, to, error, OPERATION))?;
        if from == Slot::Live
            && let Some(late) = self.came_late(&id, OPERATION).unwrap_or_else(Some)
        {
            return Err(match self.pool.rename(&new, &old) {
                Ok(()) => late,
                Err(error) => late
                    .with_context("undoing", self.not_renamed(to, from, error, OPERATION))
                    .with_outcome(Outcome::Interrupted)
                    .with_remedy(format!(
                        "give it its name back before anything else: rbd rename {0}/{new} {0}/{old}",
                        self.name.place()
                    )),
            });
        }
        if let Some(captured) = self.captured.as_mut().filter(|captured| captured.slot == from) {
            captured.slot = to;
        }
        if from != Slot::Live {
            // What is left of it, the next rebuild removes.
            let _ = notes::remove(&self.pool, &[notes::made(&old)]);
        }
        Ok(())
    }

    /// Who came to use the live root, and what snapshot was taken of it, after the last look. Under its new name nobody finds it any more.
    fn came_late(&self, id: &str, operation: &'static str) -> Result<Option<Error>> {
        let add = |error: Error| self.add_volume(error);
        if let Some(error) = self.in_use(id, operation)? {
            return Ok(Some(error));
        }
        let here = mapped::shown(&self.target(self.name.image(), id), operation).map_err(add)?;
        if let Some(node) = here.kernel.first().map(Device::node).or_else(|| here.nbd.first().cloned()) {
            let why = format!("the image was mapped on this host meanwhile, as {}", node.display());
            return Ok(Some(add(Error::new(ErrorKind::Busy, operation, why)).with_remedy("unmap it")));
        }
        let snapshot = self.unlisted(id, operation)?;
        Ok(snapshot.map(|name| {
            let why = format!("the snapshot {name} was taken meanwhile");
            add(Error::new(ErrorKind::HasSnapshots, operation, why)).with_remedy("try again, and decide what becomes of it")
        }))
    }

    /// Refuses to go on with a lock that others see no sign of any more: one of them may have broken it.
    fn check_lock(&self, operation: &'static str) -> Result<()> {
        self.holding.check().map_err(|error| {
            self.failed(error, operation, "the volume's lock was lost: the cluster has missed this host for too long")
                .with_kind(ErrorKind::Locked)
                .with_remedy("see that nobody else rebuilds the volume, and try again")
        })
    }

    fn not_renamed(&self, from: Slot, to: Slot, error: Failed, operation: &'static str) -> Error {
        let error = self.failed(error, operation, format!("cannot rename the image of the {from}"));
        match (self.id_of(from, operation), self.id_of(to, operation)) {
            (Ok(None), _) => error.with_kind(ErrorKind::NotFound).with_remedy("see what became of it: rbd ls"),
            _ if matches!(error.kind(), ErrorKind::NoSpace(_)) => {
                error.with_remedy("raise the pool's quota, or make room: in a pool that is full nothing can be renamed")
            }
            (Ok(Some(_)), Ok(Some(_))) => error.with_kind(ErrorKind::AlreadyExists).with_remedy("run recover"),
            _ => error,
        }
    }

    /// Removes what a killed rename or creation has left under a name: an object that leads to an image of another name, or to none. The directory of the pool's images decides
    /// which name an image has; but nothing can be made under a name that such an object is there for.
    pub(super) fn mend_name(&self, slot: Slot, operation: &'static str) -> Result<()> {
        let name = self.name.slot(slot);
        let told = |error| self.failed(error, operation, "cannot look at what is left of a name");
        let Some(id) = self.pool.id_object(&name).map_err(told)? else { return Ok(()) };
        if self.pool.image_ids(&[&name]).map_err(told)?.iter().any(Option::is_some) {
            return Ok(());
        }
        let is_stale = match self.pool.image_name(&id).map_err(told)? {
            // Another's rename may be on its way.
            Some(other) => other != name && self.is_own(&other),
            // Of an image that has no name at all it would be the only trace; but not where there is no image.
            None => slot != Slot::Live && !self.is_image(&id, operation)?,
        };
        if is_stale { self.pool.remove_id_object(&name).map_err(told) } else { Ok(()) }
    }

    /// Whether it is the name of one of the volume's roots.
    fn is_own(&self, image: &str) -> bool {
        [Slot::Live, Slot::Staged, Slot::Retired].iter().any(|slot| self.name.slot(*slot) == image)
    }

    /// Whether there is an image of this id, with a name or in the trash.
    fn is_image(&self, id: &str, operation: &'static str) -> Result<bool> {
        let told = |error| self.failed(error, operation, "cannot look for an image");
        if self.pool.trash_entry(id).map_err(told)?.is_some() {
            return Ok(true);
        }
        match self.pool.open(&Which::Id(id), Access::ReadOnly) {
            Err(error) if error.errno == Errno::ENOENT => Ok(false),
            opened => opened.map(|_| true).map_err(told),
        }
    }

    pub(super) fn remove_root(&mut self, slot: Slot) -> Result<()> {
        const OPERATION: &str = "remove a root";
        if slot == Slot::Live {
            let why = "the live root is never removed under its name";
            return Err(self.add_volume(Error::new(ErrorKind::InvalidInput, OPERATION, why)));
        }
        if slot == Slot::Staged {
            self.staging = Staging::default();
        }
        self.look_anew();
        let name = self.name.slot(slot);
        let Some(id) = self.id_of(slot, OPERATION)? else {
            self.mend_name(slot, OPERATION)?;
            let removed = notes::remove(&self.pool, &[notes::made(&name), notes::mapped(&name)]);
            return removed.map_err(|error| self.failed(error, OPERATION, "cannot remove what is noted of the image"));
        };
        mapped::release(&self.target(&name, &id), OPERATION).map_err(|error| self.add_volume(error))?;
        // Only a staged root is filled.
        let shut_out = if slot == Slot::Staged { self.shut_out_filler(&name, OPERATION)? } else { None };
        self.remove_snapshots_of(&id, OPERATION)?;
        let note = notes::trash(self.name.image(), &id);
        let noted = notes::write(&self.pool, &[(note.clone(), Vec::new())]);
        noted.map_err(|error| self.failed(error, OPERATION, "cannot note that the image is on its way out"))?;
        let delay = match (slot, self.removal, &self.role) {
            (Slot::Retired, RemovalPolicy::Trash(delay), Role::Volume) => trash::delay(delay),
            _ => Duration::ZERO,
        };
        self.move_to_trash(&name, &id, shut_out.as_deref(), delay, OPERATION)?;
        let mut done = vec![notes::made(&name), notes::mapped(&name)];
        if self.is_unfinished_base(OPERATION)? {
            done.extend([notes::base(self.name.image()), notes::used(self.name.image())]);
        }
        if delay.is_zero() {
            self.remove_from_trash(&id, OPERATION)?;
            done.push(note);
        } else {
            self.note_trashed(&id, OPERATION)?;
        }
        notes::remove(&self.pool, &done).map_err(|error| self.failed(error, OPERATION, "cannot remove what is noted of the image"))
    }

    /// Whether nothing is there of the base that this is.
    fn is_unfinished_base(&self, operation: &'static str) -> Result<bool> {
        match &self.role {
            Role::Volume => Ok(false),
            Role::Base(_) => Ok(self.ids(operation)?.iter().all(Option::is_none)),
        }
    }

    /// Finishes what a killed run has begun besides the three names: removes old roots from the trash whose time has come, notes and names of what is not there any more, and
    /// mappings that nobody uses.
    pub(super) fn tidy_up(&mut self) -> Result<Tidied> {
        const OPERATION: &str = "tidy up";
        let told = |error| self.failed(error, OPERATION, "cannot read what is noted of the volume");
        let (tidied, mut done) = self.tidy_trash(OPERATION)?;
        let [live, staged, retired] = self.ids(OPERATION)?;
        if let Some(id) = live {
            mapped::release_left(&self.target(self.name.image(), &id), OPERATION).map_err(|error| self.add_volume(error))?;
        }
        let slots = [(Slot::Staged, staged), (Slot::Retired, retired)];
        let gone = slots.iter().filter(|(_, id)| id.is_none()).map(|(slot, _)| *slot);
        let keys: Vec<_> =
            gone.map(|slot| self.name.slot(slot)).flat_map(|name| [notes::made(&name), notes::mapped(&name)]).collect();
        done.extend(notes::read(&self.pool, &keys).map_err(told)?.into_keys());
        for slot in [Slot::Live, Slot::Staged, Slot::Retired] {
            self.mend_name(slot, OPERATION)?;
        }
        if !done.is_empty() {
            notes::remove(&self.pool, &done).map_err(told)?;
        }
        Ok(tidied)
    }

    /// Opens an image to change it.
    pub(super) fn open_to_change(&self, id: &str, operation: &'static str) -> Result<Image> {
        let image = self.pool.open(&Which::Id(id), Access::Write);
        image.map_err(|error| self.failed(error, operation, "cannot open the image"))
    }
}
