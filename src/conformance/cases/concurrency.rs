//! Several rebuilds at once.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::conformance::bench::{Bench, Check, NAME, Outcome, ensure, new_tree, old_tree};
use crate::conformance::{CaseOutcome::*, Factory, Failure};
use crate::error::ErrorKind;
use crate::progress::{Event, Phase, Progress};
use crate::rebuild::Rebuild;
use crate::volume::Slot;

const PATIENCE: Duration = Duration::from_secs(20);

/// Stops a rebuild as it begins to fill, says so, and lets it go on when it is told to.
struct Gate {
    reached: Mutex<Sender<()>>,
    open: Mutex<Receiver<()>>,
}

impl Progress for Gate {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::Phase(Phase::Fill)) {
            let _ = self.reached.lock().unwrap_or_else(PoisonError::into_inner).send(());
            let _ = self.open.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(PATIENCE);
        }
    }
}

/// Runs `meanwhile` while a rebuild to [`new_tree`] stands still in the middle; it lets that one go on when it drops the sender.
fn during_a_rebuild(bench: &Bench, meanwhile: impl FnOnce(Sender<()>) -> Check) -> Check {
    let (reached, at_gate) = channel();
    let (open, opened) = channel();
    let gate = Arc::new(Gate { reached: Mutex::new(reached), open: Mutex::new(opened) });
    let rebuild = Rebuild::new(bench.image(&new_tree())?).progress(gate);
    let mut volume = bench.volume()?;
    std::thread::scope(|scope| {
        let first = scope.spawn(move || rebuild.run(&mut *volume).map(drop));
        let result = match at_gate.recv_timeout(PATIENCE) {
            Ok(()) => meanwhile(open),
            Err(_) => Err(Failure::new("the first rebuild never began to fill")),
        };
        let first = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result?;
        first.map_err(|error| Failure::from(error).during("the first rebuild"))
    })
}

pub(super) fn a_second_rebuild_is_refused(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let before = bench.manifest(NAME, Slot::Live)?;
    during_a_rebuild(&bench, |open| {
        for _ in 0..3 {
            let second = Rebuild::new(bench.image(&old_tree())?).run(&mut *bench.volume()?);
            let refused = second.as_ref().is_err_and(|error| error.kind() == ErrorKind::Locked);
            ensure!(refused, "a second rebuild was not refused: {second:?}");
        }
        // Its neighbour is free.
        bench.fill("c10", &old_tree())?;
        // The old root is there, and whole, while the new one is made.
        bench.expect(NAME, &before)?;
        drop(open);
        Ok(())
    })?;
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn a_second_rebuild_waits(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut third = new_tree();
    third.file("third", "third");
    during_a_rebuild(&bench, |open| {
        let second = Rebuild::new(bench.image(&third)?).lock_wait(PATIENCE);
        let mut volume = bench.volume()?;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                drop(open);
            });
            second.run(&mut *volume).map(drop)
        })?;
        Ok(())
    })?;
    bench.expect_only(&third)?;
    Ok(Passed)
}

pub(super) fn ten_volumes_at_once(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    let tree = |number: usize| {
        let mut tree = new_tree();
        tree.file("number", number.to_string());
        tree
    };
    for number in 0..5 {
        bench.fill(&format!("v{number}"), &old_tree())?;
    }
    let mut work = Vec::new();
    for number in 0..10 {
        let rebuild = Rebuild::new(bench.image(&tree(number))?);
        work.push((rebuild, bench.pool.volume(&format!("v{number}"))?));
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            work.into_iter().map(|(rebuild, mut volume)| scope.spawn(move || rebuild.run(&mut *volume).map(drop))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    for (number, result) in results.into_iter().enumerate() {
        let name = format!("v{number}");
        result.map_err(|error| Failure::from(error).during(&name))?;
        bench.expect(&name, &tree(number).manifest()).map_err(|failure| failure.during(&name))?;
    }
    let left = bench.pool.leftovers()?;
    ensure!(left.is_empty(), "left over in the pool: {}", left.join(", "));
    Ok(Passed)
}
