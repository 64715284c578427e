//! Renaming roots, and the child datasets that stay with the volume.

use nix::errno::Errno;

use super::name::c_text;
use super::place::{Look, program, text, unless_busy};
use super::{Role, Staging, ZfsVolume};
use crate::error::{Error, ErrorKind, Outcome, Result, Space};
use crate::size::ByteSize;
use crate::sys::zfs::Value;
use crate::volume::Slot;

const OPERATION: &str = "rename a root";

impl ZfsVolume {
    pub(super) fn rename_root(&mut self, from: Slot, to: Slot) -> Result<()> {
        if from == Slot::Live {
            if self.role == Role::Base {
                self.refuse_clones(OPERATION)?;
            }
            self.park(to, OPERATION)?;
        }
        if (from, to) == (Slot::Staged, Slot::Live) && self.staging.dataset.is_some() && !self.children.is_empty() {
            // Only now: the rename before this one has brought up to date what the new root takes.
            self.check_children_fit(OPERATION)?;
        }
        let (old, new) = (self.place.name.slot(from), self.place.name.slot(to));
        let renamed = unless_busy(|| self.place.zfs.rename(&c_text(old.as_str()), &c_text(new.as_str())));
        if renamed.is_err() && from == Slot::Live {
            // It keeps its name. Where this fails too, recover does it.
            let _ = self.place.look(OPERATION).and_then(|look| self.unpark(look.live.as_ref(), OPERATION));
        }
        renamed.map_err(|errno| match errno {
            Errno::EBUSY => self.named_busy(&old, OPERATION, errno),
            Errno::ENAMETOOLONG => self
                .place
                .failed(OPERATION, format!("a snapshot or child of {old} would have too long a name as one of {new}"), errno)
                .with_remedy("give it a shorter one (zfs rename), or keep the snapshots: then nothing is renamed"),
            Errno::EEXIST => self.place.failed(OPERATION, format!("there is a {to} already"), errno).with_remedy("run recover"),
            Errno::ENOENT => self.place.failed(OPERATION, format!("there is no {from}"), errno),
            errno => self.place.failed(OPERATION, format!("cannot rename {old} to {new}"), errno),
        })?;
        if from == Slot::Live {
            self.undo_if_late(&old, &new)?;
        }
        if to == Slot::Live {
            // What is not known of it, a look has to tell. Children that nobody named come along when the retired root goes.
            let parked = self.captured.as_ref().is_none_or(|captured| captured.kept.mounts_itself());
            if parked || !self.children.is_empty() {
                let look = self.place.look(OPERATION)?;
                self.adopt_children(&look, OPERATION)?;
                self.unpark(look.live.as_ref(), OPERATION)?;
            }
        }
        Ok(())
    }

    /// Gives the live root its name back if a snapshot was taken of it after the last look, or nobody can tell.
    fn undo_if_late(&mut self, old: &str, new: &str) -> Result<()> {
        let late = match self.came_late(new, OPERATION) {
            Ok(None) => return Ok(()),
            Ok(Some(late)) | Err(late) => late,
        };
        let Err(errno) = unless_busy(|| self.place.zfs.rename(&c_text(new), &c_text(old))) else {
            let _ = self.place.look(OPERATION).and_then(|look| self.unpark(look.live.as_ref(), OPERATION));
            return Err(late);
        };
        // Beside a staged root, recovery would finish the switch and remove this one with its snapshot; alone it gets its name back.
        self.staging = Staging::default();
        let _ = unless_busy(|| self.place.zfs.destroy(&c_text(self.place.name.slot(Slot::Staged))));
        let undoing = self.place.failed(OPERATION, format!("cannot rename {new} back to {old}"), errno);
        let late = late.with_context("undoing", undoing).with_outcome(Outcome::Interrupted);
        Err(late.with_remedy(format!("give it its name back before anything else: zfs rename {new} {old}")))
    }

    /// A base that volumes were cloned from stays.
    fn refuse_clones(&self, operation: &'static str) -> Result<()> {
        let details = self.details(&self.place.name.slot(Slot::Live), operation)?;
        let clones: Vec<_> = details.iter().flat_map(|detail| &detail.clones).map(String::as_str).collect();
        if clones.is_empty() {
            return Ok(());
        }
        let error = Error::new(ErrorKind::HasDependents, "remove the base", format!("{} depends on it", clones.join(", ")));
        Err(self.place.add_volume(error).with_remedy("rebuild what depends on it from another image, or leave the base"))
    }

    /// The child datasets of a root, by their whole names.
    pub(super) fn children_of(&self, slot: Slot, operation: &'static str) -> Result<Vec<String>> {
        let found = self.place.ask(program!("children"), &[text("name", self.place.name.slot(slot))], operation)?;
        Ok(found.into_keys().collect())
    }

    /// Refuses to commit where the quota has no room for the new root and the child datasets that are to come along.
    fn check_children_fit(&self, operation: &'static str) -> Result<()> {
        let new = self.place.space(&self.place.name.slot(Slot::Staged), operation)?;
        let (Some(quota), Some(used)) = (new.limits.quota, new.used) else { return Ok(()) };
        let found = self.place.ask(program!("children"), &[text("name", self.place.name.slot(Slot::Retired))], operation)?;
        let children = found.values().filter_map(Value::as_number).fold(0u64, u64::saturating_add);
        if used.bytes().saturating_add(children) <= quota.bytes() {
            return Ok(());
        }
        let children = ByteSize::from_bytes(children);
        let why = format!("the new root takes {used} and its child datasets {children}, and its quota is {quota}");
        let error = Error::new(ErrorKind::NoSpace(Space::Quota), operation, why);
        Err(self.place.add_volume(error).with_remedy("raise the quota, which counts both"))
    }

    /// Refuses a live root with child datasets that nobody named: they would go with it.
    pub(super) fn check_children(&self, children: &[String]) -> Result<()> {
        let others =
            |child: &&String| !child.rsplit('/').next().is_some_and(|last| self.children.iter().any(|named| named == last));
        let others: Vec<_> = children.iter().filter(others).map(String::as_str).collect();
        if others.is_empty() {
            return Ok(());
        }
        let error =
            Error::new(ErrorKind::HasDependents, "replace the root", format!("it has child datasets: {}", others.join(", ")));
        Err(self
            .place
            .add_volume(error)
            .with_remedy("name those that are to stay with the volume, or keep the snapshots: then all of them stay"))
    }

    /// Gives the live root the child datasets of the retired one. They were named, or made since: none is destroyed.
    pub(super) fn adopt_children(&self, look: &Look, operation: &'static str) -> Result<()> {
        if !look.retired.as_ref().is_some_and(|retired| retired.has_children) {
            return Ok(());
        }
        let live = self.place.name.slot(Slot::Live);
        for child in self.children_of(Slot::Retired, operation)? {
            let last = child.rsplit('/').next().unwrap_or_default();
            let new = format!("{live}/{last}");
            let renamed = unless_busy(|| self.place.zfs.rename(&c_text(child.as_str()), &c_text(new.as_str())));
            renamed.map_err(|errno| {
                let error = self.place.failed(operation, format!("cannot rename the child dataset {child} to {new}"), errno);
                match errno {
                    Errno::ENOSPC | Errno::EDQUOT => error.with_remedy(format!("raise the quota of {live} and run recover")),
                    _ => error,
                }
            })?;
        }
        Ok(())
    }
}
