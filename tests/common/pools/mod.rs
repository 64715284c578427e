//! Pools for the conformance suite and the crash tests, a file for each kind of place; and the backends under test.

#[cfg(feature = "ceph")]
mod ceph;
#[cfg(any(feature = "ceph", feature = "lvm"))]
mod devices;
mod folders;
#[cfg(feature = "lvm")]
mod lvm;
#[cfg(feature = "zfs")]
mod zfs;

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "lvm")]
use super::group::POOL;
#[cfg(feature = "btrfs")]
use reroot::btrfs::{BtrfsBases, BtrfsVolume};
use reroot::conformance::Factory;
use reroot::dir::{DirBases, DirVolume};
#[cfg(feature = "ceph")]
use reroot::filesystem::FilesystemKind;
use reroot::volume::{BasePool, Commit};
#[cfg(feature = "zfs")]
use reroot::zfs::{ZfsBases, ZfsVolume};
use reroot::{Error, ErrorKind, RebuildableVolume, Result};

#[cfg(feature = "ceph")]
#[allow(unused_imports, reason = "each program uses a part of it")]
pub(crate) use self::ceph::{CephFactory, is_left as is_left_among_images, open_image, open_image_bases};
#[allow(unused_imports, reason = "each program uses a part of it")]
pub(crate) use self::folders::{DirFactory, left_of_bases};
#[cfg(feature = "lvm")]
#[allow(unused_imports, reason = "each program uses a part of it")]
pub(crate) use self::lvm::{Layout, LvmFactory, is_left as is_left_in_group, whole_group};
#[cfg(feature = "zfs")]
#[allow(unused_imports, reason = "each program uses a part of it")]
pub(crate) use self::zfs::{ZfsFactory, is_left, visit as visit_dataset};

/// A factory that can say beforehand whether it will have pools.
pub(crate) trait Place: Factory {
    /// Makes what the pools need, or says why there can be none.
    fn prepare(&self) -> Result<(), String>;

    /// Whether there have to be pools.
    fn is_required(&self) -> bool {
        super::required()
    }
}

/// The backend under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Dir,
    #[cfg(feature = "btrfs")]
    Btrfs(Quotas),
    /// Of images with this filesystem.
    #[cfg(feature = "ceph")]
    Ceph(FilesystemKind),
    #[cfg(feature = "lvm")]
    Lvm,
    #[cfg(feature = "zfs")]
    Zfs,
}

/// How the btrfs of a test counts.
#[cfg(feature = "btrfs")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quotas {
    Off,
    Full,
    Simple,
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Dir => "dir",
            #[cfg(feature = "btrfs")]
            Backend::Btrfs(_) => "btrfs",
            #[cfg(feature = "ceph")]
            Backend::Ceph(FilesystemKind::Xfs) => "ceph-xfs",
            #[cfg(feature = "ceph")]
            Backend::Ceph(_) => "ceph",
            #[cfg(feature = "lvm")]
            Backend::Lvm => "lvm",
            #[cfg(feature = "zfs")]
            Backend::Zfs => "zfs",
        }
    }

    /// The backend that is called so.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "dir" => Some(Backend::Dir),
            #[cfg(feature = "btrfs")]
            "btrfs" => Some(Backend::Btrfs(Quotas::Off)),
            #[cfg(feature = "ceph")]
            "ceph-xfs" => Some(Backend::Ceph(FilesystemKind::Xfs)),
            #[cfg(feature = "ceph")]
            "ceph" => Some(Backend::Ceph(FilesystemKind::Ext4)),
            #[cfg(feature = "lvm")]
            "lvm" => Some(Backend::Lvm),
            #[cfg(feature = "zfs")]
            "zfs" => Some(Backend::Zfs),
            _ => None,
        }
    }

    /// The volume of this path, or of the dataset or the logical volume of this name.
    pub(crate) fn open(self, path: &Path, commit: Commit) -> Result<Box<dyn RebuildableVolume>> {
        Ok(match self {
            Backend::Dir => Box::new(DirVolume::open(path)?.with_commit(commit)),
            #[cfg(feature = "btrfs")]
            Backend::Btrfs(_) => Box::new(BtrfsVolume::open(path)?.with_commit(commit)),
            #[cfg(feature = "ceph")]
            Backend::Ceph(kind) => Box::new(open_image(kind, &path.to_string_lossy())?),
            #[cfg(feature = "lvm")]
            Backend::Lvm => Box::new(Layout::USUAL.open(&within_group(path), POOL)?),
            #[cfg(feature = "zfs")]
            Backend::Zfs => Box::new(ZfsVolume::open(&path.to_string_lossy())?),
        })
    }

    /// The bases of the pool in this folder.
    pub(crate) fn bases(self, pool: &Path) -> Result<Box<dyn BasePool>> {
        Ok(match self {
            Backend::Dir => Box::new(DirBases::open(pool)?),
            #[cfg(feature = "btrfs")]
            Backend::Btrfs(_) => Box::new(BtrfsBases::open(pool)?),
            #[cfg(feature = "ceph")]
            Backend::Ceph(kind) => Box::new(open_image_bases(kind, &pool.to_string_lossy())?),
            #[cfg(feature = "lvm")]
            Backend::Lvm => Box::new(Layout::USUAL.bases(&within_group(pool))?),
            #[cfg(feature = "zfs")]
            Backend::Zfs => Box::new(ZfsBases::open(&pool.to_string_lossy())?),
        })
    }

    /// Whether a kill on it costs a second or more, for the commands that run before and after.
    pub(crate) fn is_slow(self) -> bool {
        match self {
            #[cfg(feature = "ceph")]
            Backend::Ceph(_) => true,
            #[cfg(feature = "lvm")]
            Backend::Lvm => true,
            #[cfg(feature = "zfs")]
            Backend::Zfs => true,
            _ => false,
        }
    }

    /// The bases of the pool in which this volume lies, two folders up; on Ceph, of its namespace, and on LVM, of the lab's thin pool.
    pub(crate) fn pool_of(self, volume: &Path) -> Result<Box<dyn BasePool>> {
        #[cfg(feature = "ceph")]
        if let Backend::Ceph(_) = self {
            return self.bases(volume.parent().unwrap_or(volume));
        }
        #[cfg(feature = "lvm")]
        if self == Backend::Lvm {
            return self.bases(&volume.with_file_name(POOL));
        }
        self.bases(volume.parent().and_then(Path::parent).unwrap_or(volume))
    }
}

