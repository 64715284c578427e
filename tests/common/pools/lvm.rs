//! Pools of the LVM backend: the whole group of the lab, for one case at a time.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use reroot::conformance::{Factory, Held, Pool};
use reroot::filesystem::{FilesystemKind, Recipe};
use reroot::lvm::{LvmBases, LvmVolume};
use reroot::volume::{BasePool, Slot};
use reroot::{ByteSize, RebuildableVolume, Result};

use super::super::Folder;
use super::super::group::{self, GROUP, POOL, THICK, Visited};
use super::devices::{self, SITTING, slot_name, taken};
use super::{Place, Sitter, Turn, failed, unsupported};

/// The thin pool whose space is limited.
const CONFINED: &str = "confined";
/// Of the confined pool.
const SIZE: ByteSize = ByteSize::mib(256);
/// What takes its space away.
const BALLAST: &str = "ballast";

/// What volumes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Thin(FilesystemKind),
    Thick(FilesystemKind),
}

impl Layout {
    /// The backend of the crash tests has one.
    pub(crate) const USUAL: Layout = Layout::Thin(FilesystemKind::Ext4);

    pub(crate) fn kind(self) -> FilesystemKind {
        match self {
            Layout::Thin(kind) | Layout::Thick(kind) => kind,
        }
    }

    pub(crate) fn size(self) -> ByteSize {
        devices::size(self.kind())
    }

    pub(crate) fn group(self) -> &'static str {
        match self {
            Layout::Thin(_) => GROUP,
            Layout::Thick(_) => THICK,
        }
    }

    /// The volume of this name in the group, made in this thin pool if it is new and thin.
    pub(crate) fn open(self, volume: &str, pool: &str) -> Result<LvmVolume> {
        let volume = LvmVolume::open(&format!("{}/{volume}", self.group()))?;
        let volume = volume.with_recipe(Recipe::new(self.kind())).with_size(self.size());
        match self {
            Layout::Thin(_) => volume.with_pool(pool),
            Layout::Thick(_) => Ok(volume),
        }
    }

    pub(crate) fn bases(self, pool: &str) -> Result<LvmBases> {
        Ok(LvmBases::open(&format!("{GROUP}/{pool}"))?.with_recipe(Recipe::new(self.kind())).with_size(self.size()))
    }
}

/// Makes pools in the lab's group.
#[derive(Debug)]
pub(crate) struct LvmFactory {
    layout: Layout,
    prepared: OnceLock<Result<Prepared, String>>,
}

#[derive(Debug)]
struct Prepared {
    // Dropped in this order: what uses the folder before that.
    sitter: Arc<Mutex<Sitter>>,
    /// Where volumes are mounted.
    folder: Folder,
}

impl LvmFactory {
    pub(crate) fn new(layout: Layout) -> Self {
        LvmFactory { layout, prepared: OnceLock::new() }
    }

    fn prepared(&self) -> &Result<Prepared, String> {
        self.prepared.get_or_init(|| {
            group::group()?;
            if let Layout::Thick(_) = self.layout {
                group::thick_group()?;
            } else if !group::volumes(GROUP)?.contains(&format!("{GROUP}/{CONFINED}")) {
                let size = SIZE.bytes();
                let options = format!("--type thin-pool --size {size}b --poolmetadatasize 4M --zero y --name {CONFINED} {GROUP}");
                group::lvm(&format!("lvcreate --yes {options}"))?;
            }
            let orders = format!("{SITTING} lvm) IFS= read -r words; lvm $words 2>&1 ;;");
            Ok(Prepared {
                sitter: Arc::new(Mutex::new(Sitter::start(Command::new("unshare").args(["--mount", "sh"]), &orders)?)),
                folder: Folder::new(&std::env::temp_dir()).map_err(|error| error.to_string())?,
            })
        })
    }

    fn pool_in(&self, pool: &'static str) -> Result<Box<dyn Pool>> {
        let prepared = self.prepared().as_ref().map_err(unsupported)?;
        let folder = Folder::new(prepared.folder.path()).map_err(|error| failed("cannot make a folder", error))?;
        let sitter = Arc::clone(&prepared.sitter);
        Ok(Box::new(LvmPool { layout: self.layout, pool, folder, sitter, names: Mutex::default(), _turn: whole_group() }))
    }
}

