//! The process that is killed: a rebuild or a recovery of a volume, or one that makes or removes a base, told by environment variables what to do.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use reroot::base::{BaseOptions, CollectPolicy, References};
use reroot::conformance::fault::{Fault, FaultPoint, Faulty, Primitive, When};
use reroot::volume::Commit;
use reroot::{
    Bases, CancelToken, Event, Image, Phase, Progress, Rebuild, RebuildableVolume, Result, SnapshotPolicy, Strategy, Wait, recover,
};

use super::common::pools::Backend;
use super::stand::Found;

const JOB: &str = "REROOT_CRASH_JOB";
const BACKEND: &str = "REROOT_CRASH_BACKEND";
const VOLUME: &str = "REROOT_CRASH_VOLUME";
const IMAGE: &str = "REROOT_CRASH_IMAGE";
const POINT: &str = "REROOT_CRASH_POINT";

/// What the child does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Job {
    Rebuild(Strategy, Commit),
    Recover,
    /// A rebuild of a volume with a snapshot, which is purged.
    Purging,
    /// A rebuild within the live root, whose snapshot stays.
    Within,
    /// The same as a rebuild, from the base of the image.
    FromBase(Strategy, Commit),
    /// Makes the base of the image.
    MakeBase,
    /// Removes all bases that can go.
    CollectBases,
}

impl Job {
    pub(crate) const SWAP: Job = Job::Rebuild(Strategy::Swap, Commit::Exchange);
    pub(crate) const IN_PLACE: Job = Job::Rebuild(Strategy::InPlace, Commit::Exchange);

    /// All of them, numbered as they are passed on.
    pub(crate) const ALL: [Job; 11] = [
        Job::SWAP,
        Job::Rebuild(Strategy::Swap, Commit::TwoRenames),
        Job::IN_PLACE,
        Job::Recover,
        Job::Purging,
        Job::Within,
        Job::FromBase(Strategy::Swap, Commit::Exchange),
        Job::FromBase(Strategy::Swap, Commit::TwoRenames),
        Job::FromBase(Strategy::InPlace, Commit::Exchange),
        Job::MakeBase,
        Job::CollectBases,
    ];

    pub(crate) fn commit(self) -> Commit {
        match self {
            Job::Rebuild(_, commit) | Job::FromBase(_, commit) => commit,
            Job::Recover | Job::Purging | Job::Within | Job::MakeBase | Job::CollectBases => Commit::Exchange,
        }
    }

    pub(crate) fn is_in_place(self) -> bool {
        matches!(self, Job::Rebuild(Strategy::InPlace, _) | Job::FromBase(Strategy::InPlace, _))
    }

    /// How many snapshots the volume has when it is over and this root is live.
    pub(crate) fn snapshots_left(self, live: Found) -> usize {
        usize::from(self == Job::Within || self == Job::Purging && live == Found::Old)
    }

    /// Whether its steps are those of bases, and not of the volume.
    fn is_of_bases(self) -> bool {
        matches!(self, Job::MakeBase | Job::CollectBases)
    }

    /// Does it. The image is not looked at by a recovery and a collection.
    pub(crate) fn run(
        self,
        volume: &mut Faulty<Box<dyn RebuildableVolume>>,
        bases: &Bases,
        image: &Path,
        progress: Arc<dyn Progress>,
    ) -> Result<()> {
        // A sibling of this process may still hold, until its exec, what the parent had open in the root when it was forked.
        let rebuild = || Ok::<_, reroot::Error>(Rebuild::new(Image::open(image)?).busy_wait(Duration::from_secs(10)));
        match self {
            Job::Rebuild(strategy, _) => rebuild()?.strategy(strategy).progress(progress).run(volume).map(drop),
            Job::Purging => rebuild()?.snapshots(SnapshotPolicy::Purge).progress(progress).run(volume).map(drop),
            Job::Within => rebuild()?.snapshots(SnapshotPolicy::Keep).progress(progress).run(volume).map(drop),
            Job::Recover => recover(volume, &Wait::new(Duration::from_secs(20), CancelToken::new())).map(drop),
            Job::FromBase(strategy, _) => {
                let base = bases.ensure(Image::open(image)?, &BaseOptions::new())?;
                let rebuild = Rebuild::from_base(&base).strategy(strategy).busy_wait(Duration::from_secs(10));
                rebuild.progress(progress).run(volume).map(drop)
            }
            Job::MakeBase => {
                let options = BaseOptions::new().with_progress(progress);
                bases.ensure(Image::open(image)?, &options).map(drop)
            }
            Job::CollectBases => {
                let policy = CollectPolicy::unused_for(Duration::ZERO).with_references(References::Ignore);
                bases.collect(&policy, &CancelToken::new()).map(drop)
            }
        }
    }
}

/// Tells the parent by a byte on standard output that a phase begins.
struct Tell;

impl Progress for Tell {
    fn event(&self, event: &Event<'_>) {
        if let Event::Phase(phase) = event {
            let _ = std::io::stdout().write_all(&[code(*phase)]).and_then(|()| std::io::stdout().flush());
        }
    }
}

/// The phases, by the byte that stands for them.
pub(crate) const PHASES: [Phase; 9] = [
    Phase::Recover,
    Phase::Plan,
    Phase::Check,
    Phase::Remove,
    Phase::Stage,
    Phase::Fill,
    Phase::Seal,
    Phase::Commit,
    Phase::Dispose,
];

