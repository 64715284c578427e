//! What the tools of others do to a volume: rename it, delete it, take a snapshot of it, and show its root as a manager does.

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
#[cfg(feature = "ceph")]
use serde_json::{Value, json};

#[cfg(feature = "ceph")]
use super::common::cluster::{self, Mapped};
#[cfg(feature = "lvm")]
use super::common::group::{self, lvm};
#[cfg(feature = "zfs")]
use super::common::lab::zfs;
use super::common::pools::Backend;

/// Renames a volume to a name beside it, which it returns.
pub(crate) fn rename(backend: Backend, volume: &Path, name: &str) -> Result<PathBuf, String> {
    let to = volume.with_file_name(name);
    match backend {
        #[cfg(feature = "ceph")]
        Backend::Ceph(_) => drop(cluster::ask(in_space("rename", volume, &[name.into()]))?),
        #[cfg(feature = "lvm")]
        Backend::Lvm => drop(lvm(&format!("lvrename {} {}", volume.display(), to.display()))?),
        #[cfg(feature = "zfs")]
        Backend::Zfs => drop(zfs(&["rename", &volume.to_string_lossy(), &to.to_string_lossy()])?),
        _ => fs::rename(volume, &to).map_err(|error| error.to_string())?,
    }
    Ok(to)
}

/// Deletes a volume; that there is none is an error.
pub(crate) fn delete(backend: Backend, volume: &Path) -> Result<(), String> {
    match backend {
        #[cfg(feature = "ceph")]
        Backend::Ceph(_) => cluster::ask(in_space("remove", volume, &[])).map(drop),
        #[cfg(feature = "lvm")]
        Backend::Lvm => lvm(&format!("lvremove --yes {}", volume.display())).map(drop),
        #[cfg(feature = "zfs")]
        Backend::Zfs => zfs(&["destroy", &volume.to_string_lossy()]).map(drop),
        _ => fs::remove_dir_all(volume).or_else(|_| delete_subvolume(volume)),
    }
}

