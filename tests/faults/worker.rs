//! The process to which things happen: this program again, which does one job and says how it ended. It stops when the job begins, until it
//! is let go, so that whoever does something to it does so to the job and not to the start of a process.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;
use reroot::conformance::fault::Faulty;
use reroot::{Bases, Event, Image, Progress, Rebuild};

use super::child::Job;
use super::common::ledger::Ledger;
use super::common::pools::Backend;
use super::stand::{Stand, Which};

const TASK: &str = "REROOT_FAULT_TASK";
const BACKEND: &str = "REROOT_FAULT_BACKEND";
const VOLUME: &str = "REROOT_FAULT_VOLUME";
const IMAGE: &str = "REROOT_FAULT_IMAGE";
const LIMIT: &str = "REROOT_FAULT_LIMIT";

/// After this a worker has failed its trial: more than a tool may take that hangs, twice.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the worker does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Task {
    Job(Job),
    /// A rebuild by swap from the image, which arrives as a stream.
    Stream,
}

impl Task {
    /// The job whose demands on the volume are the same.
    pub(crate) fn job(self) -> Job {
        match self {
            Task::Job(job) => job,
            Task::Stream => Job::SWAP,
        }
    }

    fn write(self) -> String {
        match self {
            Task::Job(job) => Job::ALL.iter().position(|known| *known == job).map_or_else(String::new, |index| index.to_string()),
            Task::Stream => "stream".into(),
        }
    }

    fn read(text: &str) -> Option<Task> {
        if text == "stream" {
            return Some(Task::Stream);
        }
        Job::ALL.get(text.parse::<usize>().ok()?).copied().map(Task::Job)
    }
}

/// A limit that the worker sets for itself first of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// How many descriptors it may have open.
    Files(u64),
    /// How large its address space may be beyond what it is when the job begins, in bytes.
    Memory(u64),
    /// How long a file it may write, in bytes. More is an error, and no signal.
    FileSize(u64),
    /// None: but some signals are handled, so that they interrupt its calls.
    Interruptible,
}

impl Limit {
    fn write(self) -> String {
        match self {
            Limit::Files(value) => format!("files {value}"),
            Limit::Memory(value) => format!("memory {value}"),
            Limit::FileSize(value) => format!("size {value}"),
            Limit::Interruptible => "interruptible 0".into(),
        }
    }

    fn read(text: &str) -> Option<Limit> {
        let (name, value) = text.split_once(' ')?;
        let value = value.parse().ok()?;
        Some(match name {
            "files" => Limit::Files(value),
            "memory" => Limit::Memory(value),
            "size" => Limit::FileSize(value),
            "interruptible" => Limit::Interruptible,
            _ => return None,
        })
    }

    fn set(self) -> Result<(), String> {
        let (resource, value) = match self {
            Limit::Files(value) => (Resource::RLIMIT_NOFILE, value),
            Limit::Memory(more) => {
                let pages = std::fs::read_to_string("/proc/self/statm").map_err(|error| error.to_string())?;
                let pages: u64 = pages.split(' ').next().and_then(|pages| pages.parse().ok()).ok_or("no size")?;
                (Resource::RLIMIT_AS, pages * 4096 + more)
            }
            Limit::FileSize(value) => {
                handle(Signal::SIGXFSZ)?;
                (Resource::RLIMIT_FSIZE, value)
            }
            Limit::Interruptible => {
                return [Signal::SIGUSR1, Signal::SIGWINCH, Signal::SIGALRM, Signal::SIGCHLD].into_iter().try_for_each(handle);
            }
        };
        setrlimit(resource, value, value).map_err(|error| format!("cannot set a limit: {error}"))
    }
}

