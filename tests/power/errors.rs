//! A disk that fails at a step of a rebuild, wholly or in a part of what is asked of it, for good or for a moment; then it works again, as after a
//! cable was put back, and the machine has started anew.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use reroot::conformance::fault::{Call, FaultPoint, Faulty, Primitive};
use reroot::volume::Names;
use reroot::{Error, ErrorKind, Outcome, Space};

use super::child::Job;
use super::common::ledger::Ledger;
use super::disks::{Disks, Fault, Seen, on_disks, switch, vanish};
use super::effort;
use super::ground::Ground;
use super::loss::{check, prepare};
use super::stand::{Found, Silent, Stand, Which};

/// How long a rebuild may take to find out. A pool of ZFS waits for its disk for ever, and goes on when that is back.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same when the disk works again.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// How long a moment is.
const MOMENT: Duration = Duration::from_millis(300);

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    All,
    Writes,
    Reads,
    /// Writes too, but not for long.
    Moment,
    /// All, and the device is gone too: plugged in again, it is another one.
    Vanishes,
}

impl Way {
    pub(crate) const ALL: [Way; 5] = [Way::All, Way::Writes, Way::Reads, Way::Moment, Way::Vanishes];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::All => "all_fails",
            Way::Writes => "writes_fail",
            Way::Reads => "reads_fail",
            Way::Moment => "writes_fail_for_a_moment",
            Way::Vanishes => "vanishes",
        }
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Way::All | Way::Vanishes => &["error"],
            Way::Writes | Way::Moment => &["flakey", "0", "86400", "error_writes"],
            Way::Reads => &["flakey", "0", "86400", "error_reads"],
        }
    }
}

pub(crate) fn fail(ground: &dyn Ground, job: Job, way: Way, ledger: &mut Ledger) -> Result<(), String> {
    on_disks(ground, |disks| fail_on(ground, disks, job, way, ledger))
}

fn fail_on(ground: &dyn Ground, disks: &Disks, job: Job, way: Way, ledger: &mut Ledger) -> Result<(), String> {
    let stand = prepare(ground, disks, job, "")?;
    let calls = calls_of(ground, disks, &stand, job)?;
    let points: Vec<_> = calls.iter().flat_map(|call| call.points().map(|point| (call, point))).collect();
    for (call, point) in effort::spread(points, effort::failures(ground.backend().is_slow()), |_| false) {
        let at = format!("{} {call}", point.when);
        let tried = try_failure(ground, disks, &stand, job, way, point);
        let (told, found) = tried.map_err(|why| format!("{} {at}: {why}", way.name()))?;
        println!("  {at:<40} {told:<50} {}", found.word());
        ledger.enter(told, found.word());
    }
    Ok(())
}

/// What is called when nothing fails.
pub(crate) fn calls_of(ground: &dyn Ground, disks: &Disks, stand: &Stand, job: Job) -> Result<Vec<Call>, String> {
    let view = disks.view(Seen::Itself)?;
    ground.up(view.path())?;
    let mut volume = Faulty::new(stand.volume(job)?);
    let done = job.run(&mut volume, &stand.bases()?, stand.image(Which::B), Arc::new(Silent));
    let calls = volume.calls();
    drop(volume);
    ground.down()?;
    done.map(|()| calls).map_err(|error| error.report().to_string())
}

/// What the user was told, and what was found.
fn try_failure(
    ground: &dyn Ground,
    disks: &Disks,
    stand: &Stand,
    job: Job,
    way: Way,
    point: FaultPoint,
) -> Result<(String, Found), String> {
    let view = disks.view(Seen::Below)?;
    let mut disk = Fault::new("linear", view.path(), &[])?;
    let tried = (|| {
        ground.up(disk.path())?;
        let Ran { result, waited, renames } = run_until_it_fails(ground, stand, job, way, point, disk.path())?;
        let before = stand.names(job).ok();
        if way == Way::Vanishes {
            // What is known of it is on the device that is gone.
            if ground.down().is_err() {
                ground.abandon();
            }
            disk.expect_gone()?;
            disk = Fault::new("linear", view.path(), &[])?;
        } else {
            switch(disk.path(), &["linear"])?;
            ground.heal();
            ground.down().map_err(|why| format!("it does not go down: {why}"))?;
        }
        ground.up(disk.path()).map_err(|why| format!("it does not come up again: {why}"))?;
        let said = result.as_ref().map_or_else(|error| error.report().to_string(), |()| "done".to_owned());
        let traces = Traces { names: [before, Some(stand.names(job)?)], renames, vanished: way == Way::Vanishes };
        let found = check(stand, job).map_err(|why| format!("{why}\n  (it had said: {said})"))?;
        ground.down()?;
        if let Err(error) = &result
            && let ErrorKind::NoSpace(Space::Pool | Space::Inodes | Space::Quota) = error.kind()
        {
            return Err(format!("it blames a space, of which there is plenty: {said}"));
        }
        judge(&result, found, &traces).map_err(|why| format!("{why}: {found:?}\n  (it had said: {said})"))?;
        let told = result.as_ref().map_or_else(Ledger::told, |()| "done".to_owned());
        Ok((if waited { format!("waits for the disk, then {told}") } else { told }, found))
    })();
    if tried.is_err() {
        if !disk.is_gone() {
            let _ = switch(disk.path(), &["linear"]);
        }
        ground.heal();
        ground.abandon();
    }
    tried
}

