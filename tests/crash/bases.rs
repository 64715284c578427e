//! Kills while a base is made or removed: a base that is whole, or none, and volumes that are none the wiser.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use reroot::base::{BaseOptions, BaseState, CollectPolicy, References, Verdict};
use reroot::conformance::fault::Faulty;
use reroot::volume::Commit;
use reroot::{BaseName, Bases, CancelToken, Image, Strategy, Wait};

use super::child::{End, Job};
use super::common::pools::Backend;
use super::random::{self, Random, kill_somewhere, measure};
use super::stand::{Found, Silent, Stand, Table, Which, report};
use super::steps::{self, kill_at, row};

const FROM_BASE: Job = Job::FromBase(Strategy::Swap, Commit::Exchange);

/// A stand whose volume holds B, and the base of B.
struct Bench {
    stand: Stand,
    bases: Bases,
    name: BaseName,
}

impl Bench {
    fn new(backend: Backend, entries: usize) -> Result<Self, String> {
        let stand = Stand::new(backend, entries)?;
        let bases = stand.bases()?;
        let name = bases.name_of(&Image::open(stand.image(Which::B)).map_err(report)?, &BaseOptions::new()).map_err(report)?;
        stand.rebuild(FROM_BASE, Which::B)?;
        Ok(Bench { stand, bases, name })
    }

    /// Has the base there, or not, as the job needs it.
    fn prepare(&self, job: Job) -> Result<(), String> {
        match job {
            Job::MakeBase => self.remove(),
            _ => {
                self.release()?;
                let image = Image::open(self.stand.image(Which::B)).map_err(report)?;
                self.bases.ensure(image, &BaseOptions::new()).map(drop).map_err(report)
            }
        }
    }

    fn remove(&self) -> Result<(), String> {
        self.release()?;
        self.bases.remove(&self.name, &patience()).map(drop).map_err(report)
    }

    /// Has the base go when it is removed: where a volume depends on the base that it was cloned from, that one is filled otherwise.
    fn release(&self) -> Result<(), String> {
        let infos = self.bases.list().map_err(report)?;
        if infos.iter().any(|info| !info.clones.is_empty()) { self.stand.reset(Which::B) } else { Ok(()) }
    }

    /// What a kill left, before anyone tidies up, and that it can be made or removed as if nothing had happened.
    fn examine(&self, job: Job, by: By) -> Result<Found, String> {
        let infos = self.bases.list().map_err(report)?;
        let complete = match &infos[..] {
            [] => false,
            [info] if info.name == self.name => info.state == BaseState::Complete,
            infos => return Err(format!("the list says {infos:?}")),
        };
        if complete {
            self.verify()?;
        }
        match by {
            By::Use => {
                for which in [Which::A, Which::B] {
                    self.stand.rebuild(FROM_BASE, which)?;
                }
                self.verify()?;
                let other = self.bases.list().map_err(report)?.into_iter().find(|info| info.name != self.name);
                let other = other.ok_or("the other base was not made")?;
                self.bases.remove(&other.name, &patience()).map_err(report)?;
            }
            By::Collection => {
                let policy = CollectPolicy::unused_for(Duration::ZERO).with_references(References::Ignore);
                let begun = Instant::now();
                let mut removed = 0;
                loop {
                    let collected = self.bases.collect(&policy, &CancelToken::new()).map_err(report)?;
                    removed += collected.removed.len();
                    if removed == infos.len() && collected.kept.is_empty() {
                        break;
                    }
                    if collected.kept.is_empty() || begun.elapsed() > PATIENCE {
                        return Err(format!("of {infos:?} it collected {collected}"));
                    }
                    sleep(Duration::from_millis(5));
                }
            }
        }
        match self.stand.live()? {
            Some(Which::B) => {}
            other => return Err(format!("the volume holds {other:?}")),
        }
        expect_nothing_beside(&self.stand)?;
        Ok(if complete == (job == Job::MakeBase) { Found::New } else { Found::Old })
    }

    fn verify(&self) -> Result<(), String> {
        match self.bases.verify(&self.name, &CancelToken::new()).map_err(report)? {
            Verdict::Intact => Ok(()),
            verdict => Err(format!("the base: {verdict}")),
        }
    }
}

/// A child of another test holds the locks that were held when it was forked, until its exec.
const PATIENCE: Duration = Duration::from_secs(20);

fn patience() -> Wait {
    Wait::new(PATIENCE, CancelToken::new())
}

/// How it is found out whether what a kill left is in the way.
#[derive(Debug, Clone, Copy)]
enum By {
    Use,
    Collection,
}

fn expect_nothing_beside(stand: &Stand) -> Result<(), String> {
    let left = stand.place.left_of_bases()?;
    if left.is_empty() { Ok(()) } else { Err(format!("left over: {}", left.join(", "))) }
}

