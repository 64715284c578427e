//! An error before and after every primitive of a rebuild.

use std::path::PathBuf;

use crate::base::{BaseOptions, Bases, Verdict};
use crate::base_name::BaseName;
use crate::conformance::bench::{Bench, Check, LIVE, NAME, NONE, Outcome, ensure, new_tree, old_tree, points, soon, tar};
use crate::conformance::fault::{Fault, Faulty, Primitive};
use crate::conformance::manifest::Manifest;
use crate::conformance::{CaseOutcome::*, Factory, Failure};
use crate::error::{Error, ErrorKind, Outcome as State, Result};
use crate::image::Image;
use crate::progress::CancelToken;
use crate::rebuild::{Rebuild, RecoverAction, SnapshotPolicy, Strategy};
use crate::volume::{Names, RebuildableVolume, Removal, RootId, Slot, Snapshot, SnapshotSupport};

/// A rebuild to make fail: from [`old_tree`], or from nothing, to [`new_tree`].
#[derive(Clone, Copy)]
struct Scenario {
    before: Before,
    strategy: Strategy,
    source: Source,
    snapshots: SnapshotPolicy,
}

/// A rebuild from an image, of a root without snapshots, by swap.
const PLAIN: Scenario =
    Scenario { before: Before::Root, strategy: Strategy::Swap, source: Source::Image, snapshots: SnapshotPolicy::Refuse };
const PURGING: Scenario = Scenario { before: Before::RootWithSnapshot, snapshots: SnapshotPolicy::Purge, ..PLAIN };

/// What the new root is made from.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Image,
    /// The base of the image, which is there.
    Base,
}

#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// The old root.
    Root,
    /// The old root and a snapshot of it.
    RootWithSnapshot,
    /// No volume.
    Nothing,
}

pub(super) fn errors_in_a_swap(factory: &dyn Factory) -> Outcome {
    every_point(factory, PLAIN)
}

pub(super) fn errors_in_a_swap_with_purge(factory: &dyn Factory) -> Outcome {
    every_point(factory, PURGING)
}

pub(super) fn errors_in_a_first_rebuild(factory: &dyn Factory) -> Outcome {
    every_point(factory, Scenario { before: Before::Nothing, ..PLAIN })
}

pub(super) fn errors_in_place(factory: &dyn Factory) -> Outcome {
    every_point(factory, Scenario { strategy: Strategy::InPlace, ..PLAIN })
}

pub(super) fn errors_within(factory: &dyn Factory) -> Outcome {
    if Bench::new(factory)?.volume()?.capabilities().snapshots != SnapshotSupport::Within {
        return Ok(NotApplicable("a root is not rebuilt where it stands".into()));
    }
    every_point(factory, Scenario { before: Before::RootWithSnapshot, snapshots: SnapshotPolicy::Keep, ..PLAIN })
}

pub(super) fn errors_in_a_swap_from_a_base(factory: &dyn Factory) -> Outcome {
    every_point(factory, Scenario { source: Source::Base, ..PLAIN })
}

pub(super) fn errors_in_a_swap_with_purge_from_a_base(factory: &dyn Factory) -> Outcome {
    every_point(factory, Scenario { source: Source::Base, ..PURGING })
}

pub(super) fn errors_in_a_first_rebuild_from_a_base(factory: &dyn Factory) -> Outcome {
    every_point(factory, Scenario { before: Before::Nothing, source: Source::Base, ..PLAIN })
}

pub(super) fn errors_in_place_from_a_base(factory: &dyn Factory) -> Outcome {
    every_point(factory, Scenario { strategy: Strategy::InPlace, source: Source::Base, ..PLAIN })
}

