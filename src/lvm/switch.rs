//! Renaming and removing roots.

use super::device::Links;
use super::report::{Activation, Group};
use super::{Activity, Lies, LvmVolume, MADE, Role, Staging};
use crate::error::{Error, ErrorKind, Result};
use crate::volume::Slot;

impl LvmVolume {
    /// Renames a root that is not active: LVM suspends what is, and waits for udev to rename all its links.
    pub(super) fn rename_root(&mut self, from: Slot, to: Slot) -> Result<()> {
        const OPERATION: &str = "rename a root";
        let (old, new) = (self.name.slot(from), self.name.slot(to));
        if from == Slot::Live {
            self.claim(OPERATION)?;
            if !self.staging.begun {
                // In place: when the new filesystem is made, the old one is gone.
                self.keep_recipe(OPERATION)?;
            }
        }
        // The staged root is going to be renamed next, and one command does for both.
        let staged = self.name.slot(Slot::Staged);
        let both: [&str; 2] = [&old, &staged];
        self.deactivate(if from == Slot::Live { &both } else { &both[..1] }, OPERATION)?;
        // What an error leaves open is nothing yet.
        let disks = self.disks(OPERATION)?;
        let renamed = self.lvm.run("lvrename", [self.name.group(), &old, &new], OPERATION)?;
        self.seen.forget();
        renamed.success(OPERATION).map_err(|error| self.not_renamed(&old, &new, OPERATION, error))?;
        if let Some(captured) = self.captured.as_mut().filter(|captured| captured.volume.name == old) {
            captured.volume.name.clone_from(&new);
        }
        let durable = self.flush(&disks, OPERATION);
        let active = if to == Slot::Live { self.make_active_again(&new, OPERATION) } else { Ok(()) };
        durable.and(active)
    }

    /// Marks the live root as ours, so that it is known under its retired name.
    fn claim(&self, operation: &'static str) -> Result<()> {
        if let Role::Base(_) = self.role {
            return Ok(());
        }
        let claimed = match &self.captured {
            Some(captured) => captured.volume.has_tag(MADE),
            None => self.look(operation)?.find(self.name.name()).is_none_or(|live| live.has_tag(MADE)),
        };
        if claimed {
            return Ok(());
        }
        let args = ["--addtag", MADE, &self.full(self.name.name())].map(str::to_owned);
        let done = self.lvm.must("lvchange", args, operation);
        self.seen.forget();
        done.map_err(|error| self.add_volume(error))
    }

    /// A live root is active if the one before it was, and if there was none that is known, unless it is to be skipped.
    fn make_active_again(&self, name: &str, operation: &'static str) -> Result<()> {
        let wanted = match &self.captured {
            _ if matches!(self.role, Role::Base(_)) => false,
            Some(captured) => captured.activity == Activity::Active,
            None => self.look(operation)?.find(name).is_some_and(|live| live.activation == Activation::WithGroup),
        };
        if wanted { self.activate(name, Links::Awaited, operation) } else { Ok(()) }
    }

    fn not_renamed(&self, old: &str, new: &str, operation: &'static str, error: Error) -> Error {
        let group = match self.look_again(operation) {
            Ok(group) => group,
            // A stranger has the name, for one.
            Err(other) => return other,
        };
        let (kind, remedy) = match (group.find(old), group.find(new)) {
            (None, _) => (ErrorKind::NotFound, "see what became of it: lvs"),
            (Some(_), Some(_)) => (ErrorKind::AlreadyExists, "run recover"),
            (Some(_), None) => return self.busy_or(&[old], operation, error),
        };
        self.add_volume(error.with_kind(kind)).with_remedy(remedy)
    }

    pub(super) fn remove_root(&mut self, slot: Slot) -> Result<()> {
        const OPERATION: &str = "remove a root";
        let name = self.name.slot(slot);
        if slot == Slot::Live {
            let why = "the live root is never removed under its name";
            return Err(self.add_volume(Error::new(ErrorKind::InvalidInput, OPERATION, why)));
        }
        // What was not made or claimed by this value may be a stranger's, or not be there.
        let known = match slot {
            Slot::Staged => self.staging.begun,
            _ => self.captured.as_ref().is_some_and(|captured| captured.volume.name == name),
        };
        if slot == Slot::Staged {
            self.staging = Staging::default();
        }
        if !known && self.look(OPERATION)?.find(&name).is_none() {
            return Ok(());
        }
        // A thin volume has to be read-only for others to depend on it, and was looked at before.
        let writable =
            self.captured.as_ref().is_some_and(|captured| captured.volume.name == name && !captured.volume.is_read_only());
        if self.lies == Lies::Thick || slot == Slot::Retired && !writable {
            self.refuse_dependents(&*self.look_again(OPERATION)?, &name, OPERATION)?;
        }
        let removed = self.lvm.must("lvremove", ["--yes", &self.full(&name)], OPERATION);
        self.seen.forget();
        match removed {
            // What is not there any more is gone.
            Err(error) if self.look(OPERATION)?.find(&name).is_some() => Err(self.busy_or(&[&name], OPERATION, error)),
            _ => self.remove_stray(&name, OPERATION),
        }
    }

    /// Refuses to remove what others go with: `lvremove` does not ask.
    pub(super) fn refuse_dependents(&self, group: &Group, name: &str, operation: &'static str) -> Result<()> {
        let dependents = group.dependents(name);
        if dependents.is_empty() {
            return Ok(());
        }
        let why = format!("{} would go with {}", dependents.join(", "), self.full(name));
        Err(self
            .add_volume(Error::new(ErrorKind::HasDependents, operation, why))
            .with_remedy("remove them (lvremove) if they are not needed, and run recover"))
    }
}
