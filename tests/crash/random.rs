//! Kills at random moments.

use std::thread::sleep;
use std::time::{Duration, Instant};

use reroot::Phase;

use super::child::{End, Job, Running};
use super::common::pools::Backend;
use super::stand::{Found, Stand, Table, Which};

/// How much there is to unpack, and so to be killed in.
pub(crate) fn entries(backend: Backend) -> usize {
    if backend.is_slow() { 400 } else { 2000 }
}

/// After every so many kills the next rebuild is made to the end, uninterrupted.
const WHOLE_EVERY: usize = 10;
/// After every so many kills the recovery is killed too.
const RECOVER_EVERY: usize = 3;

/// The seed of this run: from the environment, or from the clock.
pub(crate) fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    std::env::var("REROOT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(now.as_nanos() as u64)
}

/// Numbers that look random (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn part_of(&mut self, whole: Duration) -> Duration {
        whole.mul_f64(self.next() as f64 / u64::MAX as f64)
    }
}

/// How long a job takes, and its phases.
pub(crate) struct Course {
    whole: Duration,
    phases: Vec<(Phase, Duration)>,
}

/// Lets the job run to its end in a child, and takes the times.
pub(crate) fn measure(stand: &Stand, job: Job, image: Which) -> Result<Course, String> {
    let begun = Instant::now();
    let mut running = Running::start(stand.backend, job, &stand.volume_path(), stand.image(image), None)?;
    let mut starts = Vec::new();
    while let Some(phase) = running.next_phase() {
        starts.push((phase, Instant::now()));
    }
    let whole = begun.elapsed();
    if running.end()?.0 != End::Done {
        return Err("the child was killed by someone else".into());
    }
    let ends: Vec<_> = starts.iter().skip(1).map(|(_, start)| *start).chain([begun + whole]).collect();
    let phases = starts.iter().zip(ends).map(|((phase, start), end)| (*phase, end.saturating_duration_since(*start))).collect();
    Ok(Course { whole, phases })
}

/// Half of the kills fall anywhere in the whole course, half into a phase chosen first, so that the short ones get theirs.
pub(crate) fn kill_somewhere(
    stand: &Stand,
    job: Job,
    image: Which,
    course: &Course,
    random: &mut Random,
) -> Result<(End, Option<Phase>), String> {
    let mut running = Running::start(stand.backend, job, &stand.volume_path(), stand.image(image), None)?;
    if course.phases.is_empty() || random.below(2) == 0 {
        sleep(random.part_of(course.whole));
        return running.kill();
    }
    let (phase, length) = course.phases[random.below(course.phases.len())];
    let delay = random.part_of(length);
    while let Some(begun) = running.next_phase() {
        if begun == phase {
            sleep(delay);
            return running.kill();
        }
    }
    running.end()
}

pub(crate) fn kill_at_random(backend: Backend, job: Job, kills: usize, seed: u64, table: &mut Table) -> Result<(), String> {
    let mut random = Random(seed);
    let stand = Stand::new(backend, entries(backend))?;
    stand.reset(Which::A)?;
    stand.prepare(job)?;
    let course = measure(&stand, job, Which::B)?;
    let recovery = Course { whole: course.whole / 3, phases: Vec::new() };
    let mut live = Which::B;
    let mut number = 0;
    while table.kills() < kills {
        number += 1;
        if number > kills * 3 {
            return Err(format!("only {} of {number} attempts were in time to kill", table.kills()));
        }
        let case = |random: &mut Random| -> Result<Option<(Option<Phase>, Found)>, String> {
            stand.prepare(job)?;
            let (end, phase) = kill_somewhere(&stand, job, live.other(), &course, random)?;
            if end == End::Done {
                return Ok(None);
            }
            if number % RECOVER_EVERY == 0 {
                kill_somewhere(&stand, Job::Recover, live, &recovery, random)?;
            }
            Ok(Some((phase, stand.examine(job, live)?)))
        };
        let ended = case(&mut random).map_err(|why| format!("attempt {number} with seed {seed}: {why}"))?;
        let found = match ended {
            Some((phase, found)) => {
                table.count(phase.map_or("before the first phase".into(), |phase| format!("in {phase}")), found);
                found
            }
            None => {
                table.count_not_killed();
                stand.examine(job, live)?
            }
        };
        live = match found {
            Found::Old => live,
            Found::New => live.other(),
            Found::NoRoot => {
                stand.rebuild(job, Which::A).map_err(|why| format!("the rebuild without a root, seed {seed}: {why}"))?;
                Which::A
            }
        };
        if number % WHOLE_EVERY == 0 {
            stand.rebuild(job, live.other()).map_err(|why| format!("the next rebuild, seed {seed}: {why}"))?;
            live = live.other();
        }
    }
    Ok(())
}
