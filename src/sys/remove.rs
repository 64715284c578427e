//! Removes a tree by directory descriptors: not through a link, not into a mount, of any depth and width.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::walk::{EntryType, Left, Order, Walk, open_beneath};
use super::{attr, mounts};
use crate::error::{Error, ErrorKind, Result};
use crate::text::Escaped;

const OPERATION: &str = "remove a root";
/// How often a directory is read again because something in it was missed or made while it was read.
const MAX_PASSES: u32 = 100;

/// Removes the directory `name` of `parent` and everything in it; returns how many entries went, itself included.
///
/// - What does not exist is no error, also when it goes while this runs.
/// - Immutable and append-only flags are cleared, and so are missing permissions of the owner, where they stand in the way.
/// - An interrupted or failed removal leaves a part of the tree under the same name; removing it again goes on.
///
/// # Errors
/// [`ErrorKind::Busy`] if something is mounted in the tree. A mount that the caller's `/proc` shows is found before anything is removed.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<u64> {
    let shown = Escaped::from(name).to_string();
    let context = |error: Error| error.with_context("root", &shown);
    let name = CString::new(name.as_bytes())
        .map_err(|_| context(Error::new(ErrorKind::InvalidInput, OPERATION, "the name holds a NUL byte")))?;
    match fstatat(parent, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() => {}
        Ok(_) => {
            return Err(context(Error::new(ErrorKind::AlreadyExists, OPERATION, "it is not a directory"))
                .with_remedy("move it away: the name is reserved"));
        }
        Err(Errno::ENOENT) => return Ok(0),
        Err(error) => return Err(context(Error::io(OPERATION, "cannot look at it", error))),
    }
    refuse_mounts(parent, &name).map_err(context)?;
    // Not made durable: a root that a loss of power brings back is found under the same name and removed again. Waiting for the disk here can
    // take seconds where it discards what was freed.
    remove_opened(parent, &name).map_err(context)
}

/// Looks for mounts in the tree before half of it is gone. Without `/proc` each is found when the removal comes to it.
fn refuse_mounts(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let (Ok(path), Ok(mounts)) = (mounts::path_of(parent), mounts::own()) else { return Ok(()) };
    let top = mounts::join(&path, name.to_bytes());
    match mounts.iter().find(|mount| mounts::below(&mount.point, &top).is_some()) {
        Some(mount) => Err(mounted(&mount.point)),
        None => Ok(()),
    }
}

fn mounted(path: &[u8]) -> Error {
    let path = Escaped(path).to_string();
    Error::new(ErrorKind::Busy, OPERATION, "something is mounted in it")
        .with_remedy(format!("unmount it (umount {path}) and run recover"))
        .with_context("mount", path)
}

fn remove_opened(parent: BorrowedFd<'_>, name: &CStr) -> Result<u64> {
    let top = match open_directory(parent, name) {
        Ok(Some(top)) => top,
        Ok(None) | Err(Errno::ENOENT) => return Ok(0),
        Err(error) => return Err(refused(name.to_bytes(), b"", error)),
    };
    let removed = remove_below(top, name, None)?;
    match unlink(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) => Ok(removed + 1),
        Err(Errno::ENOENT) => Ok(removed),
        Err(error) => Err(refused(name.to_bytes(), b"", error)),
    }
}

/// Removes everything in a directory that is the top of a file system, but for `spared`, which the file system itself shows there.
///
/// As [`remove_tree`]; an interrupted removal leaves a part.
#[cfg(any(feature = "ceph", feature = "lvm", feature = "zfs"))]
pub(crate) fn empty(top: &OwnedFd, spared: &CStr) -> Result<u64> {
    let top = top.try_clone().map_err(|error| Error::io(OPERATION, "cannot open it again", error))?;
    remove_below(top, c"", Some(spared))
}

/// Removes what is in a directory.
fn remove_below(top: OwnedFd, name: &CStr, spared: Option<&CStr>) -> Result<u64> {
    let failed = |error: io::Error| Error::io(OPERATION, "cannot read it", error);
    let mut walk = Walk::new(top, name, Order::Inodes).map_err(failed)?;
    let mut removed = 0u64;
    loop {
        let at = |walk: &Walk, error: io::Error| {
            Error::io(OPERATION, "cannot read a directory", error).with_context("path", Escaped(&walk.path()))
        };
        match walk.advance() {
            Ok(Some(_)) if spared.is_some_and(|spared| walk.is_at_top() && walk.name() == spared) => {}
            Ok(Some(kind)) => removed += remove_entry(&mut walk, kind)?,
            Ok(None) => match walk.leave().map_err(|error| at(&walk, error))? {
                Some(left) => removed += remove_left(&mut walk, left)?,
                None => return Ok(removed),
            },
            Err(error) => return Err(at(&walk, error)),
        }
    }
}

