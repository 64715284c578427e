//! Thin snapshots: a manager's, and those that no manager knows of.

use super::*;
use reroot::volume::SnapshotOwner::{Foreign, Manager};
use reroot::{RebuildableVolume, SnapshotPolicy};

fn with_policy(policy: SnapshotPolicy, tree: &Tree) -> Rebuild {
    Rebuild::new(image(tree)).snapshots(policy)
}

#[test]
fn they_are_found_by_name_and_by_ancestry() {
    let pool = need!(Pool::with_old());
    pool.snapshot("c1", "c1-snap0", "r");
    pool.snapshot("c1", "before-the-upgrade", "r");
    // Of a snapshot, and of that.
    pool.snapshot("before-the-upgrade", "child", "r");
    pool.snapshot("child", "grandchild", "r");
    // A copy to work on is another instance, and so is what was taken of it.
    pool.snapshot("c1", "c1-writable", "rw");
    pool.snapshot("c1-writable", "of-another", "r");
    // LXD and Incus double the hyphens of a name: this is of the instance `c1-x`.
    pool.make("c1--x", "");
    pool.snapshot("c1--x", "c1--x-snap0", "r");
    let snapshots = pool.volume().snapshots().unwrap();
    let found: Vec<_> = snapshots.iter().map(|it| (it.name.to_str().unwrap().to_owned(), it.owner)).collect();
    let expected = [("before-the-upgrade", Foreign), ("c1-snap0", Manager), ("child", Foreign), ("grandchild", Foreign)];
    assert_eq!(found, expected.map(|(name, owner)| (pool.short(name), owner)));

    let said = refused(rebuild(&mut pool.volume(), &new()), ErrorKind::HasSnapshots);
    assert!(said.contains(&format!("{} (foreign)", pool.short("grandchild"))) && said.contains("c1-snap0"), "{said}");
    let report = with_policy(SnapshotPolicy::Purge, &new()).run(&mut pool.volume()).unwrap();
    assert_eq!(report.purged.len(), 4, "{report}");
    pool.expect("new", &["c1", "c1--x", "c1--x-snap0", "c1-writable", "of-another"]);
    assert!(pool.visit("c1-writable", |root| root.join("old").exists()));
}

#[test]
fn those_of_other_volumes_stay() {
    let pool = need!(Pool::with_old());
    // As Incus copies an instance: its snapshots are taken of those of the first.
    pool.snapshot("c1", "c1-snap0", "r");
    pool.snapshot("c1", "c2", "rw");
    pool.snapshot("c1-snap0", "c2-snap0", "r");
    // Names without a manager.
    pool.make("c1-x", "");
    pool.snapshot("c1-x", "c1-x-daily", "r");
    pool.make("db", "");
    pool.snapshot("db", "c1-db", "r");
    let report = with_policy(SnapshotPolicy::Purge, &new()).run(&mut pool.volume()).unwrap();
    assert_eq!(report.purged.len(), 1, "{report}");
    pool.expect("new", &["c1", "c1-db", "c1-x", "c1-x-daily", "c2", "c2-snap0", "db"]);
    let names: Vec<_> = pool.open("c2").snapshots().unwrap().into_iter().map(|it| it.name).collect();
    assert_eq!(names, [&*pool.short("c2-snap0")]);
}

#[test]
fn what_reads_from_the_volume_in_another_pool_stays() {
    let pool = need!(Pool::with_old());
    let other = pool.short("other");
    lvm(&format!("lvcreate --yes --type thin-pool --size 64M --name {other} {GROUP}")).unwrap();
    pool.change("c1", "--activate n");
    pool.change("c1", "--permission r");
    lvm(&format!("lvcreate --yes --snapshot --thinpool {other} --name {} {}", pool.short("user"), pool.name("c1"))).unwrap();
    let said = refused(rebuild(&mut pool.volume(), &new()), ErrorKind::HasDependents);
    assert!(said.contains(&pool.short("user")), "{said}");
    pool.expect("old", &["c1", "other", "user"]);
}

