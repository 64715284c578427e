//! Two at once: rebuilds, a rebuild and a recovery, somebody who enters the root, and bases that are collected.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use reroot::base::{CollectPolicy, References};
use reroot::volume::Commit;
use reroot::{CancelToken, ErrorKind, Strategy, Wait, recover};

use super::bench::{Bench, ROUNDS, Trials, seed};
use super::child::Job;
use super::common::pools::Backend;
use super::common::visit::Mounted;
use super::others::Shown;
use super::place;
use super::random::Random;
use super::stand::{Found, Stand, Which, report};
use super::worker::{End, Task, Worker};

const FROM_BASE: Task = Task::Job(Job::FromBase(Strategy::Swap, Commit::Exchange));

pub(crate) fn trials(backend: Backend) -> Vec<(&'static str, Trials)> {
    let mut trials: Vec<(&'static str, Trials)> = vec![
        ("races::two_rebuilds", Box::new(move || two_rebuilds(backend))),
        ("races::recover", Box::new(move || rebuild_and_recover(backend))),
        ("races::collect", Box::new(move || collect(backend))),
    ];
    if backend.is_slow() {
        trials.push(("races::start", Box::new(move || start(backend))));
    } else {
        trials.push(("races::enter", Box::new(move || enter(backend))));
    }
    trials
}

/// What a refusal may be: the other one was there.
fn is_locked(end: &End) -> bool {
    matches!(end, End::Refused(told, _) if told.starts_with("locked"))
}

fn two_rebuilds(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("two rebuilds of one volume at once", backend, 60)?;
    let mut random = Random::new(seed());
    for number in 0..ROUNDS.on(backend) {
        let task = [Task::Stream, FROM_BASE][number % 2];
        let other = bench.live.other();
        let mut workers =
            [Worker::start(&bench.stand, task, other, None)?, Worker::start(&bench.stand, Task::Stream, other, None)?];
        for worker in &mut workers {
            worker.go();
            sleep(random.part_of(Duration::from_millis(20)));
        }
        let [first, second] = workers.map(Worker::end);
        let (first, second) = (first?, second?);
        for end in [&first, &second] {
            if *end != End::Done && !is_locked(end) {
                return Err(format!("one was {}: {end:?}", end.told()));
            }
        }
        if first != End::Done && second != End::Done {
            return Err(format!("nobody got through: {first:?}, {second:?}"));
        }
        bench.check(Job::SWAP, format!("{} and {}", first.told(), second.told()), Some(Found::New))?;
    }
    Ok(())
}