/// Waits until the groups are no one else's in this process: bases have names that are theirs in a whole group.
pub(crate) fn whole_group() -> Turn {
    static TAKEN: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    Turn::take(TAKEN.get_or_init(Arc::default))
}

impl Place for LvmFactory {
    fn prepare(&self) -> Result<(), String> {
        self.prepared().as_ref().map(drop).map_err(Clone::clone)
    }

    fn is_required(&self) -> bool {
        std::env::var_os("REROOT_LAB").is_some()
    }
}

impl Factory for LvmFactory {
    fn scheme(&self) -> &str {
        "lvm"
    }

    fn pool(&self) -> Result<Box<dyn Pool>> {
        self.pool_in(POOL)
    }

    fn confined_pool(&self) -> Result<Box<dyn Pool>> {
        match self.layout {
            Layout::Thin(_) => self.pool_in(CONFINED),
            Layout::Thick(_) => Err(unsupported("a thick volume has all its space from the beginning")),
        }
    }
}

#[derive(Debug)]
struct LvmPool {
    layout: Layout,
    /// The thin pool.
    pool: &'static str,
    /// Where volumes are mounted.
    folder: Folder,
    sitter: Arc<Mutex<Sitter>>,
    /// The volumes that were asked for: what else lies there is left over.
    names: Mutex<BTreeSet<String>>,
    _turn: Turn,
}

impl LvmPool {
    fn order(&self, lines: &[&str]) -> Result<Vec<String>> {
        let lines: Vec<_> = lines.iter().map(Path::new).collect();
        let done = self.sitter.lock().unwrap_or_else(PoisonError::into_inner).order(&lines);
        done.map_err(|error| failed("LVM refused", error))
    }

    fn lvm(&self, words: &str) -> Result<Vec<String>> {
        self.order(&["lvm", words])
    }

    /// All of the group but its pools.
    fn list(&self) -> Result<Vec<String>> {
        let list = self.lvm(&format!("lvs --noheadings --options lv_name {}", self.layout.group()))?;
        let names = list.iter().map(|line| line.trim()).filter(|name| ![POOL, CONFINED].contains(name));
        Ok(names.map(str::to_owned).collect())
    }

    /// The whole name of what lies in the group.
    fn full(&self, volume: &str) -> String {
        format!("{}/{volume}", self.layout.group())
    }

    /// Activates a volume; returns its device and whether it was inactive.
    fn activate(&self, volume: &str) -> Result<(String, bool)> {
        let volume = self.full(volume);
        let was_inactive = group::device(&volume).is_none();
        if was_inactive {
            self.lvm(&format!("lvchange --activate y --ignoreactivationskip {volume}"))?;
        }
        let device = group::device(&volume).ok_or_else(|| unsupported(format!("{volume} has no device")))?;
        Ok((device.to_string_lossy().into_owned(), was_inactive))
    }
}

impl Pool for LvmPool {
    fn volume(&self, name: &str) -> Result<Box<dyn RebuildableVolume>> {
        let volume = self.layout.open(name, self.pool)?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(Box::new(volume))
    }

    fn visit(&self, name: &str, slot: Slot, look: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        let name = self.full(&slot_name(name, slot));
        let visited = Visited::new(&name, self.folder.path()).map_err(unsupported)?;
        look(visited.ok_or_else(|| unsupported(format!("there is no volume {name}")))?.path())
    }

    fn snapshot(&self, name: &str, snapshot: &str) -> Result<String> {
        // LVM takes no spaces in names.
        let snapshot = format!("{name}-{}", snapshot.replace(' ', "_"));
        let space = match self.layout {
            Layout::Thin(_) => "--setactivationskip y",
            Layout::Thick(_) => "--extents 100%ORIGIN",
        };
        self.lvm(&format!("lvcreate --yes --snapshot --permission r {space} --name {snapshot} {}", self.full(name)))?;
        Ok(snapshot)
    }

    fn hold(&self, name: &str) -> Result<Held> {
        let at = self.folder.path().join("held");
        fs::create_dir_all(&at).map_err(|error| failed("cannot make a folder", error))?;
        let (device, was_inactive) = self.activate(name)?;
        self.order(&["sit", &device, &at.to_string_lossy()])?;
        let deactivated = was_inactive.then(|| format!("lvchange --activate n {}", self.full(name)));
        Ok(Held::new(Seated { sitter: Arc::clone(&self.sitter), deactivated }))
    }

