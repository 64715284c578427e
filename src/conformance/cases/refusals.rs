//! What a rebuild refuses, and that a refusal changes nothing.

use std::time::Duration;

use crate::conformance::bench::{Bench, Check, NAME, Outcome, ensure, new_tree, old_tree, tar};
use crate::conformance::{CaseOutcome, CaseOutcome::*, Factory, Failure};
use crate::error::{Error, ErrorKind, Outcome as State, Result};
use crate::image::Image;
use crate::rebuild::{Rebuild, Report, SnapshotPolicy, Strategy};
use crate::size::ByteSize;
use crate::volume::{Sizing, SnapshotSupport};

/// Demands that a rebuild was refused with an error of this kind, and that the old root is untouched.
fn expect_refused(bench: &Bench, result: Result<Report>, kind: ErrorKind) -> Check<Error> {
    let error = match result {
        Err(error) => error,
        Ok(_) => return Err(Failure::new(format!("expected {kind}, and the rebuild ran"))),
    };
    ensure!(error.kind() == kind, "expected {kind}, got {}", error.report());
    ensure!(error.outcome() == State::Untouched, "a refusal says: {}", error.outcome());
    ensure!(error.remedy().is_some(), "a refusal without a remedy: {}", error.report());
    bench.expect_only(&old_tree())?;
    Ok(error)
}

/// Takes snapshots of the old root, and returns their names, or says why there are none.
fn with_snapshots(bench: &Bench, names: &[&str]) -> Check<Result<Vec<String>, CaseOutcome>> {
    let mut taken = Vec::new();
    for name in names {
        match bench.pool.snapshot(NAME, name) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                return Ok(Err(NotApplicable(error.message().to_owned())));
            }
            snapshot => taken.push(snapshot?),
        }
    }
    expect_snapshots(bench, &taken)?;
    Ok(Ok(taken))
}

fn expect_snapshots(bench: &Bench, expected: &[String]) -> Check {
    let snapshots = bench.volume()?.snapshots()?;
    let names: Vec<_> = snapshots.iter().map(|snapshot| snapshot.name.to_string_lossy().into_owned()).collect();
    ensure!(names == expected, "the snapshots are {names:?}, not {expected:?}");
    Ok(())
}

pub(super) fn snapshots_refuse(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let taken = match with_snapshots(&bench, &["daily-1", "daily-2"])? {
        Ok(taken) => taken,
        Err(not_applicable) => return Ok(not_applicable),
    };
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let rebuild = Rebuild::new(bench.image(&new_tree())?).strategy(strategy);
        let error = expect_refused(&bench, rebuild.run(&mut *bench.volume()?), ErrorKind::HasSnapshots)?;
        ensure!(taken.iter().all(|name| error.message().contains(name)), "it does not name them: {error}");
        expect_snapshots(&bench, &taken)?;
    }
    // A plan is refused alike.
    let plan = Rebuild::new(bench.image(&new_tree())?).plan(&*bench.volume()?);
    ensure!(plan.is_err_and(|error| error.kind() == ErrorKind::HasSnapshots), "a plan was made despite the snapshots");
    Ok(Passed)
}

pub(super) fn snapshots_are_purged(factory: &dyn Factory) -> Outcome {
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let bench = Bench::with_old(factory)?;
        // A neighbour's snapshots are another volume's.
        bench.fill("c10", &old_tree())?;
        if let Err(not_applicable) = with_snapshots(&bench, &["a b", "snap0"])? {
            return Ok(not_applicable);
        }
        bench.pool.snapshot("c10", "snap0")?;
        let rebuild = Rebuild::new(bench.image(&new_tree())?).strategy(strategy).snapshots(SnapshotPolicy::Purge);
        let report = rebuild.run(&mut *bench.volume()?)?;
        ensure!(report.warnings.is_empty(), "warnings: {:?}", report.warnings);
        expect_snapshots(&bench, &[])?;
        bench.expect_only(&new_tree())?;
        let neighbour = bench.pool.volume("c10")?.snapshots()?;
        ensure!(neighbour.len() == 1, "the neighbour has {} snapshots, not one", neighbour.len());
    }
    Ok(Passed)
}

pub(super) fn snapshots_are_kept(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let taken = match with_snapshots(&bench, &["snap0"])? {
        Ok(taken) => taken,
        Err(not_applicable) => return Ok(not_applicable),
    };
    // What is refused first: it demands that the old root is still there.
    for strategy in [Strategy::InPlace, Strategy::Swap] {
        let rebuild = Rebuild::new(bench.image(&new_tree())?).strategy(strategy).snapshots(SnapshotPolicy::Keep);
        let result = rebuild.run(&mut *bench.volume()?);
        match (bench.volume()?.capabilities().snapshots, strategy) {
            (SnapshotSupport::Independent, _) | (SnapshotSupport::Within, Strategy::Swap) => {
                result?;
                bench.expect_only(&new_tree())?;
            }
            (SnapshotSupport::Dependent, _) | (SnapshotSupport::Within, Strategy::InPlace) => {
                expect_refused(&bench, result, ErrorKind::Unsupported)?;
            }
        }
        expect_snapshots(&bench, &taken)?;
    }
    Ok(Passed)
}

pub(super) fn holders_refuse(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    bench.fill("c10", &old_tree())?;
    // A neighbour whose name begins alike is held, and that is no one's business.
    let neighbour = bench.pool.hold("c10")?;
    let holders = bench.volume()?.holders()?;
    ensure!(holders.is_empty(), "the neighbour's holder is taken for one: {}", holders.len());
    bench.fill(NAME, &old_tree())?;
    drop(neighbour);

    let held = bench.pool.hold(NAME)?;
    let holders = bench.volume()?.holders()?;
    ensure!(!holders.is_empty(), "the holder is not seen");
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let rebuild = Rebuild::new(bench.image(&new_tree())?).strategy(strategy);
        let error = expect_refused(&bench, rebuild.run(&mut *bench.volume()?), ErrorKind::Busy)?;
        let named = holders.iter().any(|holder| error.message().contains(&holder.to_string()));
        ensure!(named, "it names no holder: {error}");
    }
    drop(held);
    let holders: Vec<_> = bench.volume()?.holders()?.iter().map(ToString::to_string).collect();
    ensure!(holders.is_empty(), "the holder is gone and still seen: {}", holders.join(", "));
    Rebuild::new(bench.image(&new_tree())?).busy_wait(Duration::from_secs(5)).run(&mut *bench.volume()?)?;
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn sizes_are_refused_where_there_are_none(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    if bench.volume()?.capabilities().sizing != Sizing::Unsized {
        return Ok(NotApplicable("volumes of this backend have a size".into()));
    }
    let rebuild = Rebuild::new(bench.image(&new_tree())?).size(ByteSize::gib(1));
    expect_refused(&bench, rebuild.run(&mut *bench.volume()?), ErrorKind::Unsupported)?;
    let rebuild = Rebuild::new(bench.image(&new_tree())?).max_size(ByteSize::gib(1));
    expect_refused(&bench, rebuild.run(&mut *bench.volume()?), ErrorKind::Unsupported)?;
    Ok(Passed)
}

pub(super) fn in_place_refuses_a_stream(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let image = Image::from_reader(std::io::Cursor::new(tar(&new_tree())?), "stream");
    let rebuild = Rebuild::new(image).strategy(Strategy::InPlace);
    expect_refused(&bench, rebuild.run(&mut *bench.volume()?), ErrorKind::Unsupported)?;
    Ok(Passed)
}
