//! Snapshots of a root that lie elsewhere: found by the uuid they carry of it, named by their path.
//!
//! One outside the root is named by its path from the top of the file system, `/backup/c1-monday`, whether a mount shows it or not; one in
//! the root by its path in that, `./.snapshots/1`, so that the name stays true when the root gets another.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::nested;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::btrfs::Uuid;
use crate::sys::btrfs::lookup;
use crate::sys::btrfs::subvolume::{self, Access, Info};
use crate::sys::btrfs::tree::{self, Place, Subvolume};
use crate::sys::holders::Tables;
use crate::text::Escaped;
use crate::volume::{Snapshot, SnapshotOwner, SnapshotSupport};

/// A subvolume more than this deep in others is one that a loop made.
const MAX_DEPTH: usize = 1000;

/// A snapshot that is not where the manager keeps its own.
#[derive(Debug)]
pub(super) struct Foreign {
    id: u64,
    access: Access,
    location: Location,
}

#[derive(Debug)]
enum Location {
    /// From the top of the file system.
    Outside(PathBuf),
    /// From the top of the root.
    Inside(PathBuf),
}

impl Foreign {
    pub(super) fn name(&self) -> OsString {
        match &self.location {
            Location::Outside(path) => Path::new("/").join(path).into_os_string(),
            Location::Inside(path) => Path::new(".").join(path).into_os_string(),
        }
    }

    pub(super) fn to_snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new(self.name(), SnapshotOwner::Foreign);
        if self.access == Access::ReadWrite {
            // A copy of an instance is a snapshot of it too. It does not go unless its owner has made it read-only.
            snapshot = snapshot.with_dependents(vec!["whoever may write to it (it is not read-only)".into()]);
        }
        match self.location {
            Location::Outside(_) => snapshot.with_support(SnapshotSupport::Independent),
            Location::Inside(_) => snapshot.with_support(SnapshotSupport::Dependent),
        }
    }
}

/// The snapshots of the root `uuid`, anywhere on the file system of `fd`; for a caller who may not search it, those in the root `top`.
///
/// Left out are those that lie in one of the folders `besides`, told by their subvolume and inode number.
pub(super) fn find(
    fd: BorrowedFd<'_>,
    top: Option<BorrowedFd<'_>>,
    uuid: Uuid,
    besides: &[(u64, u64)],
    operation: &'static str,
) -> Result<Vec<Foreign>> {
    if uuid.is_none() {
        return Ok(Vec::new());
    }
    let all = match tree::subvolumes(fd) {
        Ok(all) => all,
        Err(refused) if refused.is_denied() => return top.map_or(Ok(Vec::new()), |top| in_root(top, uuid, operation)),
        Err(refused) => return Err(refused.explain(operation, "cannot search the file system for snapshots")),
    };
    let root = all.iter().find(|subvolume| subvolume.uuid == uuid).map(|subvolume| subvolume.id);
    let by_id: HashMap<u64, &Subvolume> = all.iter().map(|subvolume| (subvolume.id, subvolume)).collect();
    let mut found = Vec::new();
    for subvolume in all.iter().filter(|subvolume| subvolume.parent_uuid == uuid) {
        let Some(place) = &subvolume.place else { continue };
        if besides.contains(&(place.tree, place.dir)) {
            continue;
        }
        match locate(fd, place, root, &by_id) {
            Ok(Some(location)) => found.push(Foreign { id: subvolume.id, access: subvolume.access, location }),
            // It went since it was listed.
            Ok(None) => {}
            Err(error) => return Err(error.explain(operation, "cannot find out where a snapshot lies")),
        }
    }
    found.sort_by_key(Foreign::name);
    Ok(found)
}

/// Climbs from a place to the root, or to the top of the file system.
fn locate(
    fd: BorrowedFd<'_>,
    place: &Place,
    root: Option<u64>,
    by_id: &HashMap<u64, &Subvolume>,
) -> Result<Option<Location>, crate::sys::btrfs::Refused> {
    let mut path = PathBuf::new();
    let mut place = place;
    for _ in 0..MAX_DEPTH {
        let folder = match lookup::path_in(fd, place.tree, place.dir) {
            Ok(folder) => folder,
            Err(refused) if refused.errno == Errno::ENOENT => return Ok(None),
            Err(refused) => return Err(refused),
        };
        let here = folder.join(&place.name);
        path = if path.as_os_str().is_empty() { here } else { here.join(path) };
        if Some(place.tree) == root {
            return Ok(Some(Location::Inside(path)));
        }
        match by_id.get(&place.tree).and_then(|outer| outer.place.as_ref()) {
            Some(outer) => place = outer,
            None => return Ok(Some(Location::Outside(path))),
        }
    }
    Ok(None)
}

/// The snapshots of a root that lie in itself.
pub(super) fn in_root(top: BorrowedFd<'_>, uuid: Uuid, operation: &'static str) -> Result<Vec<Foreign>> {
    let nested = match nested::list(top, operation) {
        Ok(nested) => nested,
        // What the caller may not see, or what a mount hides, is not reported.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Busy) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let own = nested.into_iter().filter(|inner| inner.info.parent_uuid == uuid && !uuid.is_none());
    let mut found: Vec<_> = own
        .map(|inner| {
            let Info { id, access, .. } = inner.info;
            Foreign { id, access, location: Location::Inside(inner.path) }
        })
        .collect();
    found.sort_by_key(Foreign::name);
    Ok(found)
}

/// Destroys a snapshot, in one step. `top` is the root that those in the root lie in.
pub(super) fn destroy(foreign: &Foreign, fd: BorrowedFd<'_>, top: Option<BorrowedFd<'_>>, mounts: &Tables) -> Result<()> {
    const OPERATION: &str = "purge the snapshots";
    let context = |error: Error| error.with_context("snapshot", Escaped::from(foreign.name().as_os_str()));
    if foreign.access == Access::ReadWrite {
        return Err(context(Error::new(
            ErrorKind::HasDependents,
            OPERATION,
            "it can be written to: it may be a volume of its own",
        ))
        .with_remedy("delete it yourself, or make it read-only (btrfs property set PATH ro true)"));
    }
    if let Location::Outside(path) = &foreign.location
        && let Some(holder) = mounts.of_path(fd, &[b"/", path.as_os_str().as_bytes()].concat()).first()
    {
        return Err(context(Error::new(ErrorKind::Busy, OPERATION, format!("{holder} shows it"))).with_remedy("unmount it"));
    }
    match (subvolume::destroy_id(fd, foreign.id), &foreign.location, top) {
        (Ok(()), ..) => Ok(()),
        (Err(refused), ..) if refused.errno == Errno::ENOENT => Ok(()),
        // Whoever is not root, or has an old kernel, destroys it by its name.
        (Err(refused), Location::Inside(path), Some(top))
            if matches!(refused.errno, Errno::EPERM | Errno::EACCES | Errno::EROFS | Errno::ENOTTY) =>
        {
            let folder = nested::open(top, path.parent().unwrap_or(Path::new("")), OPERATION)?;
            nested::remove(folder.as_fd(), path.file_name().unwrap_or_default()).map_err(context)
        }
        (Err(refused), ..) => Err(context(refused.explain(OPERATION, "the kernel does not let it go"))
            .with_remedy("see that no subvolume lies in it, that it is not the default one and is not being sent")),
    }
}
