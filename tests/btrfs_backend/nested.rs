//! Subvolumes in the old root.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use reroot::volume::{Slot, Tidied};
use reroot::{ErrorKind, Rebuild, RebuildableVolume, SnapshotPolicy, Strategy, recover};

use super::loopfs::{Mounted, run};
use super::{Pool, file_image, need, new, rebuild, refused, soon};

/// Subvolumes with all kinds of names and three deep, some of them read-only.
fn fill_zoo(pool: &Pool, root: &str) {
    let at = |path: &str| format!("{root}/{path}");
    let make = |path: &str| {
        pool.btrfs(&["subvolume", "create"], &[&at(path)]);
        fs::write(pool.path(at(path)).join("file"), "content").unwrap();
    };
    fs::create_dir_all(pool.path(at("var/lib/a folder\nof two lines"))).unwrap();
    make("plain");
    make("with space");
    make("with\nnewline");
    make("var/lib/a folder\nof two lines/ID 256 gen 7 top level 5 path x");
    make("one");
    make("one/two");
    fs::create_dir(pool.path(at("one/two/folder"))).unwrap();
    make("one/two/folder/three");
    make("frozen");
    make("frozen/inner");
    make("-leading dash");
    make(&"x".repeat(255));
    fs::set_permissions(pool.path(at("with space")), std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
    for path in ["frozen/inner", "frozen", "one/two/folder/three", "one/two"] {
        freeze(pool, &at(path));
    }
}

/// `btrfs property set` wants the property after the path.
fn freeze(pool: &Pool, path: &str) {
    run(Command::new("btrfs").args(["property", "set", "-f", "-ts"]).arg(pool.path(path)).args(["ro", "true"])).unwrap();
}

#[test]
fn a_zoo_of_subvolumes_goes_with_the_old_root() {
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let pool = need!(Pool::with_old(256));
        fill_zoo(&pool, "containers/c1");
        assert_eq!(pool.subvolumes().len(), 12);
        let mut volume = pool.volume();
        let report = Rebuild::new(file_image(&pool.path("backup"), &new())).strategy(strategy).run(&mut volume).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        pool.expect_only("new");
        assert_eq!(pool.subvolumes(), ["containers/c1"]);
        pool.cleaned();
    }
}

#[test]
fn what_a_kill_left_of_a_removal_is_no_root() {
    let pool = need!(Pool::with_old(128));
    // As an in-place rebuild leaves it that was killed while the subvolumes in the old root went.
    rebuild(&mut pool.volume(), &new()).unwrap();
    fill_zoo(&pool, "containers/c1");
    fs::rename(pool.root(), pool.path("containers/c1.reroot-doomed")).unwrap();
    pool.btrfs(&["subvolume", "delete"], &["containers/c1.reroot-doomed/plain"]);
    let mut volume = pool.volume();
    let recovery = recover(&mut volume, &soon()).unwrap();
    assert_eq!(recovery.actions, [reroot::RecoverAction::Tidy]);
    assert!(pool.subvolumes().is_empty());
    assert_eq!(volume.tidy().unwrap(), Tidied::Nothing);
}

#[test]
fn a_whole_retired_root_comes_back_with_all_in_it() {
    let pool = need!(Pool::with_old(128));
    fill_zoo(&pool, "containers/c1");
    let before = pool.subvolumes();
    pool.volume().rename(Slot::Live, Slot::Retired).unwrap();
    let recovery = recover(&mut pool.volume(), &soon()).unwrap();
    assert_eq!(recovery.actions, [reroot::RecoverAction::RollBack]);
    assert_eq!(pool.subvolumes(), before);
}

