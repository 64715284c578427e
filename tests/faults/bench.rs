//! What all trials share: the three checks at their end, and how many there are.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use reroot::Outcome;

use super::child::Job;
use super::common::is_long;
use super::common::ledger::Ledger;
use super::common::pools::Backend;
use super::random;
use super::stand::{Found, Stand, Which};
use super::worker::{End, Task};

/// The trials of one class on one backend.
pub(crate) type Trials = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// How the reasons begin for which a trial is left out on a machine that lacks what it takes.
pub(crate) const NOT_HERE: &str = "not here: ";

/// How many trials of a kind are made: in a run of some minutes, and in a long one. On dir and btrfs a trial takes milliseconds; on ZFS half a second and on
/// LVM and Ceph three seconds and more: there all of a long run take some 25 minutes of a machine that does nothing else.
pub(crate) struct Effort {
    folders: [usize; 2],
    datasets: [usize; 2],
    devices: [usize; 2],
}

const ALL: usize = usize::MAX;

/// Of one job, system calls that change something, at which it is killed.
pub(crate) const CHANGING_CALLS: Effort = Effort::of([80, ALL], [8, 300], [8, 40]);
/// The same of all system calls.
pub(crate) const CALLS: Effort = Effort::of([0, ALL], [0, 0], [0, 0]);
/// Random moments at which a rebuild is killed.
pub(crate) const MOMENTS: Effort = Effort::of([20, 500], [6, 200], [6, 50]);
/// Two at once.
pub(crate) const ROUNDS: Effort = Effort::of([12, 200], [3, 30], [3, 8]);
/// Points of a rebuild at which somebody else renames or deletes the volume.
pub(crate) const MEDDLINGS: Effort = Effort::of([ALL, ALL], [5, 24], [5, 10]);
/// Points of a rebuild at which somebody takes a snapshot.
pub(crate) const SNAPSHOTS: Effort = Effort::of([ALL, ALL], [3, 20], [3, 8]);
/// Points of a rebuild at which somebody comes to hold the root.
pub(crate) const HOLDS: Effort = Effort::of([ALL, ALL], [2, 6], [2, 3]);
/// Names that all works with.
pub(crate) const NAMES: Effort = Effort::of([ALL, ALL], [6, ALL], [3, 10]);
/// Places in a stream at which it ends.
pub(crate) const PLACES: Effort = Effort::of([12, 100], [2, 20], [2, 6]);
/// Calls of one program that fail.
pub(crate) const TOOL_CALLS: Effort = Effort::of([0, 0], [2, 8], [2, 2]);
/// Limits on descriptors, of 57, two rebuilds with each.
pub(crate) const DESCRIPTORS: Effort = Effort::of([15, ALL], [3, 20], [3, 8]);
/// Limits on memory, two rebuilds with each.
pub(crate) const MEMORY: Effort = Effort::of([24, 200], [4, 40], [4, 12]);
/// Limits on the length of files.
pub(crate) const FILE_SIZES: Effort = Effort::of([10, 60], [4, 20], [4, 8]);
/// Memory cgroups.
pub(crate) const GROUPS: Effort = Effort::of([3, 10], [3, 10], [3, 10]);
/// Rebuilds in a storm of signals.
pub(crate) const STORMS: Effort = Effort::of([6, 60], [2, 20], [2, 6]);
/// Rebuilds while the clock jumps.
pub(crate) const CLOCKS: Effort = Effort::of([6, 20], [4, 20], [4, 8]);

impl Effort {
    const fn of(folders: [usize; 2], datasets: [usize; 2], devices: [usize; 2]) -> Effort {
        Effort { folders, datasets, devices }
    }

    pub(crate) fn on(&self, backend: Backend) -> usize {
        let amounts = match backend.name() {
            "zfs" => self.datasets,
            _ if backend.is_slow() => self.devices,
            _ => self.folders,
        };
        amounts[usize::from(is_long())]
    }
}

/// As many of them as are wanted: those that must be among them, and others, evenly spread from the first to the last.
pub(crate) fn spread<T>(all: Vec<T>, most: usize, must: impl Fn(&T) -> bool) -> Vec<T> {
    let (mut chosen, others): (BTreeSet<_>, Vec<_>) = {
        let (must, others): (Vec<_>, Vec<_>) = (0..all.len()).partition(|index| must(&all[*index]));
        (must.into_iter().collect(), others)
    };
    let count = most.saturating_sub(chosen.len()).min(others.len());
    chosen.extend((0..count).map(|number| others[number * (others.len() - 1) / (count - 1).max(1)]));
    all.into_iter().enumerate().filter(|(index, _)| chosen.contains(index)).map(|(_, item)| item).collect()
}

