//! What would break if an old root went: its snapshots, their clones and holds, child datasets.

use super::*;
use reroot::volume::SnapshotOwner;
use reroot::zfs::ClonePolicy;
use reroot::{RebuildableVolume, SnapshotPolicy};

fn purge(image: Image) -> Rebuild {
    Rebuild::new(image).snapshots(SnapshotPolicy::Purge)
}

#[test]
fn foreign_snapshots_are_told_and_refused_for() {
    let pool = need!(Pool::with_old());
    for name in ["c1@snapshot-before", "c1@zrepl_20261129_0000", "c1@autosnap_2026"] {
        pool.zfs(&["snapshot"], name);
    }
    let volume = pool.volume();
    let owners: Vec<_> = volume.snapshots().unwrap().iter().map(|it| (it.name.to_str().unwrap().to_owned(), it.owner)).collect();
    let expected = [
        ("autosnap_2026", SnapshotOwner::Foreign),
        ("snapshot-before", SnapshotOwner::Manager),
        ("zrepl_20261129_0000", SnapshotOwner::Foreign),
    ];
    assert_eq!(owners, expected.map(|(name, owner)| (name.to_owned(), owner)));
    let said = refused(rebuild(&mut pool.volume(), &new()), ErrorKind::HasSnapshots);
    assert!(said.contains("zrepl_20261129_0000 (foreign)") && said.contains("snapshot-before"), "{said}");
    let report = purge(image(&new())).run(&mut pool.volume()).unwrap();
    assert_eq!(report.purged.len(), 3);
    pool.expect("new", &["c1"]);
}

#[test]
fn a_snapshot_that_is_taken_meanwhile_stops_the_commit() {
    let pool = need!(Pool::with_old());
    // The image takes it while it is read.
    let name = pool.name("c1@meanwhile");
    let tar = new().to_tar().unwrap();
    let reader = Snapper { tar: Cursor::new(tar), name };
    let error = Rebuild::new(Image::from_reader(reader, "test")).run(&mut pool.volume()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::HasSnapshots, Outcome::RolledBack), "{}", error.report());
    pool.expect("old", &["c1", "c1@meanwhile"]);
}

struct Snapper {
    tar: Cursor<Vec<u8>>,
    name: String,
}

impl std::io::Read for Snapper {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.tar.position() > 0 {
            let _ = zfs(&["snapshot", &self.name]);
        }
        let few = buffer.len().min(512);
        self.tar.read(&mut buffer[..few])
    }
}

#[test]
fn holds_are_named() {
    let pool = need!(Pool::with_old());
    pool.zfs(&["snapshot"], "c1@a");
    pool.zfs(&["hold", "backup job"], "c1@a");
    let said = refused(purge(image(&new())).run(&mut pool.volume()), ErrorKind::HasDependents);
    assert!(said.contains("the hold backup job"), "{said}");
    pool.zfs(&["release", "backup job"], "c1@a");
    purge(image(&new())).run(&mut pool.volume()).unwrap();
    pool.expect("new", &["c1"]);
}

#[test]
fn clones_are_named_or_live_on_without_us() {
    let pool = need!(Pool::with_old());
    for (snapshot, clones) in [("a", &["x", "y"][..]), ("b", &["z"]), ("c", &[])] {
        pool.zfs(&["snapshot"], &format!("c1@{snapshot}"));
        for clone in clones {
            pool.zfs(&["clone", "-o", "mountpoint=legacy", &pool.name(&format!("c1@{snapshot}"))], clone);
        }
    }
    let said = refused(purge(image(&new())).run(&mut pool.volume()), ErrorKind::HasDependents);
    assert!(said.contains(&format!("the clone {}", pool.name("x"))), "{said}");
    let mut volume = pool.volume().with_clones(ClonePolicy::Promote);
    let report = purge(image(&new())).run(&mut volume).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    // z owns what x and y depend on; c, that nobody needs, is gone.
    pool.expect("new", &["c1", "x", "y", "z", "z@a", "z@b"]);
    for clone in ["x", "y", "z"] {
        assert!(pool.visit(clone, |root| root.join("old").exists()), "{clone}");
        let origin = pool.get("origin", clone);
        assert!(!origin.contains("c1"), "{clone} depends on {origin}");
    }
}

