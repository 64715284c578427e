//! Snapshots that lie in a folder of their own, as LXD lays them out.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::{NAME_MAX, RESERVED, RETIRED};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::call::retry;
use crate::sys::rename;
use crate::sys::walk::{EntryType, Order, Walk};
use crate::text::Escaped;
use crate::volume::{Snapshot, SnapshotOwner, Tidied};

/// Removes the directory of this name, if it exists, with all that is in it.
pub(crate) type Remove<'a> = dyn FnMut(BorrowedFd<'_>, &OsStr) -> Result<()> + 'a;

/// The directory that holds the snapshots of one volume; it need not exist.
#[derive(Debug)]
pub(crate) struct SnapshotsDir(Option<PathBuf>);

impl SnapshotsDir {
    /// Where LXD keeps the snapshots of the volume at `path`. A volume in the file system's top directory has none.
    pub(crate) fn beside(path: &Path) -> Self {
        let place = || {
            let folder = path.parent()?;
            let mut siblings = folder.file_name()?.to_owned();
            siblings.push("-snapshots");
            Some(folder.with_file_name(siblings).join(path.file_name()?))
        };
        SnapshotsDir(place())
    }

    pub(crate) fn at(path: PathBuf) -> Self {
        SnapshotsDir(Some(std::path::absolute(&path).unwrap_or(path)))
    }

    /// The snapshots, by name.
    pub(crate) fn list(&self) -> Result<Vec<Snapshot>> {
        const OPERATION: &str = "list the snapshots";
        let Some(dir) = self.open(OPERATION)? else { return Ok(Vec::new()) };
        let names = self.directories(dir, OPERATION)?;
        let snapshots = names.into_iter().filter(|name| !is_retired(name));
        Ok(snapshots.map(|name| Snapshot::new(name, SnapshotOwner::Manager)).collect())
    }

    /// Renames each snapshot away, so that what is left of it under its own name is whole, and removes them then.
    pub(crate) fn purge(&self, snapshots: &[Snapshot], remove: &mut Remove<'_>) -> Result<()> {
        const OPERATION: &str = "purge the snapshots";
        check_names(snapshots, OPERATION)?;
        let Some(dir) = self.open(OPERATION)? else { return Ok(()) };
        let mut retired = Vec::new();
        for snapshot in snapshots {
            let failed = |error| Error::io(OPERATION, "cannot rename it away", error).with_context("snapshot", snapshot);
            match fstatat(&dir, snapshot.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() => {}
                Ok(_) => {
                    return Err(
                        Error::new(ErrorKind::InvalidInput, OPERATION, "it is not a directory").with_context("snapshot", snapshot)
                    );
                }
                Err(Errno::ENOENT) => continue,
                Err(error) => return Err(failed(error)),
            }
            let name = retired_name(&snapshot.name);
            let renamed = match rename::no_replace(dir.as_fd(), &snapshot.name, &name) {
                // Left by an earlier purge, or by one of this call whose name begins alike.
                Err(Errno::EEXIST) => {
                    remove(dir.as_fd(), &name)?;
                    rename::no_replace(dir.as_fd(), &snapshot.name, &name)
                }
                result => result,
            };
            match renamed {
                Ok(()) => retired.push(name),
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        if !retired.is_empty() {
            rename::sync_directory(dir.as_fd()).map_err(|error| Error::io(OPERATION, "cannot make the renames durable", error))?;
        }
        retired.iter().try_for_each(|name| remove(dir.as_fd(), name))
    }

    /// Removes what an interrupted purge left.
    pub(crate) fn tidy(&self, remove: &mut Remove<'_>) -> Result<Tidied> {
        const OPERATION: &str = "tidy up after a purge";
        let Some(dir) = self.open(OPERATION)? else { return Ok(Tidied::Nothing) };
        let again = dir.try_clone().map_err(|error| Error::io(OPERATION, "cannot keep the directory open", error))?;
        let mut tidied = Tidied::Nothing;
        for name in self.directories(again, OPERATION)?.iter().filter(|name| is_retired(name)) {
            remove(dir.as_fd(), name)?;
            tidied = Tidied::Something;
        }
        Ok(tidied)
    }

    pub(crate) fn open(&self, operation: &'static str) -> Result<Option<OwnedFd>> {
        let Some(path) = &self.0 else { return Ok(None) };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match retry(|| open(path, flags, Mode::empty())) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.failed(operation, error)),
        }
    }

    fn failed(&self, operation: &'static str, error: impl Into<std::io::Error>) -> Error {
        let path = self.0.as_deref().unwrap_or(Path::new(""));
        Error::io(operation, "cannot read their directory", error).with_context("directory", Escaped::from(path))
    }

    /// The names of the directories in it, sorted.
    fn directories(&self, dir: OwnedFd, operation: &'static str) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        let mut walk = Walk::new(dir, c"", Order::Listed).map_err(|error| self.failed(operation, error))?;
        while let Some(kind) = walk.advance().map_err(|error| self.failed(operation, error))? {
            let is_directory = match kind {
                EntryType::Directory => true,
                EntryType::Other => false,
                EntryType::Unknown => {
                    let dir = walk.dir().map_err(|error| self.failed(operation, error))?;
                    let stat = fstatat(dir, walk.name(), AtFlags::AT_SYMLINK_NOFOLLOW);
                    stat.is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
                }
            };
            if is_directory {
                names.push(OsString::from_vec(walk.name().to_bytes().to_vec()));
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Refuses what no snapshot can be called.
pub(crate) fn check_names(snapshots: &[Snapshot], operation: &'static str) -> Result<()> {
    for snapshot in snapshots {
        let name = snapshot.name.as_bytes();
        let reserved = RESERVED.iter().any(|suffix| name.ends_with(suffix.as_bytes()));
        if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| b"/\0".contains(byte)) || reserved {
            return Err(
                Error::new(ErrorKind::InvalidInput, operation, "that is no name of a snapshot").with_context("snapshot", snapshot)
            );
        }
    }
    Ok(())
}

fn is_retired(name: &OsStr) -> bool {
    name.as_bytes().ends_with(RETIRED.as_bytes())
}

/// What a snapshot is called while it is removed; a long name is cut to make room.
fn retired_name(name: &OsStr) -> OsString {
    let bytes = name.as_bytes();
    let kept = bytes.get(..NAME_MAX - RETIRED.len()).unwrap_or(bytes);
    OsString::from_vec([kept, RETIRED.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_lie_where_lxd_keeps_them() {
        let place = |path: &str| SnapshotsDir::beside(Path::new(path)).0;
        assert_eq!(place("/srv/pool/containers/c1").unwrap(), Path::new("/srv/pool/containers-snapshots/c1"));
        assert_eq!(place("/c1"), None);
    }

    #[test]
    fn a_long_name_makes_room() {
        let name = retired_name(OsStr::new(&"s".repeat(255)));
        assert_eq!(name.len(), 255);
        assert!(is_retired(&name));
    }
}
