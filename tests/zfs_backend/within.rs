//! A rebuild within the dataset: its snapshots, their lineage and its GUID stay.

use super::*;
use reroot::volume::{Placement, Slot, StageSpec};
use reroot::{ByteSize, RebuildableVolume, SnapshotPolicy};

/// A volume within which a rebuild has just begun that nobody is at any more.
fn interrupted(pool: &Pool) -> ZfsVolume {
    let mut volume = pool.volume();
    let _lock = volume.lock(&soon()).unwrap();
    volume.capture().unwrap();
    drop(volume.stage(&StageSpec::new().with_placement(Placement::Within)).unwrap());
    volume
}

fn keep(image: Image) -> Rebuild {
    Rebuild::new(image).snapshots(SnapshotPolicy::Keep)
}

#[test]
fn snapshots_and_their_lineage_survive() {
    let pool = need!(Pool::with_old());
    pool.zfs(&["snapshot"], "c1@zrepl_1");
    let send = |options: &str, to: &str| {
        run(Command::new("sh").args(["-c", &format!("zfs send {options} | zfs receive -F {}", pool.name(to))])).unwrap()
    };
    send(&pool.name("c1@zrepl_1"), "copy");
    pool.zfs(&["set", "mountpoint=legacy"], "copy");
    pool.zfs(&["bookmark", &pool.name("c1@zrepl_1")], "c1#mark");
    pool.zfs(&["clone", "-o", "mountpoint=legacy", &pool.name("c1@zrepl_1")], "clone");
    pool.zfs(&["hold", "kept"], "c1@zrepl_1");
    pool.zfs(&["create", "-o", "mountpoint=legacy"], "c1/data");
    let (guid, snapshot) = (pool.get("guid", "c1"), pool.get("guid", "c1@zrepl_1"));
    let report = keep(image(&new())).run(&mut pool.volume()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    assert_eq!(report.kept.len(), 1);
    pool.expect("new", &["c1", "c1/data", "c1@zrepl_1", "clone", "copy", "copy@zrepl_1"]);
    assert!(!pool.visit("c1", |root| root.join("old").exists()));
    assert_eq!((pool.get("guid", "c1"), pool.get("guid", "c1@zrepl_1")), (guid, snapshot));
    // What a backup needs: only the difference is sent.
    pool.zfs(&["snapshot"], "c1@zrepl_2");
    send(&format!("-i @zrepl_1 {}", pool.name("c1@zrepl_2")), "copy");
    assert!(pool.visit("copy", |root| root.join("new").exists() && !root.join("old").exists()));
    send(&format!("-i {} {}", pool.name("c1#mark"), pool.name("c1@zrepl_2")), "copy");
    pool.zfs(&["release", "kept"], "c1@zrepl_1");
}

#[test]
fn a_failure_rolls_back() {
    let pool = need!(Pool::with_old());
    pool.zfs(&["snapshot"], "c1@a");
    let guid = pool.get("guid", "c1");
    let mut volume = pool.volume();
    let record = volume.record().unwrap();
    let error = keep(broken()).run(&mut volume).unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack, "{}", error.report());
    pool.expect("old", &["c1", "c1@a"]);
    assert_eq!((pool.get("guid", "c1"), volume.record().unwrap()), (guid, record));
    // Also where the size had been raised.
    pool.zfs(&["set", "refquota=64M"], "c1");
    let error = keep(broken()).size(ByteSize::mib(128)).run(&mut volume).unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack, "{}", error.report());
    assert_eq!((pool.get("refquota", "c1").as_str(), pool.get("quota", "c1").as_str()), ("67108864", "0"));
    keep(image(&new())).size(ByteSize::mib(128)).run(&mut volume).unwrap();
    assert_eq!(pool.get("refquota", "c1"), "134217728");
    pool.expect("new", &["c1", "c1@a"]);
}

#[test]
fn a_kill_is_recovered_from_whoever_took_snapshots_meanwhile() {
    let pool = need!(Pool::with_old());
    pool.zfs(&["snapshot"], "c1@a");
    let mut volume = pool.volume();
    let lock = volume.lock(&soon()).unwrap();
    volume.capture().unwrap();
    let root = volume.stage(&StageSpec::new().with_placement(Placement::Within).with_size(ByteSize::gib(1))).unwrap();
    drop(root);
    pool.visit("c1", |root| {
        assert!(!root.join("old").exists());
        fs::write(root.join("half"), "").unwrap();
    });
    let names = volume.names().unwrap();
    assert!(names.live && names.staged && !names.retired);
    assert_ne!(volume.identity(Slot::Live).unwrap(), volume.identity(Slot::Staged).unwrap());
    // Taken of an unfinished root, they are in the way of the rollback.
    pool.zfs(&["snapshot"], "c1@sanoid_1");
    drop((volume, lock));
    let mut volume = pool.volume();
    assert_eq!(volume.snapshots().unwrap().iter().map(|it| it.name.to_str().unwrap()).collect::<Vec<_>>(), ["a", "sanoid_1"]);
    reroot::recover(&mut volume, &soon()).unwrap();
    pool.expect("old", &["c1", "c1@a"]);
    assert_eq!((pool.get("refquota", "c1").as_str(), pool.source("refquota", "c1").as_str()), ("0", "local"));
    assert!(!pool.visit("c1", |root| root.join("half").exists()));
}

