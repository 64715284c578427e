//! Power is lost at a moment of a rebuild: the disk holds all that was flushed before, and of what was written since all, nothing or some.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reroot::base::BaseOptions;
use reroot::conformance::fault::Faulty;
use reroot::{Event, Image, Progress};

use super::child::{Job, PHASES};
use super::common::lab;
use super::common::ledger::Ledger;
use super::disks::{Disks, Fault, Seen, mark, on_disks};
use super::effort;
use super::ground::Ground;
use super::random::Random;
use super::record::Record;
use super::stand::{Found, Stand, Which, report};

/// Few enough for hundreds of trials, and enough for several flushes.
pub(crate) const ENTRIES: usize = 60;
/// What is written into the record when the call has returned.
const RETURNED: &str = "returned";

/// Writes into the record which phase begins.
struct Marks(PathBuf);

impl Progress for Marks {
    fn event(&self, event: &Event<'_>) {
        if let Event::Phase(phase) = event {
            mark(&self.0, &format!("{phase:?}").to_lowercase()).expect("cannot mark the record");
        }
    }
}

/// What others do on the machine meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// Nothing: what is on the disk is there because the library saw to it.
    Nothing,
    /// They have all that is written sent to the disk, all the time, and so half of everything.
    Sync,
}

/// What is on the disk when the power comes back.
#[derive(Debug)]
struct Cut {
    /// So many entries of the record.
    whole: usize,
    /// And these.
    beyond: Vec<usize>,
}

/// With the volume filled from the first image, what the job needs, and nothing in memory; `script` does what else is needed.
pub(crate) fn prepare(ground: &dyn Ground, disks: &Disks, job: Job, script: &str) -> Result<Stand, String> {
    let below = Fault::new("linear", &disks.base, &[])?;
    ground.make(below.path())?;
    let stand = Stand::on(ground.backend(), ground.place()?, ENTRIES)?;
    stand.reset(Which::A)?;
    if let Job::FromBase(..) = job {
        let image = Image::open(stand.image(Which::B)).map_err(report)?;
        stand.bases()?.ensure(image, &BaseOptions::new()).map_err(report)?;
    }
    stand.prepare(job)?;
    lab::run(Command::new("sh").args(["-ec", script]))?;
    ground.down()?;
    Ok(stand)
}

pub(crate) fn lose_power(ground: &dyn Ground, job: Job, others: Others, seed: u64, ledger: &mut Ledger) -> Result<(), String> {
    on_disks(ground, |disks| lose_power_on(ground, disks, job, others, seed, ledger))
}

fn lose_power_on(
    ground: &dyn Ground,
    disks: &Disks,
    job: Job,
    others: Others,
    seed: u64,
    ledger: &mut Ledger,
) -> Result<(), String> {
    let stand = prepare(ground, disks, job, "")?;
    let record = recorded(ground, disks, &stand, job, others)?;
    let cuts = cuts(ground, &record, seed);
    let mut at = 0;
    let mut committed = None;
    let mut phases: Vec<(String, [usize; 3])> = Vec::new();
    let to = disks.open()?;
    for cut in cuts {
        while at < cut.whole {
            record.replay(at, &to)?;
            at += 1;
        }
        to.sync_all().map_err(|error| format!("cannot write the disk: {error}"))?;
        let phase = phase(&record, cut.whole);
        let tried = (|| -> Result<Found, String> {
            let found = try_cut(ground, disks, &stand, job, &record, &cut)?;
            if phase == RETURNED && found != Found::New {
                return Err(format!("the call had returned, and what is there is {found:?}"));
            }
            let before = ["begin", "recover", "plan", "check", "stage", "fill", "seal"].contains(&phase.as_str());
            if before && found == Found::New {
                return Err("the new root is there before the commit".into());
            }
            // What is in the record when a root is found that is new is there ever after.
            if found == Found::New && cut.beyond.is_empty() {
                committed.get_or_insert(cut.whole);
            } else if let Some(earlier) = committed.filter(|_| found == Found::Old) {
                return Err(format!("the new root was there after {earlier} entries, and is gone"));
            }
            Ok(found)
        })();
        let entries = record.entries.len();
        let found = tried.map_err(|why| format!("power lost in phase {phase}, at {cut:?} of {entries} entries: {why}"))?;
        if phases.last().is_none_or(|(last, _)| *last != phase) {
            phases.push((phase.clone(), [0; 3]));
        }
        if let Some((_, counts)) = phases.last_mut() {
            counts[found as usize] += 1;
        }
        ledger.enter(format!("lost in {phase}"), found.word());
    }
    for (phase, [old, new, none]) in phases {
        println!("  {phase:<10} old {old:>4}  new {new:>4}  no root {none:>4}");
    }
    Ok(())
}

