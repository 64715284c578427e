//! Pools of the ZFS backend: datasets in one dataset, as LXD lays them out.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;
use reroot::conformance::{Factory, Held, Pool};
use reroot::volume::{BasePool, Commit, Slot};
use reroot::{BaseName, ByteSize, RebuildableVolume, Result};

use super::super::Folder;
use super::super::lab::{self, Dataset};
use super::super::visit::Mounted;
use super::{Backend, Place, Seated, Sitter, Turn, failed, unsupported};

/// Of the confined pool, of which ZFS keeps the half for itself.
const SIZE: ByteSize = ByteSize::mib(256);

/// What the sitter is told. It mounts where nobody else sees it.
const ORDERS: &str = "\
    sit) IFS= read -r dataset; IFS= read -r at; mount -i -t zfs \"$dataset\" \"$at\" && cd \"$at\" ;; \
    rise) at=$PWD; cd / && umount \"$at\" ;; \
    create) IFS= read -r dataset; zfs create -p \"$dataset\" 2>&1 ;; \
    destroy) IFS= read -r dataset; zfs destroy -R \"$dataset\" 2>&1 ;; \
    snapshot) IFS= read -r snapshot; zfs snapshot \"$snapshot\" 2>&1 ;; \
    list) IFS= read -r dataset; zfs list -H -r -o name -t filesystem,snapshot \"$dataset\" 2>&1 ;; \
    sync) IFS= read -r pool; { zpool sync \"$pool\" && zpool wait -t free \"$pool\" && zpool sync \"$pool\"; } 2>&1 ;;";

/// Makes pools in the lab's pool, and confined ones in a pool of their own.
#[derive(Debug)]
pub(crate) struct ZfsFactory {
    prepared: OnceLock<Result<Prepared, String>>,
}

#[derive(Debug)]
struct Prepared {
    // Dropped in this order: what uses the folder before that.
    sitter: Arc<Mutex<Sitter>>,
    /// For all pools but the confined ones.
    shared: Dataset,
    /// For the confined ones, of which there is one at a time.
    confined: Confined,
    /// Where datasets are mounted, and the disk of the confined pool is.
    folder: Folder,
    /// Whether the confined pool is some case's.
    taken: Arc<AtomicBool>,
    count: AtomicU32,
}

impl ZfsFactory {
    pub(crate) fn new() -> Self {
        ZfsFactory { prepared: OnceLock::new() }
    }

    fn prepared(&self) -> &Result<Prepared, String> {
        self.prepared.get_or_init(|| {
            let shared = Dataset::new()?;
            // What the cases are about where a file system has it.
            lab::zfs(&["set", "acltype=posix", "xattr=sa", &shared.0])?;
            let folder = Folder::new(&std::env::temp_dir()).map_err(|error| error.to_string())?;
            let sitter = Sitter::start(Command::new("unshare").args(["--mount", "sh"]), ORDERS)?;
            Ok(Prepared {
                confined: Confined::new(folder.path())?,
                folder,
                shared,
                sitter: Arc::new(Mutex::new(sitter)),
                taken: Arc::default(),
                count: AtomicU32::default(),
            })
        })
    }

    fn pool_in(&self, parent: &str, turn: Option<Turn>) -> Result<Box<dyn Pool>> {
        let prepared = self.prepared().as_ref().map_err(unsupported)?;
        let folder = Folder::new(prepared.folder.path()).map_err(|error| failed("cannot make a folder", error))?;
        let dataset = format!("{parent}/test-{}", prepared.count.fetch_add(1, Ordering::Relaxed));
        let pool = ZfsPool { dataset, folder, turn, sitter: Arc::clone(&prepared.sitter), names: Mutex::default() };
        pool.order(&["create", &format!("{}/containers", pool.dataset)])?;
        Ok(Box::new(pool))
    }
}

impl Place for ZfsFactory {
    fn prepare(&self) -> Result<(), String> {
        self.prepared().as_ref().map(drop).map_err(Clone::clone)
    }

    fn is_required(&self) -> bool {
        std::env::var_os("REROOT_LAB").is_some()
    }
}

impl Factory for ZfsFactory {
    fn scheme(&self) -> &str {
        "zfs"
    }

    fn pool(&self) -> Result<Box<dyn Pool>> {
        let prepared = self.prepared().as_ref().map_err(unsupported)?;
        self.pool_in(&prepared.shared.0, None)
    }

    fn confined_pool(&self) -> Result<Box<dyn Pool>> {
        let prepared = self.prepared().as_ref().map_err(unsupported)?;
        self.pool_in(&prepared.confined.0, Some(Turn::take(&prepared.taken)))
    }
}

/// A pool on a file, gone when it is dropped.
#[derive(Debug)]
struct Confined(String);

impl Confined {
    fn new(folder: &Path) -> Result<Self, String> {
        let (name, file) = (format!("reroot-confined-{}", std::process::id()), folder.join("disk"));
        let made = fs::File::create(&file).and_then(|file| file.set_len(SIZE.bytes()));
        made.map_err(|error| format!("cannot make the disk of a pool: {error}"))?;
        lab::run(Command::new("zpool").args(["create", "-m", "none", "-O", "compression=off", &name]).arg(file))?;
        Ok(Confined(name))
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        if let Err(why) = lab::run(Command::new("zpool").args(["destroy", "-f", &self.0])) {
            eprintln!("cannot destroy the pool {}: {why}", self.0);
        }
    }
}

#[derive(Debug)]
struct ZfsPool {
    dataset: String,
    /// Where datasets are mounted.
    folder: Folder,
    /// If the pool has a space of its own.
    turn: Option<Turn>,
    sitter: Arc<Mutex<Sitter>>,
    /// The volumes that were asked for: what else lies there is left over.
    names: Mutex<BTreeSet<String>>,
}

