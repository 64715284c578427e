//! The LVM backend against real volume groups. What it did is checked with LVM's own commands.

#![cfg(all(feature = "lvm", feature = "conformance"))]

#[path = "../common/group.rs"]
mod group;
#[path = "../common/lab.rs"]
mod lab;
#[path = "../common/shell.rs"]
mod shell;
#[path = "../common/small.rs"]
mod small;
#[path = "../common/streams.rs"]
mod streams;
#[path = "../common/visit.rs"]
mod visit;
#[path = "../common/udev.rs"]
mod without;

mod bases;
mod busy;
mod full;
mod kept;
mod names;
mod sizes;
mod snapshots;
mod thick;
mod udev;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use group::{GROUP, POOL, Prefix, Visited, lvm};
use lab::{need, run};
use reroot::conformance::Tree;
use reroot::filesystem::{FilesystemKind, Recipe};
use reroot::lvm::LvmVolume;
use reroot::{ByteSize, ErrorKind, Image, Outcome, Rebuild, Report};
use small::{image, new, old, refused, soon};
use streams::{Meddling, broken, large, many, pattern, seekable};

/// Of the volumes of most tests.
const SIZE: ByteSize = ByteSize::mib(64);

/// Volumes in a thin pool of the lab, or in one of the test's own.
struct Pool {
    // Dropped in this order: what is mounted in the folder is gone before.
    prefix: Prefix,
    folder: tempfile::TempDir,
    thin: String,
    kind: FilesystemKind,
    size: ByteSize,
}

impl Pool {
    fn new() -> Result<Pool, String> {
        let prefix = Prefix::new()?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Pool { prefix, folder, thin: POOL.into(), kind: FilesystemKind::Ext4, size: SIZE })
    }

    /// Volumes with this file system, no larger than it needs.
    fn of(kind: FilesystemKind) -> Result<Pool, String> {
        let size = match kind {
            FilesystemKind::Xfs => ByteSize::mib(300),
            FilesystemKind::Btrfs => ByteSize::mib(128),
            _ => SIZE,
        };
        Ok(Pool { kind, size, ..Pool::new()? })
    }

    /// With the volume `c1` that holds [`old`].
    fn with_old() -> Result<Pool, String> {
        let pool = Pool::new()?;
        rebuild(&mut pool.volume(), &old()).unwrap();
        Ok(pool)
    }

    /// With the volume `c1` that someone else made with these options of `lvcreate` and these words of `mkfs`, and that holds a file. It is not active.
    fn with_foreign(kind: FilesystemKind, options: &str, mkfs: &str) -> Result<Pool, String> {
        let pool = Pool::of(kind)?;
        pool.make("c1", options);
        let force = if kind == FilesystemKind::Ext4 { "-q -F" } else { "-q -f" };
        let device = group::device(&pool.name("c1")).unwrap();
        lvm(&format!("mkfs.{kind} {force} {mkfs} {}", device.display())).unwrap();
        pool.visit("c1", |root| fs::write(root.join("old"), "old").unwrap());
        pool.change("c1", "--activate n");
        Ok(pool)
    }

    /// With a thin pool of its own, made with these options.
    fn with_own_thin(options: &str) -> Result<Pool, String> {
        let mut pool = Pool::new()?;
        pool.thin = pool.short("thin");
        lvm(&format!("lvcreate --yes --type thin-pool {options} --name {} {GROUP}", pool.thin)).unwrap();
        Ok(pool)
    }

    /// Makes an empty thin volume, active.
    fn make(&self, rest: &str, options: &str) {
        let size = self.size.bytes();
        let place = format!("--thinpool {} --name {} {GROUP}", self.thin, self.short(rest));
        lvm(&format!("lvcreate --yes --virtualsize {size}b --ignoreactivationskip {options} {place}")).unwrap();
    }

    /// Changes something of a volume, as LVM's own command does.
    fn change(&self, rest: &str, options: &str) {
        lvm(&format!("lvchange {options} {}", self.name(rest))).unwrap();
    }

    /// Takes a thin snapshot.
    fn snapshot(&self, of: &str, name: &str, permission: &str) {
        let options = format!("--yes --snapshot --permission {permission} --setactivationskip y");
        lvm(&format!("lvcreate {options} --name {} {}", self.short(name), self.name(of))).unwrap();
    }

    /// The name of what lies in it, within the group.
    fn short(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix.0)
    }

    /// The whole name.
    fn name(&self, rest: &str) -> String {
        format!("{GROUP}/{}", self.short(rest))
    }

    fn open(&self, rest: &str) -> LvmVolume {
        let volume = LvmVolume::open(&self.name(rest)).unwrap().with_size(self.size).with_pool(&self.thin).unwrap();
        // A volume that exists says itself what it holds.
        if self.list().iter().any(|name| name == rest) { volume } else { volume.with_recipe(Recipe::new(self.kind)) }
    }

    fn volume(&self) -> LvmVolume {
        self.open("c1")
    }

    /// What LVM says of a volume.
    fn get(&self, fields: &str, rest: &str) -> String {
        let form = "--noheadings --units b --nosuffix --separator ;";
        lvm(&format!("lvs {form} --options {fields} {}", self.name(rest))).unwrap().trim().to_owned()
    }

    fn is_active(&self, rest: &str) -> bool {
        group::device(&self.name(rest)).is_some()
    }

    /// The volumes, by names within the pool.
    fn list(&self) -> Vec<String> {
        let prefix = format!("{GROUP}/{}", self.prefix.0);
        self.prefix.volumes(GROUP).unwrap().iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// Shows a volume, mounted for as long as it takes.
    fn visit<T>(&self, rest: &str, look: impl FnOnce(&Path) -> T) -> T {
        let visited = Visited::new(&self.name(rest), self.folder.path()).unwrap();
        look(visited.unwrap_or_else(|| panic!("there is no volume {rest}")).path())
    }

    /// Shows the device of a volume, active for as long as it takes.
    fn with_device<T>(&self, rest: &str, look: impl FnOnce(&Path) -> T) -> T {
        let name = self.name(rest);
        let was_active = self.is_active(rest);
        if !was_active {
            lvm(&format!("lvchange --activate y --ignoreactivationskip {name}")).unwrap();
        }
        let seen = look(&group::device(&name).unwrap());
        if !was_active {
            lvm(&format!("lvchange --activate n {name}")).unwrap();
        }
        seen
    }

    fn uuid(&self, rest: &str) -> String {
        self.with_device(rest, |device| run(Command::new("blkid").args(["-p", "-s", "UUID", "-o", "value"]).arg(device)).unwrap())
    }

    /// Demands that the live root holds this file and nothing else of the test is there but these: no volume, device or mount.
    fn expect(&self, file: &str, all: &[&str]) {
        assert!(self.visit("c1", |root| root.join(file).exists()), "{file} is not in the root");
        self.expect_only(all);
    }

    fn expect_only(&self, all: &[&str]) {
        assert_eq!(self.list(), all);
        let volumes: Vec<_> = all.iter().map(|rest| self.name(rest)).collect();
        let ours = group::device_name(&self.name(""));
        let mut stray = group::stray_devices(GROUP, &volumes);
        stray.retain(|device| device.starts_with(&ours));
        assert!(stray.is_empty(), "devices are left: {stray:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&ours), "mounted is {mounts}");
    }
}

fn rebuild(volume: &mut LvmVolume, tree: &Tree) -> reroot::Result<Report> {
    // Between its fork and its exec a process that another test starts holds copies of our descriptors.
    Rebuild::new(image(tree)).busy_wait(Duration::from_secs(5)).run(volume)
}