/// The name of a logical volume without that of its group, as it is written.
#[cfg(feature = "lvm")]
fn within_group(path: &Path) -> String {
    let name = path.to_string_lossy();
    name.split_once('/').map_or("", |(_, name)| name).to_owned()
}

fn failed(what: &str, error: io::Error) -> Error {
    Error::io("prepare a test", what, error)
}

fn unsupported(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, "prepare a test", why)
}

/// The confined place of a factory, until it is dropped: two cases that fill it at once would make room for each other.
#[derive(Debug)]
pub(crate) struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(taken: &Arc<AtomicBool>) -> Self {
        while taken.swap(true, Ordering::Acquire) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Turn(Arc::clone(taken))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A process that holds a root when it is told to, and runs commands.
///
/// It is started before the first case, and all that a case needs goes through it: between its fork and its exec, a new process holds copies of
/// all descriptors of this one, and a case in another thread may rightly see it in a root that it has just read.
#[derive(Debug)]
struct Sitter {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Sitter {
    /// A shell that knows these orders: the branches of a `case`. What an order needs to know it reads, a line each.
    fn start(shell: &mut Command, orders: &str) -> Result<Self, String> {
        let script = format!("while IFS= read -r order; do case $order in {orders} esac && echo done || echo failed; done");
        let mut child = shell
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {:?}: {error}", shell.get_program()))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(orders), Some(answers)) => Ok(Sitter { child, orders, answers: BufReader::new(answers) }),
            _ => Err("sh has no pipes".into()),
        }
    }

    /// Has an order carried out. Returns what it said, in lines.
    fn order(&mut self, lines: &[&Path]) -> io::Result<Vec<String>> {
        let order: Vec<u8> = lines.iter().flat_map(|line| [line.as_os_str().as_bytes(), b"\n"].concat()).collect();
        self.orders.write_all(&order)?;
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            let length = self.answers.read_line(&mut line)?;
            match line.trim_end_matches('\n') {
                "done" => return Ok(said),
                "failed" => return Err(io::Error::other(format!("{} failed: {}", lines[0].display(), said.join(" ")))),
                _ if length == 0 => return Err(io::Error::other("the shell has ended")),
                other => said.push(other.to_owned()),
            }
        }
    }
}

impl Drop for Sitter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets a root go when it is dropped.
#[derive(Debug)]
struct Seated(Arc<Mutex<Sitter>>);

impl Drop for Seated {
    fn drop(&mut self) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).order(&[Path::new("rise")]);
    }
}
