//! SIGKILL at every boundary of a system call.

use reroot::Strategy;
use reroot::conformance::fault::{FaultPoint, Primitive, When};
use reroot::volume::Commit;

use super::bench::{Bench, CALLS, CHANGING_CALLS, NOT_HERE, Trials};
use super::child::{self, Job, Running};
use super::common::pools::Backend;
use super::stand::Which;
use super::tracer::{Calls, Traced, trace};
use super::worker::{End, Task, Worker};

const FROM_BASE: Job = Job::FromBase(Strategy::Swap, Commit::Exchange);

/// A tree with one of each kind: more of the same would be more of the same calls.
const ENTRIES: usize = 12;

pub(crate) fn trials(backend: Backend) -> Vec<(&'static str, Trials)> {
    let base = |name, strategy, commit| (name, Task::Job(Job::FromBase(strategy, commit)));
    let mut tasks = vec![
        base("calls::from_base", Strategy::Swap, Commit::Exchange),
        base("calls::from_base_in_place", Strategy::InPlace, Commit::Exchange),
        ("calls::recover", Task::Job(Job::Recover)),
    ];
    // The others know one kind of commit.
    if !backend.is_slow() {
        tasks.push(base("calls::from_base_by_two_renames", Strategy::Swap, Commit::TwoRenames));
    }
    tasks.into_iter().map(|(name, task)| (name, Box::new(move || kill_at_every_call(backend, task)) as Trials)).collect()
}

/// Which boundaries count, and how many of them are tried. How many there are in all depends on the processes that are looked at, so those that change something are also
/// counted by themselves: no moment between two of them is missed.
fn samples(backend: Backend) -> Vec<(Calls, usize)> {
    let samples = [(Calls::Changing, CHANGING_CALLS.on(backend)), (Calls::All, CALLS.on(backend))];
    samples.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn kill_at_every_call(backend: Backend, task: Task) -> Result<(), String> {
    let fault = match task {
        Task::Job(Job::Recover) => "SIGKILL at a system call of a recovery",
        task if task.job().is_in_place() => "SIGKILL at a system call of a rebuild in place from a base",
        _ => "SIGKILL at a system call of a rebuild from a base",
    };
    let mut bench = Bench::new(fault, backend, ENTRIES)?;
    // Both bases are there before.
    for which in [Which::B, Which::A] {
        bench.live = which;
        bench.stand.rebuild(FROM_BASE, which)?;
    }
    let interruptions = if task.job() == Job::Recover { interruptions(backend) } else { vec![None] };
    let rounds: Vec<_> =
        samples(backend).into_iter().flat_map(|sample| interruptions.iter().map(move |before| (sample, *before))).collect();
    for ((calls, share), before) in rounds {
        let share = share.div_ceil(interruptions.len());
        let whole = run(&mut bench, task, before, calls, None)?.boundaries;
        if whole == 0 {
            return Err("the tracer saw no system call".into());
        }
        let spread = share.min(whole);
        let (mut tried, mut killed, mut forks) = (0, 0, 0);
        // Threads make one run longer than another: all are tried only when one comes to its end before its number.
        let further = if share > whole { whole + 1..whole * 2 } else { 0..0 };
        for at in (0..spread).map(|number| 1 + number * whole / spread).chain(further) {
            let traced = run(&mut bench, task, before, calls, Some(at))
                .map_err(|why| format!("killed at boundary {at} of {whole}: {why}"))?;
            tried += 1;
            killed += usize::from(traced.killed);
            forks += traced.forks;
            if at > whole && !traced.killed {
                break;
            }
        }
        if killed * 2 < tried {
            return Err(format!("of {tried} only {killed} were killed"));
        }
        let after = before.map_or_else(String::new, |(_, point)| format!(", interrupted {point}"));
        println!(
            "{fault}, {}{after}: {whole} boundaries, {tried} tried, {killed} killed, {forks} moved on past a fork",
            backend.name()
        );
    }
    Ok(())
}

/// Where what is recovered was interrupted.
fn interruptions(backend: Backend) -> Vec<Option<(Job, FaultPoint)>> {
    let renames = Job::FromBase(Strategy::Swap, Commit::TwoRenames);
    let mut points = vec![
        (FROM_BASE, FaultPoint::new(Primitive::Seal, 1, When::After)),
        (renames, FaultPoint::new(Primitive::Rename, 1, When::After)),
        (renames, FaultPoint::new(Primitive::Rename, 2, When::After)),
    ];
    if !backend.is_slow() {
        points.push((FROM_BASE, FaultPoint::new(Primitive::Exchange, 1, When::After)));
    }
    points.into_iter().map(Some).collect()
}

fn run(
    bench: &mut Bench,
    task: Task,
    before: Option<(Job, FaultPoint)>,
    calls: Calls,
    at: Option<usize>,
) -> Result<Traced, String> {
    let (stand, other) = (&bench.stand, bench.live.other());
    if let Some((job, point)) = before {
        let interrupted = Running::start(stand.backend, job, &stand.volume_path(), stand.image(other), Some(point))?.end()?;
        if interrupted.0 != child::End::Killed {
            return Err(format!("there was nothing to recover: no {point}"));
        }
    }
    let mut worker = Worker::start(stand, task, other, None)?;
    let pid = worker.pid().ok_or("no process")?;
    let traced = trace(pid, calls, at, || worker.go())
        .map_err(|why| if why.contains("EPERM") { format!("{NOT_HERE}{why}") } else { why })?;
    let end = worker.ended(traced.status)?;
    if end != End::Done && !traced.killed {
        return Err(format!("the worker was only looked at, and was {}: {end:?}", end.told()));
    }
    if traced.killed {
        bench.examine(task, &end)?
    } else {
        bench.examine_uncounted(task, &end)?
    };
    Ok(traced)
}
