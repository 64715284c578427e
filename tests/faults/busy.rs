//! Somebody holds the root: before the rebuild looks, and between its looking and its switching.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reroot::conformance::fault::{Call, FaultPoint, Faulty, Primitive, When};
use reroot::volume::Commit;
use reroot::{ErrorKind, Image, Outcome, Rebuild, Strategy};

use super::bench::{Bench, HOLDS, Trials, spread};
use super::child::Job;
use super::common::is_long;
use super::common::ledger::Ledger;
use super::common::pools::Backend;
use super::hold::{Hold, Holder, holds};
use super::stand::{Found, Which, report};

pub(crate) fn trials(backend: Backend) -> Vec<(&'static str, Trials)> {
    holds(backend).into_iter().map(|hold| (hold.name, Box::new(move || held(backend, hold)) as Trials)).collect()
}

fn held(backend: Backend, hold: &'static Hold) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("not root: cannot mount, nor see what others have open".into());
    }
    let mut bench = Bench::new(hold.fault, backend, 40)?;
    let aside = bench.stand.place.folder().join("aside");
    std::fs::create_dir(&aside).map_err(|error| error.to_string())?;
    for job in jobs(backend) {
        bench.stand.reset(bench.live)?;
        let calls = bench.stand.rebuild(job, bench.live.other())?.calls();
        bench.live = bench.live.other();
        // Before it begins, then at each point.
        held_at(&mut bench, hold, &aside, job, None, Notice::Certain).map_err(|why| format!("{job:?}, before: {why}"))?;
        for (point, notice) in points(backend, job, &calls)? {
            held_at(&mut bench, hold, &aside, job, Some(point), notice).map_err(|why| format!("{job:?}, {point}: {why}"))?;
        }
    }
    Ok(())
}

fn jobs(backend: Backend) -> Vec<Job> {
    match (is_long(), backend.is_slow()) {
        (false, true) => vec![Job::SWAP],
        (false, false) | (true, true) => vec![Job::SWAP, Job::IN_PLACE],
        (true, false) => vec![Job::SWAP, Job::IN_PLACE, Job::Rebuild(Strategy::Swap, Commit::TwoRenames)],
    }
}

/// Where in a rebuild of these calls somebody comes.
fn points(backend: Backend, job: Job, calls: &[Call]) -> Result<Vec<(FaultPoint, Notice)>, String> {
    let all = calls.iter().flat_map(Call::points);
    // After the switch it is the new root that is held, which is nobody's concern.
    let until =
        calls.iter().position(|call| matches!(call.primitive, Primitive::Exchange | Primitive::Rename)).unwrap_or(calls.len());
    let points: Vec<_> = all.take(until * 2 + 1).collect();
    // Whoever comes before the last look has to be seen.
    let is_look = |point: &FaultPoint| point.primitive == Primitive::Holders && point.when == When::Before;
    let last_look = points.iter().rposition(is_look).ok_or("nobody looks for holders")?;
    let notice = |number| if number <= last_look { Notice::Certain } else { Notice::Possible };
    let last = points.len() - 1;
    let points: Vec<_> = points.into_iter().enumerate().map(|(number, point)| (number, point, notice(number))).collect();
    let mut points: Vec<_> = if backend.is_slow() {
        spread(points, HOLDS.on(backend), |(number, ..)| *number == last_look || *number == last)
    } else {
        // In place on btrfs the new root waits some seconds for the space of an old one that is held.
        let step = if is_long() || !job.is_in_place() { 1 } else { 4 };
        points.into_iter().step_by(step).collect()
    }
    .into_iter()
    .map(|(_, point, notice)| (point, notice))
    .collect();
    if let Some(switch) = calls.iter().rfind(|call| call.primitive == Primitive::Rename) {
        points.push((FaultPoint::new(Primitive::Rename, switch.occurrence, When::After), Notice::TooLate));
    }
    Ok(points)
}

/// Whether a holder has to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notice {
    Certain,
    /// He came after the last look.
    Possible,
    /// He came after the switch, and holds the new root.
    TooLate,
}

fn held_at(
    bench: &mut Bench,
    hold: &Hold,
    aside: &Path,
    job: Job,
    point: Option<FaultPoint>,
    notice: Notice,
) -> Result<(), String> {
    // After the switch the other root is there.
    let shown = if notice == Notice::TooLate { bench.live.other() } else { bench.live };
    let file = match shown {
        Which::A => "etc/A",
        Which::B => "etc/B",
    };
    let holder = Holder::new(bench.stand.backend, hold, bench.stand.volume_path(), aside, file)?;
    let holder = Arc::new(Mutex::new(holder));
    let mut volume = Faulty::new(bench.stand.volume(job)?);
    let failed = Arc::new(Mutex::new(None));
    let begin = {
        let (holder, failed) = (Arc::clone(&holder), Arc::clone(&failed));
        move || {
            if let Err(why) = holder.lock().unwrap_or_else(PoisonError::into_inner).begin() {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            }
        }
    };
    match point {
        None => begin(),
        Some(point) => volume = volume.with_action(point, begin),
    }
    let image = Image::open(bench.stand.image(bench.live.other())).map_err(report)?;
    let Job::Rebuild(strategy, _) = job else { return Err("no such job".into()) };
    // Between its fork and its exec a process that another trial starts holds copies of what we have open.
    let patience = if notice == Notice::TooLate { Duration::from_secs(10) } else { Duration::from_millis(50) };
    let result = Rebuild::new(image).strategy(strategy).busy_wait(patience).run(&mut volume);
    drop(volume);
    if let Some(why) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(format!("it could not be held: {why}"));
    }
    let told = result.as_ref().map_or_else(Ledger::told, |_| "done".into());
    let said = result.as_ref().map_or_else(|error| error.report().to_string(), |report| report.to_string());
    // Who holds it lets it go, and all is as if nothing had been.
    holder.lock().unwrap_or_else(PoisonError::into_inner).end()?;
    drop(holder);
    let says = match &result {
        Ok(_) => Found::New,
        Err(error) if error.kind() == ErrorKind::Busy && matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack) => {
            Found::Old
        }
        Err(_) => return Err(format!("it was told: {said}")),
    };
    if notice == Notice::Certain && says != Found::Old {
        return Err(format!("nobody saw it: {said}"));
    }
    if notice == Notice::TooLate && says != Found::New {
        return Err(format!("it was too late to refuse: {said}"));
    }
    bench.check(job, told, Some(says)).map(drop).map_err(|why| format!("{why}\n  (it was told: {said})"))
}
