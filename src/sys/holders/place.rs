//! Where a directory lies, whatever paths lead there.
//!
//! A process or a mount may see the directory under another path, in a mount namespace of its own. So the directory is first located within
//! its file system (device and path), and every namespace's mount table tells under which paths that place shows there.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::BorrowedFd;

use crate::sys::mounts::{self, Mount, below, join};

/// A directory of a file system.
#[derive(Default)]
pub(super) struct Place {
    pub(super) device: Vec<u8>,
    pub(super) path: Vec<u8>,
}

impl Place {
    pub(super) fn of(parent: BorrowedFd<'_>, folder: &[u8], name: &[u8], own: &[Mount]) -> Self {
        let located = || {
            let id = mounts::of_descriptor(parent).ok()?;
            let mount = own.iter().find(|mount| mount.id == id)?;
            let rest = below(folder, &mount.point)?;
            Some(Place { device: mount.device.clone(), path: join(&join(&mount.root, rest), name) })
        };
        // After a chroot the table may not show the mount: then no device matches, and the path alone has to do.
        located().unwrap_or_default()
    }

    /// The paths under which the directory, or a part of it, shows in a namespace.
    pub(super) fn views(&self, table: &[Mount]) -> BTreeSet<Vec<u8>> {
        let here = table.iter().filter(|mount| mount.device == self.device);
        here.filter_map(|mount| match below(&self.path, &mount.root) {
            Some(rest) => Some(join(&mount.point, rest)),
            None => below(&mount.root, &self.path).map(|_| mount.point.clone()),
        })
        .collect()
    }

    /// Where in a namespace the directory or a part of it is mounted, or something is mounted on or in it.
    pub(super) fn mounts_on(&self, table: &[Mount]) -> BTreeSet<Vec<u8>> {
        let by_id: HashMap<u64, &Mount> = table.iter().map(|mount| (mount.id, mount)).collect();
        let mut found = BTreeSet::new();
        for base in table.iter().filter(|mount| mount.device == self.device) {
            if below(&base.root, &self.path).is_some() {
                found.insert(base.point.clone());
            }
            let Some(rest) = below(&self.path, &base.root) else { continue };
            let view = join(&base.point, rest);
            // Only what hangs on this very mount: another may hide it under the same path.
            let on_base = |mount: &&Mount| {
                let mut at = *mount;
                let mut steps = 0;
                while at.id != base.id && below(&at.point, &view).is_some() && steps <= table.len() {
                    let Some(up) = by_id.get(&at.parent) else { return false };
                    at = up;
                    steps += 1;
                }
                at.id == base.id && mount.id != base.id
            };
            found.extend(table.iter().filter(on_base).map(|mount| mount.point.clone()));
        }
        found
    }

    /// The same in our own namespace, where the directory has this path, and whatever hangs on or below that.
    pub(super) fn own_mounts_on(&self, own: &[Mount], path: &[u8]) -> BTreeSet<Vec<u8>> {
        let mut points = self.mounts_on(own);
        points.extend(own.iter().filter(|mount| below(&mount.point, path).is_some()).map(|mount| mount.point.clone()));
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, parent: u64, device: &str, root: &str, point: &str) -> Mount {
        let [device, root, point] = [device, root, point].map(|field| field.as_bytes().to_vec());
        Mount { id, parent, device, root, point, ..Mount::default() }
    }

    fn points(set: BTreeSet<Vec<u8>>) -> Vec<String> {
        set.into_iter().map(|point| String::from_utf8(point).unwrap()).collect()
    }

    #[test]
    fn a_namespace_shows_the_directory_where_its_mounts_say() {
        let place = Place { device: b"8:1".to_vec(), path: b"/pool/c1".to_vec() };
        let host = [
            mount(1, 0, "8:0", "/", "/"),
            mount(2, 1, "8:1", "/", "/srv"),
            mount(3, 1, "8:1", "/pool/c10", "/mnt/other"),
            mount(4, 2, "8:1", "/pool/c1/etc", "/srv/etc-of-c1"),
            mount(5, 2, "0:9", "/", "/srv/pool/c1/tmp"),
            mount(6, 2, "0:9", "/", "/srv/pool/c10/tmp"),
        ];
        assert_eq!(points(place.views(&host)), ["/srv/etc-of-c1", "/srv/pool/c1"]);
        assert_eq!(points(place.mounts_on(&host)), ["/srv/etc-of-c1", "/srv/pool/c1/tmp"]);
        // A container whose root is the directory, with a /proc of its own.
        let container = [mount(1, 0, "8:1", "/pool/c1", "/"), mount(2, 1, "0:4", "/", "/proc")];
        assert_eq!(points(place.views(&container)), ["/"]);
        assert_eq!(points(place.mounts_on(&container)), ["/", "/proc"]);
        // The same paths on another file system are another directory, and so is what hides it.
        let stranger = [mount(1, 0, "8:2", "/", "/"), mount(2, 1, "8:2", "/pool/c1", "/srv/pool/c1")];
        assert!(place.views(&stranger).is_empty() && place.mounts_on(&stranger).is_empty());
        let hidden = [mount(1, 0, "8:1", "/", "/"), mount(2, 1, "0:9", "/", "/pool"), mount(3, 2, "0:8", "/", "/pool/c1")];
        assert!(place.mounts_on(&hidden).is_empty());
    }
}
