//! Who keeps a whole file system busy.
//!
//! A mount that was detached while it was in use shows in no table, and the paths of what lies on it start anywhere. So what processes hold is
//! told by the number of its file system, and paths serve to name it.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use nix::fcntl::AT_FDCWD;

use super::namespaces::Namespaces;
use super::process::{Target, holding, link};
use super::propagation::{ById, Copies, by_id};
use super::{Found, device, in_kernel};
use crate::error::Result;
use crate::sys::mounts::{Device, Mount, below, join, numbers};
use crate::volume::Holder;

/// A file system with a superblock of its own, of a kind whose files carry the number that its mounts do: not btrfs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileSystem<'a> {
    /// Its type, as mount tables call it: `zfs`. `None` where the source says enough.
    pub(crate) fs_type: Option<&'a str>,
    /// What its source may be called: `tank/c1`.
    pub(crate) sources: &'a [String],
    /// Its `st_dev`, where the caller knows it: without it, what is mounted nowhere has no holders.
    pub(crate) device: Option<libc::dev_t>,
    /// The block device that it lies on, which may be open itself.
    pub(crate) block: Option<libc::dev_t>,
}

/// Who keeps a file system busy, in every mount namespace that the caller may see. Mounts come first, then processes, devices and swap files.
///
/// `ours` are the mounts, by their ids in `/proc/thread-self/mountinfo`, that are no holders, and neither are copies that the kernel made of
/// them and takes away with them, nor this process's open files. What is mounted inside one of ours is a holder.
pub(crate) fn of_file_system(file_system: &FileSystem<'_>, ours: &[u64]) -> Result<Vec<Holder>> {
    let namespaces = Namespaces::read()?;
    let devices = devices(file_system, &namespaces);
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let me = link(AT_FDCWD, c"/proc/self").and_then(|pid| std::str::from_utf8(&pid).ok()?.parse().ok());
    let copies = Copies::of(ours, &namespaces);
    let mut found = Found::default();
    let mut seen = Vec::new();
    for namespace in &namespaces.all {
        let own = views(namespaces.own(), &devices);
        let block = file_system.block.map(device::from_dev);
        let on = OnDevices { devices: &devices, block, views: views(&namespace.mounts, &devices), own, me };
        if !on.views.is_empty() {
            let table = by_id(&namespace.mounts);
            let is_ours = |mount: &Mount| ours.contains(&mount.id) || copies.contain(mount, &table);
            let holders = namespace.mounts.iter().filter(|mount| !is_ours(mount) && on.is_or_is_inside(mount, &table));
            found.add_mounts(holders.map(|mount| mount.point.clone()).collect(), namespace.of);
        }
        seen.push(on);
    }
    holding(&seen, &namespaces.processes).into_iter().for_each(|process| found.add(process));
    let shown = |file: &[u8]| seen.first().is_some_and(|own| through(&own.views, file).is_some());
    in_kernel::add_devices(&mut found, |name, file| {
        let block = file_system.block.map(device::from_dev);
        let is = |numbers: device::Numbers| devices.contains(&numbers.on) || block.is_some() && numbers.block == block;
        device::behind_loop(name).map_or_else(|| shown(file), is)
    });
    in_kernel::add_swap_files(&mut found, |file| {
        let on = CString::new(file).ok().and_then(|path| device::behind(AT_FDCWD, &path).ok());
        on.map_or_else(|| shown(file), |on| devices.contains(&on))
    });
    Ok(found.finish())
}

/// The numbers of the file system: the one that the caller knows, and what mount tables say.
fn devices(file_system: &FileSystem<'_>, namespaces: &Namespaces) -> Vec<Device> {
    let of_type = |mount: &Mount| file_system.fs_type.is_none_or(|fs_type| mount.fs_type == fs_type.as_bytes());
    let named = |mount: &&Mount| of_type(mount) && file_system.sources.iter().any(|source| source.as_bytes() == mount.source);
    let mounts = namespaces.all.iter().flat_map(|namespace| &namespace.mounts);
    let mut devices: Vec<_> = mounts.filter(named).filter_map(|mount| numbers(&mount.device, 10)).collect();
    devices.extend(file_system.device.map(device::from_dev));
    devices.sort_unstable();
    devices.dedup();
    devices
}

/// The file system as one namespace shows it.
struct OnDevices<'a> {
    devices: &'a [Device],
    block: Option<Device>,
    /// The mounts of it in this namespace, and in the caller's.
    views: Vec<&'a Mount>,
    own: Vec<&'a Mount>,
    me: Option<u32>,
}

impl OnDevices<'_> {
    /// Whether a mount shows the file system, or hangs on one that does.
    fn is_or_is_inside(&self, mount: &Mount, table: &ById<'_>) -> bool {
        let up = |mount: &&Mount| table.get(&mount.parent).copied();
        let mut line = std::iter::successors(Some(mount), up).take(table.len());
        line.any(|mount| self.views.iter().any(|view| view.id == mount.id))
    }

    /// A path from the top of the file system; one that no mount explains is taken to be that already.
    fn named(&self, path: &[u8]) -> Vec<u8> {
        // What another handed to the process has the path that the other's namespace gives it.
        let path = through(&self.views, path).or_else(|| through(&self.own, path)).unwrap_or_else(|| path.to_owned());
        path.strip_prefix(b"/").map_or_else(|| path.clone(), <[u8]>::to_vec)
    }
}

/// The mounts of a namespace that show a file system.
fn views<'a>(mounts: &'a [Mount], devices: &[Device]) -> Vec<&'a Mount> {
    mounts.iter().filter(|mount| numbers(&mount.device, 10).is_some_and(|device| devices.contains(&device))).collect()
}

/// What `path` is in the file system, if one of its mounts explains it: the one that lies deepest.
fn through(views: &[&Mount], path: &[u8]) -> Option<Vec<u8>> {
    let inside = views.iter().filter_map(|view| Some((view, below(path, &view.point)?)));
    inside.max_by_key(|(view, _)| view.point.len()).map(|(view, rest)| join(&view.root, rest))
}

impl Target for OnDevices<'_> {
    fn file(&self, dir: BorrowedFd<'_>, name: &CStr) -> Option<Vec<u8>> {
        let numbers = device::numbers(dir, name).ok()?;
        if self.block.is_some() && numbers.block == self.block {
            return link(dir, name);
        }
        self.devices.contains(&numbers.on).then(|| self.named(&link(dir, name).unwrap_or_default()))
    }

    fn directory(&self, dir: BorrowedFd<'_>, name: &CStr) -> Option<Vec<u8>> {
        self.file(dir, name)
    }

    fn devices(&self) -> &[Device] {
        self.devices
    }

    fn mapped(&self, path: &[u8]) -> Option<Vec<u8>> {
        Some(self.named(path))
    }

    fn counts_files(&self, pid: u32) -> bool {
        self.me != Some(pid)
    }
}

#[cfg(test)]
mod tests;
