//! Programs of others: run without a shell, to their end or to a deadline, and never left behind.

#[cfg(feature = "lvm")]
mod session;

#[cfg(feature = "lvm")]
pub(crate) use self::session::Session;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::call::retry;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::text::Escaped;

/// Where programs are looked for, whatever the caller's PATH says; it is the PATH of what they run themselves, too.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const UMASK: libc::mode_t = 0o022;
/// How much of the standard output is taken. A list cut short would be worse than none.
const STDOUT_MAX: usize = 64 << 20;
/// How much of the end of the standard error is kept: the reason is in its last lines.
const STDERR_KEPT: usize = 4 << 10;
/// How many characters of a command line are shown.
const LINE_SHOWN: usize = 400;
/// How often the caller's token and the deadline are looked at.
const TICK: Duration = Duration::from_millis(20);
/// How long a killed program may take to end; one that the kernel keeps in a call, on a pool that hangs, ends no sooner than that call.
const KILL_WAIT: Duration = Duration::from_secs(5);
const CHUNK: usize = 64 << 10;
/// What a pipe can hold, unless someone privileged made it larger.
const PIPE_MAX: usize = 1 << 20;

/// A program, looked up once.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    name: &'static str,
    path: PathBuf,
}

impl Program {
    /// Looks where a system keeps its programs.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if it is not there; the remedy is to install `package`.
    pub(crate) fn find(name: &'static str, package: &'static str) -> Result<Self> {
        let executable =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        match PATH.split(':').map(|folder| Path::new(folder).join(name)).find(executable) {
            Some(path) => Ok(Program { name, path }),
            None => Err(Error::new(ErrorKind::Unsupported, "find a program", format!("{name} is not in {PATH}"))
                .with_remedy(format!("install {package}"))),
        }
    }

    pub(crate) fn command(&self) -> Command {
        Command { program: self.clone(), args: Vec::new(), variables: Vec::new() }
    }
}

/// A program and what it is called with.
#[derive(Debug)]
pub(crate) struct Command {
    program: Program,
    args: Vec<OsString>,
    /// Of its environment, beside those that every program gets.
    variables: Vec<(&'static str, &'static str)>,
}

impl Command {
    #[cfg(feature = "lvm")]
    pub(crate) fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Runs it to its end. `operation` is the verb phrase for the error ("set a property").
    ///
    /// It starts in `/`, with an environment, a umask and descriptors that owe nothing to the caller's, and leads a process group of its own.
    /// What it leaves running in the background when it ends well is left alone, and not waited for.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] and [`ErrorKind::Cancelled`]: the whole group was killed, or nothing was begun. [`ErrorKind::Io`]: it could not be
    /// started, or said more than anyone could want to know.
    pub(crate) fn run(self, operation: &'static str, wait: &Wait) -> Result<Finished> {
        let line = self.line();
        let failed = |error: io::Error| Error::io(operation, format!("cannot run {line}"), error).with_kind(ErrorKind::Io);
        if !wait.pause(operation, Duration::ZERO)? {
            return Err(Error::new(ErrorKind::TimedOut, operation, format!("no time was left to run {line}")));
        }
        let mut running = self.start().map_err(failed)?;
        loop {
            if let Some(status) = running.step().map_err(failed)? {
                running.read_what_is_left().map_err(failed)?;
                let Running { stdout, stderr, .. } = &mut running;
                let stdout = std::mem::take(&mut stdout.kept);
                return Ok(Finished { line, status, stdout, stderr: shown(&stderr.kept) });
            }
            let stopped = match wait.pause(operation, Duration::ZERO) {
                Ok(true) => continue,
                Ok(false) => Error::new(ErrorKind::TimedOut, operation, format!("{line} did not end in time and was killed")),
                Err(cancelled) => cancelled,
            };
            let pid = running.child.id();
            return Err(if running.end() {
                stopped
            } else {
                let hangs = format!("{}; {line} was killed, but process {pid} hangs in the kernel", stopped.message());
                Error::new(stopped.kind(), operation, hangs)
            });
        }
    }

    /// How it would be typed, but for the quotes.
    fn line(&self) -> String {
        let mut line = self.program.name.to_owned();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&Escaped::from(arg.as_os_str()).to_string());
        }
        if let Some((cut, _)) = line.char_indices().nth(LINE_SHOWN) {
            line.truncate(cut);
            line.push_str("...");
        }
        line
    }

    fn start(self) -> io::Result<Running> {
        let mut command = self.prepared();
        command.stdin(Stdio::null());
        close_others_on_exec(&mut command, 3);
        Running::new(command.spawn()?, None)
    }

    /// As it is started, but for what it reads, and for what it inherits.
    fn prepared(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program.path);
        command.args(&self.args).env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/").process_group(0);
        command.envs(self.variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// Has a program inherit no descriptor from this one on.
fn close_others_on_exec(command: &mut std::process::Command, first: libc::c_int) {
    // SAFETY: it takes no memory and reads none.
    let end = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) };
    let end = libc::c_int::try_from(end).unwrap_or(libc::c_int::MAX);
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated or locked.
    unsafe {
        command.pre_exec(move || {
            libc::umask(UMASK);
            close_on_exec(first, end)
        });
    }
}