fn rebuild_and_recover(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("a rebuild and recoveries at once", backend, 60)?;
    for number in 0..ROUNDS.on(backend) {
        let task = [Task::Stream, FROM_BASE][number % 2];
        let mut worker = Worker::start(&bench.stand, task, bench.live.other(), None)?;
        worker.go();
        while !worker.has_ended()? {
            let wait = Wait::new(Duration::ZERO, CancelToken::new());
            match recover(&mut *bench.stand.volume(Job::SWAP)?, &wait) {
                Ok(recovery) if !recovery.actions.is_empty() => {
                    return Err(format!("it recovered what somebody works on: {:?}", recovery.actions));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Locked => {}
                Err(error) => return Err(report(error)),
            }
            sleep(Duration::from_millis(1));
        }
        let end = worker.end()?;
        if end != End::Done && !is_locked(&end) {
            return Err(format!("the rebuild was {}: {end:?}", end.told()));
        }
        bench.examine(task, &end)?;
    }
    Ok(())
}

/// All bases are collected, again and again, while rebuilds need them.
fn collect(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("bases are collected while rebuilds use them", backend, 60)?;
    let over = AtomicBool::new(false);
    let (bases, sure) = (bench.stand.bases()?, ROUNDS.on(backend));
    scope(|scope| {
        let collector = scope.spawn(|| {
            let policy = CollectPolicy::unused_for(Duration::ZERO).with_references(References::Ignore);
            let mut removed = 0;
            while !over.load(Ordering::Acquire) {
                match bases.collect(&policy, &CancelToken::new()) {
                    Ok(collected) => removed += collected.removed.len(),
                    Err(error) => return Err(report(error)),
                }
                sleep(Duration::from_millis(2));
            }
            Ok(removed)
        });
        let mut rebuild = || -> Result<(), String> {
            for _ in 0..sure {
                let end = Worker::start(&bench.stand, FROM_BASE, bench.live.other(), None)?.end()?;
                // Between its making and its use a base may be gone, of which it says so: who collects those that were unused for no time at all
                // asks for it.
                let is_gone = matches!(&end, End::Refused(_, report) if report.contains("removed as soon as it was made"));
                // The next rebuild needs no base that could be gone too.
                bench.check(Job::SWAP, end.told(), Some(if end == End::Done { Found::New } else { Found::Old }))?;
                if end != End::Done && !is_gone {
                    return Err(format!("the rebuild was {}: {end:?}", end.told()));
                }
            }
            Ok(())
        };
        let rebuilt = rebuild();
        over.store(true, Ordering::Release);
        let collected = collector.join().map_err(|_| "the collection panicked")?;
        rebuilt?;
        let removed = collected?;
        println!("{}: {removed} bases collected in {sure} rebuilds", backend.name());
        if removed == 0 { Err("no base was collected".into()) } else { Ok(()) }
    })
}

/// Somebody enters the root and leaves it, over and over.
fn enter(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("a process that enters the root at random moments", backend, 60)?;
    for number in 0..ROUNDS.on(backend) {
        let task = [Task::Stream, FROM_BASE][number % 2];
        let mut worker = Worker::start(&bench.stand, task, bench.live.other(), None)?;
        let script = "while cd \"$0\" && sleep 0.00$1 && cd / && sleep 0.00$2; do :; done";
        let mut visitor = Command::new("sh");
        visitor.args(["-c", script]).arg(bench.stand.volume_path());
        visitor.args([(number % 5).to_string(), (number % 7).to_string()]).current_dir("/").stderr(std::process::Stdio::null());
        let mut visitor = visitor.spawn().map_err(|error| error.to_string())?;
        sleep(Duration::from_millis(2));
        worker.go();
        let end = worker.end();
        let _ = visitor.kill();
        let _ = visitor.wait();
        let end = end?;
        // It waits for those who are in it, for some seconds.
        if end != End::Done && !matches!(&end, End::Refused(told, _) if told.starts_with("busy")) {
            return Err(format!("the rebuild was {}: {end:?}", end.told()));
        }
        bench.examine(task, &end)?;
    }
    Ok(())
}

/// An instance is started and stopped, over and over: its root is mounted as a manager mounts it. Whenever that works, it shows a whole root.
fn start(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("the instance is started and stopped at random moments", backend, 60)?;
    let mut random = Random::new(seed());
    let mut started = 0;
    for number in 0..ROUNDS.on(backend) {
        let task = [Task::Stream, FROM_BASE][number % 2];
        let mut worker = Worker::start(&bench.stand, task, bench.live.other(), None)?;
        let over = AtomicBool::new(false);
        let (stand, over) = (&bench.stand, &over);
        let pauses = [(); 40].map(|()| random.part_of(Duration::from_millis(300)));
        let (end, instance) = scope(|scope| {
            let manager = scope.spawn(move || {
                let mut starts = 0;
                for pause in pauses.iter().cycle() {
                    if over.load(Ordering::Acquire) {
                        break;
                    }
                    starts += run_instance(stand, *pause)?;
                    sleep(*pause * 3);
                }
                Ok::<_, String>(starts)
            });
            worker.go();
            let end = worker.end();
            over.store(true, Ordering::Release);
            (end, manager.join().unwrap_or_else(|_| Err("the manager panicked".into())))
        });
        let end = end?;
        started += instance.map_err(|why| format!("{why}\n  (the rebuild was {}: {end:?})", end.told()))?;
        // It waits for those who are in it, for some seconds.
        if end != End::Done && !matches!(&end, End::Refused(told, _) if told.starts_with("busy")) {
            return Err(format!("the rebuild was {}: {end:?}", end.told()));
        }
        bench.examine(task, &end)?;
    }
    if started == 0 { Err("the instance never started".into()) } else { Ok(()) }
}

/// Starts the instance, and stops it after a while; returns how often that worked. Between the two renames of a rebuild there is no volume.
fn run_instance(stand: &Stand, pause: Duration) -> Result<usize, String> {
    let Ok(shown) = Shown::new(stand.backend, &stand.volume_path()) else { return Ok(0) };
    let Ok(mounted) = Mounted::new(stand.place.folder(), |at| shown.mount(at)) else { return Ok(0) };
    let root = place::read(mounted.path())?;
    if ![Which::A, Which::B].into_iter().any(|which| *stand.manifest(which) == root) {
        return Err("the instance was started with a root that is not whole".into());
    }
    sleep(pause);
    Ok(1)
}