fn every_point(factory: &dyn Factory, scenario: Scenario) -> Outcome {
    let bench = Bench::new(factory)?;
    reset(&bench)?;
    let stood = scenario.prepare(&bench)?;
    if scenario.before == Before::RootWithSnapshot && stood.snapshots.is_empty() {
        return Ok(NotApplicable("there are no snapshots".into()));
    }
    let image = bench.file(&tar(&new_tree())?)?;
    let source = match scenario.source {
        Source::Image => Given::Image(image),
        Source::Base => match bench.bases()? {
            Ok(bases) => Given::Base(bases.ensure(Image::open(image)?, &BaseOptions::new())?.name().clone(), bases),
            Err(why) => return Ok(NotApplicable(why)),
        },
    };
    let mut volume = Faulty::new(bench.volume()?);
    scenario.run(&source, &mut volume)?;
    let calls = volume.calls();
    bench.expect_only(&new_tree())?;
    scenario.check_kept(&bench, &stood)?;
    reset(&bench)?;
    for point in points(&calls) {
        // Each run leaves the old root, alone.
        let stood = scenario.prepare(&bench)?;
        let mut volume = Faulty::new(bench.volume()?).with_fault(point, Fault::Error(ErrorKind::Io));
        let result = scenario.run(&source, &mut volume);
        // A clone may have come so soon after the first look for holders that there was no second.
        if result.is_ok() && !volume.fired() && point.primitive == Primitive::Holders && point.occurrence > 1 {
            bench.expect_only(&new_tree())?;
            reset(&bench)?;
            continue;
        }
        let calls = volume.calls();
        let check = || -> Check {
            ensure!(volume.fired(), "the run took another way");
            scenario.check_result(&bench, &result)?;
            scenario.check_recovery(&bench)?;
            scenario.check_kept(&bench, &stood)?;
            // The next rebuild simply works.
            reset(&bench).map_err(|failure| failure.during("the next rebuild"))
        };
        check().map_err(|failure| {
            let calls: Vec<_> = calls.iter().map(ToString::to_string).collect();
            let result = match &result {
                Ok(_) => "the rebuild succeeded".to_owned(),
                Err(error) => format!("the rebuild said: {}", error.report()),
            };
            failure.during(format!("an error {point}; {result}\n  calls: {}\n  ", calls.join(", ")))
        })?;
    }
    bench.expect_names(LIVE)?;
    if let Given::Base(name, bases) = &source {
        let verdict = bases.verify(name, &CancelToken::new())?;
        ensure!(verdict == Verdict::Intact, "in the end the base is not what it was: {verdict}");
    }
    Ok(Passed)
}

/// Brings the volume back to the old root, alone, whatever it holds.
fn reset(bench: &Bench) -> Check {
    let rebuild = Rebuild::new(bench.image(&old_tree())?).snapshots(SnapshotPolicy::Purge);
    rebuild.run(&mut *bench.volume()?)?;
    // What is left over beside it is still there when it is looked for after the next error.
    bench.expect(NAME, &old_tree().manifest())?;
    ensure!(bench.volume()?.names()? == LIVE, "the names are {}", bench.volume()?.names()?);
    Ok(())
}

/// What a rebuild that keeps the snapshots has to keep.
struct Stood {
    root: Option<RootId>,
    snapshots: Vec<Snapshot>,
}

/// The image, or a base of it.
enum Given {
    Image(PathBuf),
    Base(BaseName, Bases),
}

impl Given {
    fn rebuild(&self) -> Result<Rebuild> {
        match self {
            Given::Image(path) => Ok(Rebuild::new(Image::open(path)?)),
            // Held for as long as the rebuild takes, and no longer: the lock would be left over in the pool.
            Given::Base(name, bases) => {
                let base = bases.find(name, &soon())?;
                let gone = || Error::new(ErrorKind::NotFound, "find the base", "it is gone");
                base.map(|base| Rebuild::from_base(&base)).ok_or_else(gone)
            }
        }
    }
}

impl Scenario {
    /// Makes of the old root, alone, what the rebuild begins with.
    fn prepare(self, bench: &Bench) -> Check<Stood> {
        let mut volume = bench.volume()?;
        match self.before {
            Before::Root => {}
            Before::RootWithSnapshot => match bench.pool.snapshot(NAME, "snap0") {
                Err(error) if error.kind() == ErrorKind::Unsupported => {}
                taken => drop(taken?),
            },
            Before::Nothing => {
                let _lock = volume.lock(&soon())?;
                volume.rename(Slot::Live, Slot::Retired)?;
                volume.discard(Slot::Retired)?;
            }
        }
        Ok(Stood { root: volume.identity(Slot::Live)?, snapshots: volume.snapshots()? })
    }

