//! A lock that the kernel releases when its holder dies.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::call::{FileId, retry};
use super::{mounts, space};
use crate::error::{Error, ErrorKind, Result, Space};
use crate::progress::{CancelToken, Wait};
use crate::text::Escaped;

/// What is added to a name to get that of its lock file.
pub(crate) const SUFFIX: &str = ".reroot-lock";

const OPERATION: &str = "lock the volume";
const FIRST_STEP: Duration = Duration::from_millis(1);
const LAST_STEP: Duration = Duration::from_millis(50);
/// How long the last of those who share a lock may hold it alone, to remove its file: no one else has to know.
const LEAVING: Duration = Duration::from_millis(10);

/// An exclusive lock on a name in a directory, for backends whose store has none of its own.
///
/// It is a file `NAME.reroot-lock` under `flock`: it excludes other processes and other threads, the kernel releases it when the holder
/// dies, and a file that a killed process leaves behind is taken over by the next. Dropping the lock removes the file.
#[derive(Debug)]
pub struct FileLock {
    dir: OwnedFd,
    name: OsString,
    file: Flock<File>,
    sharing: Sharing,
}

/// Whether others may hold a lock too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    Shared,
}

impl FileLock {
    /// Takes the lock of `name` in the directory `dir`, waiting as long as `wait` says. `name` itself need not exist.
    ///
    /// # Errors
    /// - [`ErrorKind::Locked`] when the wait ended first, with the process id of the holder if it can be read.
    /// - [`ErrorKind::Cancelled`] when its token was set.
    /// - [`ErrorKind::InvalidInput`] if `name` is not a single name or is too long.
    /// - [`ErrorKind::AlreadyExists`] if something that is no regular file has the name of the lock file.
    pub fn acquire(dir: BorrowedFd<'_>, name: &OsStr, wait: &Wait) -> Result<FileLock> {
        Self::take(dir, name, wait, Sharing::Exclusive)
    }

