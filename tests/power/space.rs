//! Space that runs out at a moment of a rebuild: before the first byte, in the middle of the image, at its end, at the sync, in the commit.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use reroot::conformance::fault::{Call, FaultPoint, Faulty};
use reroot::{Error, ErrorKind, Space, Strategy};

use super::child::Job;
use super::common::lab::run;
use super::common::ledger::Ledger;
use super::disks::{Disks, Seen, on_disks};
use super::effort;
use super::errors::{Traces, calls_of, judge};
use super::ground::Ground;
use super::loss::{check, prepare};
use super::stand::{Found, Silent, Stand, Which, report};

/// A space, and how all of it, or all but some, is taken and given back: scripts of a shell.
#[derive(Debug, Clone)]
pub(crate) struct Shortage {
    pub(crate) name: &'static str,
    /// What users may be told has run out.
    pub(crate) told: &'static [Space],
    /// Done once, where the volume is.
    pub(crate) begin: String,
    /// Leaves `$LEFT` KiB, or inodes.
    pub(crate) take: String,
    pub(crate) give: String,
    /// A rebuild works where so much is left.
    pub(crate) enough: u64,
}

/// What a rebuild that works is said to be.
const DONE: &str = "done";

/// When it runs out.
#[derive(Debug, Clone, Copy)]
enum Moment {
    At(FaultPoint),
    /// When so many of the image's bytes have been read.
    Read(usize),
    /// From the beginning so much is left, if possible for an image that does not say how large it is.
    Left(u64),
}

pub(crate) fn run_out(ground: &dyn Ground, job: Job, shortage: &Shortage, ledger: &mut Ledger) -> Result<(), String> {
    on_disks(ground, |disks| run_out_on(ground, disks, job, shortage, ledger))
}

fn run_out_on(ground: &dyn Ground, disks: &Disks, job: Job, shortage: &Shortage, ledger: &mut Ledger) -> Result<(), String> {
    let stand = prepare(ground, disks, job, &shortage.begin)?;
    let calls = calls_of(ground, disks, &stand, job)?;
    let points = calls.iter().flat_map(|call| call.points().map(|point| (format!("{} {call}", point.when), Moment::At(point))));
    let mut moments = effort::spread(points.collect(), effort::failures(ground.backend().is_slow()), |_| false);
    let size = fs::metadata(stand.image(Which::B)).map_err(|error| error.to_string())?.len() as usize;
    if is_streamed(job) {
        moments.extend([1, size / 2, size - 1].map(|bytes| (format!("after {bytes} of {size} bytes"), Moment::Read(bytes))));
    }
    let mut told_of_it = 0;
    let mut attempt = |at: String, moment: Moment| -> Result<bool, String> {
        let tried = try_shortage(ground, disks, &stand, job, shortage, moment);
        let (told, found) = tried.map_err(|why| format!("{} {at}: {why}", shortage.name))?;
        println!("  {at:<40} {told:<50} {}", found.word());
        let is_done = told == DONE;
        told_of_it += usize::from(!is_done);
        ledger.enter(told, found.word());
        Ok(is_done)
    };
    moments.into_iter().try_for_each(|(at, moment)| attempt(at, moment).map(drop))?;
    // Nothing, and then ever closer to what is just enough: the last of it is what the end of a rebuild takes.
    let (mut left, mut little, mut enough) = (0, 0, shortage.enough);
    for _ in 0..effort::amounts() {
        if attempt(format!("with {left} left"), Moment::Left(left))? {
            enough = left;
        } else {
            little = left;
        }
        if enough - little <= 1 {
            break;
        }
        left = little.midpoint(enough);
    }
    if told_of_it == 0 { Err("it never ran out".into()) } else { Ok(()) }
}

