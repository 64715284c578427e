//! Snapshots, which go with the image they were taken of.

use super::*;
use reroot::SnapshotPolicy;
use reroot::volume::SnapshotOwner::{Foreign, Manager};
use serde_json::{Value, json};

fn purge(pool: &Pool, tree: &Tree) -> reroot::Result<Report> {
    Rebuild::new(image(tree)).snapshots(SnapshotPolicy::Purge).run(&mut pool.volume())
}

impl Pool {
    fn protected(&self, rest: &str, name: &str) {
        self.space.ask::<Value>("snapshot", &[json!(rest), json!(name), json!(true)]).unwrap();
    }
}

#[test]
fn they_are_the_managers_or_foreign() {
    let pool = need!(Pool::with_old());
    pool.snapshot("c1", "snapshot_a");
    pool.protected("c1", "snapshot_b");
    pool.snapshot("c1", "before the upgrade");
    pool.protected("c1", "zombie_snapshot_1");
    // Of another volume.
    rebuild(&mut pool.open("c2"), &old()).unwrap();
    pool.snapshot("c2", "snapshot_of_c2");
    let snapshots = pool.volume().snapshots().unwrap();
    let found: Vec<_> = snapshots.iter().map(|it| (it.name.to_str().unwrap(), it.owner)).collect();
    let expected =
        [("before the upgrade", Foreign), ("snapshot_a", Manager), ("snapshot_b", Manager), ("zombie_snapshot_1", Foreign)];
    assert_eq!(found, expected);
    let said = refused(rebuild(&mut pool.volume(), &new()), ErrorKind::HasSnapshots);
    assert!(expected.iter().all(|(name, _)| said.contains(name)) && said.contains("before the upgrade (foreign)"), "{said}");
    let report = purge(&pool, &new()).unwrap();
    assert!(report.purged.len() == 4 && report.warnings.is_empty(), "{report}");
    assert!(pool.facts("c1").snapshots.is_empty());
    assert_eq!(pool.facts("c2").snapshots, ["snapshot_of_c2"]);
    pool.expect("new", &["c1", "c2"]);
}

#[test]
fn they_cannot_be_kept() {
    let pool = need!(Pool::with_old());
    pool.snapshot("c1", "snapshot_a");
    let error = Rebuild::new(image(&new())).snapshots(SnapshotPolicy::Keep).run(&mut pool.volume()).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Untouched, "{}", error.report());
    assert!(matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::HasSnapshots), "{}", error.report());
    assert_eq!(pool.facts("c1").snapshots, ["snapshot_a"]);
    pool.expect("old", &["c1"]);
}

#[test]
fn one_that_is_taken_meanwhile_is_not_destroyed() {
    for (policy, before) in [(SnapshotPolicy::Refuse, None), (SnapshotPolicy::Purge, Some("snapshot_a"))] {
        let pool = need!(Pool::with_old());
        before.iter().for_each(|name| pool.snapshot("c1", name));
        let order = json!(["snapshot", pool.space.name, "c1", "snapshot_meanwhile", false]);
        let tar = std::io::Cursor::new(new().to_tar().unwrap());
        let snapper = Meddling::new(tar, move || drop(cluster::ask(order).unwrap()));
        let error = Rebuild::new(Image::from_reader(snapper, "test")).snapshots(policy).run(&mut pool.volume()).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::HasSnapshots, Outcome::RolledBack), "{}", error.report());
        assert!(error.report().to_string().contains("snapshot_meanwhile"), "{}", error.report());
        let expected: Vec<_> = before.into_iter().chain(["snapshot_meanwhile"]).collect();
        assert_eq!(pool.facts("c1").snapshots, expected);
        pool.expect("old", &["c1"]);
    }
}

#[test]
fn an_old_root_with_many_goes_whole() {
    let pool = need!(Pool::with_old());
    for number in 0..40 {
        pool.snapshot("c1", &format!("snapshot_{number}"));
    }
    let report = purge(&pool, &new()).unwrap();
    assert_eq!(report.purged.len(), 40, "{report}");
    pool.expect("new", &["c1"]);
}

#[test]
fn one_that_is_mapped_is_in_use() {
    let pool = need!(Pool::with_old());
    pool.snapshot("c1", "snapshot_a");
    let device = run_words(&format!("rbd map --options noudev {}@snapshot_a", pool.name("c1"))).trim().to_owned();
    let said = refused(purge(&pool, &new()), ErrorKind::Busy);
    assert!(said.contains(&device), "{said}");
    run_words(&format!("rbd unmap --options noudev {device}"));
    purge(&pool, &new()).unwrap();
    pool.expect("new", &["c1"]);
}

/// A group's snapshots are of all its images at once: they are not this library's to take apart.
#[test]
fn a_member_of_a_group_is_refused() {
    let pool = need!(Pool::with_old());
    let (group, name) = (pool.name("g"), pool.name("c1"));
    run_words(&format!("rbd group create {group}"));
    run_words(&format!("rbd group image add {group} {name}"));
    for snapped in [false, true] {
        if snapped {
            run_words(&format!("rbd group snap create {group}@all"));
        }
        let error = purge(&pool, &new()).unwrap_err();
        assert_eq!(error.outcome(), Outcome::Untouched, "{}", error.report());
        assert!(error.kind().is_refusal() && error.report().to_string().contains("rbd group"), "{}", error.report());
    }
    // It outlives the image's membership, and no one but the group can take it away.
    run_words(&format!("rbd group image rm {group} {name}"));
    for policy in [SnapshotPolicy::Refuse, SnapshotPolicy::Purge] {
        let error = Rebuild::new(image(&new())).snapshots(policy).run(&mut pool.volume()).unwrap_err();
        assert_eq!(error.outcome(), Outcome::Untouched, "{}", error.report());
        assert!(error.kind().is_refusal(), "{}", error.report());
    }
    assert!(pool.visit("c1", |root| root.join("old").exists()));
    run_words(&format!("rbd group snap rm {group}@all"));
    run_words(&format!("rbd group rm {group}"));
    pool.expect_sound();
}

#[test]
fn a_mirrored_image_is_refused() {
    let pool = need!(Pool::with_old());
    let name = pool.name("c1");
    run_words(&format!("rbd mirror pool enable {POOL} image"));
    run_words(&format!("rbd mirror pool enable {} image", pool.space.name));
    run_words(&format!("rbd mirror image enable {name} snapshot"));
    let error = purge(&pool, &new()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unsupported, Outcome::Untouched), "{}", error.report());
    assert!(error.report().to_string().contains("rbd mirror image disable"), "{}", error.report());
    run_words(&format!("rbd mirror image disable {name}"));
    run_words(&format!("rbd mirror pool disable {}", pool.space.name));
    run_words(&format!("rbd mirror pool disable {POOL}"));
    pool.expect_sound();
}