fn code(phase: Phase) -> u8 {
    PHASES.iter().position(|known| *known == phase).map_or(b'?', |index| b'0' + index as u8)
}

/// Does the job if this process is a child; returns its exit status.
pub(crate) fn run_if_asked() -> Option<i32> {
    let job = std::env::var(JOB).ok()?;
    let result = (|| -> std::result::Result<(), String> {
        let job = *job.parse().ok().and_then(|index: usize| Job::ALL.get(index)).ok_or("no such job")?;
        let path = std::env::var_os(VOLUME).ok_or("no volume")?;
        let backend = Backend::from_name(&std::env::var(BACKEND).unwrap_or_default()).ok_or("no such backend")?;
        let volume = backend.open(path.as_ref(), job.commit()).map_err(report)?;
        let (mut volume, mut pool) = (Faulty::new(volume), Faulty::new(backend.pool_of(path.as_ref()).map_err(report)?));
        if let Ok(point) = std::env::var(POINT) {
            let point = read_point(&point).ok_or("no such point")?;
            if job.is_of_bases() {
                pool = pool.with_fault(point, Fault::Kill);
            } else {
                volume = volume.with_fault(point, Fault::Kill);
            }
        }
        let image = std::env::var_os(IMAGE).unwrap_or_default();
        job.run(&mut volume, &Bases::new(pool), image.as_ref(), Arc::new(Tell)).map_err(report)
    })();
    match result {
        Ok(()) => Some(0),
        Err(why) => {
            eprintln!("{why}");
            Some(1)
        }
    }
}

fn report(error: reroot::Error) -> String {
    error.report().to_string()
}

fn write_point(point: FaultPoint) -> String {
    let when = if point.when == When::Before { "before" } else { "after" };
    format!("{when} {} {}", point.occurrence, point.primitive)
}

fn read_point(text: &str) -> Option<FaultPoint> {
    let mut words = text.split(' ');
    let when = match words.next()? {
        "before" => When::Before,
        "after" => When::After,
        _ => return None,
    };
    let occurrence = words.next()?.parse().ok()?;
    let name = words.next()?;
    let primitive = Primitive::ALL.into_iter().find(|primitive| primitive.to_string() == name)?;
    Some(FaultPoint::new(primitive, occurrence, when))
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It did its job.
    Done,
    /// It was killed.
    Killed,
}

/// A child at work. It is killed, by its id, and reaped when this is dropped.
pub(crate) struct Running {
    child: Child,
    phases: ChildStdout,
    /// The phase it was in when it was last listened to.
    pub(crate) phase: Option<Phase>,
}

impl Running {
    pub(crate) fn start(
        backend: Backend,
        job: Job,
        volume: &Path,
        image: &Path,
        point: Option<FaultPoint>,
    ) -> std::result::Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start the child: {error}");
        let index = Job::ALL.iter().position(|known| *known == job).ok_or("no such job")?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.env(BACKEND, backend.name()).env(JOB, index.to_string()).env(VOLUME, volume).env(IMAGE, image);
        match point {
            Some(point) => command.env(POINT, write_point(point)),
            None => command.env_remove(POINT),
        };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        match child.stdout.take() {
            Some(phases) => Ok(Running { child, phases, phase: None }),
            None => Err("the child has no output".into()),
        }
    }

    /// Waits until the next phase begins; `None` when the child has ended.
    pub(crate) fn next_phase(&mut self) -> Option<Phase> {
        let mut byte = [0];
        let phase = match self.phases.read(&mut byte) {
            Ok(1) => PHASES.get(usize::from(byte[0].wrapping_sub(b'0'))).copied(),
            _ => None,
        };
        self.phase = phase.or(self.phase);
        phase
    }

    /// Kills it, unless it has ended by itself.
    pub(crate) fn kill(mut self) -> std::result::Result<(End, Option<Phase>), String> {
        stop_outside_of_forks(self.child.id());
        // Not reaped yet, so the id is still its own.
        self.child.kill().map_err(|error| format!("cannot kill the child: {error}"))?;
        self.end()
    }

    /// Waits for its end. The second value is the last phase that began.
    pub(crate) fn end(mut self) -> std::result::Result<(End, Option<Phase>), String> {
        while self.next_phase().is_some() {}
        let status = self.child.wait().map_err(|error| format!("cannot wait for the child: {error}"))?;
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok((End::Done, self.phase)),
            (_, Some(SIGKILL)) => Ok((End::Killed, self.phase)),
            _ => Err(format!("the child ended with {status}: {said}")),
        }
    }
}

/// User-mode Linux, the lab's kernel, dies itself when a process is killed that is in the midst of a fork. One that is stopped ends that first.
pub(crate) fn stop_outside_of_forks(pid: u32) {
    if std::env::var_os("REROOT_LAB").is_none() {
        return;
    }
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|thread| thread.path());
    let forks = |thread: PathBuf| std::fs::read_to_string(thread.join("stack")).is_ok_and(|stack| stack.contains("copy_process"));
    let runs = |thread: PathBuf| {
        let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('R'))
    };
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGSTOP);
    for _ in 0..1000 {
        if !threads().any(runs) && !threads().any(forks) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
