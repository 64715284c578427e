//! Pools of the dir backend for the conformance suite: folders in one place, as LXD lays them out.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::fstatvfs;
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
///
/// All processes it needs are started by [`prepare`](Self::prepare), before the first case: between its fork and its exec, a new process
/// holds copies of all descriptors of this one, and a case in another thread may rightly see it in a root that it has just read.
#[derive(Debug)]
pub(crate) struct DirFactory {
    kind: Option<Kind>,
    commit: Commit,
    prepared: OnceLock<Result<Prepared, String>>,
}

#[derive(Debug)]
struct Prepared {
    /// For all pools but the confined ones.
    shared: Option<LoopFs>,
    /// For the confined ones, of which there is one at a time.
    confined: Option<LoopFs>,
    sitter: Arc<Mutex<Sitter>>,
}

impl DirFactory {
    /// On a file system of this kind, or in the temporary directory.
    pub(crate) fn new(kind: Option<Kind>, commit: Commit) -> Self {
        DirFactory { kind, commit, prepared: OnceLock::new() }
    }

    /// Makes what the pools need, or says why there can be none.
    pub(crate) fn prepare(&self) -> Result<(), String> {
        self.prepared().as_ref().map(drop).map_err(Clone::clone)
    }

    fn prepared(&self) -> &Result<Prepared, String> {
        self.prepared.get_or_init(|| {
            let make = || self.kind.map(|kind| LoopFs::new(kind, SIZE)).transpose();
            Ok(Prepared { shared: make()?, confined: make()?, sitter: Arc::new(Mutex::new(Sitter::start()?)) })
        })
    }

    fn pool_in(&self, place: PathBuf, confined: bool) -> Result<Box<dyn Pool>> {
        let prepared = self.prepared().as_ref().map_err(unsupported)?;
        let ballast = confined.then(|| place.join("ballast"));
        Ok(Box::new(DirPool::new(&place, self.commit, ballast, Arc::clone(&prepared.sitter))?))
    }
}

impl Factory for DirFactory {
    fn scheme(&self) -> &str {
        "dir"
    }

    fn pool(&self) -> Result<Box<dyn Pool>> {
        let prepared = self.prepared().as_ref().map_err(unsupported)?;
        self.pool_in(prepared.shared.as_ref().map_or_else(std::env::temp_dir, LoopFs::path), false)
    }

    fn confined_pool(&self) -> Result<Box<dyn Pool>> {
        let prepared = self.prepared().as_ref().map_err(unsupported)?;
        let own = prepared.confined.as_ref();
        let own = own.ok_or_else(|| unsupported("the temporary directory shares its space with others"))?;
        self.pool_in(own.path(), true)
    }
}

/// A process that sits down in a directory when it is told to.
#[derive(Debug)]
struct Sitter {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Sitter {
    fn start() -> Result<Self, String> {
        let script = "while IFS= read -r directory; do cd -- \"$directory\" && echo there || echo failed; done";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start sh: {error}"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(orders), Some(answers)) => Ok(Sitter { child, orders, answers: BufReader::new(answers) }),
            _ => Err("sh has no pipes".into()),
        }
    }

    fn sit_in(&mut self, directory: &Path) -> io::Result<()> {
        let mut order = directory.as_os_str().as_bytes().to_vec();
        order.push(b'\n');
        self.orders.write_all(&order)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer == "there\n" { Ok(()) } else { Err(io::Error::other(format!("sh says {answer:?}"))) }
    }
}

impl Drop for Sitter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets the sitter go when it is dropped.
#[derive(Debug)]
struct Seated(Arc<Mutex<Sitter>>);

impl Drop for Seated {
    fn drop(&mut self) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).sit_in(Path::new("/"));
    }
}

#[derive(Debug)]
struct DirPool {
    folder: Folder,
    commit: Commit,
    /// Where the file goes that takes space away, if the pool has a space of its own.
    ballast: Option<PathBuf>,
    sitter: Arc<Mutex<Sitter>>,
    /// The volumes that were asked for: what else lies there is left over.
    names: Mutex<BTreeSet<String>>,
}

impl DirPool {
    fn new(place: &Path, commit: Commit, ballast: Option<PathBuf>, sitter: Arc<Mutex<Sitter>>) -> Result<Self> {
        let folder = Folder::new(place).map_err(|error| failed("cannot make a folder", error))?;
        for part in ["containers", "containers-snapshots"] {
            fs::create_dir(folder.path().join(part)).map_err(|error| failed("cannot make a folder", error))?;
        }
        Ok(DirPool { folder, commit, ballast, sitter, names: Mutex::default() })
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
        copy(&self.path(name, Slot::Live), &folder.join(snapshot)).map_err(|error| failed("cannot copy the root", error))
    }

    fn hold(&self, name: &str) -> Result<Held> {
        let mut sitter = self.sitter.lock().unwrap_or_else(PoisonError::into_inner);
        sitter.sit_in(&self.path(name, Slot::Live)).map_err(|error| failed("cannot sit in the root", error))?;
        Ok(Held::new(Seated(Arc::clone(&self.sitter))))
    }

    fn limit_space(&self, free: ByteSize) -> Result<Held> {
        let ballast = self.ballast.clone().ok_or_else(|| unsupported("the pool shares its space with others"))?;
        let ballast = Ballast(ballast);
        let file = fs::File::create(&ballast.0).map_err(|error| failed("cannot make the ballast", error))?;
        let step = 1 << 20;
        loop {
            // Written out each time: some file systems only know then how much is left.
            nix::unistd::syncfs(&file).map_err(|errno| failed("cannot write the ballast", errno.into()))?;
            let stat = fstatvfs(&file).map_err(|errno| failed("cannot ask for the space", errno.into()))?;
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

/// Copies directories, files and links, which is enough of a snapshot for what is asked of one.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
        }
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        fs::copy(from, to)?;
    }
    Ok(())
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
