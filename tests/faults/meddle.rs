//! Somebody else does something to the volume in the middle of a rebuild: renames it, deletes it, or takes a snapshot of it.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reroot::conformance::fault::{Call, FaultPoint, Faulty, Primitive, When};
use reroot::volume::{Commit, Names};
use reroot::{ErrorKind, Image, Outcome, Rebuild, Report, SnapshotPolicy, Strategy};

use super::bench::{Bench, MEDDLINGS, SNAPSHOTS, Trials, spread};
use super::child::Job;
use super::common::is_long;
use super::common::ledger::Ledger;
use super::common::pools::Backend;
use super::others;
use super::stand::{Found, Which, report};

pub(crate) fn trials(backend: Backend) -> Vec<(&'static str, Trials)> {
    vec![
        ("races::renamed", Box::new(move || meddle(backend, Meddling::Rename))),
        ("races::deleted", Box::new(move || meddle(backend, Meddling::Delete))),
        ("races::snapshot", Box::new(move || take_snapshots(backend))),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meddling {
    Rename,
    Delete,
}

fn is_switch(call: &Call) -> bool {
    matches!(call.primitive, Primitive::Exchange | Primitive::Rename)
}

/// Before the first rename or exchange, and after the last.
fn around_the_switch(calls: &[Call]) -> Option<(FaultPoint, FaultPoint)> {
    let (first, last) = (calls.iter().find(|call| is_switch(call))?, calls.iter().rfind(|call| is_switch(call))?);
    Some((first.points()[0], last.points()[1]))
}

/// Runs the job towards the other root, with this done at a point.
fn run(
    bench: &Bench,
    job: Job,
    point: FaultPoint,
    action: impl Fn() + Send + Sync + 'static,
) -> Result<reroot::Result<Report>, String> {
    let mut volume = Faulty::new(bench.stand.volume(job)?).with_action(point, action);
    let rebuild = Rebuild::new(Image::open(bench.stand.image(bench.live.other())).map_err(report)?);
    let rebuild = match job {
        Job::Rebuild(strategy, _) => rebuild.strategy(strategy),
        Job::Purging => rebuild.snapshots(SnapshotPolicy::Purge),
        _ => return Err("no such job".into()),
    };
    Ok(rebuild.busy_wait(Duration::from_secs(10)).run(&mut volume))
}

/// What the user saw, in the words of the table and in full.
fn told(result: &reroot::Result<Report>) -> (String, String) {
    match result {
        Ok(report) => ("done".into(), report.to_string()),
        Err(error) => (Ledger::told(error), error.report().to_string()),
    }
}

/// Somebody else renames or deletes the volume before or after each primitive: what was moved away is whole, and a root that is there is too.
fn meddle(backend: Backend, how: Meddling) -> Result<(), String> {
    let fault = match how {
        Meddling::Rename => "the volume is renamed by somebody else in the middle",
        Meddling::Delete => "the volume is deleted by somebody else in the middle",
    };
    let mut bench = Bench::new(fault, backend, 40)?;
    let mut jobs = vec![Job::SWAP];
    if !backend.is_slow() {
        jobs.push(Job::Rebuild(Strategy::Swap, Commit::TwoRenames));
    }
    if is_long() {
        jobs.push(Job::IN_PLACE);
    }
    for job in jobs {
        bench.stand.reset(Which::A)?;
        let calls = bench.stand.rebuild(job, Which::B)?.calls();
        bench.live = Which::B;
        let (before, after) = around_the_switch(&calls).ok_or("nothing is switched")?;
        let mut points: Vec<_> = calls.iter().flat_map(Call::points).collect();
        if backend.is_slow() {
            // What was renamed before it is looked for is only another volume that is not there.
            let looked = points.iter().position(|point| point.primitive == Primitive::Snapshots).unwrap_or(0);
            points.drain(..=looked);
        }
        let points = spread(points, MEDDLINGS.on(backend), |point| *point == before || *point == after);
        let mut meddled = 0;
        for point in points {
            let at = meddle_at(&mut bench, how, job, point);
            meddled += at.map_err(|why| format!("{job:?}, {how:?} {point}: {why}"))?;
        }
        if meddled == 0 {
            return Err(format!("{job:?}: nobody got to {how:?} the volume"));
        }
    }
    Ok(())
}

/// Returns how often that was done.
fn meddle_at(bench: &mut Bench, how: Meddling, job: Job, point: FaultPoint) -> Result<usize, String> {
    let (backend, live) = (bench.stand.backend, bench.stand.volume_path());
    let moved = live.with_file_name(ELSEWHERE);
    let meddled = Arc::new(AtomicUsize::new(0));
    let result = run(bench, job, point, {
        let meddled = Arc::clone(&meddled);
        // Somewhere there is no volume just then, or it is in use.
        move || {
            let done = usize::from(do_it(backend, &live, how).is_ok());
            meddled.fetch_add(done, Ordering::Relaxed);
        }
    })?;
    let (told, said) = told(&result);
    let because = |why: String| format!("{why}\n  (it was told: {said})");
    bench.stand.recovered(job).map_err(because)?;
    let names = bench.stand.names(job)?;
    let found = bench.stand.live().map_err(because)?;
    if names.staged || names.retired || names.live != found.is_some() {
        return Err(because(format!("recover left {names}")));
    }
    let elsewhere = bench.stand.place.root_of(&moved)?;
    if let Some(root) = &elsewhere {
        // It bears the name that somebody else gave it, and nobody else touches it.
        if ![Which::A, Which::B].into_iter().any(|which| bench.stand.manifest(which) == root) {
            return Err(because("what was renamed is not whole".into()));
        }
        if found == Some(bench.live) && how == Meddling::Rename {
            return Err(because("the old root is there twice".into()));
        }
    }
    let found = match found {
        Some(which) if which == bench.live => "old",
        Some(_) => "new",
        None => "none",
    };
    match &result {
        Err(error) if found == "new" && error.outcome() != Outcome::Interrupted => {
            return Err(because("an error, and the new root is live".into()));
        }
        Ok(_) if found == "old" => return Err(because("it was done, and the old root is live".into())),
        Ok(_) if found == "none" && meddled.load(Ordering::Relaxed) == 0 => {
            return Err(because("it was done, and no root is there".into()));
        }
        _ => {}
    }
    if elsewhere.is_some() {
        others::delete(backend, &moved)?;
    }
    let next = bench.live.other();
    bench.stand.rebuild(job, next).map_err(|why| because(format!("the next rebuild: {why}")))?;
    bench.live = next;
    bench.ledger.enter(told, found);
    Ok(meddled.load(Ordering::Relaxed))
}

const ELSEWHERE: &str = "somewhere-else";

fn do_it(backend: Backend, volume: &Path, how: Meddling) -> Result<(), String> {
    // A folder that goes file by file would be seen half.
    if how == Meddling::Delete && backend.is_slow() {
        return others::delete(backend, volume);
    }
    let moved = others::rename(backend, volume, ELSEWHERE)?;
    if how == Meddling::Delete { others::delete(backend, &moved) } else { Ok(()) }
}

/// What the manager calls the snapshot that it takes.
fn snapshot(backend: Backend) -> &'static str {
    match backend.name() {
        "zfs" => "snapshot-late",
        "ceph" => "snapshot_late",
        _ => "late",
    }
}

/// A snapshot is taken before or after each primitive. If that was before the commit, the rebuild is refused, or the snapshot is still the volume's.
fn take_snapshots(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("a snapshot is taken in the middle", backend, 40)?;
    let mut jobs = vec![Job::SWAP, Job::IN_PLACE];
    if backend.is_slow() && is_long() {
        jobs.push(Job::Purging);
    }
    for job in jobs {
        bench.stand.reset(bench.live)?;
        let calls = bench.stand.rebuild(job, bench.live.other())?.calls();
        bench.live = bench.live.other();
        let (before, after) = around_the_switch(&calls).ok_or("nothing is switched")?;
        let all: Vec<_> = calls.iter().flat_map(Call::points).collect();
        // In between there is no volume.
        let until = all.iter().position(|point| *point == before).ok_or("nothing is switched")?;
        // What the plan knows of it may purge.
        let plan = FaultPoint::new(Primitive::Snapshots, 1, When::After);
        let from = if job == Job::Purging { all.iter().position(|point| *point == plan).unwrap_or(0) } else { 0 };
        let mut points = spread(all[from..=until].to_vec(), SNAPSHOTS.on(backend), |point| *point == before);
        points.push(after);
        for point in points {
            snapshot_at(&mut bench, job, point, point == after).map_err(|why| format!("{job:?}, {point}: {why}"))?;
        }
    }
    Ok(())
}

fn snapshot_at(bench: &mut Bench, job: Job, point: FaultPoint, is_new: bool) -> Result<(), String> {
    let (backend, volume) = (bench.stand.backend, bench.stand.volume_path());
    bench.stand.prepare(job)?;
    let taken = Arc::new(Mutex::new(Err("nobody took it".to_owned())));
    let result = run(bench, job, point, {
        let (taken, volume) = (Arc::clone(&taken), volume.clone());
        move || *taken.lock().unwrap_or_else(PoisonError::into_inner) = others::snapshot(backend, &volume, snapshot(backend))
    })?;
    let (told, said) = told(&result);
    let because = |why: String| format!("{why}\n  (it was told: {said})");
    let taken = taken.lock().unwrap_or_else(PoisonError::into_inner).clone();
    taken.map_err(|why| because(format!("there is no snapshot: {why}")))?;
    let found = match &result {
        Ok(_) => Found::New,
        Err(error) if is_new => return Err(format!("it was too late to refuse: {}", error.report())),
        Err(error)
            if error.kind() == ErrorKind::HasSnapshots && matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack) =>
        {
            Found::Old
        }
        Err(_) => return Err(format!("it was told: {said}")),
    };
    let expected = if found == Found::Old { bench.live } else { bench.live.other() };
    for _ in 0..2 {
        if !others::has_snapshot(backend, &volume, snapshot(backend))? {
            return Err(because("the snapshot is gone".into()));
        }
        if bench.stand.live().map_err(because)? != Some(expected) {
            return Err(because("the live root is the other one".into()));
        }
        // Nor does a recovery take it away.
        bench.stand.recovered(job).map_err(because)?;
        let names = bench.stand.names(job)?;
        if names != (Names { live: true, staged: false, retired: false }) {
            return Err(because(format!("there is {names}")));
        }
    }
    // The next rebuild is told to purge, and does.
    bench.live = expected.other();
    bench.stand.reset(bench.live).map_err(because)?;
    bench.ledger.enter(told, found.word());
    Ok(())
}