/// Demands that every base is whole, and that nothing is left beside them, now that each was used once more; on btrfs also no qgroup.
pub(crate) fn expect_clean(stand: &Stand) -> Result<(), String> {
    let bases = stand.bases()?;
    for info in bases.list().map_err(report)? {
        match bases.verify(&info.name, &CancelToken::new()).map_err(report)? {
            Verdict::Intact => {}
            verdict => return Err(format!("{}: {verdict}", info.name)),
        }
    }
    expect_nothing_beside(stand)?;
    match stand.backend {
        #[cfg(feature = "btrfs")]
        Backend::Btrfs(_) => of_btrfs::expect_clean(stand),
        _ => Ok(()),
    }
}

#[cfg(feature = "btrfs")]
mod of_btrfs {
    use std::collections::BTreeSet;
    use std::process::Command;
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::super::common::loopfs::run;
    use super::super::common::pools::{Backend, Quotas};
    use super::super::stand::Stand;

    /// Demands that there is no subvolume but those that have a name of their own, and no qgroup but theirs.
    pub(super) fn expect_clean(stand: &Stand) -> Result<(), String> {
        let btrfs = |words: &[&str]| run(Command::new("btrfs").args(words).arg(stand.place.folder()));
        let begun = Instant::now();
        while !btrfs(&["subvolume", "list", "-d"])?.is_empty() {
            if begun.elapsed() > Duration::from_secs(60) {
                return Err("the cleaner does not come to an end".into());
            }
            btrfs(&["filesystem", "sync"])?;
            sleep(Duration::from_millis(50));
        }
        let listed = btrfs(&["subvolume", "list"])?;
        if let Some(line) = listed.lines().find(|line| line.contains(".reroot-")) {
            return Err(format!("a subvolume is left: {line}"));
        }
        if stand.backend == Backend::Btrfs(Quotas::Off) {
            return Ok(());
        }
        let known: BTreeSet<_> = listed.lines().filter_map(|line| line.split(' ').nth(1)).chain(["5"]).collect();
        let groups = btrfs(&["qgroup", "show", "--raw", "--sync"])?;
        let ids = groups.lines().filter_map(|line| line.split_whitespace().next()?.strip_prefix("0/"));
        let stale: Vec<_> = ids.filter(|id| !known.contains(id)).collect();
        if stale.is_empty() { Ok(()) } else { Err(format!("qgroups are left: {stale:?}\n{listed}\n{groups}")) }
    }
}

pub(crate) fn kill_at_every_step(backend: Backend, job: Job, table: &mut Table) -> Result<(), String> {
    let bench = Bench::new(backend, steps::ENTRIES)?;
    bench.prepare(job)?;
    let pool = Arc::new(Faulty::new(bench.stand.pool_of_bases()?));
    let mut volume = Faulty::new(bench.stand.volume(job)?);
    let image = bench.stand.image(Which::B);
    job.run(&mut volume, &Bases::new(Arc::clone(&pool)), image, Arc::new(Silent)).map_err(report)?;
    let points = steps::points(backend, job, &pool.calls());
    for (number, (call, point)) in points.iter().enumerate() {
        let by = if number % 4 == 0 || number % 4 == 3 { By::Use } else { By::Collection };
        let case = || -> Result<Found, String> {
            bench.prepare(job)?;
            kill_at(&bench.stand, job, Which::A, *point)?;
            bench.examine(job, by)
        };
        let found = case().map_err(|why| format!("killed {point}, examined by {by:?}: {why}"))?;
        table.count(row(call, *point), found);
    }
    bench.remove()?;
    expect_clean(&bench.stand)?;
    let kills = points.len();
    if table.kills() == kills { Ok(()) } else { Err(format!("{} kills, not {kills}", table.kills())) }
}

pub(crate) fn kill_at_random(backend: Backend, job: Job, kills: usize, seed: u64, table: &mut Table) -> Result<(), String> {
    let mut random = Random::new(seed);
    let bench = Bench::new(backend, random::entries(backend))?;
    bench.prepare(job)?;
    let course = measure(&bench.stand, job, Which::B)?;
    let mut number = 0;
    while table.kills() < kills {
        number += 1;
        if number > kills * 10 {
            return Err(format!("only {} of {number} attempts were in time to kill", table.kills()));
        }
        let by = if number % 2 == 0 { By::Use } else { By::Collection };
        let mut case = || -> Result<_, String> {
            bench.prepare(job)?;
            let (end, phase) = kill_somewhere(&bench.stand, job, Which::B, &course, &mut random)?;
            Ok((end, phase, bench.examine(job, by)?))
        };
        match case().map_err(|why| format!("attempt {number} with seed {seed}, examined by {by:?}: {why}"))? {
            (End::Done, ..) => table.count_not_killed(),
            (End::Killed, phase, found) => {
                table.count(phase.map_or("before the first phase".into(), |phase| format!("in {phase}")), found);
            }
        }
    }
    bench.remove()?;
    expect_clean(&bench.stand)
}
