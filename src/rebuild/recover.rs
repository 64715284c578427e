//! Bringing an interrupted volume back to exactly one complete root, from its names alone.

use std::fmt;

use crate::error::{Error, Outcome, Result};
use crate::progress::Wait;
use crate::volume::{Names, RebuildableVolume, Removal, Slot, Tidied};

/// What a recovery found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Recovery {
    /// The names that existed.
    pub found: Names,
    /// What was done, in order; empty if there was nothing to do.
    pub actions: Vec<RecoverAction>,
}

impl Recovery {
    /// Whether the volume was interrupted where no root remains. What is left of one stays until the next rebuild.
    pub fn is_without_root(&self) -> bool {
        self.actions.contains(&RecoverAction::NoRoot)
    }
}

/// One thing a recovery does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum RecoverAction {
    /// Remove the staged root: the run ended before the commit, or after an exchange.
    DiscardStaged,
    /// Make the staged root live: the run ended between the two renames of a commit.
    RollForward,
    /// Remove the retired root: the run ended after the commit.
    DisposeRetired,
    /// Make the retired root live again: an in-place rebuild ended before it was removed.
    RollBack,
    /// Remove other leftovers, such as half-purged snapshots.
    Tidy,
    /// Nothing can be done: an in-place rebuild ended while no complete root existed. A new rebuild works.
    NoRoot,
}

impl fmt::Display for RecoverAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecoverAction::DiscardStaged => "discard the unfinished staged root",
            RecoverAction::RollForward => "finish the commit: the staged root becomes live",
            RecoverAction::DisposeRetired => "remove the retired root",
            RecoverAction::RollBack => "undo: the retired root becomes live again",
            RecoverAction::Tidy => "remove other leftovers",
            RecoverAction::NoRoot => "no complete root remains; rebuild the volume",
        })
    }
}

/// The decision table: names are the whole state.
pub(super) fn decide(names: Names, removal: Removal) -> Vec<RecoverAction> {
    use RecoverAction::*;
    match (names.live, names.staged, names.retired) {
        (false, false, false) | (true, false, false) => vec![],
        (true, true, false) => vec![DiscardStaged],
        (true, false, true) => vec![DisposeRetired],
        (true, true, true) => vec![DiscardStaged, DisposeRetired],
        (false, true, true) => vec![RollForward, DisposeRetired],
        (false, false, true) => vec![match removal {
            Removal::Atomic => RollBack,
            Removal::Gradual => NoRoot,
        }],
        (false, true, false) => vec![NoRoot],
    }
}

/// Brings a volume that an interrupted rebuild left behind back to exactly one complete root, and removes what is left over.
///
/// Idempotent; safe to call at any time and from several processes, for the volume's lock is held meanwhile (`wait` says for how long
/// to wait for it). Every rebuild begins with it, so nobody *has* to call it: a manager does at its start, for the volumes that no one
/// is going to rebuild soon.
///
/// [`RecoverAction::NoRoot`] is no error here: the volume is in a state that only an in-place rebuild leaves, and only a new rebuild
/// can mend.
///
/// # Errors
/// [`Locked`](crate::ErrorKind::Locked); what a backend reports when it cannot rename or remove. The volume then stands as it was found
/// or closer to one root; call again when the cause is gone.
pub fn recover(volume: &mut dyn RebuildableVolume, wait: &Wait) -> Result<Recovery> {
    let id = volume.id();
    let add_volume = |error: Error| error.with_context("volume", &id);
    let _lock = volume.lock(wait).map_err(add_volume)?;
    recover_locked(volume).map_err(add_volume)
}

/// [`recover`], for who holds the lock.
pub(super) fn recover_locked(volume: &mut dyn RebuildableVolume) -> Result<Recovery> {
    let found = volume.names()?;
    let mut recovery = Recovery { found, actions: decide(found, volume.capabilities().removal) };
    let mut live = found.live;
    for action in &recovery.actions {
        crate::trace::debug!(volume = %volume.id(), %action, "recover");
        let done = match action {
            RecoverAction::DiscardStaged => volume.discard(Slot::Staged),
            RecoverAction::DisposeRetired => volume.discard(Slot::Retired),
            RecoverAction::RollForward => volume.rename(Slot::Staged, Slot::Live).inspect(|()| live = true),
            RecoverAction::RollBack => volume.rename(Slot::Retired, Slot::Live).inspect(|()| live = true),
            RecoverAction::Tidy | RecoverAction::NoRoot => Ok(()),
        };
        done.map_err(|error| explain(error, *action, live))?;
    }
    if volume.tidy().map_err(|error| explain(error, RecoverAction::Tidy, live))? == Tidied::Something {
        recovery.actions.push(RecoverAction::Tidy);
    }
    Ok(recovery)
}

fn explain(error: Error, action: RecoverAction, live: bool) -> Error {
    // `Untouched` is true of the live root: what could not be removed is not it.
    let outcome = if live || action == RecoverAction::Tidy { Outcome::Untouched } else { Outcome::Interrupted };
    error.with_context("recovering", action).with_outcome(outcome).with_remedy("remove the cause and run recover again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_table_has_its_decision() {
        use RecoverAction::*;
        let decide = |live, staged, retired, removal| decide(Names { live, staged, retired }, removal);
        for removal in [Removal::Atomic, Removal::Gradual] {
            assert_eq!(decide(false, false, false, removal), []);
            assert_eq!(decide(true, false, false, removal), []);
            assert_eq!(decide(true, true, false, removal), [DiscardStaged]);
            assert_eq!(decide(true, false, true, removal), [DisposeRetired]);
            assert_eq!(decide(true, true, true, removal), [DiscardStaged, DisposeRetired]);
            assert_eq!(decide(false, true, true, removal), [RollForward, DisposeRetired]);
            assert_eq!(decide(false, true, false, removal), [NoRoot]);
        }
        assert_eq!(decide(false, false, true, Removal::Atomic), [RollBack]);
        assert_eq!(decide(false, false, true, Removal::Gradual), [NoRoot]);
    }
}