/// Has a signal handled by doing nothing, without restarting what it interrupts.
#[allow(unsafe_code, reason = "a handler can be set in no other way")]
fn handle(signal: Signal) -> Result<(), String> {
    extern "C" fn nothing(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler touches nothing.
    unsafe { sigaction(signal, &action) }.map(drop).map_err(|error| error.to_string())
}

/// At the first event: sets a limit on memory, tells the parent, and waits to be let go.
struct Gate {
    passed: AtomicBool,
    limit: Option<Limit>,
}

impl Gate {
    fn pass(&self) {
        if self.passed.swap(true, Ordering::Relaxed) {
            return;
        }
        let _ = std::io::stdout().write_all(b"r").and_then(|()| std::io::stdout().flush());
        let _ = std::io::stdin().read(&mut [0]);
        if let Some(limit @ Limit::Memory(_)) = self.limit {
            let _ = limit.set();
        }
    }
}

impl Progress for Gate {
    fn event(&self, _: &Event<'_>) {
        self.pass();
    }
}

/// Does the job if this process is a worker; returns its exit status.
pub(crate) fn run_if_asked() -> Option<i32> {
    let task = std::env::var(TASK).ok()?;
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    let limit = std::env::var(LIMIT).ok().and_then(|text| Limit::read(&text));
    let work = || -> Result<(), Option<reroot::Error>> {
        let task = Task::read(&task).ok_or(None)?;
        if let Some(limit @ (Limit::Files(_) | Limit::FileSize(_) | Limit::Interruptible)) = limit {
            limit.set().map_err(|_| None)?;
        }
        let backend = Backend::from_name(&variable(BACKEND).to_string_lossy()).ok_or(None)?;
        let (path, image) = (variable(VOLUME), variable(IMAGE));
        let mut volume = Faulty::new(backend.open(path.as_ref(), task.job().commit())?);
        let gate = Arc::new(Gate { passed: AtomicBool::new(false), limit });
        match task {
            Task::Stream => {
                let file = File::open(&image).map_err(|error| reroot::Error::io("open", "the stream", error))?;
                // A sibling of this process may still hold, until its exec, what the parent had open in the root when it was forked.
                let rebuild = Rebuild::new(Image::from_reader(file, "a stream")).busy_wait(Duration::from_secs(10));
                rebuild.progress(gate).run(&mut volume)?;
            }
            Task::Job(job) => {
                let bases = Bases::new(backend.pool_of(path.as_ref())?);
                if job == Job::Recover {
                    // It tells of nothing.
                    gate.pass();
                }
                job.run(&mut volume, &bases, image.as_ref(), gate)?;
            }
        }
        Ok(())
    };
    Some(match work() {
        Ok(()) => 0,
        Err(Some(error)) => {
            eprintln!("{}\n{}", Ledger::told(&error), error.report());
            1
        }
        Err(None) => {
            eprintln!("the worker was told nonsense");
            2
        }
    })
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Killed,
    /// It ended itself, as a process does that gets no memory.
    Aborted,
    /// It returned an error: what the ledger says of it, and the whole report.
    Refused(String, String),
}

impl End {
    pub(crate) fn told(&self) -> String {
        match self {
            End::Done => "done".into(),
            End::Killed => "killed".into(),
            End::Aborted => "aborted".into(),
            End::Refused(told, _) => told.clone(),
        }
    }

    /// What a status and the standard error say.
    fn of(status: ExitStatus, said: &str) -> Result<End, String> {
        const ABORT: i32 = Signal::SIGABRT as i32;
        const KILL: i32 = Signal::SIGKILL as i32;
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(End::Done),
            (Some(1), _) => {
                let (told, report) = said.split_once('\n').unwrap_or((said, ""));
                Ok(End::Refused(told.into(), report.into()))
            }
            (_, Some(KILL)) => Ok(End::Killed),
            (_, Some(ABORT)) => Ok(End::Aborted),
            // A loader that gets no memory or descriptors for a library ends with this.
            (Some(127), _) => Ok(End::Refused("the program did not start".into(), said.into())),
            _ => Err(format!("the worker ended with {status}: {said}")),
        }
    }
}

/// A worker at its gate, or beyond. Killed, by its id, and reaped when this is dropped.
pub(crate) struct Worker {
    child: Option<Child>,
}

impl Worker {
    /// Starts one and waits until its job begins, or until it has ended.
    pub(crate) fn start(stand: &Stand, task: Task, which: Which, limit: Option<Limit>) -> Result<Worker, String> {
        Self::start_as(stand, task, which, limit, &[])
    }

    /// The same through other programs, such as one that enters a group.
    pub(crate) fn start_as(
        stand: &Stand,
        task: Task,
        which: Which,
        limit: Option<Limit>,
        through: &[&std::ffi::OsStr],
    ) -> Result<Worker, String> {
        let failed = |error: std::io::Error| format!("cannot start the worker: {error}");
        let own = std::env::current_exe().map_err(failed)?;
        let mut command = match through {
            [] => Command::new(own),
            [first, more @ ..] => {
                let mut command = Command::new(first);
                command.args(more).arg(own);
                command
            }
        };
        command.env(BACKEND, stand.backend.name()).env(TASK, task.write()).env(VOLUME, stand.volume_path());
        command.env(IMAGE, stand.image(which));
        match limit {
            Some(limit) => command.env(LIMIT, limit.write()),
            None => command.env_remove(LIMIT),
        };
        // What is printed of a want of memory takes memory, and Rust's library waits for itself when there is none.
        command.env("RUST_BACKTRACE", "0");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let mut begun = [0];
        if let Some(stdout) = child.stdout.as_mut() {
            let _ = stdout.read(&mut begun);
        }
        Ok(Worker { child: Some(child) })
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(|child| Pid::from_raw(child.id() as i32))
    }

    /// Lets it begin.
    pub(crate) fn go(&mut self) {
        // One that has ended already does not read it.
        if let Some(mut gate) = self.child.as_mut().and_then(|child| child.stdin.take()) {
            let _ = gate.write_all(b"g");
        }
    }

    pub(crate) fn has_ended(&mut self) -> Result<bool, String> {
        let child = self.child.as_mut().ok_or("no child")?;
        child.try_wait().map(|status| status.is_some()).map_err(|error| error.to_string())
    }

    pub(crate) fn kill(mut self) -> Result<End, String> {
        if let Some(child) = &mut self.child {
            super::child::stop_outside_of_forks(child.id());
            child.kill().map_err(|error| error.to_string())?;
        }
        self.end()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Result<End, String> {
        self.go();
        let begun = Instant::now();
        while !self.has_ended()? {
            if begun.elapsed() > PATIENCE {
                return Err(format!("the worker has not ended after {PATIENCE:?}"));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        let output = self.child.take().ok_or("no child")?.wait_with_output().map_err(|error| error.to_string())?;
        End::of(output.status, &String::from_utf8_lossy(&output.stderr))
    }

    /// What it ended with, as somebody else was told who waited for it.
    pub(crate) fn ended(mut self, status: ExitStatus) -> Result<End, String> {
        let mut said = String::new();
        if let Some(mut stderr) = self.child.take().and_then(|mut child| child.stderr.take()) {
            let _ = stderr.read_to_string(&mut said);
        }
        End::of(status, &said)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