/// How a job ended.
struct Ran {
    result: Result<(), Error>,
    /// Whether the disk had to be mended before.
    waited: bool,
    renames: bool,
}

/// Does the job; at the point the disk begins to fail.
fn run_until_it_fails(
    ground: &dyn Ground,
    stand: &Stand,
    job: Job,
    way: Way,
    point: FaultPoint,
    disk: &Path,
) -> Result<Ran, String> {
    let path = disk.to_owned();
    let mut volume = Faulty::new(stand.volume(job)?).with_action(point, move || {
        switch(&path, way.words()).expect("cannot make the disk fail");
        if way == Way::Vanishes {
            vanish(&path).expect("cannot make the disk vanish");
        }
        if way == Way::Moment {
            let path = path.clone();
            std::thread::spawn(move || {
                std::thread::sleep(MOMENT);
                switch(&path, &["linear"]).expect("cannot mend the disk");
            });
        }
    });
    let (bases, image) = (stand.bases()?, stand.image(Which::B).to_owned());
    let (over, is_over) = channel();
    let worker = std::thread::spawn(move || {
        let result = job.run(&mut volume, &bases, &image, Arc::new(Silent));
        let renames = Traces::renames(&volume.calls());
        drop((volume, bases));
        let _ = over.send((result, renames));
    });
    let mut waited = false;
    let result = match is_over.recv_timeout(PATIENCE) {
        // What is gone comes back as another device: nobody waits for it.
        Err(RecvTimeoutError::Timeout) if way == Way::Vanishes => is_over.recv_timeout(AFTERWARDS),
        Err(RecvTimeoutError::Timeout) => {
            waited = true;
            switch(disk, &["linear"])?;
            ground.heal();
            is_over.recv_timeout(AFTERWARDS)
        }
        result => result,
    };
    let state = if way == Way::Vanishes { "now that the disk is gone" } else { "although the disk works again" };
    let (result, renames) = result.map_err(|_| format!("the rebuild does not end, {state}"))?;
    worker.join().map_err(|_| "the rebuild panicked")?;
    if way == Way::Moment {
        // Or the switch back would come amid what follows.
        std::thread::sleep(MOMENT * 2);
    }
    Ok(Ran { result, waited, renames })
}

/// What a rebuild was seen to do, and to leave.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    /// The names that were there when it had ended, and when the disk worked again, so far as they could be read.
    pub(crate) names: [Option<Names>; 2],
    /// Whether it began to change names: from there on what is seen may not be what is on the disk.
    pub(crate) renames: bool,
    /// Whether the disk is gone, and not only failing.
    pub(crate) vanished: bool,
}

impl Traces {
    /// Of one whose disk did not fail: with these names when it had ended.
    pub(crate) fn new(names: Names, calls: &[Call]) -> Traces {
        Traces { names: [Some(names), Some(names)], renames: Traces::renames(calls), vanished: false }
    }

    fn renames(calls: &[Call]) -> bool {
        calls.iter().any(|call| matches!(call.primitive, Primitive::Rename | Primitive::Exchange))
    }
}

/// Whether what was said is true.
pub(crate) fn judge(result: &Result<(), Error>, found: Found, traces: &Traces) -> Result<(), String> {
    let error = match result {
        Ok(()) if found == Found::New => return Ok(()),
        Ok(()) => return Err("it said that it was done".into()),
        Err(error) => error,
    };
    let is_only_live = |names: &Option<Names>| names.as_ref().is_some_and(|names| names.live && !names.staged && !names.retired);
    let fits = match error.outcome() {
        Outcome::Untouched | Outcome::RolledBack => found == Found::Old,
        // Nothing else was there at any time: then there was nothing to recover.
        Outcome::Interrupted => traces.renames || !traces.names.iter().all(is_only_live),
        // What was removed without reaching the disk is there again.
        Outcome::NoRoot => found != Found::New && traces.names[0].as_ref().is_none_or(|names| !names.live),
        _ => return Err("it said something of the volume that nobody knows".into()),
    };
    if !fits {
        return Err(format!("it said something else of the volume, of which was seen {traces:?}"));
    }
    // Of a disk, and not of the image or the command line; a group is not found that was on one that is gone.
    let vanished = traces.vanished;
    let is_of_the_disk = !matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::InvalidImage
            | ErrorKind::InvalidInput
            | ErrorKind::DigestMismatch
            | ErrorKind::UnsafePath
            | ErrorKind::Lossy
    );
    if is_of_the_disk || vanished && error.kind() == ErrorKind::NotFound { Ok(()) } else { Err("it blames something else".into()) }
}
