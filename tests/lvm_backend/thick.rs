//! Volumes on extents of their own, in a group without a thin pool.

use super::*;
use crate::group::THICK;
use reroot::{RebuildableVolume, SnapshotPolicy, Space, Strategy};
use std::io::{Read, Write};

/// The group, which is one test's at a time: they are about the space that is left in it.
struct Group {
    prefix: Prefix,
    folder: tempfile::TempDir,
    _turn: std::sync::MutexGuard<'static, ()>,
}

impl Group {
    fn new() -> Result<Group, String> {
        static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        group::thick_group()?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Group { prefix: Prefix::new()?, folder, _turn: turn })
    }

    fn with_old() -> Result<Group, String> {
        let group = Group::new()?;
        rebuild(&mut group.volume(), &old()).unwrap();
        Ok(group)
    }

    fn name(&self, rest: &str) -> String {
        format!("{THICK}/{}{rest}", self.prefix.0)
    }

    fn volume(&self) -> LvmVolume {
        LvmVolume::open(&self.name("c1")).unwrap().with_size(SIZE)
    }

    fn get(&self, fields: &str, rest: &str) -> String {
        let form = "--noheadings --units b --nosuffix --separator ;";
        lvm(&format!("lvs {form} --options {fields} {}", self.name(rest))).unwrap().trim().to_owned()
    }

    /// Takes all space of the group but so much.
    fn leave(&self, left: ByteSize) {
        let free = lvm(&format!("vgs --noheadings --units b --nosuffix --options vg_free {THICK}")).unwrap();
        let size = free.trim().parse::<u64>().unwrap() - left.bytes();
        lvm(&format!("lvcreate --yes --wipesignatures n --size {size}b --name {}ballast {THICK}", self.prefix.0)).unwrap();
    }

    fn expect(&self, file: &str, all: &[&str]) {
        let visited = Visited::new(&self.name("c1"), self.folder.path()).unwrap().expect("there is no volume");
        assert!(visited.path().join(file).exists(), "{file} is not in the root");
        drop(visited);
        let all: Vec<_> = all.iter().map(|rest| self.name(rest)).collect();
        assert_eq!(self.prefix.volumes(THICK).unwrap(), all);
        assert!(group::stray_devices(THICK, &all).is_empty(), "{:?}", group::stray_devices(THICK, &all));
    }
}

#[test]
fn they_are_rebuilt_by_swap_and_in_place() {
    let group = need!(Group::with_old());
    let before = group.get("lv_size,segtype,pool_lv,lv_tags", "c1");
    assert_eq!(before, format!("{};linear;;reroot-made", SIZE.bytes()));
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        for (name, tree) in [("new", new()), ("old", old())] {
            let rebuild = Rebuild::new(seekable(group.folder.path(), &tree)).strategy(strategy);
            let report = rebuild.run(&mut group.volume()).unwrap();
            assert!(report.warnings.is_empty(), "{report}");
            group.expect(name, &["c1"]);
            assert_eq!(group.get("lv_size,segtype,pool_lv,lv_tags", "c1"), before);
        }
    }
}

#[test]
fn a_full_group_has_room_for_one_in_place() {
    let group = need!(Group::with_old());
    group.leave(ByteSize::mib(32));
    let said = refused(rebuild(&mut group.volume(), &new()), ErrorKind::TooSmall);
    assert!(said.contains("in place"), "{said}");
    group.expect("old", &["ballast", "c1"]);
    let in_place = Rebuild::new(seekable(group.folder.path(), &new())).strategy(Strategy::InPlace);
    in_place.run(&mut group.volume()).unwrap();
    group.expect("new", &["ballast", "c1"]);
    // Nor for a larger one.
    let larger = Rebuild::new(seekable(group.folder.path(), &old())).strategy(Strategy::InPlace).size(ByteSize::mib(200));
    let error = larger.run(&mut group.volume()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooSmall | ErrorKind::NoSpace(Space::Pool)), "{}", error.report());
    assert_eq!(error.outcome(), Outcome::Untouched, "{}", error.report());
    group.expect("new", &["ballast", "c1"]);
}

/// What someone else had on these extents.
const SECRET: &[u8] = b"nobody is to read this again: 0123456789abcdef";