fn try_shortage(
    ground: &dyn Ground,
    disks: &Disks,
    stand: &Stand,
    job: Job,
    shortage: &Shortage,
    moment: Moment,
) -> Result<(String, Found), String> {
    let view = disks.view(Seen::Itself)?;
    ground.up(view.path())?;
    let tried = (|| {
        let (result, calls) = run_short(stand, job, shortage, moment)?;
        let names = stand.names(job).map_err(|why| format!("with nothing left: {why}"))?;
        shell(&shortage.give, 0)?;
        let said = result.as_ref().map_or_else(|error| error.report().to_string(), |()| DONE.to_owned());
        let found = check(stand, job).map_err(|why| format!("{why}\n  (it had said: {said})"))?;
        judge(&result, found, &Traces::new(names, &calls)).map_err(|why| format!("{why}: {found:?}\n  (it had said: {said})"))?;
        if let Err(error) = &result {
            let is_it = match error.kind() {
                ErrorKind::NoSpace(space) => shortage.told.contains(&space),
                kind => kind == ErrorKind::TooSmall,
            };
            if !is_it || error.remedy().is_none() {
                return Err(format!("it does not say that this space ran out, or what to do: {said}"));
            }
        }
        ground.down()?;
        Ok((result.as_ref().map_or_else(Ledger::told, |()| DONE.to_owned()), found))
    })();
    if tried.is_err() {
        ground.abandon();
    }
    tried
}

/// Does the job, with nothing left from the moment on. Its calls are the second value.
fn run_short(stand: &Stand, job: Job, shortage: &Shortage, moment: Moment) -> Result<(Result<(), Error>, Vec<Call>), String> {
    let mut volume = Faulty::new(stand.volume(job)?);
    let taken = Arc::new(AtomicBool::new(false));
    let take = {
        let (script, taken) = (shortage.take.clone(), Arc::clone(&taken));
        move || {
            // It takes what there is, and fails for want of more.
            let _ = shell(&script, 0);
            taken.store(true, Ordering::Relaxed);
        }
    };
    let mut image = stand.image(Which::B).to_owned();
    let mut feeder = None;
    match moment {
        Moment::At(point) => volume = volume.with_action(point, take),
        Moment::Read(bytes) => {
            let (pipe, thread) = feed(stand.place.folder(), &image, bytes, take)?;
            (image, feeder) = (pipe, Some(thread));
        }
        Moment::Left(left) => {
            let _ = shell(&shortage.take, left);
            taken.store(true, Ordering::Relaxed);
            if is_streamed(job) {
                let (pipe, thread) = feed(stand.place.folder(), &image, 0, || {})?;
                (image, feeder) = (pipe, Some(thread));
            }
        }
    }
    let result = job.run(&mut volume, &stand.bases()?, &image, Arc::new(Silent));
    if let Some(thread) = feeder {
        // Whoever stopped reading leaves it with a pipe that is full.
        let mut rest =
            OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&image).map_err(|error| error.to_string())?;
        while !thread.is_finished() {
            let _ = std::io::copy(&mut rest, &mut std::io::sink());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        thread.join().map_err(|_| "the feeder panicked")?;
        fs::remove_file(&image).map_err(|error| error.to_string())?;
    }
    if taken.load(Ordering::Relaxed) {
        Ok((result, volume.calls()))
    } else {
        Err(format!("it took another way: {:?}", result.map_err(report)))
    }
}

/// Whether an image can come through a pipe: what cannot be read twice is not rebuilt from in place, and makes no base.
fn is_streamed(job: Job) -> bool {
    !matches!(job, Job::Rebuild(Strategy::InPlace, _) | Job::FromBase(..))
}

/// A pipe that the image comes through, and who writes to it.
fn feed(
    folder: &Path,
    image: &Path,
    bytes: usize,
    take: impl FnOnce() + Send + 'static,
) -> Result<(PathBuf, JoinHandle<()>), String> {
    let pipe = folder.join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).map_err(|error| format!("cannot make a pipe: {error}"))?;
    let content = fs::read(image).map_err(|error| error.to_string())?;
    let to = pipe.clone();
    let thread = std::thread::spawn(move || {
        // It waits for whoever reads: what is in a pipe that nobody has open is lost.
        let mut to = OpenOptions::new().write(true).open(to);
        let mut write = |part: &[u8]| to.as_mut().is_ok_and(|to| to.write_all(part).is_ok());
        write(&content[..bytes]);
        take();
        write(&content[bytes..]);
    });
    Ok((pipe, thread))
}

fn shell(script: &str, left: u64) -> Result<(), String> {
    run(Command::new("sh").args(["-c", script]).env("LEFT", left.to_string())).map(drop)
}