    fn limit_space(&self, free: ByteSize) -> Result<Held> {
        if self.pool != CONFINED {
            return Err(unsupported("the pool shares its space with others"));
        }
        let ballast = format!("{GROUP}/{BALLAST}");
        self.lvm(&format!("lvcreate --yes --virtualsize {}b --thinpool {CONFINED} --name {BALLAST} {GROUP}", SIZE.bytes()))?;
        let held = Ballast { sitter: Arc::clone(&self.sitter), ballast };
        let device = group::device(&held.ballast).ok_or_else(|| unsupported("the ballast has no device"))?;
        let failed = |error| failed("cannot fill the ballast", error);
        // Around the page cache: what is counted is there.
        let options = fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_SYNC).open(device);
        let mut file = options.map_err(failed)?;
        // A root that is begun takes space before the first byte of an image.
        let kept = free.saturating_add(taken(self.layout.kind())).bytes();
        let (data, _) = group::left(&self.full(CONFINED)).map_err(unsupported)?;
        let mut rest = data.bytes().saturating_sub(kept);
        while rest > 0 {
            let step = rest.min(4 << 20);
            file.write_all(&vec![0xa5; step as usize]).map_err(failed)?;
            rest -= step;
        }
        Ok(Held::new(held))
    }

    fn bases(&self) -> Result<Box<dyn BasePool>> {
        match self.layout {
            Layout::Thin(_) => Ok(Box::new(self.layout.bases(self.pool)?)),
            Layout::Thick(_) => Err(unsupported("bases lie in thin pools")),
        }
    }

    fn leftovers(&self) -> Result<Vec<String>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let list = self.list()?;
        let pools = [POOL.to_owned(), CONFINED.to_owned()];
        let all: Vec<_> = list.iter().chain(&pools).map(|name| self.full(name)).collect();
        let mut left: Vec<_> = list.into_iter().filter(|name| is_left(name, &names)).collect();
        left.extend(group::stray_devices(self.layout.group(), &all).into_iter().map(|device| format!("the device {device}")));
        left.sort();
        Ok(left)
    }
}

/// Whether what lies in the group is neither a volume or a snapshot of one, nor a complete base.
pub(crate) fn is_left(name: &str, volumes: &BTreeSet<String>) -> bool {
    if [POOL, CONFINED, BALLAST].contains(&name) || volumes.contains(name) {
        return false;
    }
    if let Some(base) = name.strip_prefix("reroot-base-") {
        // The kind of its file system, and digits of its name.
        return base.contains('.');
    }
    let is_snapshot = |volume: &String| name.strip_prefix(volume.as_str()).is_some_and(|rest| rest.starts_with('-'));
    !volumes.iter().any(is_snapshot)
}

impl Drop for LvmPool {
    fn drop(&mut self) {
        let names: Vec<_> = self.list().unwrap_or_default().iter().map(|name| self.full(name)).collect();
        if names.is_empty() {
            return;
        }
        if let Err(why) = self.lvm(&format!("lvremove --yes {}", names.join(" "))) {
            eprintln!("cannot remove what is in a pool: {}", why.report());
        }
    }
}

/// Lets a root go when it is dropped.
#[derive(Debug)]
struct Seated {
    sitter: Arc<Mutex<Sitter>>,
    /// The command for a volume that was inactive before.
    deactivated: Option<String>,
}

impl Drop for Seated {
    fn drop(&mut self) {
        let mut sitter = self.sitter.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = sitter.order(&[Path::new("rise")]);
        if let Some(words) = &self.deactivated {
            // By another name, if it was rebuilt meanwhile; then that is not ours to look for.
            let _ = sitter.order(&[Path::new("lvm"), Path::new(words)]);
        }
    }
}

/// A volume that takes space away.
#[derive(Debug)]
struct Ballast {
    sitter: Arc<Mutex<Sitter>>,
    ballast: String,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let mut sitter = self.sitter.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(why) = sitter.order(&[Path::new("lvm"), Path::new(&format!("lvremove --yes {}", self.ballast))]) {
            eprintln!("cannot give the space back: {why}");
        }
    }
}
