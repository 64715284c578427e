//! Snapshots: the manager's, and those that lie anywhere else.

use std::fs;
use std::process::Command;
use std::time::Instant;

use reroot::volume::{SnapshotOwner, Tidied};
use reroot::{ErrorKind, Rebuild, RebuildableVolume, SnapshotPolicy, Strategy};

use super::loopfs::{Mounted, run};
use super::{Pool, file_image, image, need, new, refused, soon};

fn names(pool: &Pool) -> Vec<String> {
    pool.volume().snapshots().unwrap().iter().map(ToString::to_string).collect()
}

fn snapshot(pool: &Pool, to: &str) {
    pool.btrfs(&["subvolume", "snapshot", "-r"], &["containers/c1", to]);
}

#[test]
fn all_are_listed_and_none_goes_unless_named() {
    let pool = need!(Pool::with_old(128));
    for to in ["containers-snapshots/c1/snap 0", "backup/monday\n", "at-the-top"] {
        snapshot(&pool, to);
    }
    // In a subvolume of its own, and one of another volume.
    pool.btrfs(&["subvolume", "create"], &["backup/other"]);
    snapshot(&pool, "backup/other/tuesday");
    pool.btrfs(&["subvolume", "snapshot", "-r"], &["backup/other", "backup/not ours"]);
    pool.btrfs(&["subvolume", "snapshot", "-r"], &["backup/other/tuesday", "backup/copy of a snapshot"]);
    let all = ["/at-the-top (foreign)", "/backup/monday\\n (foreign)", "/backup/other/tuesday (foreign)", "snap 0"];
    assert_eq!(names(&pool), all);
    let said = refused(Rebuild::new(image(&new())).run(&mut pool.volume()), ErrorKind::HasSnapshots);
    assert!(all.iter().all(|name| said.contains(name)), "{said}");
    assert_eq!(names(&pool), all);

    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let rebuild = Rebuild::new(file_image(&pool.path("backup"), &new())).strategy(strategy).snapshots(SnapshotPolicy::Keep);
        let before = pool.subvolumes().len();
        let report = rebuild.run(&mut pool.volume()).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        assert_eq!(pool.subvolumes().len(), before);
        assert!(pool.path("backup/other/tuesday/old").exists() && pool.path("containers-snapshots/c1/snap 0/old").exists());
        // Those of a root that is gone are no one's; the manager's are where they were.
        assert_eq!(names(&pool), ["snap 0"]);
    }
}

#[test]
fn purging_takes_those_that_were_named() {
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let pool = need!(Pool::with_old(128));
        for to in ["containers-snapshots/c1/snap0", "backup/monday", "backup/tuesday"] {
            snapshot(&pool, to);
        }
        pool.btrfs(&["subvolume", "create"], &["backup/other"]);
        pool.btrfs(&["subvolume", "snapshot", "-r"], &["backup/other", "backup/stays"]);
        let rebuild = Rebuild::new(file_image(&pool.path("backup"), &new())).strategy(strategy).snapshots(SnapshotPolicy::Purge);
        let report = rebuild.run(&mut pool.volume()).unwrap();
        assert!(report.warnings.is_empty() && report.purged.len() == 3, "{report}");
        assert!(report.reclaiming.is_some_and(|reclaiming| reclaiming.objects > 0) || report.reclaiming.is_none());
        assert_eq!(pool.subvolumes(), ["backup/other", "backup/stays", "containers/c1"]);
    }
    // One of two.
    let pool = need!(Pool::with_old(128));
    snapshot(&pool, "backup/monday");
    snapshot(&pool, "backup/tuesday");
    let mut volume = pool.volume();
    volume.capture().unwrap();
    let snapshots = volume.snapshots().unwrap();
    volume.purge(&snapshots[..1]).unwrap();
    assert_eq!(names(&pool), ["/backup/tuesday (foreign)"]);
    volume.purge(&snapshots).unwrap();
    volume.purge(&snapshots).unwrap();
    assert!(names(&pool).is_empty());
}

#[test]
fn a_copy_that_lives_is_never_purged() {
    let pool = need!(Pool::with_old(128));
    // As a manager copies an instance.
    pool.btrfs(&["subvolume", "snapshot"], &["containers/c1", "containers/c2"]);
    assert_eq!(names(&pool), ["/containers/c2 (foreign)"]);
    let said =
        refused(Rebuild::new(image(&new())).snapshots(SnapshotPolicy::Purge).run(&mut pool.volume()), ErrorKind::HasDependents);
    assert!(said.contains("/containers/c2"), "{said}");
    let mut volume = pool.volume();
    volume.capture().unwrap();
    let snapshots = volume.snapshots().unwrap();
    assert_eq!(volume.purge(&snapshots).unwrap_err().kind(), ErrorKind::HasDependents);
    assert!(pool.path("containers/c2/old").exists());
    Rebuild::new(image(&new())).snapshots(SnapshotPolicy::Keep).run(&mut volume).unwrap();
    assert!(pool.path("containers/c2/old").exists() && pool.root().join("new").exists());
}

