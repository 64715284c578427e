//! Bases that lie in a folder of their own in the pool's directory: `reroot-bases-dir` or `reroot-bases-btrfs`, for a base of one backend is none
//! of the other's.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, UtimensatFlags, fstat, fstatat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::RESERVED;
use crate::base_name::BaseName;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::sys::call::retry;
use crate::sys::lock::FileLock;
use crate::sys::walk::{Order, Walk};
use crate::sys::{rename, space};
use crate::text::Escaped;
use crate::volume::{VolumeId, VolumeLock};

/// What is added to a base's name to get that of a file whose time tells when it was used.
const USED: &str = ".reroot-used";
const MEMO: &CStr = c"memo";
const NEW_MEMO: &CStr = c"memo.new";
/// More than any memo holds.
const MEMO_MAX: u64 = 64 << 10;

/// The folder of a pool's bases, which need not exist.
#[derive(Debug)]
pub(crate) struct BasesDir {
    scheme: &'static str,
    pool: PathBuf,
    dir: OwnedFd,
    /// The folder's name.
    folder: String,
}

impl BasesDir {
    /// That of the pool whose directory is `path`.
    pub(crate) fn open(scheme: &'static str, path: &Path) -> Result<Self> {
        const OPERATION: &str = "open the pool";
        let context = |error: Error| error.with_context("pool", format_args!("{scheme}:{}", Escaped::from(path)));
        let pool =
            std::path::absolute(path).map_err(|error| context(Error::io(OPERATION, "there is no current directory", error)))?;
        let dir = retry(|| open(&pool, directory(), Mode::empty()))
            .map_err(|error| context(Error::io(OPERATION, "cannot open its directory", error)))?;
        Ok(BasesDir { scheme, pool, dir, folder: format!("reroot-bases-{scheme}") })
    }

    pub(crate) fn id(&self) -> VolumeId {
        VolumeId::new(self.scheme, &self.pool)
    }

    /// The pool's directory.
    pub(crate) fn pool(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(crate) fn failed(&self, operation: &'static str, message: &str, error: impl Into<std::io::Error>) -> Error {
        space::explain(self.dir.as_fd(), Error::io(operation, message, error).with_context("pool", self.id()))
    }

    /// The path of a base.
    pub(crate) fn path_of(&self, name: &BaseName) -> PathBuf {
        self.pool.join(&self.folder).join(name.to_string())
    }

    /// The folder; `None` if it does not exist.
    pub(crate) fn folder(&self, operation: &'static str) -> Result<Option<OwnedFd>> {
        match retry(|| openat(&self.dir, self.folder.as_str(), directory() | OFlag::O_NOFOLLOW, Mode::empty())) {
            Ok(folder) => self.check_folder(&folder, operation).map(|()| Some(folder)),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::EACCES) => Err(self
                .failed(operation, "cannot open its folder of bases, which is another user's", Errno::EACCES)
                .with_remedy("run this as the user that the folder belongs to, or name another pool")),
            Err(error) => Err(self.failed(operation, "cannot open its folder of bases", error)),
        }
    }

    /// Whoever can write there decides what all new roots hold.
    fn check_folder(&self, folder: &OwnedFd, operation: &'static str) -> Result<()> {
        let stat = fstat(folder).map_err(|error| self.failed(operation, "cannot look at its folder of bases", error))?;
        let writable = Mode::from_bits_truncate(stat.st_mode).intersects(Mode::S_IWGRP | Mode::S_IWOTH);
        if stat.st_uid == geteuid().as_raw() && !writable {
            return Ok(());
        }
        let why = match writable {
            true => format!("others may write to its folder of bases, {}", self.folder),
            false => format!("its folder of bases, {}, belongs to the user {}", self.folder, stat.st_uid),
        };
        Err(Error::new(ErrorKind::PermissionDenied, operation, why)
            .with_context("pool", self.id())
            .with_remedy("see what is in it; then chown it to the user this runs as, and chmod it to 0700"))
    }

