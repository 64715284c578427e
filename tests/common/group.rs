//! What the lab gives to tests of LVM: a volume group on its disk, with a thin pool, and one without.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use reroot::ByteSize;

use super::lab::run;
use super::visit::Mounted;

/// Why nothing is tested outside the lab: a group of this machine is no place to fill and to break things in.
pub(crate) const NO_DISK: &str = "there is no disk for a volume group: run tests/lab/run lvm";
/// The group, which stays until its guest ends. Device-mapper doubles the hyphen.
pub(crate) const GROUP: &str = "reroot-lab";
/// Its thin pool for most.
pub(crate) const POOL: &str = "pool";
/// A group without a thin pool: a new volume in it is thick.
pub(crate) const THICK: &str = "reroot-thick";

/// Makes the group, unless it is there.
pub(crate) fn group() -> Result<(), String> {
    static MADE: OnceLock<Result<(), String>> = OnceLock::new();
    MADE.get_or_init(make).clone()
}

/// The same for the one without a thin pool. It is in memory.
pub(crate) fn thick_group() -> Result<(), String> {
    static MADE: OnceLock<Result<(), String>> = OnceLock::new();
    MADE.get_or_init(make_thick).clone()
}

fn make() -> Result<(), String> {
    if std::env::var_os("REROOT_LAB").is_none() {
        return Err(NO_DISK.into());
    }
    let disk = std::env::var("REROOT_TEST_GROUP_DISK").map_err(|_| NO_DISK)?;
    // Of an earlier program in the same guest.
    if lvm(&format!("vgs {GROUP}")).is_err() {
        lvm(&format!("vgcreate --yes {GROUP} {disk}"))?;
        lvm(&format!("lvcreate --yes --type thin-pool --size 2G --poolmetadatasize 32M --name {POOL} {GROUP}"))?;
    }
    Ok(())
}

fn make_thick() -> Result<(), String> {
    group()?;
    if lvm(&format!("vgs {THICK}")).is_ok() {
        return Ok(());
    }
    let failed = |error| format!("cannot make the disk of {THICK}: {error}");
    let disk = tempfile::NamedTempFile::new().map_err(failed)?;
    disk.as_file().set_len(1 << 30).map_err(failed)?;
    let device = run(Command::new("losetup").args(["--find", "--show"]).arg(disk.path()))?;
    // The file stays as long as the device has it.
    lvm(&format!("vgcreate --yes {THICK} {}", device.trim())).map(drop)
}

/// Runs a command of LVM, whose words hold no spaces; returns what it said.
pub(crate) fn lvm(words: &str) -> Result<String, String> {
    let mut words = words.split_whitespace();
    run(Command::new(words.next().unwrap_or_default()).args(words))
}

/// The logical volumes of a group, as `GROUP/NAME`, but for what LVM keeps within others.
pub(crate) fn volumes(group: &str) -> Result<Vec<String>, String> {
    let list = lvm(&format!("lvs --noheadings --options lv_name {group}"))?;
    Ok(list.lines().map(|line| format!("{group}/{}", line.trim())).collect())
}

/// What device-mapper calls the volume `GROUP/NAME`.
pub(crate) fn device_name(volume: &str) -> String {
    volume.replace('-', "--").replace('/', "-")
}

/// The devices that device-mapper has, by name. Their nodes are there whether udev runs or not.
pub(crate) fn devices() -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = fs::read_to_string(entry.path().join("dm/name")).ok()?;
            Some((name.trim().to_owned(), Path::new("/dev").join(entry.file_name())))
        })
        .collect()
}

/// The device of a volume that is active.
pub(crate) fn device(volume: &str) -> Option<PathBuf> {
    let name = device_name(volume);
    devices().into_iter().find(|(known, _)| *known == name).map(|(_, path)| path)
}

/// Devices of a group that belong to none of these volumes: what a command that was killed, or an error, left.
pub(crate) fn stray_devices(group: &str, volumes: &[String]) -> Vec<String> {
    let ours = device_name(&format!("{group}/"));
    let known: BTreeSet<_> = volumes.iter().map(|volume| device_name(volume)).collect();
    let is_stray = |name: &String| {
        let within = ["-tpool", "_tdata", "_tmeta", "-real", "-cow"].iter().find_map(|part| name.strip_suffix(part));
        name.starts_with(&ours) && !known.contains(name) && !within.is_some_and(|name| known.contains(name))
    };
    devices().into_iter().map(|(name, _)| name).filter(is_stray).collect()
}

/// The root of a volume, mounted as a manager mounts it, for as long as someone looks at it. One that was inactive is so again.
#[derive(Debug)]
pub(crate) struct Visited {
    // Dropped in this order.
    mounted: Mounted,
    _activated: Option<Activated>,
}

