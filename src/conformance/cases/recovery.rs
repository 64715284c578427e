//! Recovery from every state that the three names can be in.

use crate::conformance::bench::{
    Bench, Check, LIVE, NAME, NONE, Outcome, ensure, new_tree, old_tree, points, soon, stage, stage_at, stage_partly,
    stage_partly_at,
};
use crate::conformance::fault::{Fault, Faulty};
use crate::conformance::tree::Tree;
use crate::conformance::{CaseOutcome::*, Factory, Failure};
use crate::error::{ErrorKind, Result};
use crate::rebuild::RecoverAction::{self, *};
use crate::rebuild::{Rebuild, SnapshotPolicy, recover};
use crate::volume::{Names, Placement, RebuildableVolume, Removal, RootId, Slot, Snapshot, SnapshotSupport};

/// A state of the table, as an interrupted rebuild from [`old_tree`] to [`new_tree`] leaves it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Interrupted {
    NotAtAll,
    WhileFilling,
    AfterExchange,
    BetweenRenames,
    AfterCommit,
    AfterCommitAndAnotherStage,
    InPlaceRemoving,
    InPlaceFilling,
    WithinFilling,
    WithinSealed,
    BeforeAnything,
}

const ALL: [Interrupted; 11] = [
    Interrupted::NotAtAll,
    Interrupted::WhileFilling,
    Interrupted::AfterExchange,
    Interrupted::BetweenRenames,
    Interrupted::AfterCommit,
    Interrupted::AfterCommitAndAnotherStage,
    Interrupted::InPlaceRemoving,
    Interrupted::InPlaceFilling,
    Interrupted::WithinFilling,
    Interrupted::WithinSealed,
    Interrupted::BeforeAnything,
];

/// What has to stand after a recovery.
#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    Old,
    New,
    NoRoot,
    Nothing,
}

/// A volume in one of the states.
struct Made {
    names: Names,
    /// The old root, and its snapshots.
    root: Option<RootId>,
    snapshots: Vec<Snapshot>,
}

/// Rebuilds the volume, whatever it holds, and purges its snapshots.
fn fill(bench: &Bench, tree: &Tree) -> Check {
    Rebuild::new(bench.image(tree)?).snapshots(SnapshotPolicy::Purge).run(&mut *bench.volume()?)?;
    Ok(())
}

impl Interrupted {
    /// Whether it is made in the live root, whose snapshots stay.
    fn is_within(self) -> bool {
        matches!(self, Interrupted::WithinFilling | Interrupted::WithinSealed)
    }

    /// Brings the volume, whatever it holds, into this state.
    fn make(self, bench: &Bench) -> Check<Made> {
        let mut volume = bench.volume()?;
        fill(bench, &old_tree())?;
        if self.is_within() {
            bench.pool.snapshot(NAME, "snap0")?;
        }
        let (root, snapshots) = (volume.identity(Slot::Live)?, volume.snapshots()?);
        let _lock = volume.lock(&soon())?;
        let volume = &mut *volume;
        let commit = |volume: &mut dyn RebuildableVolume| -> Result<()> {
            stage(volume, &new_tree())?;
            volume.rename(Slot::Live, Slot::Retired)?;
            volume.rename(Slot::Staged, Slot::Live)
        };
        match self {
            Interrupted::NotAtAll => {}
            Interrupted::WhileFilling => stage_partly(volume)?,
            Interrupted::AfterExchange => {
                stage(volume, &new_tree())?;
                match volume.exchange() {
                    Err(error) if error.kind() == ErrorKind::Unsupported => {
                        volume.rename(Slot::Live, Slot::Retired)?;
                        volume.rename(Slot::Staged, Slot::Live)?;
                        volume.rename(Slot::Retired, Slot::Staged)?;
                    }
                    result => result?,
                }
            }
            Interrupted::BetweenRenames => {
                stage(volume, &new_tree())?;
                volume.rename(Slot::Live, Slot::Retired)?;
            }
            Interrupted::AfterCommit => commit(volume)?,
            Interrupted::AfterCommitAndAnotherStage => {
                commit(volume)?;
                stage_partly(volume)?;
            }
            Interrupted::InPlaceRemoving => volume.rename(Slot::Live, Slot::Retired)?,
            Interrupted::InPlaceFilling => {
                volume.rename(Slot::Live, Slot::Retired)?;
                volume.discard(Slot::Retired)?;
                stage_partly(volume)?;
            }
            Interrupted::WithinFilling => stage_partly_at(volume, Placement::Within)?,
            Interrupted::WithinSealed => stage_at(volume, &new_tree(), Placement::Within)?,
            Interrupted::BeforeAnything => {
                volume.rename(Slot::Live, Slot::Retired)?;
                volume.discard(Slot::Retired)?;
            }
        }
        Ok(Made { names: volume.names()?, root, snapshots })
    }