    /// Whether it succeeded or not.
    fn check_kept(self, bench: &Bench, stood: &Stood) -> Check {
        if self.snapshots != SnapshotPolicy::Keep {
            return Ok(());
        }
        let snapshots = bench.volume()?.snapshots()?;
        ensure!(snapshots == stood.snapshots, "the snapshots are {snapshots:?}, not {:?}", stood.snapshots);
        let root = bench.volume()?.identity(Slot::Live)?;
        ensure!(root == stood.root, "the volume's root is {root:?}, and was {:?}", stood.root);
        Ok(())
    }

    fn run(self, source: &Given, volume: &mut dyn RebuildableVolume) -> Result<()> {
        source.rebuild()?.strategy(self.strategy).snapshots(self.snapshots).run(volume).map(drop)
    }

    /// The manifest of what stood before; `None` for no volume.
    fn old(self) -> Option<Manifest> {
        (self.before != Before::Nothing).then(|| old_tree().manifest())
    }

    /// What the rebuild said must be so, before anyone recovers.
    fn check_result(self, bench: &Bench, result: &Result<()>) -> Check {
        let names = bench.volume()?.names()?;
        let Err(error) = result else {
            return bench.expect(NAME, &new_tree().manifest()).map_err(|failure| failure.during("after success"));
        };
        match error.outcome() {
            State::Untouched | State::RolledBack => match self.old() {
                Some(old) => bench.expect(NAME, &old).map_err(|failure| failure.during(error.outcome())),
                None => {
                    ensure!(!names.live, "it says that {}, and there is a root", error.outcome());
                    Ok(())
                }
            },
            // One error can be undone: only one in the undoing would leave it so.
            State::Interrupted => Err(Failure::new(error.outcome().to_string())),
            State::NoRoot => {
                ensure!(self.strategy == Strategy::InPlace, "a swap says that no root remains");
                ensure!(!names.live, "it says that no root remains, and there is one");
                Ok(())
            }
        }
    }

    /// Recovers, and demands the old or the new root, whole and alone, or that there is none where there may be none.
    fn check_recovery(self, bench: &Bench) -> Check {
        let found = bench.volume()?.names()?;
        let recovery = bench.recover().map_err(|error: Error| Failure::from(error).during("recover"))?;
        ensure!(recovery.found == found, "recover found {}, and there was {found}", recovery.found);
        if recovery.actions.contains(&RecoverAction::NoRoot) {
            self.check_no_root(bench, found)?;
        } else {
            let names = bench.volume()?.names()?;
            // In place there is a moment without any of the names; a volume that was never there may still not be.
            let may_be_none = self.before == Before::Nothing || (self.strategy == Strategy::InPlace && found == NONE);
            if names.live || !may_be_none {
                self.expect_one_of_two(bench)?;
                bench.expect_names(LIVE)?;
            } else {
                bench.expect_names(NONE)?;
            }
        }
        let again = bench.recover()?;
        let idle = again.actions.iter().all(|action| *action == RecoverAction::NoRoot);
        ensure!(idle, "a second recover did {:?}", again.actions);
        Ok(())
    }

    fn check_no_root(self, bench: &Bench, found: Names) -> Check {
        let first = self.strategy == Strategy::InPlace || self.before == Before::Nothing;
        ensure!(first, "no root remains after a swap ({found})");
        let atomic = bench.volume()?.capabilities().removal == Removal::Atomic;
        let allowed = !found.live && (found.staged != found.retired) && !(found.retired && atomic);
        ensure!(allowed, "recover says that no root remains, and there was {found}");
        Ok(())
    }

    fn expect_one_of_two(self, bench: &Bench) -> Check {
        let live = bench.manifest(NAME, Slot::Live)?;
        if live == new_tree().manifest() {
            return Ok(());
        }
        match self.old() {
            Some(old) if old == live => Ok(()),
            Some(old) => Err(Failure::new(format!(
                "the live root is neither the old one:\n{}\nnor the new one:\n{}",
                old.diff(&live),
                new_tree().manifest().diff(&live)
            ))),
            None => Err(Failure::new(format!("the live root is not the new one:\n{}", new_tree().manifest().diff(&live)))),
        }
    }
}
