//! Writes that may wait without end, in a process apart.
//!
//! Some of the kernel's files do their work within write(2), and wait there for what may never answer, some without heeding any signal. A thread that waits so
//! could not be joined, and a process not be ended. So a child of a child writes, and is left to it when it takes too long. The child in between reaps it, so that it
//! is nobody else's business, as whose this process may be the first of a container.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::kernel_key::Key;

/// What is written, and how.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub(crate) file: &'a File,
    /// In one call.
    pub(crate) text: &'a [u8],
    /// For the time of the write it is in the keyring of the thread that writes.
    pub(crate) key: Option<&'a Key>,
    /// A lock that is held for as long as the writer is at it, also where this process is killed.
    pub(crate) lock: Option<BorrowedFd<'a>>,
    /// How long one call may take.
    pub(crate) limit: Duration,
    /// How often it is tried again after `EBUSY` and `EINPROGRESS`, and how long after.
    pub(crate) again: (u32, Duration),
    pub(crate) late: Late,
}

/// What becomes of a call that takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Late {
    /// It is killed.
    End,
    /// It goes on, whatever happens to this process.
    GoOn,
}

/// How long one that was killed may take to end.
const DYING: Duration = Duration::from_secs(2);

/// Writes.
///
/// # Errors
/// `ETIMEDOUT` for one that is late; else what the kernel says.
pub(crate) fn write(write: &Write<'_>) -> io::Result<()> {
    let (answers, tell) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the child makes system calls only, allocates nothing and takes no lock, and never returns.
    let child = unsafe { libc::fork() };
    if child == 0 {
        leave(write, tell.as_raw_fd());
        // SAFETY: as above.
        match unsafe { libc::fork() } {
            0 => write_and_exit(write),
            writer => watch_and_exit(writer),
        }
    }
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(tell);
    let result = listen(File::from(answers), write);
    if result.is_err() {
        // The writer goes on without it.
        // SAFETY: it was not reaped yet, so the id is its own.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
    reap(child);
    result?
}

/// Of a child that ends at once; somebody else may have done it.
fn reap(child: libc::pid_t) {
    // SAFETY: the status is not asked for.
    while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } == -1 && Errno::last() == Errno::EINTR {}
}

/// What the writer tells: its process id; for each call that is tried again 1, and for the last 0 or, negative, the error. The outer error is for a writer that
/// has not ended.
fn listen(mut answers: File, write: &Write<'_>) -> io::Result<io::Result<()>> {
    let gone = || Ok(Err(io::Error::other("the process that wrote has ended early")));
    let Some(pid) = next(&mut answers, write.limit)? else { return gone() };
    loop {
        match next(&mut answers, write.limit) {
            Ok(Some(1)) => {}
            Ok(Some(0)) => return Ok(Ok(())),
            Ok(Some(error)) => return Ok(Err(io::Error::from_raw_os_error(-error))),
            Ok(None) => return gone(),
            Err(late) if write.late == Late::End => {
                // SAFETY: it has not ended, for its end of the pipe is open, so the id is its own.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                // It may have been done by then.
                return match next(&mut answers, DYING) {
                    Ok(Some(0)) => Ok(Ok(())),
                    Ok(_) => Ok(Err(late)),
                    Err(_) => Err(late),
                };
            }
            Err(late) => return Err(late),
        }
    }
}

/// The next number, or `None` at the end.
fn next(answers: &mut File, limit: Duration) -> io::Result<Option<i32>> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut [PollFd::new(answers.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return Err(Errno::ETIMEDOUT.into()),
            Ok(0) | Err(Errno::EINTR) => continue,
            polled => polled?,
        };
        // What is shorter than a pipe's buffer comes whole.
        let mut number = [0; 4];
        return match answers.read_exact(&mut number) {
            Ok(()) => Ok(Some(i32::from_ne_bytes(number))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        };
    }
}