    /// The same, but others that take it so may hold it too; whoever takes it by [`acquire`](Self::acquire) waits for all of them. The last one
    /// removes the file.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_shared(dir: BorrowedFd<'_>, name: &OsStr, wait: &Wait) -> Result<FileLock> {
        Self::take(dir, name, wait, Sharing::Shared)
    }

    /// Who else has this file open holds the lock too.
    #[cfg(feature = "ceph")]
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn take(dir: BorrowedFd<'_>, name: &OsStr, wait: &Wait, sharing: Sharing) -> Result<FileLock> {
        let mode = match sharing {
            Sharing::Exclusive => FlockArg::LockExclusiveNonblock,
            Sharing::Shared => FlockArg::LockSharedNonblock,
        };
        let mut lock_name = name.to_owned();
        lock_name.push(SUFFIX);
        if name.is_empty() || lock_name.len() > 255 || name.as_bytes().iter().any(|byte| b"/\0".contains(byte)) {
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "the name is empty, too long, or no single name")
                .with_context("name", Escaped::from(name)));
        }
        let context = |error: Error| error.with_context("file", Escaped::from(lock_name.as_os_str()));
        let dir = dir.try_clone_to_owned().map_err(|error| Error::io(OPERATION, "cannot keep its directory open", error))?;
        let leaving = Wait::new(if sharing == Sharing::Shared { LEAVING } else { Duration::ZERO }, CancelToken::new());
        let mut step = FIRST_STEP;
        loop {
            let mut file = open_lock_file(dir.as_fd(), &lock_name).map_err(context)?;
            let file = loop {
                match Flock::lock(file, mode) {
                    Ok(file) => break file,
                    Err((again, Errno::EINTR)) => file = again,
                    Err((held, Errno::EWOULDBLOCK)) => {
                        if !wait.pause(OPERATION, step)? && !leaving.pause(OPERATION, FIRST_STEP)? {
                            return Err(context(held_error(held)));
                        }
                        step = (step * 2).min(LAST_STEP);
                        file = held;
                    }
                    Err((_, error)) => return Err(context(Error::io(OPERATION, "flock failed", error))),
                }
            };
            // The holder before us removed the file while it held it: then this lock is on a file that no one else will find.
            if shows(dir.as_fd(), &lock_name, &file) {
                let mut lock = FileLock { dir, name: lock_name.clone(), file, sharing };
                lock.write_pid();
                return Ok(lock);
            }
        }
    }

    /// For the message of whoever waits, where the kernel does not tell. The lock is good without it, on a full disk for instance. Of several
    /// holders none is written: it would be named when it is long gone.
    fn write_pid(&mut self) {
        let file: &mut File = &mut self.file;
        let cleared = file.set_len(0).and_then(|()| file.rewind());
        if self.sharing == Sharing::Exclusive {
            let _ = cleared.and_then(|()| writeln!(file, "{}", std::process::id()));
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if self.sharing == Sharing::Shared && self.file.relock(FlockArg::LockExclusiveNonblock).is_err() {
            // Others hold it.
            return;
        }
        // While it is held, so that it is certain to be ours. If it cannot be removed it stays and is used again.
        if shows(self.dir.as_fd(), &self.name, &self.file) {
            let _ = unlinkat(&self.dir, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn open_lock_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<File> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let foreign = || {
        Error::new(ErrorKind::AlreadyExists, OPERATION, "what has the lock file's name is not a regular file")
            .with_remedy("move it away: names that end in .reroot-lock are reserved")
    };
    let file = match retry(|| openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)) {
        Ok(file) => file,
        Err(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO) => return Err(foreign()),
        Err(Errno::EROFS) => {
            return Err(Error::io(OPERATION, "cannot make the lock file", Errno::EROFS)
                .with_remedy("mount the file system so that it can be written to, and try again"));
        }
        Err(error) => {
            let error = space::explain(dir, Error::io(OPERATION, "cannot make the lock file", error));
            return Err(match error.kind() {
                ErrorKind::NoSpace(Space::Quota) => error.with_remedy("raise the quota"),
                ErrorKind::NoSpace(Space::Inodes) => error.with_remedy("free inodes in the pool"),
                ErrorKind::NoSpace(_) => error.with_remedy("make room in the pool"),
                _ => error,
            });
        }
    };
    let stat = fstat(&file).map_err(|error| Error::io(OPERATION, "cannot look at the lock file", error))?;
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(foreign());
    }
    Ok(File::from(file))
}

/// Whether `name` still is this file.
fn shows(dir: BorrowedFd<'_>, name: &OsStr, file: &File) -> bool {
    let there = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    matches!((fstat(file), there), (Ok(ours), Ok(there)) if FileId::from(&ours) == FileId::from(&there))
}

fn held_error(file: File) -> Error {
    let mut pids = holders(&file).unwrap_or_default();
    if pids.is_empty() {
        pids.extend(written(file));
    }
    pids.retain(|pid| Path::new("/proc").join(pid.to_string()).exists());
    pids.sort_unstable();
    pids.dedup();
    let shown = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let message = match pids.len() {
        0 => "another process is at it".into(),
        1 => format!("process {shown} is at it"),
        _ => format!("processes {shown} are at it"),
    };
    let mut error = Error::new(ErrorKind::Locked, OPERATION, message);
    if !pids.is_empty() {
        error = error.with_context("holder", shown);
    }
    error.with_remedy("wait for it to end, or try again with a longer wait for the lock")
}

/// The process that the file names.
fn written(mut file: File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Who locks the file, as the kernel has it: `N: FLOCK ADVISORY READ PID MAJOR:MINOR:INODE 0 EOF`, the device in hexadecimal digits.
fn holders(file: &File) -> Option<Vec<u32>> {
    let inode = fstat(file).ok()?.st_ino;
    let mount = mounts::of_descriptor(file.as_fd()).ok()?;
    // Not as fstat has it: that of a subvolume is another.
    let device = mounts::own().ok()?.into_iter().find(|known| known.id == mount)?.device;
    let (major, minor) = std::str::from_utf8(&device).ok()?.split_once(':')?;
    let place = format!("{:02x}:{:02x}:{inode}", major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    Some(locks.lines().filter_map(|line| holder(line, &place)).collect())
}

/// The process that holds the lock of a line, if it is on the file at `place`.
fn holder(line: &str, place: &str) -> Option<u32> {
    // Whoever waits has an arrow in the second field.
    match line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, _, pid, there, ..] if there == place => pid.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    const CHILD: &str = "REROOT_TEST_LOCK_DIR";

    fn wait(millis: u64) -> Wait {
        Wait::new(Duration::from_millis(millis), CancelToken::new())
    }

    fn acquire(dir: &File, limit: u64) -> Result<FileLock> {
        FileLock::acquire(dir.as_fd(), OsStr::new("c1"), &wait(limit))
    }

    #[test]
    fn one_holder_at_a_time_and_nothing_left_behind() {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        let first = acquire(&dir, 0).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&temp.path().join("c1.reroot-lock").metadata().unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o600);
        let error = acquire(&dir, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        let cancelled = CancelToken::new();
        cancelled.cancel();
        let cancelled = Wait::new(Duration::from_secs(9), cancelled);
        let error = FileLock::acquire(dir.as_fd(), OsStr::new("c1"), &cancelled).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        // Another name is another lock.
        drop(FileLock::acquire(dir.as_fd(), OsStr::new("c2"), &wait(0)).unwrap());
        drop(first);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        drop(acquire(&dir, 0).unwrap());
    }

    #[test]
    fn what_is_no_lock_file_is_refused_and_stays() {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        let path = temp.path().join("c1.reroot-lock");
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert_eq!(acquire(&dir, 0).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(!temp.path().join("elsewhere").exists());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(acquire(&dir, 0).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(path.exists());
        for bad in ["", "a/b", &"x".repeat(244)] {
            let error = FileLock::acquire(dir.as_fd(), OsStr::new(bad), &wait(0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn holders_are_those_that_the_kernel_knows() {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        let shared = || FileLock::acquire_shared(dir.as_fd(), OsStr::new("c1"), &wait(0)).unwrap();
        // What a dead holder left.
        std::fs::write(temp.path().join("c1.reroot-lock"), "4194305\n").unwrap();
        let held = (shared(), shared());
        assert_eq!(std::fs::read_to_string(temp.path().join("c1.reroot-lock")).unwrap(), "");
        let error = acquire(&dir, 0).unwrap_err();
        assert!(error.to_string().contains(&format!("process {} is at it", std::process::id())), "{error}");
        // The text counts for nothing where the kernel tells.
        std::fs::write(temp.path().join("c1.reroot-lock"), "4194305\n").unwrap();
        let error = acquire(&dir, 0).unwrap_err();
        assert!(!error.to_string().contains("4194305"), "{error}");
        drop(held);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        let line = "7: FLOCK  ADVISORY  READ 42 fe:00:99 0 EOF";
        assert_eq!(holder(line, "fe:00:99"), Some(42));
        for other in ["fe:00:9", "00:fe:99"] {
            assert_eq!(holder(line, other), None);
        }
        for other in ["7: -> FLOCK  ADVISORY  READ 42 fe:00:99 0 EOF", "7: POSIX  ADVISORY  READ 42 fe:00:99 0 EOF", ""] {
            assert_eq!(holder(other, "fe:00:99"), None);
        }
    }

    /// Adds to a counter that only the lock protects; a lost update would show.
    fn add(dir: &File, path: &std::path::Path, times: u32) {
        for _ in 0..times {
            let lock = acquire(dir, 30_000).unwrap();
            let value: u32 = std::fs::read_to_string(path).unwrap().parse().unwrap();
            std::thread::yield_now();
            std::fs::write(path, (value + 1).to_string()).unwrap();
            drop(lock);
        }
    }

    #[test]
    fn threads_exclude_each_other() {
        let temp = tempfile::tempdir().unwrap();
        let counter = temp.path().join("counter");
        std::fs::write(&counter, "0").unwrap();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let dir = File::open(temp.path()).unwrap();
                    for _ in 0..25 {
                        let lock = acquire(&dir, 30_000).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                    add(&dir, &counter, 25);
                });
            }
        });
        assert_eq!(std::fs::read_to_string(&counter).unwrap(), "100");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    fn child(dir: &std::path::Path, role: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::lock::tests::processes_exclude_each_other_and_the_dead_hold_nothing", "--nocapture"])
            .env(CHILD, dir)
            .env("REROOT_TEST_LOCK_ROLE", role)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[test]
    fn processes_exclude_each_other_and_the_dead_hold_nothing() {
        if let Some(path) = std::env::var_os(CHILD) {
            let path = std::path::PathBuf::from(path);
            let dir = File::open(&path).unwrap();
            if std::env::var("REROOT_TEST_LOCK_ROLE").unwrap() == "hold" {
                let _lock = acquire(&dir, 0).unwrap();
                std::fs::write(path.join("held"), "").unwrap();
                std::thread::sleep(Duration::from_secs(60));
            }
            return add(&dir, &path.join("counter"), 100);
        }
        let temp = tempfile::tempdir().unwrap();
        let counter = temp.path().join("counter");
        std::fs::write(&counter, "0").unwrap();
        let mut children = [child(temp.path(), "add"), child(temp.path(), "add")];
        for child in &mut children {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(std::fs::read_to_string(&counter).unwrap(), "200");
        assert!(!temp.path().join("c1.reroot-lock").exists());

        let mut holder = child(temp.path(), "hold");
        let began = Instant::now();
        while !temp.path().join("held").exists() {
            assert!(began.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(5));
        }
        let dir = File::open(temp.path()).unwrap();
        let error = acquire(&dir, 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.to_string().contains(&format!("process {}", holder.id())), "{error}");
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(temp.path().join("c1.reroot-lock").exists());
        drop(acquire(&dir, 0).unwrap());
        assert!(!temp.path().join("c1.reroot-lock").exists());
    }
}
