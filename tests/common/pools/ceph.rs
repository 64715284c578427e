//! Pools of the Ceph backend: a namespace for each case, and a pool with a quota for those that fill it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use reroot::ceph::{CephBases, CephVolume};
use reroot::conformance::{Factory, Held, Pool};
use reroot::filesystem::{FilesystemKind, Recipe};
use reroot::volume::{BasePool, Slot};
use reroot::{ByteSize, RebuildableVolume, Result};

use super::super::Folder;
use super::super::cluster::{self, Confined, Mapped, Space, Visited};
use super::devices::{SITTING, size, slot_name, taken};
use super::{Place, Seated, Sitter, failed, unsupported};

/// Makes namespaces in the lab's cluster.
#[derive(Debug)]
pub(crate) struct CephFactory {
    kind: FilesystemKind,
    prepared: OnceLock<Result<Prepared, String>>,
}

#[derive(Debug)]
struct Prepared {
    // Dropped in this order: what uses the folder before that.
    sitter: Arc<Mutex<Sitter>>,
    /// Where volumes are mounted.
    folder: Folder,
}

/// The image `POOL/NAMESPACE/NAME`, with this filesystem if it is new.
pub(crate) fn open_image(kind: FilesystemKind, name: &str) -> Result<CephVolume> {
    Ok(CephVolume::open(name)?.with_recipe(Recipe::new(kind)).with_size(size(kind)))
}

/// The bases of `POOL/NAMESPACE`.
pub(crate) fn open_image_bases(kind: FilesystemKind, space: &str) -> Result<CephBases> {
    Ok(CephBases::open(space)?.with_recipe(Recipe::new(kind)).with_size(size(kind)))
}

impl CephFactory {
    pub(crate) fn new(kind: FilesystemKind) -> Self {
        CephFactory { kind, prepared: OnceLock::new() }
    }

    fn prepared(&self) -> &Result<Prepared, String> {
        self.prepared.get_or_init(|| {
            cluster::cluster()?;
            Ok(Prepared {
                sitter: Arc::new(Mutex::new(Sitter::start(Command::new("unshare").args(["--mount", "sh"]), SITTING)?)),
                folder: Folder::new(&std::env::temp_dir()).map_err(|error| error.to_string())?,
            })
        })
    }

    fn pool_in(&self, space: Result<Space, String>, confined: Option<Confined>) -> Result<Box<dyn Pool>> {
        let prepared = self.prepared().as_ref().map_err(unsupported)?;
        let folder = Folder::new(prepared.folder.path()).map_err(|error| failed("cannot make a folder", error))?;
        let (space, sitter) = (space.map_err(unsupported)?, Arc::clone(&prepared.sitter));
        Ok(Box::new(CephPool { kind: self.kind, space, confined, folder, sitter, names: Mutex::default() }))
    }
}

impl Place for CephFactory {
    fn prepare(&self) -> Result<(), String> {
        self.prepared().as_ref().map(drop).map_err(Clone::clone)
    }

    fn is_required(&self) -> bool {
        std::env::var_os("REROOT_LAB").is_some()
    }
}

impl Factory for CephFactory {
    fn scheme(&self) -> &str {
        "ceph"
    }

    fn pool(&self) -> Result<Box<dyn Pool>> {
        self.pool_in(Space::new(), None)
    }

    fn confined_pool(&self) -> Result<Box<dyn Pool>> {
        let confined = Confined::new().map_err(unsupported)?;
        self.pool_in(Space::alone_in(confined.pool), Some(confined))
    }
}

#[derive(Debug)]
struct CephPool {
    kind: FilesystemKind,
    // Dropped in this order.
    space: Space,
    confined: Option<Confined>,
    /// Where volumes are mounted.
    folder: Folder,
    sitter: Arc<Mutex<Sitter>>,
    /// The volumes that were asked for: what else lies there is left over.
    names: Mutex<BTreeSet<String>>,
}

impl CephPool {
    fn visited(&self, image: &str) -> Result<Visited> {
        let visited = Visited::new(&self.space.full(image), self.folder.path()).map_err(unsupported)?;
        visited.ok_or_else(|| unsupported(format!("there is no image {image}")))
    }
}

impl Pool for CephPool {
    fn volume(&self, name: &str) -> Result<Box<dyn RebuildableVolume>> {
        let volume = open_image(self.kind, &self.space.full(name))?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(Box::new(volume))
    }

    fn visit(&self, name: &str, slot: Slot, look: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        look(self.visited(&slot_name(name, slot))?.path())
    }

    fn snapshot(&self, name: &str, snapshot: &str) -> Result<String> {
        let snapshot = format!("snapshot_{snapshot}");
        self.space.snapshot(name, &snapshot).map_err(unsupported)?;
        Ok(snapshot)
    }

    fn hold(&self, name: &str) -> Result<Held> {
        let at = self.folder.path().join("held");
        fs::create_dir_all(&at).map_err(|error| failed("cannot make a folder", error))?;
        let mapped = Mapped::new(&self.space.full(name)).map_err(unsupported)?;
        let lines = [Path::new("sit"), &mapped.device(), &at];
        let sat = self.sitter.lock().unwrap_or_else(PoisonError::into_inner).order(&lines);
        sat.map_err(|error| failed("cannot hold the volume", error))?;
        Ok(Held::new((Seated(Arc::clone(&self.sitter)), mapped)))
    }

    fn limit_space(&self, free: ByteSize) -> Result<Held> {
        let confined = self.confined.as_ref().ok_or_else(|| unsupported("the pool shares its space with others"))?;
        // A root that is begun takes space before the first byte of an image.
        let limit = confined.limit(free.saturating_add(taken(self.kind)));
        Ok(Held::new(limit.map_err(unsupported)?))
    }

    fn bases(&self) -> Result<Box<dyn BasePool>> {
        Ok(Box::new(open_image_bases(self.kind, &self.space.name)?))
    }

    fn leftovers(&self) -> Result<Vec<String>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self.space.images().map_err(unsupported)?;
        left.retain(|image| is_left(image, &names));
        // What a case holds it has mapped itself.
        let held = |left: &String| names.iter().any(|name| left.starts_with(&format!("{name} mapped to ")));
        left.extend(self.space.beside().map_err(unsupported)?.into_iter().filter(|left| !held(left)));
        left.sort();
        Ok(left)
    }
}

/// Whether an image is neither a volume nor a complete base.
pub(crate) fn is_left(image: &str, volumes: &BTreeSet<String>) -> bool {
    match image.strip_prefix("reroot-base-") {
        Some(base) => base.contains('.'),
        None => !volumes.contains(image),
    }
}

impl Drop for CephPool {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // Whatever the case was about, nobody holds a lock and nothing is announced or mapped when it is over.
        let left = self.space.beside().unwrap_or_else(|why| vec![why]);
        if !left.is_empty() {
            let said = writeln!(std::io::stderr(), "left over in {}: {}", self.space.name, left.join(", "));
            said.expect("there is no standard error");
            panic!("something is left over");
        }
    }
}