    fn expected(self, removal: Removal) -> (After, Vec<RecoverAction>) {
        match self {
            Interrupted::NotAtAll => (After::Old, vec![]),
            Interrupted::WhileFilling => (After::Old, vec![DiscardStaged]),
            Interrupted::AfterExchange => (After::New, vec![DiscardStaged]),
            Interrupted::BetweenRenames => (After::New, vec![RollForward, DisposeRetired]),
            Interrupted::AfterCommit => (After::New, vec![DisposeRetired]),
            Interrupted::AfterCommitAndAnotherStage => (After::New, vec![DiscardStaged, DisposeRetired]),
            Interrupted::InPlaceRemoving => match removal {
                Removal::Atomic => (After::Old, vec![RollBack]),
                Removal::Gradual => (After::NoRoot, vec![NoRoot]),
            },
            Interrupted::InPlaceFilling => (After::NoRoot, vec![NoRoot]),
            Interrupted::WithinFilling | Interrupted::WithinSealed => (After::Old, vec![DiscardStaged]),
            Interrupted::BeforeAnything => (After::Nothing, vec![]),
        }
    }

    /// Demands what has to stand after a recovery.
    fn check(self, bench: &Bench, made: &Made) -> Check {
        if self.is_within() {
            let (root, snapshots) = (bench.volume()?.identity(Slot::Live)?, bench.volume()?.snapshots()?);
            ensure!(root == made.root, "the volume's root is {root:?}, and was {:?}", made.root);
            ensure!(snapshots == made.snapshots, "the snapshots are {snapshots:?}, not {:?}", made.snapshots);
        }
        let (after, _) = self.expected(bench.volume()?.capabilities().removal);
        match after {
            After::Old => bench.expect_only(&old_tree()),
            After::New => bench.expect_only(&new_tree()),
            // Not touched: a part of a root is of use to no one but to whoever wants to look.
            After::NoRoot => bench.expect_names(made.names),
            After::Nothing => bench.expect_names(NONE),
        }
    }
}

/// Does something to a volume in each of the states.
fn in_every_state(factory: &dyn Factory, mut case: impl FnMut(&Bench, Interrupted) -> Check) -> Outcome {
    let bench = Bench::new(factory)?;
    let within = bench.volume()?.capabilities().snapshots == SnapshotSupport::Within;
    for state in ALL.into_iter().filter(|state| within || !state.is_within()) {
        case(&bench, state).map_err(|failure| failure.during(format!("interrupted {state:?}")))?;
    }
    Ok(Passed)
}

pub(super) fn every_state_recovers(factory: &dyn Factory) -> Outcome {
    in_every_state(factory, |bench, state| {
        let made = state.make(bench)?;
        let (after, actions) = state.expected(bench.volume()?.capabilities().removal);
        let recovery = bench.recover()?;
        ensure!(recovery.found == made.names, "recover found {}, and there was {}", recovery.found, made.names);
        ensure!(recovery.actions == actions, "recover did {:?}, not {actions:?}", recovery.actions);
        ensure!(recovery.is_without_root() == (after == After::NoRoot), "recover is wrong about there being a root");
        state.check(bench, &made)?;
        let again = bench.recover()?;
        let idle = again.actions.iter().all(|action| *action == NoRoot);
        ensure!(idle, "a second recover did {:?}", again.actions);
        state.check(bench, &made)?;
        Ok(())
    })
}

pub(super) fn every_state_rebuilds(factory: &dyn Factory) -> Outcome {
    in_every_state(factory, |bench, state| {
        let mut tree = new_tree();
        tree.file("third", "third");
        state.make(bench)?;
        fill(bench, &tree)?;
        bench.expect_only(&tree)
    })
}

pub(super) fn errors_in_a_recovery(factory: &dyn Factory) -> Outcome {
    in_every_state(factory, |bench, state| {
        state.make(bench)?;
        let mut volume = Faulty::new(bench.volume()?);
        recover(&mut volume, &soon())?;
        let calls = volume.calls();
        for point in points(&calls) {
            let made = state.make(bench)?;
            let mut volume = Faulty::new(bench.volume()?).with_fault(point, Fault::Error(ErrorKind::Io));
            let result = recover(&mut volume, &soon());
            let check = || -> Check {
                ensure!(volume.fired(), "the run took another way");
                ensure!(result.is_err(), "it was not reported");
                bench.recover()?;
                state.check(bench, &made)
            };
            check().map_err(|failure| failure.during(format!("an error {point}")))?;
        }
        Ok(())
    })
}

pub(super) fn two_recoveries_at_once(factory: &dyn Factory) -> Outcome {
    in_every_state(factory, |bench, state| {
        let made = state.make(bench)?;
        let (mut first, mut second) = (bench.volume()?, bench.volume()?);
        let (left, right) = std::thread::scope(|scope| {
            let other = scope.spawn(|| recover(&mut *second, &soon()));
            let left = recover(&mut *first, &soon());
            (left, other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (left, right) = (left?, right?);
        let idle = |actions: &[RecoverAction]| actions.iter().all(|action| *action == NoRoot);
        ensure!(idle(&left.actions) || idle(&right.actions), "both did something: {left:?}, {right:?}");
        state.check(bench, &made)?;
        let names = bench.volume()?.names()?;
        ensure!(names == LIVE || names == NONE || names == made.names, "the names are {names}");
        Ok::<(), Failure>(())
    })
}
