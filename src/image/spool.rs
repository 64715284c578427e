//! Keeping on disk what cannot be read in order: a file without a name, on the file system that is being filled.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::stream::unwrap;
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;
use crate::sys::space;
use crate::unpack::{Hooks, Tally};

/// How much is copied at once. The caller hears of each piece.
const PIECE: usize = 256 << 10;
/// How many names are tried for a file that has none for long.
const ATTEMPTS: u32 = 16;

/// Copies `from` to its end into a file without a name on the file system of the directory `root`. It is gone when it is closed, whatever happens.
///
/// # Errors
/// [`ErrorKind::LimitExceeded`] if there is more than `most`, [`ErrorKind::NoSpace`] unless the caller's hook makes room, and what `from` and the hook return.
pub(super) fn spool(from: &mut dyn Read, root: BorrowedFd<'_>, most: ByteSize, hooks: &mut dyn Hooks) -> Result<File> {
    let file = nameless(root)?;
    let mut piece = vec![0; PIECE];
    let mut length = 0;
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(file),
            Ok(read) => read.min(PIECE),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unwrap(error)),
        };
        if length + read as u64 > most.bytes() {
            return Err(Error::new(ErrorKind::LimitExceeded, "spool the image", format!("it is larger than the limit of {most}"))
                .with_remedy("raise the limit, if this image is to be trusted"));
        }
        let mut rest = &piece[..read];
        while !rest.is_empty() {
            match file.write_at(rest, length) {
                Ok(0) => return Err(Error::new(ErrorKind::Io, "spool the image", "the disk takes nothing")),
                Ok(written) => {
                    length += written as u64;
                    rest = rest.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => make_room(error, root, hooks)?,
            }
        }
        hooks.entry(&Tally::default())?;
    }
}

fn make_room(error: io::Error, root: BorrowedFd<'_>, hooks: &mut dyn Hooks) -> Result<()> {
    const OPERATION: &str = "spool the image";
    if !matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
        return Err(Error::io(OPERATION, "it cannot be written", error));
    }
    let error = Error::io(OPERATION, "no space is left for it beside the root that it is to fill", error);
    let error = space::explain(root, error);
    match error.kind() {
        ErrorKind::NoSpace(space) => hooks.full(space, error),
        _ => Err(error),
    }
}

fn nameless(root: BorrowedFd<'_>) -> Result<File> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let failed = |error: Errno| Error::io("spool the image", "a file for it cannot be made", error);
    match retry(|| openat(root, ".", flags | OFlag::O_TMPFILE, mode)) {
        // Not every file system can make a file without a name; an old kernel takes the flag for O_DIRECTORY.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => {}
        result => return result.map(File::from).map_err(failed),
    }
    for attempt in 0..ATTEMPTS {
        let name = format!(".reroot-spool-{attempt}");
        let name = OsStr::new(&name);
        match retry(|| openat(root, name, flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW, mode)) {
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(failed(error)),
            Ok(file) => {
                unlinkat(root, name, UnlinkatFlags::NoRemoveDir).map_err(failed)?;
                return Ok(file.into());
            }
        }
    }
    Err(failed(Errno::EEXIST))
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::NoHooks;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_spooled_has_no_name_and_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let bytes: Vec<u8> = (0..600_000u32).map(|n| (n >> 3) as u8).collect();
        let most = ByteSize::from_bytes(bytes.len() as u64);
        let file = spool(&mut &bytes[..], root.as_fd(), most, &mut NoHooks).unwrap();
        let mut read = vec![0; bytes.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes && file.metadata().unwrap().len() == most.bytes());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let less = ByteSize::from_bytes(most.bytes() - 1);
        let error = spool(&mut &bytes[..], root.as_fd(), less, &mut NoHooks).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    }
}