    /// The base as a volume. Something else under its name does not stand for the others: it has an error of its own.
    pub(crate) fn volume<V>(&self, name: &BaseName, open: impl FnOnce(PathBuf) -> Result<V>) -> Result<V> {
        const OPERATION: &str = "open the base";
        self.make_folder(OPERATION)?;
        open(self.path_of(name)).map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => Error::new(ErrorKind::AlreadyExists, OPERATION, "what has its name is not a base")
                .with_context("path", Escaped::from(self.path_of(name).as_path()))
                .with_context("pool", self.id())
                .with_remedy("move it away: it is not a base")
                .with_source(error),
            _ => error,
        })
    }

    /// Makes the folder, closed to everyone else: a base holds programs that run with the rights of root.
    pub(crate) fn make_folder(&self, operation: &'static str) -> Result<OwnedFd> {
        match retry(|| mkdirat(&self.dir, self.folder.as_str(), Mode::S_IRWXU)) {
            Ok(()) => rename::sync_directory(self.pool())
                .map_err(|error| self.failed(operation, "cannot make its folder of bases durable", error))?,
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(self.failed(operation, "cannot make its folder of bases", error)),
        }
        self.folder(operation)?.ok_or_else(|| self.failed(operation, "its folder of bases is gone again", Errno::ENOENT))
    }

    pub(crate) fn names(&self) -> Result<Vec<BaseName>> {
        const OPERATION: &str = "list the bases";
        let Some(folder) = self.folder(OPERATION)? else { return Ok(Vec::new()) };
        let failed = |error| self.failed(OPERATION, "cannot read its folder of bases", error);
        let mut walk = Walk::new(folder, c"", Order::Listed).map_err(failed)?;
        let mut names = Vec::new();
        while walk.advance().map_err(failed)?.is_some() {
            let entry = OsStr::from_bytes(walk.name().to_bytes());
            let Some(entry) = entry.to_str() else { continue };
            let name = RESERVED.iter().chain([&USED]).find_map(|suffix| entry.strip_suffix(suffix)).unwrap_or(entry);
            // Whatever else lies there is not ours.
            names.extend(name.parse::<BaseName>());
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    pub(crate) fn hold(&self, name: &BaseName, wait: &Wait) -> Result<VolumeLock> {
        let folder = self.make_folder("hold the base")?;
        let name = OsString::from(name.to_string());
        let lock = FileLock::acquire_shared(folder.as_fd(), &name, wait);
        lock.map(VolumeLock::new).map_err(|error| error.with_context("pool", self.id()))
    }

    pub(crate) fn open_base(&self, name: &BaseName) -> Result<Option<OwnedFd>> {
        const OPERATION: &str = "open the base";
        let Some(folder) = self.folder(OPERATION)? else { return Ok(None) };
        match retry(|| openat(&folder, name.to_string().as_str(), directory() | OFlag::O_NOFOLLOW, Mode::empty())) {
            Ok(base) => Ok(Some(base)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.failed(OPERATION, "cannot open its directory", error).with_context("base", name)),
        }
    }

    pub(crate) fn used(&self, name: &BaseName) -> Result<Option<SystemTime>> {
        const OPERATION: &str = "find out when the base was used";
        let Some(folder) = self.folder(OPERATION)? else { return Ok(None) };
        match fstatat(&folder, used_name(name).as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0)))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.failed(OPERATION, "cannot look at the file that tells", error).with_context("base", name)),
        }
    }

    pub(crate) fn touch(&self, name: &BaseName) -> Result<()> {
        const OPERATION: &str = "note that the base is used";
        let failed = |error| self.failed(OPERATION, "cannot set the time of the file that tells", error).with_context("base", name);
        let Some(folder) = self.folder(OPERATION)? else { return Ok(()) };
        let (file, now) = (used_name(name), TimeSpec::UTIME_NOW);
        match utimensat(&folder, file.as_str(), &now, &now, UtimensatFlags::NoFollowSymlink) {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
                let file = retry(|| openat(&folder, file.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)).map_err(failed)?;
                futimens(&file, &now, &now).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    pub(crate) fn forget(&self, name: &BaseName) -> Result<()> {
        const OPERATION: &str = "forget the base";
        let Some(folder) = self.folder(OPERATION)? else { return Ok(()) };
        match unlinkat(&folder, used_name(name).as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => {
                Err(self.failed(OPERATION, "cannot remove the file that tells its use", error).with_context("base", name))
            }
        }
    }

    pub(crate) fn memo(&self) -> Result<Vec<u8>> {
        const OPERATION: &str = "read the pool's memo";
        let Some(folder) = self.folder(OPERATION)? else { return Ok(Vec::new()) };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = match retry(|| openat(&folder, MEMO, flags, Mode::empty())) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(OPERATION, "cannot open it", error)),
        };
        let mut memo = Vec::new();
        file.take(MEMO_MAX).read_to_end(&mut memo).map_err(|error| self.failed(OPERATION, "cannot read it", error))?;
        Ok(memo)
    }

    pub(crate) fn set_memo(&self, memo: &[u8]) -> Result<()> {
        const OPERATION: &str = "write the pool's memo";
        let folder = self.make_folder(OPERATION)?;
        let failed = |error: std::io::Error| self.failed(OPERATION, "cannot write it", error);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // Two who write at once write the same kind of thing; a half-written one that a kill left is in the way.
        let _ = unlinkat(&folder, NEW_MEMO, UnlinkatFlags::NoRemoveDir);
        let mut file = File::from(
            retry(|| openat(&folder, NEW_MEMO, flags, Mode::S_IRUSR | Mode::S_IWUSR)).map_err(|error| failed(error.into()))?,
        );
        file.write_all(memo).map_err(failed)?;
        retry(|| nix::fcntl::renameat(&folder, NEW_MEMO, &folder, MEMO)).map_err(|error| failed(error.into()))
    }
}

fn used_name(name: &BaseName) -> String {
    format!("{name}{USED}")
}

fn directory() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

/// What [`BasePool`](crate::volume::BasePool) asks of a pool whose bases lie in such a folder, its only field, and that is the same on each backend.
macro_rules! forward_to_folder {
    () => {
        fn id(&self) -> $crate::volume::VolumeId {
            self.0.id()
        }

        fn names(&self) -> $crate::Result<Vec<$crate::BaseName>> {
            self.0.names()
        }

        fn hold(&self, name: &$crate::BaseName, wait: &$crate::Wait) -> $crate::Result<$crate::volume::VolumeLock> {
            self.0.hold(name, wait)
        }

        fn open(&self, name: &$crate::BaseName) -> $crate::Result<Option<std::os::fd::OwnedFd>> {
            self.0.open_base(name)
        }

        fn used(&self, name: &$crate::BaseName) -> $crate::Result<Option<std::time::SystemTime>> {
            self.0.used(name)
        }

        fn touch(&self, name: &$crate::BaseName) -> $crate::Result<()> {
            self.0.touch(name)
        }

        fn forget(&self, name: &$crate::BaseName) -> $crate::Result<()> {
            self.0.forget(name)
        }

        fn memo(&self) -> $crate::Result<Vec<u8>> {
            self.0.memo()
        }

        fn set_memo(&self, memo: &[u8]) -> $crate::Result<()> {
            self.0.set_memo(memo)
        }
    };
}
pub(crate) use forward_to_folder;