impl Visited {
    /// `Ok(None)` if there is no such volume.
    pub(crate) fn new(volume: &str, folder: &Path) -> Result<Option<Visited>, String> {
        let mut activated = None;
        let device = match device(volume) {
            Some(device) => device,
            None => match lvm(&format!("lvchange --activate y --ignoreactivationskip {volume}")) {
                Ok(_) => {
                    activated = Some(Activated(volume.to_owned()));
                    device(volume).ok_or_else(|| format!("{volume} was activated and has no device"))?
                }
                Err(why) if why.contains("Failed to find logical volume") => return Ok(None),
                Err(why) => return Err(why),
            },
        };
        let mounted = Mounted::device(&device, folder).map_err(|error| format!("cannot mount {volume}: {error}"))?;
        Ok(Some(Visited { mounted, _activated: activated }))
    }

    pub(crate) fn path(&self) -> &Path {
        self.mounted.path()
    }
}

/// Deactivates a volume when it is dropped.
#[derive(Debug)]
struct Activated(String);

impl Drop for Activated {
    fn drop(&mut self) {
        if let Err(why) = lvm(&format!("lvchange --activate n {}", self.0)) {
            eprintln!("cannot deactivate {}: {why}", self.0);
        }
    }
}

/// A part of the group for one test: what it makes has names that begin with this, and goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Prefix(pub(crate) String);

impl Prefix {
    pub(crate) fn new() -> Result<Prefix, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        group()?;
        // The hyphen and the dot: device-mapper doubles the one and not the other.
        Ok(Prefix(format!("t-{}.{}.", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))))
    }

    /// The volumes of a group whose names begin so.
    pub(crate) fn volumes(&self, group: &str) -> Result<Vec<String>, String> {
        let mut volumes = volumes(group)?;
        volumes.retain(|volume| volume.split('/').next_back().is_some_and(|name| name.starts_with(&self.0)));
        volumes.sort();
        Ok(volumes)
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        let gone = [GROUP, THICK].iter().try_for_each(|group| match self.volumes(group) {
            Err(why) if why.contains("not found") => Ok(()),
            volumes => remove(&volumes?),
        });
        match gone {
            Ok(()) => {}
            // Whoever fails has said why.
            Err(_) if std::thread::panicking() => {}
            Err(why) => eprintln!("cannot remove what a test made: {why}"),
        }
    }
}

/// Removes volumes, and the devices that outlive them: udev's rules activate all of a group that lies on a loop device at every change of that, and
/// `lvremove` looks for devices before it waits for the group's lock.
pub(crate) fn remove(volumes: &[String]) -> Result<(), String> {
    if volumes.is_empty() {
        return Ok(());
    }
    let mut done = Ok(String::new());
    for _ in 0..20 {
        done = lvm(&format!("lvremove --yes {}", volumes.join(" ")));
        match &done {
            Err(why) if why.contains("in use") => sleep(Duration::from_millis(100)),
            _ => break,
        }
    }
    match done {
        // One goes with another: a pool's volumes, a thick one's snapshots.
        Err(why) if !why.contains("Failed to find logical volume") => return Err(why),
        _ => {}
    }
    // The upper ones first: a thick volume and its snapshot are each on another device.
    for layer in LAYERS {
        for volume in volumes {
            let name = format!("{}{layer}", device_name(volume));
            let is_there = || devices().iter().any(|(known, _)| *known == name);
            if is_there() {
                let removed = run(Command::new("dmsetup").args(["remove", "--retry", &name]));
                // Somebody else saw to it.
                if is_there() {
                    removed?;
                }
            }
        }
    }
    Ok(())
}

/// The ends of the names of the devices that a thick volume is on: itself; what a snapshot has of its own; what its snapshots read.
const LAYERS: [&str; 3] = ["", "-cow", "-real"];

/// How much a thin pool, `GROUP/NAME`, has left: of its data, and of its metadata.
pub(crate) fn left(pool: &str) -> Result<(ByteSize, ByteSize), String> {
    let said = run(Command::new("dmsetup").args(["status", &format!("{}-tpool", device_name(pool))]))?;
    // START LENGTH thin-pool TRANSACTION USED/TOTAL USED/TOTAL ..., the metadata in blocks of 4 KiB, the data in the pool's chunks.
    let left = |word: &str| {
        let (used, total) = word.split_once('/')?;
        Some(total.parse::<u64>().ok()?.saturating_sub(used.parse().ok()?))
    };
    let words: Vec<_> = said.split_whitespace().collect();
    let parsed = words.get(4).copied().and_then(left).zip(words.get(5).copied().and_then(left));
    let (metadata, data) = parsed.ok_or_else(|| format!("{pool} says {said:?}"))?;
    Ok((ByteSize::kib(data * CHUNK_KIB), ByteSize::kib(metadata * 4)))
}

/// Of the pools of the lab.
const CHUNK_KIB: u64 = 64;