/// One seed for the whole run.
pub(crate) fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(random::seed)
}

/// A stand whose volume goes to and fro between two roots, and the ledger of the fault that it meets on the way.
pub(crate) struct Bench {
    pub(crate) stand: Stand,
    pub(crate) ledger: Ledger,
    /// What is live.
    pub(crate) live: Which,
}

impl Bench {
    pub(crate) fn new(fault: &str, backend: Backend, entries: usize) -> Result<Self, String> {
        let stand = Stand::new(backend, entries)?;
        stand.reset(Which::A)?;
        Ok(Bench { stand, ledger: Ledger::new(fault, backend.name()), live: Which::A })
    }

    /// The three checks after a worker on its way to the other root ended so: one root, whole, which is the one that the end speaks of; nothing
    /// besides; and a next rebuild that works.
    pub(crate) fn examine(&mut self, task: Task, end: &End) -> Result<Found, String> {
        let found = self.examine_uncounted(task, end)?;
        self.enter(end.told(), found);
        Ok(found)
    }

    /// The same of one that met no fault after all.
    pub(crate) fn examine_uncounted(&mut self, task: Task, end: &End) -> Result<Found, String> {
        let says = match end {
            End::Done if task.job() != Job::Recover => Some(Found::New),
            End::Refused(told, _) => self.speaks_of(task.job(), told)?,
            _ => None,
        };
        let situation = |why: String| match end {
            End::Refused(_, report) => format!("{why}\n  (it was told: {report})"),
            end => format!("{why}\n  (it was {})", end.told()),
        };
        self.check_uncounted(task.job(), says).map_err(situation)
    }

    /// The root that an error speaks of: it must not say that one is lost, or has to be recovered, where it is not so.
    pub(crate) fn speaks_of(&self, job: Job, told: &str) -> Result<Option<Found>, String> {
        let says = |outcome: Outcome| told.ends_with(&outcome.to_string());
        let names = self.stand.names(job)?;
        let only_live = names.live && !names.staged && !names.retired;
        if says(Outcome::NoRoot) && job.is_in_place() {
            Ok(Some(Found::NoRoot))
        } else if says(Outcome::NoRoot) || says(Outcome::Interrupted) && only_live {
            Err(format!("it was told {told:?}, and there was: {names}"))
        } else {
            Ok((says(Outcome::Untouched) || says(Outcome::RolledBack)).then_some(Found::Old))
        }
    }

    /// The same, when what was told is known, and which root that speaks of, if it does.
    pub(crate) fn check(&mut self, job: Job, told: String, says: Option<Found>) -> Result<Found, String> {
        let found = self.check_uncounted(job, says)?;
        self.enter(told, found);
        Ok(found)
    }

    fn enter(&mut self, told: String, found: Found) {
        self.ledger.enter(told, found.word());
    }

    fn check_uncounted(&mut self, job: Job, says: Option<Found>) -> Result<Found, String> {
        let found = self.stand.examine(job, self.live)?;
        if says.is_some_and(|says| says != found) {
            return Err(format!("what was told speaks of the {says:?} root, and found was {found:?}"));
        }
        let next = match found {
            Found::Old => self.live.other(),
            Found::New => self.live,
            Found::NoRoot => Which::A,
        };
        let rebuild = if job == Job::Recover { Job::SWAP } else { job };
        self.stand.rebuild(rebuild, next).map_err(|why| format!("the next rebuild: {why}"))?;
        self.nothing_left_of_bases()?;
        self.live = next;
        Ok(found)
    }

    /// Somebody else may be collecting them just now.
    fn nothing_left_of_bases(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let mut left = self.stand.place.left_of_bases()?;
            // The next who uses that base takes over the file of a lock that was killed.
            left.retain(|name| !name.ends_with(".reroot-lock"));
            if left.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(5) {
                return Err(format!("left of bases are {left:?}"));
            }
            sleep(Duration::from_millis(3));
        }
    }
}
