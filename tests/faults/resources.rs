//! What a process needs runs out: descriptors, memory, the length of files; and signals that interrupt every call.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::bench::{Bench, CLOCKS, DESCRIPTORS, FILE_SIZES, GROUPS, MEMORY, NOT_HERE, STORMS, Trials, seed, spread};
use super::child::Job;
use super::common::pools::Backend;
use super::random::Random;
use super::stand::Found;
use super::worker::{End, Limit, Task, Worker};

const STREAM: Task = Task::Stream;

pub(crate) fn trials(backend: Backend) -> Vec<(&'static str, Trials)> {
    vec![
        ("resources::descriptors", Box::new(move || descriptors(backend))),
        ("resources::memory", Box::new(move || memory(backend))),
        ("resources::memory_cgroup", Box::new(move || cgroup(backend))),
        ("resources::file_size", Box::new(move || file_size(backend))),
        ("resources::signals", Box::new(move || signals(backend))),
        ("resources::clock", Box::new(move || clock(backend))),
    ]
}

/// From a base and from a stream.
fn tasks() -> [Task; 2] {
    [Task::Job(Job::ALL[6]), STREAM]
}

/// What a run is limited to, in turns.
fn sweep(bench: &mut Bench, limits: &[Limit], must_work: impl Fn(Limit) -> bool) -> Result<(), String> {
    let mut suffered = 0;
    for (number, limit) in limits.iter().enumerate() {
        let task = tasks()[number % 2];
        let end = Worker::start(&bench.stand, task, bench.live.other(), Some(*limit))?.end()?;
        bench.examine(task, &end).map_err(|why| format!("{limit:?}, {task:?}: {why}"))?;
        if must_work(*limit) && end != End::Done {
            return Err(format!("with {limit:?} it has to work: {end:?}"));
        }
        suffered += usize::from(end != End::Done);
    }
    if suffered == 0 {
        return Err(format!("with none of {limits:?} anything failed"));
    }
    Ok(())
}

fn descriptors(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("RLIMIT_NOFILE of 8 to 64", backend, 60)?;
    let limits: Vec<_> = spread((8..=64).collect(), DESCRIPTORS.on(backend), |_| false)
        .into_iter()
        .flat_map(|files| [Limit::Files(files); 2])
        .collect();
    // Ceph's library opens what it likes.
    sweep(&mut bench, &limits, |limit| limit == Limit::Files(64) && !backend.name().starts_with("ceph"))
}

fn memory(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("RLIMIT_AS: allocations that fail", backend, 60)?;
    let count = MEMORY.on(backend) as u64;
    // Most of what happens does so where there is little; with 64 MiB more than it has when it begins everything fits.
    let part = |number: u64| number.pow(3) * (64 << 20) / count.pow(3) / 4096 * 4096;
    let limits: Vec<_> = (0..count).flat_map(|number| [Limit::Memory(part(number)); 2]).collect();
    sweep(&mut bench, &limits, |_| false)
}

fn file_size(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("RLIMIT_FSIZE", backend, 60)?;
    let count = FILE_SIZES.on(backend) as u64;
    let limits: Vec<_> = (0..count).map(|number| Limit::FileSize(number * 400 / count)).collect();
    sweep(&mut bench, &limits, |_| false)
}

/// A group of processes with a limit on memory, gone when this is dropped.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Result<Group, String> {
        let root = PathBuf::from("/sys/fs/cgroup");
        let failed = |error: std::io::Error| format!("{NOT_HERE}no memory cgroup: {error}");
        let control = fs::read_to_string(root.join("cgroup.controllers")).map_err(failed)?;
        if !control.split_ascii_whitespace().any(|name| name == "memory") {
            return Err(format!("{NOT_HERE}no memory controller in cgroup v2, only: {}", control.trim()));
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory").map_err(failed)?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let group = root.join(format!("reroot-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&group).map_err(failed)?;
        let group = Group(group);
        fs::write(group.0.join("memory.max"), bytes.to_string()).map_err(failed)?;
        // Where there is no swap there is no such file.
        let _ = fs::write(group.0.join("memory.swap.max"), "0");
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("cannot remove {}", self.0.display());
    }
}