#[test]
fn those_that_are_kept_are_independent() {
    let pool = need!(Pool::with_old());
    pool.snapshot("c1", "c1-snap0", "r");
    pool.snapshot("c1", "foreign", "r");
    let uuids = || ["c1-snap0", "foreign"].map(|name| pool.get("lv_uuid,lv_tags,lv_permissions,lv_skip_activation", name));
    let before = uuids();
    let report = with_policy(SnapshotPolicy::Keep, &new()).run(&mut pool.volume()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    assert_eq!(report.kept.len(), 2, "{report}");
    pool.expect("new", &["c1", "c1-snap0", "foreign"]);
    assert_eq!(uuids(), before);
    for name in ["c1-snap0", "foreign"] {
        assert!(pool.visit(name, |root| root.join("old").exists()), "{name}");
    }
    // What it was taken of is gone: that it is the manager's, its name still says.
    let names: Vec<_> = pool.volume().snapshots().unwrap().into_iter().map(|it| it.name).collect();
    assert_eq!(names, [&*pool.short("c1-snap0")]);
    // A manager restores it so, with its own commands.
    lvm(&format!("lvrename {} {}", pool.name("c1"), pool.name("c1-new"))).unwrap();
    lvm(&format!("lvcreate --yes --snapshot --name {} {}", pool.short("c1"), pool.name("c1-snap0"))).unwrap();
    assert!(pool.visit("c1", |root| root.join("old").exists()));
    // In place too, they outlive the old root.
    let in_place = Rebuild::new(seekable(pool.folder.path(), &new())).strategy(reroot::Strategy::InPlace);
    in_place.snapshots(SnapshotPolicy::Keep).run(&mut pool.volume()).unwrap();
    assert!(pool.visit("c1-snap0", |root| root.join("old").exists()));
    pool.expect("new", &["c1", "c1-new", "c1-snap0", "foreign"]);
}

#[test]
fn one_that_is_taken_meanwhile_stays() {
    let pool = need!(Pool::with_old());
    let snapper = Meddling::new(std::io::Cursor::new(new().to_tar().unwrap()), {
        let (of, name) = (pool.name("c1"), pool.short("meanwhile"));
        move || drop(lvm(&format!("lvcreate --yes --snapshot --permission r --setactivationskip y --name {name} {of}")))
    });
    // It depends on nothing: there is no reason to stop.
    Rebuild::new(Image::from_reader(snapper, "test")).run(&mut pool.volume()).unwrap();
    pool.expect("new", &["c1", "meanwhile"]);
    assert!(pool.visit("meanwhile", |root| root.join("old").exists()));
}

#[test]
fn a_snapshot_that_is_in_use_stays_and_is_told_of() {
    let pool = need!(Pool::with_old());
    pool.snapshot("c1", "c1-snap0", "r");
    let at = pool.folder.path().join("at");
    fs::create_dir(&at).unwrap();
    pool.change("c1-snap0", "--activate y --ignoreactivationskip");
    let device = group::device(&pool.name("c1-snap0")).unwrap();
    run(Command::new("mount").args(["-o", "ro,noload"]).arg(&device).arg(&at)).unwrap();
    let result = with_policy(SnapshotPolicy::Purge, &new()).run(&mut pool.volume());
    run(Command::new("umount").arg(&at)).unwrap();
    pool.change("c1-snap0", "--activate n");
    // Disposal is not the rebuild: what is left is a warning, and the new root stands.
    match result {
        Ok(report) => {
            let said: Vec<_> = report.warnings.iter().map(ToString::to_string).collect();
            assert!(said.join(" ").contains("c1-snap0"), "{report}");
            assert!(pool.visit("c1", |root| root.join("new").exists()));
        }
        Err(error) => {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Busy, Outcome::Untouched), "{}", error.report());
            pool.expect("old", &["c1", "c1-snap0"]);
        }
    }
    // And the next one removes it.
    with_policy(SnapshotPolicy::Purge, &new()).run(&mut pool.volume()).unwrap();
    pool.expect("new", &["c1"]);
}

#[test]
fn names_of_lxd_and_incus() {
    let pool = need!(Pool::new());
    // The instances `app` and `my-app`, as both name them, with a snapshot each.
    for instance in ["containers_app", "containers_my--app"] {
        rebuild(&mut pool.open(instance), &old()).unwrap();
        pool.snapshot(instance, &format!("{instance}-snap0"), "r");
        // Whose name has a hyphen.
        pool.snapshot(instance, &format!("{instance}-before--upgrade"), "r");
    }
    for instance in ["containers_app", "containers_my--app"] {
        let found: Vec<_> = pool.open(instance).snapshots().unwrap().into_iter().map(|it| (it.name, it.owner)).collect();
        let expected = ["before--upgrade", "snap0"].map(|name| (pool.short(&format!("{instance}-{name}")).into(), Manager));
        assert_eq!(found, expected);
        let report = with_policy(SnapshotPolicy::Purge, &new()).run(&mut pool.open(instance)).unwrap();
        assert_eq!(report.purged.len(), 2, "{report}");
    }
    pool.expect_only(&["containers_app", "containers_my--app"]);
}