fn delete_subvolume(path: &Path) -> Result<(), String> {
    done(Command::new("btrfs").args(["subvolume", "delete"]).arg(path))
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// An order of `cluster.py` about an image.
#[cfg(feature = "ceph")]
fn in_space(order: &str, image: &Path, arguments: &[Value]) -> Value {
    let name = image.to_string_lossy();
    let (space, image) = name.rsplit_once('/').unwrap_or_default();
    Value::Array([&[order.into(), space.into(), image.into()], arguments].concat())
}

/// Keeps an image open, as a virtual machine does that has it for a disk, until [`close`].
#[cfg(feature = "ceph")]
pub(crate) fn open(image: &Path) -> Result<(), String> {
    cluster::ask(in_space("open", image, &[])).map(drop)
}

/// Closes what was opened last.
#[cfg(feature = "ceph")]
pub(crate) fn close() -> Result<(), String> {
    cluster::ask(json!(["close", ""])).map(drop)
}

/// Gives a volume what takes the backend's program to rebuild: a dataset that is mounted by itself is not as long as it has another name.
pub(crate) fn make_demanding(backend: Backend, volume: &Path) -> Result<(), String> {
    #[cfg(feature = "zfs")]
    if backend == Backend::Zfs {
        zfs(&["set", "mountpoint=/nowhere", &volume.to_string_lossy()])?;
        zfs(&["set", "canmount=on", &volume.to_string_lossy()])?;
    }
    let _ = (backend, volume);
    Ok(())
}

/// Takes a snapshot of a volume, as a manager does, where the backend knows them.
pub(crate) fn snapshot(backend: Backend, volume: &Path, name: &str) -> Result<(), String> {
    match backend {
        #[cfg(feature = "ceph")]
        Backend::Ceph(_) => cluster::ask(in_space("snapshot", volume, &[name.into(), false.into()])).map(drop),
        #[cfg(feature = "lvm")]
        Backend::Lvm => {
            let options = format!("--yes --snapshot --permission r --setactivationskip y --name {}", snapshot_of(volume, name));
            lvm(&format!("lvcreate {options} {}", volume.display())).map(drop)
        }
        #[cfg(feature = "zfs")]
        Backend::Zfs => zfs(&["snapshot", &format!("{}@{name}", volume.display())]).map(drop),
        _ => {
            let to = folder_of_snapshots(volume).join(name);
            fs::create_dir_all(folder_of_snapshots(volume)).map_err(|error| error.to_string())?;
            if backend == Backend::Dir {
                return done(Command::new("cp").arg("-a").arg(volume).arg(to));
            }
            done(Command::new("btrfs").args(["subvolume", "snapshot", "-r"]).arg(volume).arg(to))
        }
    }
}

/// Whether a volume has this snapshot.
pub(crate) fn has_snapshot(backend: Backend, volume: &Path, name: &str) -> Result<bool, String> {
    match backend {
        #[cfg(feature = "ceph")]
        Backend::Ceph(_) => {
            let facts = cluster::ask(in_space("facts", volume, &[]))?;
            Ok(facts["snapshots"].as_array().is_some_and(|snapshots| snapshots.iter().any(|known| known == name)))
        }
        #[cfg(feature = "lvm")]
        Backend::Lvm => {
            let wanted = volume.with_file_name(snapshot_of(volume, name));
            Ok(group::volumes(group::GROUP)?.iter().any(|known| Path::new(known) == wanted))
        }
        #[cfg(feature = "zfs")]
        Backend::Zfs => {
            let wanted = format!("{}@{name}", volume.display());
            let Ok(list) = zfs(&["list", "-H", "-o", "name", "-t", "snapshot", &volume.to_string_lossy()]) else {
                return Ok(false);
            };
            Ok(list.lines().any(|known| known == wanted))
        }
        _ => Ok(folder_of_snapshots(volume).join(name).exists()),
    }
}

/// Where LXD has them.
fn folder_of_snapshots(volume: &Path) -> PathBuf {
    let pool = volume.parent().unwrap_or(volume);
    let mut name = pool.file_name().unwrap_or_default().to_owned();
    name.push("-snapshots");
    pool.with_file_name(name).join(volume.file_name().unwrap_or_default())
}

#[cfg(feature = "lvm")]
fn snapshot_of(volume: &Path, name: &str) -> String {
    format!("{}-{name}", volume.file_name().unwrap_or_default().to_string_lossy())
}

/// A root as a manager shows it, before it mounts it: itself, or a device that is made of it.
pub(crate) struct Shown {
    pub(crate) source: PathBuf,
    /// What kind of file system it is; a folder is none.
    pub(crate) kind: &'static str,
    /// What goes with it.
    _made: Option<Box<dyn Any + Send>>,
}

impl Shown {
    pub(crate) fn new(backend: Backend, volume: &Path) -> Result<Shown, String> {
        let it = |source: PathBuf, kind| Shown { source, kind, _made: None };
        Ok(match backend {
            #[cfg(feature = "ceph")]
            Backend::Ceph(_) => {
                let mapped = Mapped::new(&volume.to_string_lossy())?;
                Shown { source: mapped.device(), kind: "ext4", _made: Some(Box::new(mapped)) }
            }
            #[cfg(feature = "lvm")]
            Backend::Lvm => {
                lvm(&format!("lvchange --activate y --ignoreactivationskip {}", volume.display()))?;
                let device = group::device(&volume.to_string_lossy());
                it(device.ok_or_else(|| format!("{} was activated and has no device", volume.display()))?, "ext4")
            }
            #[cfg(feature = "zfs")]
            Backend::Zfs => it(volume.to_owned(), "zfs"),
            _ => it(volume.to_owned(), ""),
        })
    }

    /// Mounts it where it can be seen.
    pub(crate) fn mount(&self, at: &Path) -> nix::Result<()> {
        mount(Some(&self.source), at, Some(self.kind), MsFlags::empty(), None::<&Path>)
    }
}
