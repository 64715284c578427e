//! A tracer that lets a process go from one system call boundary to the next: the moments before the kernel begins a call and after it has done
//! it, in
//! every thread and in every process that it starts.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::scope;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// After this a traced process is ended, and its trial has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a tracer saw.
pub(crate) struct Traced {
    pub(crate) status: ExitStatus,
    /// How many boundaries there were until the end.
    pub(crate) boundaries: usize,
    /// Whether it was in time to kill.
    pub(crate) killed: bool,
    /// How many boundaries it let pass because the kill would have met a fork.
    pub(crate) forks: usize,
}

/// Which boundaries count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    All,
    /// But for calls that change nothing that outlives the process. Where the kernel does not tell what a process is about, all.
    Changing,
}

/// Traces a process of this thread's that waits at its gate; `go` opens that. Kills it, and all that it has started, at the boundary `at`,
/// counted from 1.
pub(crate) fn trace(pid: Pid, calls: Calls, at: Option<usize>, go: impl FnOnce()) -> Result<Traced, String> {
    let (done, ended) = channel::<()>();
    scope(|scope| {
        scope.spawn(move || {
            // Not waited for yet as long as nothing is said, so the number is still its own.
            if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PATIENCE) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let traced =
            Tracer { leader: pid, calls, at, tasks: BTreeSet::new(), boundaries: 0, killed: false, forks: 0, status: None }.run(go);
        drop(done);
        traced
    })
}

struct Tracer {
    leader: Pid,
    calls: Calls,
    at: Option<usize>,
    /// All threads and processes that are traced and have not ended.
    tasks: BTreeSet<Pid>,
    boundaries: usize,
    killed: bool,
    forks: usize,
    status: Option<ExitStatus>,
}

impl Tracer {
    fn run(mut self, go: impl FnOnce()) -> Result<Traced, String> {
        self.seize().map_err(|error| format!("cannot trace process {}: {error}", self.leader))?;
        go();
        // Of this thread only: other tests wait for their own children.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        while self.status.is_none() || !self.tasks.is_empty() {
            match waitpid(None, Some(flags)) {
                Ok(status) => self.handle(status),
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => break,
                Err(error) => return Err(format!("cannot wait for what is traced: {error}")),
            }
        }
        let status = self.status.ok_or("the process ended unseen")?;
        Ok(Traced { status, boundaries: self.boundaries, killed: self.killed, forks: self.forks })
    }

    /// Takes hold of all its threads; it may have some that its libraries began.
    fn seize(&mut self) -> nix::Result<()> {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_EXITKILL;
        loop {
            let before = self.tasks.len();
            for task in std::fs::read_dir(format!("/proc/{}/task", self.leader)).into_iter().flatten().flatten() {
                let Some(task) = task.file_name().to_string_lossy().parse().ok().map(Pid::from_raw) else { continue };
                if self.tasks.contains(&task) {
                    continue;
                }
                match ptrace::seize(task, options) {
                    // It has begun another one that is traced already.
                    Ok(()) | Err(Errno::EPERM) if !self.tasks.is_empty() => drop(self.tasks.insert(task)),
                    Ok(()) => drop(self.tasks.insert(task)),
                    Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error),
                }
                // A task that waits in the kernel stops first, so that what it does next is seen.
                let _ = ptrace::interrupt(task);
            }
            if self.tasks.len() == before {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::Exited(pid, code) => self.gone(pid, ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(pid, signal, _) => self.gone(pid, ExitStatus::from_raw(signal as i32)),
            WaitStatus::PtraceSyscall(pid) => {
                self.tasks.insert(pid);
                if !self.killed && self.status.is_none() && (self.calls == Calls::All || changes(pid)) {
                    self.boundaries += 1;
                    if self.at.is_some_and(|at| self.boundaries >= at) && !self.passes_a_fork() {
                        self.kill();
                    }
                }
                self.resume(pid, None);
            }
            WaitStatus::PtraceEvent(pid, ..) => {
                self.tasks.insert(pid);
                self.resume(pid, None);
            }
            WaitStatus::Stopped(pid, signal) => {
                self.tasks.insert(pid);
                self.resume(pid, Some(signal));
            }
            _ => {}
        }
    }

    fn gone(&mut self, pid: Pid, status: ExitStatus) {
        self.tasks.remove(&pid);
        if pid == self.leader {
            self.status = Some(status);
            // What it has left running goes on unseen.
            for task in &self.tasks {
                let _ = ptrace::interrupt(*task);
            }
        }
    }

    fn resume(&mut self, pid: Pid, signal: Option<Signal>) {
        // One that was killed meanwhile is no longer there to be resumed; its end will be told.
        if self.killed {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = ptrace::cont(pid, None);
        } else if self.status.is_some() {
            let _ = ptrace::detach(pid, signal);
            self.tasks.remove(&pid);
        } else {
            let _ = ptrace::syscall(pid, signal);
        }
    }

    fn kill(&mut self) {
        self.killed = true;
        for task in &self.tasks {
            let _ = kill(*task, Signal::SIGKILL);
        }
    }

    /// Whether a kill would meet a process in the midst of a fork, which ends user-mode Linux, the lab's kernel: then the next boundary has to do.
    fn passes_a_fork(&mut self) -> bool {
        if std::env::var_os("REROOT_LAB").is_none() {
            return false;
        }
        let stack = |task: &Pid| std::fs::read_to_string(format!("/proc/{task}/stack")).unwrap_or_default();
        let forks = self.tasks.iter().any(|task| stack(task).contains("clone"));
        self.forks += usize::from(forks);
        forks
    }
}

/// Whether a process stopped at a call that changes something, or that may.
#[allow(non_upper_case_globals, reason = "the names are those of the C library")]
fn changes(pid: Pid) -> bool {
    use nix::libc::*;
    // The number of the call and its arguments.
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let mut words = call.split_ascii_whitespace();
    let Some(number) = words.next().and_then(|word| word.parse::<c_long>().ok()) else { return true };
    let argument = |index: usize| {
        let word = words.clone().nth(index)?;
        c_long::from_str_radix(word.trim_start_matches("0x"), 16).ok()
    };
    #[cfg(target_arch = "x86_64")]
    if [SYS_poll, SYS_epoll_wait, SYS_readlink, SYS_access, SYS_stat, SYS_lstat, SYS_arch_prctl].contains(&number) {
        return false;
    }
    match number {
        SYS_openat => argument(2).is_none_or(|flags| flags & c_long::from(O_CREAT) != 0),
        SYS_read | SYS_pread64 | SYS_readv | SYS_close | SYS_newfstatat | SYS_fstat | SYS_statx | SYS_statfs | SYS_fstatfs => false,
        SYS_getdents64 | SYS_readlinkat | SYS_lseek | SYS_getcwd | SYS_faccessat | SYS_faccessat2 | SYS_fcntl | SYS_dup
        | SYS_dup3 => false,
        SYS_getxattr | SYS_lgetxattr | SYS_fgetxattr | SYS_listxattr | SYS_llistxattr | SYS_flistxattr | SYS_openat2 => false,
        SYS_mmap | SYS_munmap | SYS_mprotect | SYS_mremap | SYS_madvise | SYS_brk | SYS_futex | SYS_membarrier | SYS_rseq => false,
        SYS_rt_sigaction | SYS_rt_sigprocmask | SYS_rt_sigreturn | SYS_sigaltstack | SYS_set_robust_list | SYS_sched_yield => false,
        SYS_ppoll | SYS_epoll_pwait | SYS_clock_gettime | SYS_clock_nanosleep | SYS_nanosleep | SYS_getrandom | SYS_uname => false,
        SYS_getpid | SYS_gettid | SYS_getuid | SYS_geteuid | SYS_getgid | SYS_getegid | SYS_prlimit64 | SYS_sched_getaffinity => {
            false
        }
        _ => true,
    }
}
