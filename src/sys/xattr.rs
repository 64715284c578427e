//! Extended attributes by directory file descriptor. `nix` has no calls for them, and the kernel none relative to a descriptor before 6.13.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

/// What an attribute belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// An open file or directory (not one opened with `O_PATH`).
    Fd(BorrowedFd<'a>),
    /// The entry `.1` of the directory `.0`, itself even if it is a symbolic link. Needs `/proc`.
    #[cfg_attr(not(any(feature = "tar", feature = "conformance")), allow(dead_code, reason = "only trees have entries"))]
    At(BorrowedFd<'a>, &'a OsStr),
}

impl Target<'_> {
    fn path(&self) -> io::Result<CString> {
        let (fd, name) = match self {
            Target::Fd(fd) => (fd, OsStr::new("")),
            Target::At(dir, name) => (dir, *name),
        };
        let mut path = format!("/proc/self/fd/{}/", fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.as_bytes());
        Ok(CString::new(path)?)
    }
}

/// The value of the attribute `name`, or `None` if it is not set or the file system has no attributes of its kind.
pub(crate) fn get(target: Target<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let path = match target {
        Target::Fd(_) => None,
        Target::At(..) => Some(target.path()?),
    };
    let value = read_all(|buffer, size| match (&target, &path) {
        // SAFETY: `name` and `path` are NUL-terminated, `buffer` has `size` bytes, and the descriptor is borrowed for the call.
        (Target::At(..), Some(path)) => unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer, size) },
        (Target::Fd(fd) | Target::At(fd, _), _) => unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), buffer, size) },
    });
    match value {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names of all attributes the caller may see; none where the file system has no attributes.
pub(crate) fn list(target: Target<'_>) -> io::Result<Vec<CString>> {
    let path = match target {
        Target::Fd(_) => None,
        Target::At(..) => Some(target.path()?),
    };
    let names = read_all(|buffer, size| match (&target, &path) {
        // SAFETY: as in `get`.
        (Target::At(..), Some(path)) => unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), size) },
        (Target::Fd(fd) | Target::At(fd, _), _) => unsafe { libc::flistxattr(fd.as_raw_fd(), buffer.cast(), size) },
    });
    let names = match names {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut names: Vec<_> = names
        .split_inclusive(|&byte| byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
        .map(CString::from)
        .collect();
    names.sort();
    Ok(names)
}

/// Sets the attribute `name`, replacing an earlier value.
pub(crate) fn set(target: Target<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    let result = match target {
        Target::Fd(fd) => {
            // SAFETY: `name` is NUL-terminated, `value` is as long as told, and the descriptor is borrowed for the call.
            unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
        }
        Target::At(..) => {
            let path = target.path()?;
            // SAFETY: as above, and `path` is NUL-terminated.
            unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
        }
    };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// Removes the attribute `name`; it is no error if it is not set or the file system has no attributes of its kind.
pub(crate) fn remove(target: Target<'_>, name: &CStr) -> io::Result<()> {
    let result = match target {
        // SAFETY: `name` is NUL-terminated and the descriptor is borrowed for the call.
        Target::Fd(fd) => unsafe { libc::fremovexattr(fd.as_raw_fd(), name.as_ptr()) },
        Target::At(..) => {
            let path = target.path()?;
            // SAFETY: both strings are NUL-terminated.
            unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }
        }
    };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Calls `read` with a buffer that fits, whatever the value grows to between two calls.
fn read_all(read: impl Fn(*mut libc::c_void, usize) -> libc::ssize_t) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; 256];
    loop {
        match Errno::result(read(buffer.as_mut_ptr().cast(), buffer.len())) {
            Ok(length) => {
                buffer.truncate(length as usize);
                return Ok(buffer);
            }
            Err(Errno::ERANGE) => {
                let needed = Errno::result(read(std::ptr::null_mut(), 0))? as usize;
                buffer.resize(needed.max(buffer.len() * 2), 0);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn attributes_by_descriptor_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("l")).unwrap();
        let dir = std::fs::File::open(dir.path()).unwrap();
        let file = Target::At(dir.as_fd(), OsStr::new("f"));
        let long = vec![7; 1000];
        match set(file, c"user.long", &long) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => panic!("the temporary folder has no user attributes"),
            result => result.unwrap(),
        }
        set(file, c"user.empty", b"").unwrap();
        assert_eq!(get(file, c"user.long").unwrap(), Some(long));
        assert_eq!(get(file, c"user.empty").unwrap(), Some(Vec::new()));
        assert_eq!(get(file, c"user.none").unwrap(), None);
        let user =
            |names: Vec<CString>| -> Vec<_> { names.into_iter().filter(|name| name.to_bytes().starts_with(b"user.")).collect() };
        assert_eq!(user(list(file).unwrap()), [c"user.empty", c"user.long"]);
        remove(file, c"user.empty").unwrap();
        remove(file, c"user.empty").unwrap();
        assert_eq!(user(list(file).unwrap()).len(), 1);
        // A symbolic link has no user attributes, and its target's do not show through.
        assert!(user(list(Target::At(dir.as_fd(), OsStr::new("l"))).unwrap()).is_empty());
    }
}