/// Removes the current entry, or goes into it if it is a directory.
fn remove_entry(walk: &mut Walk, kind: EntryType) -> Result<u64> {
    let name = walk.name().to_owned();
    let refused_here = |walk: &Walk, error| refused(&walk.path(), name.to_bytes(), error);
    let dir = walk.dir().map_err(|error| Error::io(OPERATION, "a directory is not open", error))?;
    if kind != EntryType::Directory {
        match unlink(dir, &name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => return Ok(1),
            Err(Errno::ENOENT) => return Ok(0),
            Err(Errno::EISDIR) => {}
            Err(error) => return Err(refused_here(walk, error)),
        }
    }
    match open_directory(dir, &name) {
        Ok(Some(child)) => {
            let failed =
                |error| Error::io(OPERATION, "cannot enter a directory", error).with_context("path", Escaped(name.to_bytes()));
            walk.enter(child, name.clone(), 0).map_err(failed)?;
            Ok(0)
        }
        // It was replaced by something else since it was listed.
        Ok(None) => match unlink(dir, &name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(1),
            Err(Errno::ENOENT) => Ok(0),
            Err(error) => Err(refused_here(walk, error)),
        },
        Err(Errno::ENOENT) => Ok(0),
        Err(error) => Err(refused_here(walk, error)),
    }
}

/// Removes a directory that was emptied, or goes into it again.
fn remove_left(walk: &mut Walk, left: Left) -> Result<u64> {
    let dir = walk.dir().map_err(|error| Error::io(OPERATION, "a directory is not open", error))?;
    match unlink(dir, &left.name, UnlinkatFlags::RemoveDir) {
        Ok(()) => Ok(1),
        Err(Errno::ENOENT) => Ok(0),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) if left.seen > 0 && left.pass < MAX_PASSES => {
            let again = open_directory(dir, &left.name).map_err(|error| refused(&walk.path(), left.name.to_bytes(), error))?;
            if let Some(again) = again {
                walk.enter(again, left.name, left.pass + 1)
                    .map_err(|error| Error::io(OPERATION, "cannot enter a directory", error))?;
            }
            Ok(0)
        }
        Err(error) => Err(refused(&walk.path(), left.name.to_bytes(), error)),
    }
}