impl ZfsPool {
    fn order(&self, words: &[&str]) -> Result<Vec<String>> {
        let lines: Vec<_> = words.iter().map(Path::new).collect();
        let done = self.sitter.lock().unwrap_or_else(PoisonError::into_inner).order(&lines);
        done.map_err(|error| failed("ZFS refused", error))
    }

    fn volume_name(&self, name: &str, slot: Slot) -> String {
        let suffix = match slot {
            Slot::Live => "",
            Slot::Staged => ".reroot-staged",
            Slot::Retired => ".reroot-retired",
        };
        format!("{}/containers/{name}{suffix}", self.dataset)
    }

    /// Waits for the space of what was removed, which comes back by and by.
    fn settle(&self) -> Result<()> {
        self.order(&["sync", self.zpool()]).map(drop)
    }

    fn zpool(&self) -> &str {
        self.dataset.split('/').next().unwrap_or_default()
    }
}

impl Pool for ZfsPool {
    fn volume(&self, name: &str) -> Result<Box<dyn RebuildableVolume>> {
        let volume = Backend::Zfs.open(self.volume_name(name, Slot::Live).as_ref(), Commit::TwoRenames)?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(volume)
    }

    fn visit(&self, name: &str, slot: Slot, look: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        let visited = visit(&self.volume_name(name, slot), self.folder.path());
        look(visited.map_err(|error| failed("cannot mount the root", error))?.path())
    }

    fn snapshot(&self, name: &str, snapshot: &str) -> Result<String> {
        let snapshot = format!("snapshot-{snapshot}");
        self.order(&["snapshot", &format!("{}@{snapshot}", self.volume_name(name, Slot::Live))])?;
        Ok(snapshot)
    }

    fn hold(&self, name: &str) -> Result<Held> {
        let at = self.folder.path().join("held");
        fs::create_dir_all(&at).map_err(|error| failed("cannot make a folder", error))?;
        self.order(&["sit", &self.volume_name(name, Slot::Live), &at.to_string_lossy()])?;
        Ok(Held::new(Seated(Arc::clone(&self.sitter))))
    }

    fn limit_space(&self, free: ByteSize) -> Result<Held> {
        if self.turn.is_none() {
            return Err(unsupported("the pool shares its space with others"));
        }
        let name = format!("{}/ballast", self.dataset);
        self.order(&["create", &name])?;
        let visited = visit(&name, self.folder.path()).map_err(|error| failed("cannot mount the ballast", error))?;
        let failed = |error| failed("cannot make the ballast", error);
        let mut file = fs::File::create(visited.path().join("ballast")).map_err(failed)?;
        let step = 1 << 20;
        loop {
            // What an earlier case removed, and what was just written, counts only once it is on the disk.
            self.settle()?;
            let stat = statvfs(visited.path()).map_err(|errno| failed(errno.into()))?;
            let left = stat.blocks_available() * stat.fragment_size();
            if left < free.bytes() + step {
                return Ok(Held::new(Ballast {
                    visited: Some(visited),
                    name,
                    pool: self.zpool().to_owned(),
                    sitter: Arc::clone(&self.sitter),
                }));
            }
            let more = ((left - free.bytes()) / 2).max(step);
            file.write_all(&vec![0xa5; more as usize]).map_err(failed)?;
        }
    }

    fn bases(&self) -> Result<Box<dyn BasePool>> {
        Backend::Zfs.bases(self.dataset.as_ref())
    }

    fn leftovers(&self) -> Result<Vec<String>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let list = self.order(&["list", &self.dataset])?;
        let within = list.iter().filter_map(|name| name.strip_prefix(&self.dataset)?.strip_prefix('/'));
        Ok(within.filter(|name| is_left(name, &names)).map(str::to_owned).collect())
    }
}

/// Whether what lies in a pool is neither a volume or a snapshot of one, nor a complete base.
pub(crate) fn is_left(name: &str, volumes: &BTreeSet<String>) -> bool {
    let (dataset, snapshot) = name.split_once('@').map_or((name, None), |(dataset, snapshot)| (dataset, Some(snapshot)));
    match dataset.split_once('/') {
        None => !matches!((dataset, snapshot), ("containers" | "reroot-bases" | "ballast", None)),
        Some(("containers", volume)) => {
            !volumes.contains(volume) || snapshot.is_some_and(|snapshot| !snapshot.starts_with("snapshot-"))
        }
        Some(("reroot-bases", base)) => base.parse::<BaseName>().is_err() || !matches!(snapshot, None | Some("reroot-base")),
        Some(_) => true,
    }
}

impl Drop for ZfsPool {
    fn drop(&mut self) {
        let destroyed = self.order(&["destroy", &self.dataset]);
        if let Err(why) = destroyed.and_then(|_| if self.turn.is_some() { self.settle() } else { Ok(()) }) {
            eprintln!("cannot remove a pool: {}", why.report());
        }
    }
}

/// Mounts a dataset for as long as someone looks at it.
pub(crate) fn visit(dataset: &str, folder: &Path) -> std::io::Result<Mounted> {
    Mounted::new(folder, |at| mount(Some(dataset), at, Some("zfs"), MsFlags::empty(), None::<&Path>))
}

/// A dataset that takes space away.
#[derive(Debug)]
struct Ballast {
    visited: Option<Mounted>,
    name: String,
    pool: String,
    sitter: Arc<Mutex<Sitter>>,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        self.visited = None;
        let mut sitter = self.sitter.lock().unwrap_or_else(PoisonError::into_inner);
        for order in [["destroy", &self.name], ["sync", &self.pool]] {
            if let Err(why) = sitter.order(&order.map(Path::new)) {
                eprintln!("cannot give the space back: {why}");
            }
        }
    }
}
