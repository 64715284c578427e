//! Pools of the dir backend for the conformance suite: folders in one place, as LXD lays them out.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;
use reroot::conformance::{Factory, Held, Pool};
use reroot::dir::DirVolume;
use reroot::volume::{Commit, Slot};
use reroot::{ByteSize, Error, ErrorKind, RebuildableVolume, Result};

use super::Folder;
use super::loopfs::{Kind, LoopFs};

/// In MiB; some file systems need more.
const SIZE: u64 = 128;

fn failed(what: &str, error: io::Error) -> Error {
    Error::io("prepare a test", what, error)
}

fn unsupported(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, "prepare a test", why)
}

/// Makes pools on one kind of file system.
#[derive(Debug)]
pub(crate) struct DirFactory {
    kind: Option<Kind>,
    commit: Commit,
    /// Mounted when the first pool is asked for, and shared by all but the confined ones.
    shared: OnceLock<Result<LoopFs, String>>,
}

impl DirFactory {
    /// On a file system of this kind, or in the temporary directory.
    pub(crate) fn new(kind: Option<Kind>, commit: Commit) -> Self {
        DirFactory { kind, commit, shared: OnceLock::new() }
    }

    /// Why there can be no pools here, if so.
    pub(crate) fn obstacle(&self) -> Option<String> {
        self.shared()?.as_ref().err().cloned()
    }

    fn shared(&self) -> Option<&Result<LoopFs, String>> {
        let kind = self.kind?;
        Some(self.shared.get_or_init(|| LoopFs::new(kind, SIZE)))
    }
}

impl Factory for DirFactory {
    fn scheme(&self) -> &str {
        "dir"
    }

    fn pool(&self) -> Result<Box<dyn Pool>> {
        let place = match self.shared() {
            None => std::env::temp_dir(),
            Some(Ok(file_system)) => file_system.path(),
            Some(Err(why)) => return Err(unsupported(why)),
        };
        Ok(Box::new(DirPool::new(&place, self.commit, None)?))
    }

    fn confined_pool(&self) -> Result<Box<dyn Pool>> {
        let kind = self.kind.ok_or_else(|| unsupported("the temporary directory shares its space with others"))?;
        let own = LoopFs::new(kind, SIZE).map_err(unsupported)?;
        let place = own.path();
        Ok(Box::new(DirPool::new(&place, self.commit, Some(own))?))
    }
}

#[derive(Debug)]
struct DirPool {
    // Dropped in this order: the folder before the file system it lies on.
    folder: Folder,
    own: Option<LoopFs>,
    commit: Commit,
    /// The volumes that were asked for: what else lies there is left over.
    names: Mutex<BTreeSet<String>>,
}

impl DirPool {
    fn new(place: &Path, commit: Commit, own: Option<LoopFs>) -> Result<Self> {
        let folder = Folder::new(place).map_err(|error| failed("cannot make a folder", error))?;
        for part in ["containers", "containers-snapshots"] {
            fs::create_dir(folder.path().join(part)).map_err(|error| failed("cannot make a folder", error))?;
        }
        Ok(DirPool { folder, own, commit, names: Mutex::default() })
    }

    fn path(&self, name: &str, slot: Slot) -> PathBuf {
        let suffix = match slot {
            Slot::Live => "",
            Slot::Staged => ".reroot-staged",
            Slot::Retired => ".reroot-retired",
        };
        self.folder.path().join("containers").join(format!("{name}{suffix}"))
    }
}

impl Pool for DirPool {
    fn volume(&self, name: &str) -> Result<Box<dyn RebuildableVolume>> {
        let volume = DirVolume::open(self.path(name, Slot::Live))?.with_commit(self.commit);
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(Box::new(volume))
    }

    fn visit(&self, name: &str, slot: Slot, look: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        look(&self.path(name, slot))
    }

    fn snapshot(&self, name: &str, snapshot: &str) -> Result<()> {
        let folder = self.folder.path().join("containers-snapshots").join(name);
        fs::create_dir_all(&folder).map_err(|error| failed("cannot make the folder of the snapshots", error))?;
        let status = Command::new("cp").arg("-a").arg("--").arg(self.path(name, Slot::Live)).arg(folder.join(snapshot)).status();
        match status.map_err(|error| failed("cannot run cp", error))? {
            status if status.success() => Ok(()),
            status => Err(failed("cp failed", io::Error::other(status.to_string()))),
        }
    }

    fn hold(&self, name: &str) -> Result<Held> {
        let sleep = Command::new("sleep").arg("60").current_dir(self.path(name, Slot::Live)).stdin(Stdio::null()).spawn();
        Ok(Held::new(Process(sleep.map_err(|error| failed("cannot start a process in the root", error))?)))
    }

    fn limit_space(&self, free: ByteSize) -> Result<Held> {
        let own = self.own.as_ref().ok_or_else(|| unsupported("the pool shares its space with others"))?;
        let ballast = Ballast(own.path().join("ballast"));
        let file = fs::File::create(&ballast.0).map_err(|error| failed("cannot make the ballast", error))?;
        let step = 1 << 20;
        loop {
            // Written out each time: some file systems only know then how much is left.
            nix::unistd::syncfs(&file).map_err(|errno| failed("cannot write the ballast", errno.into()))?;
            let stat = statvfs(&own.path()).map_err(|errno| failed("cannot ask for the space", errno.into()))?;
            let left = stat.blocks_available() * stat.fragment_size();
            if left < free.bytes() + step {
                return Ok(Held::new(ballast));
            }
            // By halves: to keep track of what was taken takes space too.
            let more = ((left - free.bytes()) / 2).max(step);
            let length = file.metadata().map_err(|error| failed("cannot examine the ballast", error))?.len();
            posix_fallocate(&file, length as i64, more as i64).map_err(|errno| failed("cannot make the ballast", errno.into()))?;
        }
    }

    fn leftovers(&self) -> Result<Vec<String>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = Vec::new();
        let list = |path: &Path| -> Result<Vec<String>> {
            let entries = fs::read_dir(path).map_err(|error| failed("cannot list the pool", error))?;
            entries
                .map(|entry| Ok(entry.map_err(|error| failed("cannot list the pool", error))?.file_name().to_string_lossy().into()))
                .collect()
        };
        let snapshots = self.folder.path().join("containers-snapshots");
        left.extend(list(&self.folder.path().join("containers"))?.into_iter().filter(|name| !names.contains(name)));
        for name in list(&snapshots)? {
            if !names.contains(&name) {
                left.push(format!("containers-snapshots/{name}"));
            }
            for snapshot in list(&snapshots.join(&name))? {
                if snapshot.contains(".reroot-") {
                    left.push(format!("containers-snapshots/{name}/{snapshot}"));
                }
            }
        }
        left.sort();
        Ok(left)
    }
}

/// A process that is killed, by its id, and reaped when it is dropped.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file that takes space away.
struct Ballast(PathBuf);

impl fmt::Debug for Ballast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ballast({})", self.0.display())
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        // Space that was freed may be there only after the next commit of the file system.
        if let Some(folder) = self.0.parent().and_then(|folder| fs::File::open(folder).ok()) {
            let _ = nix::unistd::syncfs(&folder);
        }
    }
}
