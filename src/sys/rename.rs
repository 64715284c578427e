//! Renames within one directory that never replace anything, and the exchange of two names.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::fstatat;
use nix::unistd::{fsync, syncfs};

use super::call::retry;

/// Renames `from` to `to` in `dir`; `EEXIST` if `to` exists.
pub(crate) fn no_replace(dir: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
    match renameat2(dir, from, to, libc::RENAME_NOREPLACE) {
        // The file system lacks the flag. The volume's lock keeps the gap between the look and the rename closed.
        Err(Errno::EINVAL | Errno::ENOSYS) => match fstatat(dir, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => retry(|| renameat(dir, from, dir, to)),
            Err(error) => Err(error),
        },
        result => result,
    }
}

/// Exchanges two names of `dir` in one step. `EINVAL`, `ENOSYS`, `EOPNOTSUPP`: it cannot be done here.
pub(crate) fn exchange(dir: BorrowedFd<'_>, a: &OsStr, b: &OsStr) -> Result<(), Errno> {
    renameat2(dir, a, b, libc::RENAME_EXCHANGE)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    match retry(|| fsync(dir)) {
        // Some file systems know no fsync of a directory.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => retry(|| syncfs(dir)),
        result => result,
    }
}

// Not the C library's call: musl has none.
fn renameat2(dir: BorrowedFd<'_>, from: &OsStr, to: &OsStr, flags: libc::c_uint) -> Result<(), Errno> {
    let from = CString::new(from.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let to = CString::new(to.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let dir = dir.as_raw_fd();
    retry(|| {
        // SAFETY: both names are NUL-terminated and live through the call; the descriptor is borrowed.
        let result = unsafe { libc::syscall(libc::SYS_renameat2, dir, from.as_ptr(), dir, to.as_ptr(), flags) };
        Errno::result(result).map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn nothing_is_replaced_and_names_change_places() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::create_dir(at("a")).unwrap();
        std::fs::create_dir(at("b")).unwrap();
        std::fs::write(at("a/in-a"), "").unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        let (a, b, c) = (OsStr::new("a"), OsStr::new("b"), OsStr::new("c"));
        // A plain rename would replace the empty directory.
        assert_eq!(no_replace(dir.as_fd(), a, b), Err(Errno::EEXIST));
        assert_eq!(no_replace(dir.as_fd(), c, b), Err(Errno::ENOENT));
        exchange(dir.as_fd(), a, b).unwrap();
        assert!(at("b/in-a").exists() && at("a").exists());
        assert_eq!(exchange(dir.as_fd(), a, c), Err(Errno::ENOENT));
        no_replace(dir.as_fd(), b, c).unwrap();
        assert!(at("c/in-a").exists() && !at("b").exists());
        sync_directory(dir.as_fd()).unwrap();
    }
}