/// In the child. Of what this process has it keeps the one lock: no other descriptor, which would hold what it is of, and no folder. The standard descriptors are what is
/// written to, whom is told, and the lock.
fn leave(write: &Write<'_>, tell: RawFd) {
    // SAFETY: system calls only; the folder's name lives on in this copy of the memory, and the set of signals is written before it is read.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        let above = |descriptor: RawFd| libc::fcntl(descriptor, libc::F_DUPFD, 3);
        let (file, tell) = (above(write.file.as_raw_fd()), above(tell));
        let lock = write.lock.map_or(tell, |lock| above(lock.as_raw_fd()));
        if libc::dup2(file, 0) < 0 || libc::dup2(tell, 1) < 0 || libc::dup2(lock, 2) < 0 {
            libc::_exit(1);
        }
        close_others();
    }
}

/// In the child, once it has the writer; there is none if the id is negative.
fn watch_and_exit(writer: libc::pid_t) -> ! {
    // SAFETY: system calls only; the status is not asked for.
    unsafe {
        // The end of what is told is the writer's end.
        libc::close(1);
        libc::close(2);
        if writer > 0 {
            libc::waitpid(writer, std::ptr::null_mut(), 0);
        }
        libc::_exit(0)
    }
}

/// In the writer.
fn write_and_exit(write: &Write<'_>) -> ! {
    // SAFETY: system calls only; the text lives on in this copy of the memory.
    unsafe {
        let send = |number: i32| libc::write(1, number.to_ne_bytes().as_ptr().cast(), 4);
        send(libc::getpid());
        let key = write.key.map(Key::add);
        let (mut tries, pause) = write.again;
        let status = loop {
            if let Some(Err(error)) = &key {
                break -error.raw_os_error().unwrap_or(libc::EIO);
            }
            let written = libc::write(0, write.text.as_ptr().cast(), write.text.len());
            let error = Errno::last();
            if usize::try_from(written).is_ok_and(|written| written == write.text.len()) {
                break 0;
            }
            if written >= 0 {
                break -libc::EIO;
            }
            if tries == 0 || !matches!(error, Errno::EBUSY | Errno::EINPROGRESS) {
                break -(error as i32);
            }
            tries -= 1;
            send(1);
            let pause = libc::timespec { tv_sec: pause.as_secs() as libc::time_t, tv_nsec: pause.subsec_nanos().into() };
            libc::nanosleep(&raw const pause, std::ptr::null_mut());
        };
        drop(key);
        send(status);
        libc::_exit(0)
    }
}

/// Closes all descriptors from 3 on.
///
/// # Safety
/// Whoever has one of them uses it no more.
unsafe fn close_others() {
    // SAFETY: the call takes numbers only.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) } == 0 {
        return;
    }
    // Before Linux 5.9.
    // SAFETY: as above.
    unsafe {
        let limit = libc::sysconf(libc::_SC_OPEN_MAX).clamp(256, 1 << 20) as RawFd;
        for descriptor in 3..limit {
            libc::close(descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn into_pipe(file: &File, limit: u64, late: Late) -> io::Result<()> {
        write(&Write {
            file,
            text: &[7; 9000],
            key: None,
            lock: None,
            limit: Duration::from_millis(limit),
            again: (0, Duration::ZERO),
            late,
        })
    }

    /// A pipe of one page.
    fn narrow() -> (File, File) {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        (read.into(), write.into())
    }

    #[test]
    fn it_writes_and_tells_what_the_kernel_says() {
        let (mut read, file) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map(|(read, file)| (File::from(read), File::from(file))).unwrap();
        into_pipe(&file, 10_000, Late::End).unwrap();
        let mut got = [0; 9000];
        read.read_exact(&mut got).unwrap();
        assert_eq!(got, [7; 9000]);
        let closed = File::open("/dev/null").unwrap();
        assert_eq!(into_pipe(&closed, 10_000, Late::End).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn one_that_is_late_is_told_and_ended() {
        let (mut read, file) = narrow();
        let begun = Instant::now();
        assert_eq!(into_pipe(&file, 50, Late::End).unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
        assert!(begun.elapsed() < DYING, "{:?}", begun.elapsed());
        // It holds the pipe no more.
        drop(file);
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).unwrap();
        assert!(rest.len() < 9000, "{}", rest.len());
    }

    #[test]
    fn one_that_may_goes_on_and_ends_by_itself() {
        let (mut read, file) = narrow();
        assert_eq!(into_pipe(&file, 50, Late::GoOn).unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
        drop(file);
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), 9000);
    }
}
