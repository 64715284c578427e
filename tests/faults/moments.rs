//! SIGKILL at random moments of a rebuild from a stream.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::bench::{Bench, MOMENTS, Trials, seed};
use super::common::pools::Backend;
use super::random::Random;
use super::worker::{End, Task, Worker};

pub(crate) fn trials(backend: Backend) -> Vec<(&'static str, Trials)> {
    vec![("moments::stream", Box::new(move || kill_at_random(backend)))]
}

fn kill_at_random(backend: Backend) -> Result<(), String> {
    let entries = if backend.is_slow() { 100 } else { 400 };
    let kills = MOMENTS.on(backend);
    let mut bench = Bench::new("SIGKILL at a random moment of a rebuild from a stream", backend, entries)?;
    let mut random = Random::new(seed());
    let mut whole = Duration::ZERO;
    // What the first run needs is not what the others need.
    for _ in 0..2 {
        let worker = Worker::start(&bench.stand, Task::Stream, bench.live.other(), None)?;
        let begun = Instant::now();
        let end = worker.end()?;
        whole = begun.elapsed();
        bench.examine_uncounted(Task::Stream, &end)?;
    }
    let (mut killed, mut number) = (0, 0);
    while killed < kills {
        number += 1;
        if number > kills * 3 {
            return Err(format!("only {killed} of {number} were in time to kill"));
        }
        let mut worker = Worker::start(&bench.stand, Task::Stream, bench.live.other(), None)?;
        let moment = random.part_of(whole);
        worker.go();
        sleep(moment);
        let end = worker.kill()?;
        let examined =
            if end == End::Killed { bench.examine(Task::Stream, &end) } else { bench.examine_uncounted(Task::Stream, &end) };
        examined.map_err(|why| format!("after {moment:?} of {whole:?}, seed {}: {why}", seed()))?;
        killed += usize::from(end == End::Killed);
        if end == End::Done {
            // It was measured while others had the processor, and is faster now.
            whole = whole.mul_f64(0.95);
        }
    }
    Ok(())
}
