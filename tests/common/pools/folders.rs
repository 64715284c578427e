//! Pools of the dir and the btrfs backend: folders in one place, as LXD lays them out.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::fstatvfs;
use reroot::conformance::{Factory, Held, Pool};
use reroot::volume::{BasePool, Commit, Slot};
use reroot::{BaseName, ByteSize, RebuildableVolume, Result};
#[cfg(feature = "btrfs")]
use reroot::{
    Bases, CancelToken, Image, Rebuild, Wait,
    base::{CollectPolicy, References},
    btrfs::{BtrfsVolume, QuotaPolicy},
};

use super::super::Folder;
use super::super::loopfs::{Kind, LoopFs};
#[cfg(feature = "btrfs")]
use super::Quotas;
use super::{Backend, Place, Seated, Sitter, Turn, failed, unsupported};

/// In MiB; some file systems need more.
const SIZE: u64 = 128;
/// The same where what is removed takes space until a cleaner has been there.
const ROOMY_SIZE: u64 = 1024;

/// What the sitter is told: to sit down in a directory, to rise, and to take a snapshot of a subvolume.
const ORDERS: &str = "\
    sit) IFS= read -r directory; cd -- \"$directory\" ;; \
    rise) cd / ;; \
    snapshot) IFS= read -r from; IFS= read -r to; btrfs subvolume snapshot -r \"$from\" \"$to\" > /dev/null ;;";

impl Backend {
    /// Makes a file system ready for it.
    pub(crate) fn set_up(self, place: &Path) -> Result<(), String> {
        match self {
            #[cfg(feature = "btrfs")]
            Backend::Btrfs(quotas) => quotas.set_up(place),
            _ => {
                let _ = place;
                Ok(())
            }
        }
    }

    /// Waits for the space of what was removed.
    fn settle(self, place: &Path) -> Result<()> {
        match self {
            #[cfg(feature = "btrfs")]
            Backend::Btrfs(_) => {
                let wait = Wait::new(std::time::Duration::from_secs(60), CancelToken::new());
                BtrfsVolume::open(place.join("settled"))?.wait_reclaimed(&wait).map(drop)
            }
            _ => {
                let _ = place;
                Ok(())
            }
        }
    }
}

#[cfg(feature = "btrfs")]
impl Quotas {
    /// Turns them on as the library does, for a volume with a size.
    pub(crate) fn set_up(self, place: &Path) -> Result<(), String> {
        let policy = match self {
            Quotas::Off => return Ok(()),
            Quotas::Full => QuotaPolicy::Enable,
            Quotas::Simple => QuotaPolicy::EnableSimple,
        };
        let mut volume = BtrfsVolume::open(place.join("first")).map_err(report)?.with_quota(policy);
        Rebuild::new(Image::empty()).size(ByteSize::gib(1)).run(&mut volume).map_err(report)?;
        match volume.quota().map_err(report)? {
            Some(quota) if quota.max_referenced == Some(ByteSize::gib(1)) => Ok(()),
            other => Err(format!("quotas were turned on, and say {other:?}")),
        }
    }
}

#[cfg(feature = "btrfs")]
fn report(error: reroot::Error) -> String {
    error.report().to_string()
}

/// Makes pools on one kind of file system.
#[derive(Debug)]
pub(crate) struct DirFactory {
    backend: Backend,
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
    /// Whether the confined file system is some case's.
    taken: Arc<AtomicBool>,
}

impl DirFactory {
    /// On a file system of this kind, or in the temporary directory.
    pub(crate) fn new(kind: Option<Kind>, commit: Commit) -> Self {
        DirFactory { backend: Backend::Dir, kind, commit, prepared: OnceLock::new() }
    }

    /// Of subvolumes.
    #[cfg(feature = "btrfs")]
    pub(crate) fn btrfs(quotas: Quotas, commit: Commit) -> Self {
        DirFactory { backend: Backend::Btrfs(quotas), kind: Some(Kind::Btrfs), commit, prepared: OnceLock::new() }
    }

    fn prepared(&self) -> &Result<Prepared, String> {
        self.prepared.get_or_init(|| {
            // btrfs has no space left where all cases write to a small one at once, whatever the backend.
            let roomy = if self.kind == Some(Kind::Btrfs) { ROOMY_SIZE } else { SIZE };
            let make = |size| -> Result<_, String> {
                let made = self.kind.map(|kind| LoopFs::new(kind, size)).transpose()?;
                made.as_ref().map_or(Ok(()), |made| self.backend.set_up(&made.path()))?;
                Ok(made)
            };
            Ok(Prepared {
                shared: make(roomy)?,
                confined: make(SIZE)?,
                sitter: Arc::new(Mutex::new(Sitter::start(&mut Command::new("sh"), ORDERS)?)),
                taken: Arc::default(),
            })
        })
    }

    fn pool_in(&self, place: PathBuf, confined: bool) -> Result<Box<dyn Pool>> {
        let prepared = self.prepared().as_ref().map_err(unsupported)?;
        let ballast = confined.then(|| (place.join("ballast"), Turn::take(&prepared.taken)));
        Ok(Box::new(DirPool::new(&place, self.backend, self.commit, ballast, Arc::clone(&prepared.sitter))?))
    }
}