/// Has the kernel close, when another program begins, what the caller opened without saying so. `end` is for kernels before 5.11, which want to be
/// told of each descriptor.
fn close_on_exec(first: libc::c_int, end: libc::c_int) -> io::Result<()> {
    // SAFETY: it sets a flag of descriptors; there is no pointer.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_int::MAX, libc::CLOSE_RANGE_CLOEXEC) } != 0 {
        close_each_on_exec(first, end);
    }
    Ok(())
}

fn close_each_on_exec(first: libc::c_int, end: libc::c_int) {
    for fd in first..end {
        // SAFETY: the same; it fails for numbers that are not open.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// A program that runs, and what it has said so far. Killed and waited for when it is dropped.
struct Running {
    child: Child,
    /// Tells of its end at once; where a filter of system calls forbids it, the next tick does.
    pidfd: Option<OwnedFd>,
    status: Option<ExitStatus>,
    stdout: Output,
    stderr: Output,
    /// What it writes besides, on a pipe of its own.
    report: Output,
}

impl Running {
    fn new(mut child: Child, report: Option<OwnedFd>) -> io::Result<Self> {
        let (stdout, stderr) = (child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from));
        let pidfd = pidfd(child.id());
        let (stdout, stderr) = (Output::new(stdout, Limit::Refuse), Output::new(stderr, Limit::KeepEnd));
        let report = Output::new(report, Limit::Refuse);
        let running = Running { child, pidfd, status: None, stdout, stderr, report };
        for output in [&running.stdout, &running.stderr, &running.report] {
            output.do_not_block()?;
        }
        Ok(running)
    }

    /// Waits a tick for something to happen, and takes what was said. The status once the program has ended.
    fn step(&mut self) -> io::Result<Option<ExitStatus>> {
        let pipes =
            [&self.stdout, &self.stderr, &self.report].into_iter().filter_map(|output| output.pipe.as_ref()).map(File::as_fd);
        let fds = pipes.chain(self.pidfd.as_ref().map(OwnedFd::as_fd));
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.stdout.read()?;
        self.stderr.read()?;
        self.report.read()?;
        self.ended()
    }

    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Whatever the program itself said is in the pipes by now. Others that it began may hold them open for ever, and are not heard to their end.
    fn read_what_is_left(&mut self) -> io::Result<()> {
        for output in [&mut self.stdout, &mut self.stderr] {
            let mut read = 0;
            while read < PIPE_MAX {
                match output.read()? {
                    0 => break,
                    length => read += length,
                }
            }
        }
        Ok(())
    }

    /// Kills the whole group unless the program has ended, and waits for it. Whether it is gone.
    fn end(&mut self) -> bool {
        let begun = Instant::now();
        // Not waited for yet, so the number is still its own; a group that is gone already is as good.
        if self.status.is_none() {
            let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        }
        loop {
            match self.ended() {
                Ok(Some(_)) => return true,
                // Someone else waits for the children of this process, or it ignores SIGCHLD.
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return true,
                _ if begun.elapsed() >= KILL_WAIT => return false,
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn pidfd(pid: u32) -> Option<OwnedFd> {
    // SAFETY: it makes a descriptor; there is no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: new, and no one else's.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What is done when more is said than there is room for.
#[derive(Clone, Copy)]
enum Limit {
    Refuse,
    KeepEnd,
}

/// One of the two pipes, until its end, and what came out of it.
struct Output {
    pipe: Option<File>,
    limit: Limit,
    kept: Vec<u8>,
}

impl Output {
    fn new(pipe: Option<OwnedFd>, limit: Limit) -> Self {
        Output { pipe: pipe.map(File::from), limit, kept: Vec::new() }
    }

    fn do_not_block(&self) -> io::Result<()> {
        if let Some(pipe) = &self.pipe {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(())
    }

    /// Takes what is there, at most a chunk, and says how much that was.
    fn read(&mut self) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        let before = self.kept.len();
        self.kept.resize(before + CHUNK, 0);
        let read = retry(|| nix::unistd::read(&*pipe, self.kept.get_mut(before..).unwrap_or_default()));
        let length = *read.as_ref().unwrap_or(&0);
        self.kept.truncate(before + length);
        match read {
            Ok(0) => self.pipe = None,
            Ok(_) => {}
            Err(Errno::EAGAIN) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
        match self.limit {
            Limit::Refuse if self.kept.len() > STDOUT_MAX => {
                return Err(io::Error::other(format!("it wrote more than {} MiB", STDOUT_MAX >> 20)));
            }
            Limit::KeepEnd if self.kept.len() > STDERR_KEPT => _ = self.kept.drain(..self.kept.len() - STDERR_KEPT),
            _ => {}
        }
        Ok(length)
    }
}

/// What a program said about its failure, on one line.
fn shown(stderr: &[u8]) -> String {
    let lines = stderr.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    lines.map(|line| Escaped(line).to_string()).collect::<Vec<_>>().join("; ")
}

/// A program that has ended, well or not.
#[derive(Debug)]
pub(crate) struct Finished {
    line: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// The end of it, on one line and safe to show.
    pub(crate) stderr: String,
}

impl Finished {
    /// What it exited with; `None` if a signal ended it.
    #[cfg(any(test, feature = "ceph", feature = "lvm"))]
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Takes what it said elsewhere for a part of what it said of its failure.
    #[cfg(feature = "lvm")]
    pub(crate) fn hear(&mut self, words: &[u8]) {
        let words = shown(words.get(words.len().saturating_sub(STDERR_KEPT)..).unwrap_or_default());
        let between = if self.stderr.is_empty() || words.is_empty() { "" } else { "; " };
        self.stderr = format!("{}{between}{words}", self.stderr);
    }

    /// What it said.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] unless it exited with 0, in its own words.
    #[cfg_attr(not(any(test, feature = "zfs")), allow(dead_code, reason = "some look at the words first"))]
    pub(crate) fn success(self, operation: &'static str) -> Result<Vec<u8>> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let words = if self.stderr.is_empty() { "it said nothing" } else { &self.stderr };
        Err(Error::new(ErrorKind::Io, operation, format!("{}: {words}", self.end())))
    }

    /// How it was called and how it ended.
    pub(crate) fn end(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("{} exited with {code}", self.line),
            (None, signal) => format!("{} was ended by signal {}", self.line, signal.unwrap_or_default()),
        }
    }

    /// What it complained of: its standard error, or what else it said.
    #[cfg(any(feature = "ceph", feature = "lvm"))]
    pub(crate) fn complaint(&self) -> String {
        if self.stderr.is_empty() { self.words() } else { self.stderr.clone() }
    }

    /// The end of all it said, on one line and safe to show: some programs name what they find on the standard output.
    #[cfg(any(feature = "ceph", feature = "lvm"))]
    pub(crate) fn words(&self) -> String {
        let kept = self.stdout.len().saturating_sub(STDERR_KEPT);
        let said = shown(self.stdout.get(kept..).unwrap_or_default());
        let words = [said.as_str(), self.stderr.as_str()].into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>();
        if words.is_empty() { "it said nothing".to_owned() } else { words.join("; ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::fd::{AsRawFd, BorrowedFd};

    use crate::progress::CancelToken;

    /// Far more than any of these programs takes on a busy machine, far less than they would sleep.
    const SOON: Duration = Duration::from_secs(20);

    fn within(limit: Duration) -> Wait {
        Wait::new(limit, CancelToken::new())
    }

    fn sh(script: &str) -> Command {
        Program::find("sh", "dash").unwrap().command().arg("-c").arg(script)
    }

    fn run(script: &str) -> Finished {
        sh(script).run("test", &within(Duration::from_secs(50))).unwrap()
    }

    /// Whether a process runs no more; one that is dead may wait for its parent a while.
    fn is_gone(pid: u32) -> bool {
        let state = |stat: String| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['Z', 'X']));
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| state(stat).unwrap())
    }

    fn becomes_gone(pid: u32) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < SOON {
            if is_gone(pid) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    #[test]
    fn a_program_that_is_not_installed_says_what_to_install() {
        let error = Program::find("no-such-program", "no-such-utils").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.remedy(), Some("install no-such-utils"));
        assert!(error.to_string().starts_with("cannot find a program: no-such-program is not in /usr/local/sbin:"), "{error}");
        // A folder of that name is none either.
        assert!(Program::find(".", "x").is_err());
    }

    #[test]
    fn the_end_of_a_program_is_told_in_its_own_words() {
        let done = run("echo out; echo err >&2");
        assert_eq!((done.code(), done.stderr.as_str()), (Some(0), "err"));
        assert_eq!(done.success("test").unwrap(), b"out\n");
        let error = run("echo 'cannot open\t1' >&2; printf '\\033[2Jusage' >&2; exit 7").success("set a property").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        let words = "exit 7 exited with 7: cannot open\\t1; \\x1b[2Jusage";
        assert!(
            error.to_string().starts_with("cannot set a property: sh -c echo") && error.to_string().ends_with(words),
            "{error}"
        );
        let killed = run("kill -9 $$");
        assert_eq!(killed.code(), None);
        assert_eq!(killed.success("test").unwrap_err().message(), "sh -c kill -9 $$ was ended by signal 9: it said nothing");
        let error = Program { name: "none", path: "/none".into() }.command().run("test", &within(SOON)).unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Io, "cannot run none"));
        let long = sh("exit 1").args(["ä"; 4000]).run("test", &within(SOON)).unwrap().success("test").unwrap_err();
        assert!(long.message().chars().count() < 500 && long.message().contains("ä... exited with 1:"), "{long}");
    }

    #[test]
    fn both_pipes_are_drained_however_much_comes() {
        let done = run("(yes err | head -c 9000000; echo the end) >&2; yes out | head -c 9000000");
        assert_eq!((done.code(), done.stdout.len()), (Some(0), 9_000_000));
        assert!(done.stderr.len() < 2 * STDERR_KEPT && done.stderr.ends_with("err; the end"));
        // All that was said before the end is heard.
        let done = run("head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2");
        assert_eq!(done.stdout.len(), 60_000);
        let begun = Instant::now();
        let error = sh("exec yes").run("test", &within(Duration::from_secs(50))).unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Io, "cannot run sh -c exec yes"));
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "it wrote more than 64 MiB");
        assert!(begun.elapsed() < SOON);
    }

    #[test]
    fn the_deadline_ends_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let (begun, limit) = (Instant::now(), Duration::from_millis(700));
        let script = format!("sleep 60 & echo $! > {}; trap '' TERM; wait", note.display());
        let error = sh(&script).run("test", &within(limit)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.message().ends_with("wait did not end in time and was killed"), "{error}");
        assert!(begun.elapsed() >= limit && begun.elapsed() < SOON);
        assert!(becomes_gone(fs::read_to_string(note).unwrap().trim().parse().unwrap()));
        let error = sh(&format!("touch {}", dir.path().join("begun").display())).run("test", &within(Duration::ZERO)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(!dir.path().join("begun").exists());
    }

    #[test]
    fn a_cancel_from_another_thread_ends_it() {
        let (cancel, begun) = (CancelToken::new(), Instant::now());
        let wait = Wait::new(Duration::MAX, cancel.clone());
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                cancel.cancel();
            });
            sh("sleep 60").run("test", &wait).unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(begun.elapsed() < SOON);
        assert_eq!(sh("true").run("test", &wait).unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn pipes_and_program_may_end_in_any_order() {
        let begun = Instant::now();
        // It closes its pipes and lives on.
        let done = run("echo out; exec >&- 2>&-; sleep 0.3; exit 3");
        assert_eq!((done.code(), done.stdout.as_slice()), (Some(3), b"out\n".as_slice()));
        assert!(begun.elapsed() >= Duration::from_millis(300));
        let error = sh("exec >&- 2>&-; sleep 60").run("test", &within(Duration::from_millis(200))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // It ends, and what it began holds them on.
        let done = run("sleep 60 & echo $!");
        let pid = String::from_utf8(done.success("test").unwrap()).unwrap().trim().parse().unwrap();
        assert!(!is_gone(pid));
        nix::sys::signal::kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        // And goes on to fill them.
        let done = run("yes & echo $! >&2");
        assert!(becomes_gone(done.stderr.parse().unwrap()), "no one reads what it writes");
        assert!(begun.elapsed() < SOON);
    }

    #[test]
    fn nothing_of_the_caller_is_inherited() {
        let env = Program::find("env", "coreutils").unwrap().command().run("test", &within(SOON)).unwrap().stdout;
        let env = String::from_utf8(env).unwrap();
        let mut env: Vec<_> = env.lines().collect();
        env.sort_unstable();
        assert_eq!(env, ["LC_ALL=C", &format!("PATH={PATH}")]);
        assert_eq!(run("pwd; umask; readlink /proc/$$/fd/0; cat").stdout, b"/\n0022\n/dev/null\n");

        let fd = fcntl(io::stderr(), FcntlArg::F_DUPFD(500)).unwrap();
        // SAFETY: new, and no one else's.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        let flags = |fd: BorrowedFd<'_>| fcntl(fd, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags(file.as_fd()), 0);
        assert_eq!(run(&format!("test -e /proc/$$/fd/2 && test ! -e /proc/$$/fd/{fd}")).code(), Some(0));
        assert_eq!(flags(file.as_fd()), 0, "the caller's own descriptor was changed");
        close_each_on_exec(file.as_raw_fd(), file.as_raw_fd() + 1);
        assert_eq!(flags(file.as_fd()), libc::FD_CLOEXEC);
    }
}