/// Opens a directory for emptying; `None` if it is none.
fn open_directory(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    let open = || open_beneath(dir, name, OFlag::O_RDONLY);
    let result = match open() {
        Err(Errno::EACCES) => {
            allow_changes(dir)?;
            attr::make_accessible(dir, name)?;
            open()
        }
        result => result,
    };
    match result {
        Ok(child) => Ok(Some(child)),
        Err(Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Unlinks, and clears what stands in the way once it does: flags if `EPERM`, the owner's permissions if `EACCES`.
fn unlink(dir: BorrowedFd<'_>, name: &CStr, how: UnlinkatFlags) -> Result<(), Errno> {
    let unlink = || unlinkat(dir, name, how);
    match unlink() {
        Err(Errno::EPERM) => {
            let dir_changed = attr::unprotect(dir)?.is_some();
            let entry_changed = attr::unprotect_entry(dir, name)?.is_some();
            if dir_changed || entry_changed { unlink() } else { Err(Errno::EPERM) }
        }
        Err(Errno::EACCES) => {
            if allow_changes(dir)? {
                unlink()
            } else {
                Err(Errno::EACCES)
            }
        }
        result => result,
    }
}

/// Gives the owner all permissions on an open directory; returns whether any was missing.
fn allow_changes(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mode = Mode::from_bits_truncate(fstat(dir)?.st_mode);
    if mode.contains(Mode::S_IRWXU) {
        return Ok(false);
    }
    fchmod(dir, mode | Mode::S_IRWXU)?;
    Ok(true)
}

/// An entry that would not go: what it is called, and what helps.
fn refused(dir: &[u8], name: &[u8], error: Errno) -> Error {
    let path = if name.is_empty() { dir.to_vec() } else { mounts::join(dir, name) };
    match error {
        Errno::EXDEV => mounted(&path),
        Errno::EBUSY => Error::io(OPERATION, "an entry is a mount point or is in use", error)
            .with_remedy("unmount or stop what uses it and run recover"),
        Errno::ENOSYS => Error::io(OPERATION, "the kernel has no openat2", error).with_remedy("use Linux 5.6 or later"),
        Errno::EROFS => Error::io(OPERATION, "an entry is on a read-only subvolume or file system", error)
            .with_remedy("remove the read-only subvolume (btrfs subvolume delete) or mount the pool read-write, and run recover"),
        Errno::EPERM => Error::io(OPERATION, "an entry may not be removed", error)
            .with_remedy("run as root; if it is an active swap file, end its use with swapoff"),
        _ => Error::io(OPERATION, "cannot remove an entry", error),
    }
    .with_context("path", Escaped(&path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::process::Command;

    fn remove(parent: &Path) -> Result<u64> {
        remove_tree(File::open(parent).unwrap().as_fd(), OsStr::new("top"))
    }

    /// A chain of directories far longer than a path can be, with a file at every level.
    fn make_chain(parent: &Path, depth: usize) {
        let mut at: OwnedFd = File::open(parent).unwrap().into();
        for level in 0..depth {
            let name = if level == 0 { c"top" } else { c"a-rather-long-name-for-a-directory" };
            nix::sys::stat::mkdirat(&at, name, Mode::S_IRWXU).unwrap();
            at = open_beneath(at.as_fd(), name, OFlag::O_RDONLY).unwrap();
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            nix::fcntl::openat(&at, c"z-file", flags, Mode::S_IRUSR).unwrap();
        }
    }

    /// Runs one test of this module again in a child, through `wrapper`, with `marker` set; for limits that belong to a process.
    fn again(wrapper: &[&str], exe: &Path, test: &str, marker: &str, value: &Path) {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(exe).args(["--exact", test, "--nocapture"]).env(marker, value);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn ten_thousand_deep_with_64_descriptors() {
        const MARKER: &str = "REROOT_TEST_DEEP";
        if let Some(dir) = std::env::var_os(MARKER) {
            assert_eq!(remove(Path::new(&dir)).unwrap(), 20_000);
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        make_chain(temp.path(), 10_000);
        let exe = std::env::current_exe().unwrap();
        let test = "sys::remove::tests::ten_thousand_deep_with_64_descriptors";
        again(&["prlimit", "--nofile=64", "--stack=262144"], &exe, test, MARKER, temp.path());
        assert!(!temp.path().join("top").exists());
    }

    #[test]
    fn a_tree_both_wide_and_deep_goes_whole() {
        let temp = tempfile::tempdir().unwrap();
        let mut at = temp.path().join("top");
        let mut made = 0;
        for _ in 0..40 {
            fs::create_dir(&at).unwrap();
            made += 1;
            for n in 0..15 {
                File::create(at.join(format!("file-{n}"))).unwrap();
                fs::create_dir(at.join(format!("side-{n}"))).unwrap();
                made += 2;
            }
            at.push("down");
        }
        assert_eq!(remove(temp.path()).unwrap(), made);
        assert!(!temp.path().join("top").exists());
    }

    #[test]
    fn links_are_not_followed_and_absence_is_fine() {
        let temp = tempfile::tempdir().unwrap();
        let canary = temp.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("alive"), "x").unwrap();
        let top = temp.path().join("top");
        fs::create_dir_all(top.join("d")).unwrap();
        symlink(&canary, top.join("absolute")).unwrap();
        symlink("../../canary", top.join("d/relative")).unwrap();
        fs::hard_link(canary.join("alive"), top.join("d/linked")).unwrap();
        nix::unistd::mkfifo(&top.join("fifo"), Mode::S_IRUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap();
        assert_eq!(remove(temp.path()).unwrap(), 7);
        assert_eq!(fs::read(canary.join("alive")).unwrap(), b"x");
        assert_eq!(remove(temp.path()).unwrap(), 0);
        // The top itself must be a directory, and is left alone if it is not.
        symlink(&canary, &top).unwrap();
        assert_eq!(remove(temp.path()).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(top.is_symlink() && canary.join("alive").exists());
    }

    #[test]
    fn its_owner_needs_no_permissions_and_no_root() {
        const MARKER: &str = "REROOT_TEST_LOCKED";
        if let Some(dir) = std::env::var_os(MARKER) {
            let dir = Path::new(&dir);
            let top = dir.join("top");
            for sub in ["a/b/c", "empty", "read-only/x"] {
                fs::create_dir_all(top.join(sub)).unwrap();
            }
            fs::write(top.join("a/b/c/f"), "").unwrap();
            fs::write(top.join("read-only/f"), "").unwrap();
            let lock = |path: &str, mode| fs::set_permissions(top.join(path), fs::Permissions::from_mode(mode)).unwrap();
            for path in ["a/b/c", "a/b", "a", "empty"] {
                lock(path, 0);
            }
            lock("read-only", 0o500);
            lock("", 0o500);
            assert_eq!(remove(dir).unwrap(), 9);
            assert!(!top.exists());
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let exe = std::env::current_exe().unwrap();
        let test = "sys::remove::tests::its_owner_needs_no_permissions_and_no_root";
        if !nix::unistd::geteuid().is_root() {
            return again(&["env"], &exe, test, MARKER, temp.path());
        }
        // An ordinary user may not be able to reach the build folder.
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = temp.path().join("exe");
        fs::copy(&exe, &copy).unwrap();
        let work = temp.path().join("work");
        fs::create_dir(&work).unwrap();
        std::os::unix::fs::chown(&work, Some(65534), Some(65534)).unwrap();
        again(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], &copy, test, MARKER, &work);
    }
}
