//! Mounts that the kernel made because of one of ours, and takes away with it,
//! [mount_namespaces(7)](https://man7.org/linux/man-pages/man7/mount_namespaces.7.html).
//!
//! Where systemd runs, most directories are shared: what is mounted there shows at once in the namespace of every service that has one.

use std::collections::{BTreeSet, HashMap};

use super::namespaces::Namespaces;
use crate::sys::mounts::{Mount, below, join};

/// The mounts of a namespace by their ids.
pub(super) type ById<'a> = HashMap<u64, &'a Mount>;

pub(super) fn by_id(mounts: &[Mount]) -> ById<'_> {
    mounts.iter().map(|mount| (mount.id, mount)).collect()
}

/// Where copies of our mounts are.
pub(super) struct Copies(Vec<Copied>);

struct Copied {
    /// What our mount shows.
    device: Vec<u8>,
    root: Vec<u8>,
    /// Where it is mounted, in the file system of the mount below it, and all peer groups that pass that on.
    at: Vec<u8>,
    below: Vec<u8>,
    groups: BTreeSet<u64>,
}

impl Copies {
    pub(super) fn of(ours: &[u64], namespaces: &Namespaces) -> Self {
        let own = by_id(namespaces.own());
        let copied = ours.iter().filter_map(|id| {
            let mount = own.get(id)?;
            let (parent, at) = anchor(mount, &own)?;
            let groups = passed_on(parent.shared?, namespaces);
            Some(Copied { device: mount.device.clone(), root: mount.root.clone(), at, below: parent.device.clone(), groups })
        });
        Copies(copied.collect())
    }

    /// Whether the kernel takes `mount`, one of `table`, away with one of ours.
    pub(super) fn contain(&self, mount: &Mount, table: &ById<'_>) -> bool {
        let Some((parent, at)) = anchor(mount, table) else { return false };
        self.0.iter().any(|ours| {
            let takes_part = |group: Option<u64>| group.is_some_and(|group| ours.groups.contains(&group));
            (&ours.device, &ours.root, &ours.at, &ours.below) == (&mount.device, &mount.root, &at, &parent.device)
                && (takes_part(parent.shared) || takes_part(parent.master))
        })
    }
}

/// The mount that `mount` is mounted on, and where in that one's file system.
fn anchor<'a>(mount: &Mount, table: &ById<'a>) -> Option<(&'a Mount, Vec<u8>)> {
    let parent = *table.get(&mount.parent)?;
    Some((parent, join(&parent.root, below(&mount.point, &parent.point)?)))
}

/// The group and all that get what it gets, directly or from one another.
fn passed_on(group: u64, namespaces: &Namespaces) -> BTreeSet<u64> {
    let mut groups = BTreeSet::from([group]);
    loop {
        let all = namespaces.all.iter().flat_map(|namespace| &namespace.mounts);
        let slaves =
            all.filter(|mount| mount.master.is_some_and(|master| groups.contains(&master))).filter_map(|mount| mount.shared);
        let more: BTreeSet<u64> = slaves.filter(|group| !groups.contains(group)).collect();
        if more.is_empty() {
            return groups;
        }
        groups.extend(more);
    }
}