#[test]
fn nobodys_old_data_shows_through() {
    let group = need!(Group::new());
    // All over the group, at every place where a page could begin.
    group.leave(ByteSize::ZERO);
    let ballast = group.name("ballast");
    let device = group::device(&ballast).unwrap();
    let mut page = vec![0; 4096];
    page[..SECRET.len()].copy_from_slice(SECRET);
    let chunk = page.repeat(256);
    let mut file = fs::OpenOptions::new().write(true).open(&device).unwrap();
    while file.write_all(&chunk).is_ok() {}
    drop(file.sync_all());
    drop(file);
    group::remove(&[ballast]).unwrap();
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        // Also where it is grown.
        for size in [SIZE, ByteSize::mib(96)] {
            let rebuild = Rebuild::new(seekable(group.folder.path(), &new())).strategy(strategy);
            let size = size.round_up(SIZE.saturating_sub(ByteSize::mib(32)));
            rebuild.size(size).run(&mut group.volume()).unwrap();
            assert_eq!(pages_with_secrets(&group), 0, "{strategy:?}");
            group.expect("new", &["c1"]);
        }
        group::remove(&[group.name("c1")]).unwrap();
    }
}

fn pages_with_secrets(group: &Group) -> usize {
    let name = group.name("c1");
    lvm(&format!("lvchange --activate y {name}")).unwrap();
    let mut file = fs::File::open(group::device(&name).unwrap()).unwrap();
    let (mut chunk, mut found) = (vec![0; 1 << 20], 0);
    loop {
        let length = file.read(&mut chunk).unwrap();
        if length == 0 {
            return found;
        }
        found += chunk[..length].chunks(512).filter(|page| page.starts_with(SECRET)).count();
    }
}

#[test]
fn their_snapshots_go_with_them() {
    let group = need!(Group::with_old());
    let snapshot = format!("lvcreate --yes --snapshot --size 16M --name {}c1-snap0 {}", group.prefix.0, group.name("c1"));
    lvm(&snapshot).unwrap();
    let said = refused(rebuild(&mut group.volume(), &new()), ErrorKind::HasSnapshots);
    assert!(said.contains("c1-snap0"), "{said}");
    let keep = Rebuild::new(image(&new())).snapshots(SnapshotPolicy::Keep);
    refused(keep.run(&mut group.volume()), ErrorKind::Unsupported);
    group.expect("old", &["c1", "c1-snap0"]);
    // It is no volume itself.
    let error = LvmVolume::open(&group.name("c1-snap0")).and_then(|mut volume| rebuild(&mut volume, &new())).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Untouched, "{}", error.report());
    let report = Rebuild::new(image(&new())).snapshots(SnapshotPolicy::Purge).run(&mut group.volume()).unwrap();
    assert_eq!((report.purged.len(), report.warnings.len()), (1, 0), "{report}");
    group.expect("new", &["c1"]);
}

#[test]
fn layers_that_are_left_go_too() {
    let group = need!(Group::with_old());
    // As if udev had activated a root with a snapshot while that was removed.
    let device = group::device_name(&group.name("c1.reroot-retired"));
    for layer in ["-cow", "-real"] {
        run(Command::new("dmsetup").args(["create", &format!("{device}{layer}"), "--table", "0 8 error"])).unwrap();
    }
    rebuild(&mut group.volume(), &new()).unwrap();
    group.expect("new", &["c1"]);
}

#[test]
fn stripes_are_kept() {
    let group = need!(Group::new());
    // A second disk.
    let disk = group.folder.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&disk)).unwrap().trim().to_owned();
    lvm(&format!("vgextend --yes {THICK} {device}")).unwrap();
    let options = "--yes --stripes 2 --stripesize 32k --size 64M --wipesignatures n";
    lvm(&format!("lvcreate {options} --name {}c1 {THICK}", group.prefix.0)).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(group::device(&group.name("c1")).unwrap())).unwrap();
    lvm(&format!("lvchange --activate n {}", group.name("c1"))).unwrap();
    let before = group.get("lv_size,segtype,stripes,stripe_size", "c1");
    let result = rebuild(&mut group.volume(), &new()).map_err(|error| error.report().to_string());
    let after = group.get("lv_size,segtype,stripes,stripe_size", "c1");
    group::remove(&[group.name("c1")]).unwrap();
    lvm(&format!("vgreduce --yes {THICK} {device}")).unwrap();
    lvm(&format!("pvremove --yes {device}")).unwrap();
    run(Command::new("losetup").args(["--detach", &device])).unwrap();
    result.unwrap();
    assert_eq!(after, before);
}

#[test]
fn usage_is_that_of_the_group() {
    let group = need!(Group::with_old());
    let usage = || group.volume().usage(reroot::volume::UsageDetail::Full).unwrap();
    let before = usage();
    assert_eq!((before.size, before.used), (Some(SIZE), Some(SIZE)));
    group.leave(ByteSize::mib(40));
    assert_eq!(usage().free, ByteSize::mib(40));
}
