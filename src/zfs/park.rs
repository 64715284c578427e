//! What a live root's dataset needs to be told before it loses its name, and when it is back.
//!
//! A dataset may be mounted by itself, at boot for example: only the live root is to be.

use super::name::c_text;
use super::place::Found;
use super::properties::Kept;
use super::{ZfsVolume, command, note};
use crate::error::Result;
use crate::volume::{Slot, Tidied};

impl ZfsVolume {
    /// Readies a live root for losing its name, to be called `to`: has nobody mount it by itself from here on, and marks as ours one that someone else
    /// made, so that no stranger's dataset is ever taken for an old root.
    pub(super) fn park(&self, to: Slot, operation: &'static str) -> Result<()> {
        if self.captured.as_ref().is_some_and(|captured| captured.made && !captured.kept.mounts_itself()) {
            return Ok(());
        }
        let look = self.place.look(operation)?;
        let live = self.place.name.slot(Slot::Live);
        // The rename is going to be refused.
        let (Some(found), None) = (&look.live, look.of(to)) else { return Ok(()) };
        let mounts_itself = Kept::read(&self.place, &live, found, operation)?.mounts_itself();
        let mut notes: Vec<(&str, &[u8])> = Vec::new();
        if !found.notes.contains_key(note::MADE) {
            notes.push((note::MADE, b"1"));
        }
        if mounts_itself {
            // Before it is changed: what comes to its name again without the note would stay unmounted.
            notes.push((note::CANMOUNT, b"on"));
        }
        if !notes.is_empty() {
            self.place.note(&live, &notes, operation)?;
        }
        if !mounts_itself {
            return Ok(());
        }
        command::set(&self.place, &live, &["canmount=noauto".into()], operation)
    }

    /// Has a live root mounted by itself again, if it was before.
    pub(super) fn unpark(&self, live: Option<&Found>, operation: &'static str) -> Result<Tidied> {
        let Some(canmount) = live.and_then(|live| live.notes.get(note::CANMOUNT)) else { return Ok(Tidied::Nothing) };
        let live = self.place.name.slot(Slot::Live);
        let canmount = c_text(canmount.as_slice()).into_string().unwrap_or_default();
        command::set(&self.place, &live, &[format!("canmount={canmount}")], operation)?;
        self.place.note(&live, &[(note::CANMOUNT, b"")], operation)?;
        Ok(Tidied::Something)
    }
}