#[test]
fn a_snapshot_that_is_mounted_is_named_and_stays() {
    let pool = need!(Pool::with_old(128));
    snapshot(&pool, "backup/monday");
    snapshot(&pool, "containers-snapshots/c1/snap0");
    let elsewhere = tempfile::tempdir().unwrap();
    for path in ["backup/monday", "containers-snapshots/c1/snap0"] {
        let mut volume = pool.volume();
        volume.capture().unwrap();
        let snapshots = volume.snapshots().unwrap();
        let mounted = Mounted::bind(&pool.path(path), elsewhere.path()).unwrap();
        let wanted: Vec<_> = snapshots.into_iter().filter(|snapshot| path.ends_with(name_of(&snapshot.name))).collect();
        let error = volume.purge(&wanted).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.report());
        assert!(error.to_string().contains(elsewhere.path().to_str().unwrap()), "{error}");
        assert!(elsewhere.path().join("old").exists());
        drop(mounted);
        volume.purge(&wanted).unwrap();
        assert!(!pool.path(path).exists());
        volume.tidy().unwrap();
    }
    assert_eq!(pool.subvolumes(), ["containers/c1"]);
}

fn name_of(name: &std::ffi::OsStr) -> &str {
    name.to_str().unwrap().trim_start_matches("/backup/")
}

#[test]
fn a_snapshot_with_subvolumes_in_it() {
    let pool = need!(Pool::with_old(128));
    // As LXD takes one of a root that has a subvolume in it.
    pool.btrfs(&["subvolume", "create"], &["containers/c1/inner"]);
    pool.btrfs(&["subvolume", "snapshot"], &["containers/c1", "containers-snapshots/c1/snap0"]);
    fs::remove_dir(pool.path("containers-snapshots/c1/snap0/inner")).unwrap();
    pool.btrfs(&["subvolume", "snapshot", "-r"], &["containers/c1/inner", "containers-snapshots/c1/snap0/inner"]);
    run(Command::new("btrfs")
        .args(["property", "set", "-ts"])
        .arg(pool.path("containers-snapshots/c1/snap0"))
        .args(["ro", "true"]))
    .unwrap();
    let mut volume = pool.volume();
    assert_eq!(volume.snapshots().unwrap()[0].owner, SnapshotOwner::Manager);
    let report = Rebuild::new(image(&new())).snapshots(SnapshotPolicy::Purge).run(&mut volume).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    assert_eq!(pool.subvolumes(), ["containers/c1"]);
}

#[test]
fn what_a_killed_purge_left_is_tidied() {
    let pool = need!(Pool::with_old(128));
    snapshot(&pool, "containers-snapshots/c1/snap0.reroot-retired");
    assert!(pool.volume().snapshots().unwrap().iter().all(|snapshot| snapshot.owner == SnapshotOwner::Manager));
    assert_eq!(pool.volume().tidy().unwrap(), Tidied::Something);
    assert_eq!(pool.subvolumes(), ["containers/c1"]);
}

#[test]
fn a_thousand_in_one_call() {
    const COUNT: usize = 1000;
    let pool = need!(Pool::with_old(512));
    let mut volume = pool.volume();
    for chunk in 0..COUNT / 100 {
        let script: String = (0..100)
            .map(|number| {
                let root = pool.root();
                let to = pool.path(format!("containers-snapshots/c1/{:04}", chunk * 100 + number));
                format!("btrfs subvolume snapshot -r '{}' '{}'\n", root.display(), to.display())
            })
            .collect();
        run(Command::new("sh").args(["-e", "-c", &script])).unwrap();
    }
    snapshot(&pool, "backup/foreign");
    volume.capture().unwrap();
    let begun = Instant::now();
    let snapshots = volume.snapshots().unwrap();
    let listed = begun.elapsed();
    assert_eq!(snapshots.len(), COUNT + 1);
    let begun = Instant::now();
    volume.purge(&snapshots).unwrap();
    let purged = begun.elapsed();
    assert!(volume.snapshots().unwrap().is_empty());
    assert_eq!(pool.subvolumes(), ["containers/c1"]);
    let reclaiming = volume.reclaiming().unwrap().unwrap();
    let begun = Instant::now();
    assert_eq!(volume.wait_reclaimed(&soon()).unwrap().objects, 0);
    assert_eq!(volume.reclaiming().unwrap().unwrap().objects, 0);
    println!(
        "{COUNT} snapshots: listed in {:.1} ms, purged in {:.1} ms; then still to come back: {reclaiming}, for {:.1} s",
        listed.as_secs_f64() * 1e3,
        purged.as_secs_f64() * 1e3,
        begun.elapsed().as_secs_f64()
    );
    assert!(purged.as_secs() < 30, "{purged:?}");
}