/// Makes the rebuild, of a view of the disk.
fn recorded(ground: &dyn Ground, disks: &Disks, stand: &Stand, job: Job, others: Others) -> Result<Record, String> {
    let view = disks.view(Seen::Below)?;
    let device = Fault::new("log-writes", view.path(), &[&disks.record.to_string_lossy()])?;
    ground.up(device.path())?;
    mark(device.path(), "begin")?;
    let progress = Arc::new(Marks(device.path().to_owned()));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if others == Others::Sync {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    nix::unistd::sync();
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            });
        }
        let done = run(stand, job, progress);
        over.store(true, Ordering::Relaxed);
        done
    })?;
    mark(device.path(), RETURNED)?;
    ground.down()?;
    drop(device);
    let record = Record::read(&disks.record)?;
    let marks = record.entries.iter().filter_map(|entry| entry.mark());
    if !marks.clone().any(|mark| mark == RETURNED) {
        return Err(format!("the record has only the marks {:?}", marks.collect::<Vec<_>>()));
    }
    Ok(record)
}

/// Does the job in this process.
fn run(stand: &Stand, job: Job, progress: Arc<dyn Progress>) -> Result<(), String> {
    let mut volume = Faulty::new(stand.volume(job)?);
    job.run(&mut volume, &stand.bases()?, stand.image(Which::B), progress).map_err(report)
}

/// The phase in which so many entries were written.
fn phase(record: &Record, whole: usize) -> String {
    let phases = PHASES.map(|phase| format!("{phase:?}").to_lowercase());
    let mut marks = record.entries[..whole].iter().filter_map(|entry| entry.mark());
    let known = marks.rfind(|mark| ["begin", RETURNED].contains(mark) || phases.iter().any(|phase| phase == mark));
    known.unwrap_or("begin").to_owned()
}

/// Where the power is lost, in order: after each flush or write-through, and between two of them with some of what is on its way. In a short run,
/// evenly spread ones of these, but all of the commit.
fn cuts(ground: &dyn Ground, record: &Record, seed: u64) -> Vec<Cut> {
    let mut random = Random::new(seed);
    let begin = record.entries.iter().position(|entry| entry.mark() == Some("begin")).unwrap_or(0);
    let (mut whole, mut torn) = (Vec::new(), Vec::new());
    let mut last = begin;
    for (index, entry) in record.entries.iter().enumerate().skip(begin) {
        let returned = entry.mark() == Some(RETURNED);
        if !entry.is_durable() && !returned {
            continue;
        }
        let cut = |beyond| Cut { whole: last, beyond };
        let between: Vec<_> = (last..index).filter(|index| record.entries[*index].writes()).collect();
        for _ in 0..if between.len() > 1 { effort::torn() } else { 0 } {
            let some = if ground.stands_disorder() {
                between.iter().copied().filter(|_| random.below(2) == 0).collect()
            } else {
                between[..=random.below(between.len() - 1)].to_vec()
            };
            torn.push(cut(some));
        }
        whole.push(Cut { whole: index + 1, beyond: Vec::new() });
        last = index + 1;
    }
    println!("  {} entries, {} flushes, {} torn", record.entries.len() - begin, whole.len(), torn.len());
    let (most_whole, most_torn) = effort::cuts(ground.backend().is_slow());
    let must = |cut: &Cut| phase(record, cut.whole) == "commit" || record.entries[cut.whole - 1].mark() == Some(RETURNED);
    let mut cuts = effort::spread(whole, most_whole, must);
    cuts.extend(effort::spread(torn, most_torn, |_| false));
    cuts.sort_by_key(|cut| (cut.whole, cut.beyond.len()));
    cuts
}

/// The power comes back: the three checks.
fn try_cut(ground: &dyn Ground, disks: &Disks, stand: &Stand, job: Job, record: &Record, cut: &Cut) -> Result<Found, String> {
    let view = disks.view(Seen::Itself)?;
    write_beyond(record, cut, view.path())?;
    let found = ground.up(view.path()).map_err(|why| format!("it does not come up: {why}"));
    let found = found.and_then(|()| check(stand, job)).and_then(|found| ground.down().map(|()| found));
    if found.is_err() {
        ground.abandon();
    }
    found
}

fn write_beyond(record: &Record, cut: &Cut, view: &Path) -> Result<(), String> {
    if cut.beyond.is_empty() {
        return Ok(());
    }
    let to = File::options().read(true).write(true).open(view).map_err(|error| format!("cannot open the view: {error}"))?;
    cut.beyond.iter().try_for_each(|index| record.replay(*index, &to))?;
    to.sync_all().map_err(|error| format!("cannot write the view: {error}"))
}

/// Recovers, and demands the old root or the new one, whole and alone; then a rebuild that simply works.
pub(crate) fn check(stand: &Stand, job: Job) -> Result<Found, String> {
    let found = stand.examine(job, Which::A)?;
    let next = if found == Found::New { Which::A } else { Which::B };
    stand.reset(next).map_err(|why| format!("the next rebuild, after {found:?} was found: {why}"))?;
    Ok(found)
}