#[test]
fn mounts_of_subvolumes_are_named_before_anything_changes() {
    let pool = need!(Pool::with_old(128));
    fill_zoo(&pool, "containers/c1");
    let before = pool.subvolumes();
    let elsewhere = tempfile::tempdir().unwrap();
    let device = run(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(pool.path("."))).unwrap();
    let device = device.trim().split('[').next().unwrap().to_owned();
    let refuse = |what: &str| {
        for strategy in [Strategy::Swap, Strategy::InPlace] {
            let rebuild = Rebuild::new(file_image(&pool.path("backup"), &new())).strategy(strategy);
            let said = refused(rebuild.run(&mut pool.volume()), ErrorKind::Busy);
            assert!(said.contains(what), "{said}");
            assert_eq!(pool.subvolumes(), before);
        }
    };
    // By its id, where no path tells that it lies in the root.
    let shown = pool.btrfs(&["subvolume", "show"], &["containers/c1/one/two/folder/three"]);
    let id = shown.lines().find_map(|line| line.trim().strip_prefix("Subvolume ID:")).unwrap().trim().to_owned();
    let option = format!("subvolid={id}");
    run(Command::new("mount").args(["-o", &option, &device]).arg(elsewhere.path())).unwrap();
    let mounted = Unmount(elsewhere.path());
    refuse(elsewhere.path().to_str().unwrap());
    drop(mounted);
    // Something else on one of them.
    let mounted = Mounted::bind(Path::new("/proc/self/ns"), &pool.path("containers/c1/one/two/folder")).unwrap();
    refuse("one/two/folder");
    drop(mounted);
    // What a mount shows that names no subvolume.
    pool.btrfs(&["subvolume", "set-default"], &["containers/c1/frozen/inner"]);
    refuse("the subvolume frozen/inner in it is the file system's default subvolume");
    pool.btrfs(&["subvolume", "set-default"], &["containers/c1"]);
    refuse("it is the file system's default subvolume");
    run(Command::new("btrfs").args(["subvolume", "set-default", "5"]).arg(pool.path("."))).unwrap();
    // A file that is open in one.
    let file = File::open(pool.path("containers/c1/one/two/file")).unwrap();
    refuse("open file one/two/file");
    drop(file);
    rebuild(&mut pool.volume(), &new()).unwrap();
    assert_eq!(pool.subvolumes(), ["containers/c1"]);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(self.0));
    }
}

#[test]
fn a_mount_that_came_later_keeps_the_old_root() {
    let pool = need!(Pool::with_old(128));
    fill_zoo(&pool, "containers/c1");
    let mut volume = pool.volume();
    volume.rename(Slot::Live, Slot::Retired).unwrap();
    let retired = pool.path("containers/c1.reroot-retired");
    let mounted = Mounted::bind(&pool.path("backup"), &retired.join("one/two")).unwrap();
    let error = volume.discard(Slot::Retired).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.report());
    assert_eq!(pool.subvolumes().len(), 12);
    assert!(volume.names().unwrap().retired);
    drop(mounted);
    volume.discard(Slot::Retired).unwrap();
    assert!(pool.subvolumes().is_empty());
}

#[test]
fn a_snapshot_in_the_root_does_not_go_unnamed() {
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let pool = need!(Pool::with_old(128));
        let taken = "containers/c1/.snapshots/1";
        fs::create_dir(pool.path("containers/c1/.snapshots")).unwrap();
        pool.btrfs(&["subvolume", "snapshot", "-r"], &["containers/c1", taken]);
        let names: Vec<_> = pool.volume().snapshots().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["./.snapshots/1 (foreign)"]);
        let run = |policy| {
            let rebuild = Rebuild::new(file_image(&pool.path("backup"), &new())).strategy(strategy).snapshots(policy);
            rebuild.run(&mut pool.volume())
        };
        let said = refused(run(SnapshotPolicy::Refuse), ErrorKind::HasSnapshots);
        assert!(said.contains("./.snapshots/1"), "{said}");
        // It cannot outlive the root it lies in.
        refused(run(SnapshotPolicy::Keep), ErrorKind::Unsupported);
        assert!(pool.path(taken).join("old").exists());
        let report = run(SnapshotPolicy::Purge).unwrap();
        assert!(report.warnings.is_empty() && report.purged.len() == 1, "{report}");
        assert_eq!(pool.subvolumes(), ["containers/c1"]);
    }
    // One that came after the look.
    let pool = need!(Pool::with_old(128));
    let mut volume = pool.volume();
    volume.rename(Slot::Live, Slot::Retired).unwrap();
    pool.btrfs(&["subvolume", "snapshot"], &["containers/c1.reroot-retired", "containers/c1.reroot-retired/srv/late"]);
    let error = volume.discard(Slot::Retired).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HasSnapshots, "{}", error.report());
    assert!(pool.path("containers/c1.reroot-retired/srv/late/old").exists());
}

#[test]
fn in_place_uses_the_space_of_the_old_root() {
    let pool = need!(Pool::new(256));
    let tree = super::quotas::large(100);
    let elsewhere = tempfile::tempdir().unwrap();
    rebuild(&mut pool.volume(), &tree).unwrap();
    // There is no room for two.
    let error = rebuild(&mut pool.volume(), &tree).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace(reroot::Space::Pool), "{}", error.report());
    for _ in 0..2 {
        let rebuild = Rebuild::new(file_image(elsewhere.path(), &tree)).strategy(Strategy::InPlace);
        let report = rebuild.run(&mut pool.volume()).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        pool.expect_only("part-99");
    }
}