/// With 64 MiB a rebuild works, cache and all; with less it works or is killed.
fn cgroup(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("a memory cgroup of 64 MiB and less", backend, 60)?;
    let sizes: [u64; 10] = [64, 64, 4, 4, 32, 32, 16, 16, 8, 8];
    for (number, mib) in sizes.iter().take(GROUPS.on(backend)).enumerate() {
        let group = Group::new(mib << 20)?;
        let procs = group.0.join("cgroup.procs");
        let script = OsStr::new("echo $$ > \"$0\" && exec \"$@\"");
        let through = [OsStr::new("sh"), OsStr::new("-c"), script, procs.as_os_str()];
        let task = tasks()[number % 2];
        let end = Worker::start_as(&bench.stand, task, bench.live.other(), None, &through)?.end()?;
        bench.examine(task, &end).map_err(|why| format!("{mib} MiB: {why}"))?;
        if *mib == 64 && end != End::Done {
            return Err(format!("with 64 MiB it has to work: {end:?}"));
        }
    }
    Ok(())
}

/// Thousands of signals a second, whose handlers do not restart calls.
fn signals(backend: Backend) -> Result<(), String> {
    const STORM: [Signal; 4] = [Signal::SIGUSR1, Signal::SIGWINCH, Signal::SIGALRM, Signal::SIGCHLD];
    let mut bench = Bench::new("a storm of signals whose handlers interrupt calls", backend, 400)?;
    let mut random = Random::new(seed());
    for number in 0..STORMS.on(backend) {
        let task = tasks()[number % 2];
        let mut worker = Worker::start(&bench.stand, task, bench.live.other(), Some(Limit::Interruptible))?;
        let pid = worker.pid().ok_or("no process")?;
        worker.go();
        let (mut sent, begun) = (0_u64, Instant::now());
        while !worker.has_ended()? {
            let _ = kill(pid, STORM[random.below(STORM.len())]);
            sent += 1;
            let until = Instant::now() + Duration::from_micros(random.below(200) as u64);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            if begun.elapsed() > Duration::from_secs(300) {
                return Err(format!("still not done after {sent} signals"));
            }
        }
        let rate = sent as f64 / begun.elapsed().as_secs_f64();
        let end = worker.end()?;
        bench.examine(task, &end).map_err(|why| format!("{task:?}, {sent} signals, {rate:.0} a second: {why}"))?;
        if end != End::Done {
            return Err(format!("{task:?}: interrupted by {sent} signals, {rate:.0} a second, it has to work: {end:?}"));
        }
    }
    Ok(())
}

/// The clock of the machine jumps by years, forth and back.
fn clock(backend: Backend) -> Result<(), String> {
    if std::env::var_os("REROOT_LAB").is_none() {
        return Err(format!("{NOT_HERE}the clock is the machine's, and no namespace has its own; it jumps in the lab"));
    }
    // There is one, for all backends.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bench = Bench::new("the clock jumps by years", backend, 100)?;
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let set = |seconds: u64| {
        let status = std::process::Command::new("date")
            .args(["-u", "-s", &format!("@{seconds}")])
            .stdout(std::process::Stdio::null())
            .status();
        status
            .map_err(|error| error.to_string())
            .and_then(|status| if status.success() { Ok(()) } else { Err("date failed".to_owned()) })
    };
    const YEAR: u64 = 31_557_600;
    for number in 0..CLOCKS.on(backend) {
        let (before, begun) = (now(), Instant::now());
        let task = tasks()[number % 2];
        let mut worker = Worker::start(&bench.stand, task, bench.live.other(), None)?;
        worker.go();
        let mut jumps = 0_u64;
        while !worker.has_ended()? {
            set([before + 5 * YEAR, before - 10 * YEAR, before + 60, before - 3600][jumps as usize % 4])?;
            jumps += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        let end = worker.end();
        set(before + begun.elapsed().as_secs())?;
        let end = end?;
        let found = bench.examine(task, &end).map_err(|why| format!("{jumps} jumps: {why}"))?;
        if found != Found::New {
            return Err(format!("{jumps} jumps of the clock, and {end:?}"));
        }
    }
    Ok(())
}