impl Place for DirFactory {
    fn prepare(&self) -> Result<(), String> {
        self.prepared().as_ref().map(drop).map_err(Clone::clone)
    }
}

impl Factory for DirFactory {
    fn scheme(&self) -> &str {
        self.backend.name()
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

#[derive(Debug)]
struct DirPool {
    folder: Folder,
    backend: Backend,
    commit: Commit,
    /// Where the file goes that takes space away, if the pool has a space of its own.
    ballast: Option<(PathBuf, Turn)>,
    sitter: Arc<Mutex<Sitter>>,
    /// The volumes that were asked for: what else lies there is left over.
    names: Mutex<BTreeSet<String>>,
}

impl DirPool {
    fn new(
        place: &Path,
        backend: Backend,
        commit: Commit,
        ballast: Option<(PathBuf, Turn)>,
        sitter: Arc<Mutex<Sitter>>,
    ) -> Result<Self> {
        let folder = Folder::new(place).map_err(|error| failed("cannot make a folder", error))?;
        for part in ["containers", "containers-snapshots"] {
            fs::create_dir(folder.path().join(part)).map_err(|error| failed("cannot make a folder", error))?;
        }
        Ok(DirPool { folder, backend, commit, ballast, sitter, names: Mutex::default() })
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
        let volume = self.backend.open(&self.path(name, Slot::Live), self.commit)?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(volume)
    }

    fn visit(&self, name: &str, slot: Slot, look: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        look(&self.path(name, slot))
    }

    fn snapshot(&self, name: &str, snapshot: &str) -> Result<String> {
        let folder = self.folder.path().join("containers-snapshots").join(name);
        fs::create_dir_all(&folder).map_err(|error| failed("cannot make the folder of the snapshots", error))?;
        let root = self.path(name, Slot::Live);
        let to = folder.join(snapshot);
        if self.backend == Backend::Dir {
            copy(&root, &to).map_err(|error| failed("cannot copy the root", error))?;
        } else {
            let mut sitter = self.sitter.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = sitter.order(&[Path::new("snapshot"), &root, &to]);
            taken.map_err(|error| failed("cannot take a snapshot", error))?;
        }
        Ok(snapshot.to_owned())
    }

    fn hold(&self, name: &str) -> Result<Held> {
        let mut sitter = self.sitter.lock().unwrap_or_else(PoisonError::into_inner);
        let sits = sitter.order(&[Path::new("sit"), &self.path(name, Slot::Live)]);
        sits.map_err(|error| failed("cannot sit in the root", error))?;
        Ok(Held::new(Seated(Arc::clone(&self.sitter))))
    }

    fn limit_space(&self, free: ByteSize) -> Result<Held> {
        let (ballast, _) = self.ballast.as_ref().ok_or_else(|| unsupported("the pool shares its space with others"))?;
        // What an earlier case removed must not come back after all is counted.
        self.backend.settle(self.folder.path())?;
        let ballast = Ballast(ballast.clone());
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

    fn bases(&self) -> Result<Box<dyn BasePool>> {
        self.backend.bases(self.folder.path())
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
        left.extend(left_of_bases(self.folder.path()).map_err(|error| failed("cannot list the bases", error))?);
        left.sort();
        Ok(left)
    }
}

/// What lies in the folders of a pool's bases besides complete ones, the times of their use, and the memo.
pub(crate) fn left_of_bases(pool: &Path) -> io::Result<Vec<String>> {
    let mut left = Vec::new();
    for within in ["reroot-bases-btrfs", "reroot-bases-dir"] {
        let folder = pool.join(within);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let base = name.strip_suffix(".reroot-used").unwrap_or(&name);
            let known = name == "memo" || base.parse::<BaseName>().is_ok() && folder.join(base).is_dir();
            if !known {
                left.push(format!("{within}/{name}"));
            }
        }
    }
    left.sort();
    Ok(left)
}

#[cfg(feature = "btrfs")]
impl Drop for DirPool {
    fn drop(&mut self) {
        if self.backend == Backend::Dir {
            return;
        }
        // What is read-only does not go with the folder.
        if let Ok(bases) = self.bases().map(Bases::new) {
            let policy = CollectPolicy::unused_for(std::time::Duration::ZERO).with_references(References::Ignore);
            let _ = bases.collect(&policy, &CancelToken::new());
        }
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names.iter() {
            let Ok(mut volume) = BtrfsVolume::open(self.path(name, Slot::Live)) else { continue };
            let _lock = volume.lock(&Wait::new(std::time::Duration::from_secs(20), CancelToken::new()));
            if let Ok(snapshots) = volume.snapshots() {
                let _ = volume.capture().and_then(|()| volume.purge(&snapshots));
            }
            let _ = volume.rename(Slot::Live, Slot::Retired).and_then(|()| volume.discard(Slot::Retired));
        }
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