#[test]
fn child_datasets_stay_if_they_are_named_and_stop_it_if_not() {
    let pool = need!(Pool::with_old());
    for child in ["c1/data", "c1/data/deep", "c1/more"] {
        pool.zfs(&["create", "-o", "mountpoint=legacy"], child);
    }
    pool.visit("c1/data", |root| fs::write(root.join("precious"), "").unwrap());
    let guid = pool.get("guid", "c1/data");
    let said = refused(rebuild(&mut pool.volume(), &new()), ErrorKind::HasDependents);
    assert!(said.contains("c1/data") && said.contains("c1/more"), "{said}");
    let said = refused(rebuild(&mut pool.volume().with_children(["data"]), &new()), ErrorKind::HasDependents);
    assert!(said.contains("c1/more") && !said.contains("c1/data"), "{said}");
    let report = rebuild(&mut pool.volume().with_children(["data", "more"]), &new()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect("new", &["c1", "c1/data", "c1/data/deep", "c1/more"]);
    assert_eq!(pool.get("guid", "c1/data"), guid);
    assert!(pool.visit("c1/data", |root| root.join("precious").exists()));
}

#[test]
fn many_snapshots_go_in_one_call() {
    let pool = need!(Pool::with_old());
    let script = format!("for i in $(seq 60); do zfs snapshot {}@s$i || exit 1; done", pool.name("c1"));
    run(Command::new("sh").args(["-c", &script])).unwrap();
    let report = purge(image(&new())).run(&mut pool.volume()).unwrap();
    assert_eq!(report.purged.len(), 60);
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect("new", &["c1"]);
}

#[test]
fn children_have_no_place_in_place_and_the_snapshots_stay_with_them() {
    let pool = need!(Pool::with_old());
    pool.zfs(&["create", "-o", "mountpoint=legacy"], "c1/data");
    pool.zfs(&["snapshot"], "c1@a");
    let mut volume = pool.volume().with_children(["data"]);
    let error = purge(Image::empty()).strategy(reroot::Strategy::InPlace).run(&mut volume).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::HasDependents, Outcome::RolledBack), "{}", error.report());
    assert!(error.remedy().unwrap().contains("by swap"), "{}", error.report());
    pool.expect("old", &["c1", "c1/data", "c1@a"]);
}

#[test]
fn children_that_do_not_fit_beside_the_new_root_stop_the_commit() {
    let pool = need!(Pool::with_foreign(&["-o", "quota=32M", "-o", "compression=off"]));
    pool.zfs(&["create", "-o", "mountpoint=legacy"], "c1/data");
    pool.visit("c1/data", |root| fs::write(root.join("data"), vec![7u8; 20 << 20]).unwrap());
    let mut large = Tree::new();
    large.file("new", vec![7u8; 16 << 20]);
    let mut volume = pool.volume().with_children(["data"]);
    let error = rebuild(&mut volume, &large).unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::NoSpace(reroot::Space::Quota), Outcome::RolledBack),
        "{}",
        error.report()
    );
    assert!(error.remedy().unwrap().contains("raise the quota"), "{}", error.report());
    pool.expect("old", &["c1", "c1/data"]);
    pool.zfs(&["set", "quota=64M"], "c1");
    rebuild(&mut volume, &large).unwrap();
    pool.expect("new", &["c1", "c1/data"]);
    assert!(pool.visit("c1/data", |root| root.join("data").exists()));
}

#[test]
fn bookmarks_that_go_are_told_of() {
    let pool = need!(Pool::with_old());
    pool.zfs(&["snapshot"], "c1@a");
    pool.zfs(&["bookmark", &pool.name("c1@a")], "c1#mark");
    pool.zfs(&["destroy"], "c1@a");
    let report = Rebuild::new(image(&new())).snapshots(SnapshotPolicy::Keep).run(&mut pool.volume()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    let report = rebuild(&mut pool.volume(), &old()).unwrap();
    assert!(report.warnings.iter().any(|warning| warning.message.contains("#mark")), "{report}");
}