#[test]
fn a_held_snapshot_of_an_unfinished_root_is_named() {
    let pool = need!(Pool::with_old());
    let mut volume = interrupted(&pool);
    pool.zfs(&["snapshot"], "c1@later");
    pool.zfs(&["hold", "backup"], "c1@later");
    let error = reroot::recover(&mut volume, &soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HasDependents, "{}", error.report());
    assert!(error.remedy().unwrap().contains("zfs release backup"), "{}", error.report());
    pool.zfs(&["release", "backup"], "c1@later");
    reroot::recover(&mut volume, &soon()).unwrap();
    pool.expect("old", &["c1"]);
}

#[test]
fn in_place_and_kept_snapshots_exclude_each_other() {
    let pool = need!(Pool::with_old());
    pool.zfs(&["snapshot"], "c1@a");
    let rebuild = keep(Image::empty()).strategy(reroot::Strategy::InPlace);
    assert!(refused(rebuild.run(&mut pool.volume()), ErrorKind::Unsupported).contains("removes first"));
    pool.expect("old", &["c1", "c1@a"]);
}

#[test]
fn a_visible_snapshot_directory_is_let_be() {
    let pool = need!(Pool::with_foreign(&["-o", "snapdir=visible"]));
    pool.zfs(&["snapshot"], "c1@a");
    keep(image(&new())).run(&mut pool.volume()).unwrap();
    pool.expect("new", &["c1", "c1@a"]);
    assert!(pool.visit("c1", |root| root.join(".zfs/snapshot/a/old").exists()));
}

#[test]
fn a_snapshot_of_our_name_that_is_not_ours_is_never_rolled_back_to() {
    let pool = need!(Pool::with_old());
    pool.zfs(&["snapshot"], "c1@reroot-staged");
    pool.visit("c1", |root| fs::write(root.join("later"), "").unwrap());
    let error = reroot::recover(&mut pool.volume(), &soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.report());
    assert!(error.remedy().unwrap().contains("zfs rename"), "{}", error.report());
    pool.expect("later", &["c1", "c1@reroot-staged"]);
    pool.zfs(&["destroy"], "c1@reroot-staged");
    // One of ours, with all its properties, in a copy that someone received.
    let mut volume = pool.volume();
    let lock = volume.lock(&soon()).unwrap();
    volume.capture().unwrap();
    drop(volume.stage(&StageSpec::new().with_placement(Placement::Within)).unwrap());
    let (from, to) = (pool.name("c1@reroot-staged"), pool.name("copy"));
    run(Command::new("sh").args(["-c", &format!("zfs send -R {from} | zfs receive -u {to}")])).unwrap();
    pool.visit("copy", |root| fs::write(root.join("later"), "").unwrap());
    let mut copy = ZfsVolume::open(&to).unwrap();
    assert_eq!(reroot::recover(&mut copy, &soon()).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(pool.visit("copy", |root| root.join("later").exists()));
    drop(lock);
    reroot::recover(&mut volume, &soon()).unwrap();
    pool.expect("later", &["c1", "copy", "copy@reroot-staged"]);
}

#[test]
fn an_unfinished_root_that_an_instance_was_started_on_is_not_rolled_back() {
    let pool = need!(Pool::with_old());
    let mut volume = interrupted(&pool);
    pool.visit("c1", |root| {
        fs::write(root.join("work"), "").unwrap();
        let error = reroot::recover(&mut volume, &soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.report());
        assert!(error.message().contains(&*root.to_string_lossy()), "{}", error.report());
        assert!(root.join("work").exists());
    });
    reroot::recover(&mut volume, &soon()).unwrap();
    pool.expect("old", &["c1"]);
}

#[test]
fn a_read_only_root_is_refused_before_anything_is_changed() {
    let pool = need!(Pool::with_foreign(&[]));
    pool.zfs(&["snapshot"], "c1@a");
    pool.zfs(&["set", "readonly=on"], "c1");
    assert!(refused(keep(image(&new())).run(&mut pool.volume()), ErrorKind::Unsupported).contains("readonly=off"));
    pool.expect("old", &["c1", "c1@a"]);
}

#[test]
fn a_clone_of_an_unfinished_root_is_not_to_be_promoted() {
    let pool = need!(Pool::with_old());
    let mut volume = interrupted(&pool);
    pool.zfs(&["snapshot"], "c1@later");
    pool.zfs(&["clone", "-o", "mountpoint=legacy", &pool.name("c1@later")], "clone");
    let error = reroot::recover(&mut volume, &soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HasDependents, "{}", error.report());
    // The snapshot that keeps the old root would go to the clone.
    assert!(error.remedy().unwrap().starts_with("destroy it"), "{}", error.report());
    pool.zfs(&["destroy"], "clone");
    reroot::recover(&mut volume, &soon()).unwrap();
    pool.expect("old", &["c1"]);
}
