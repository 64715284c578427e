//! What is a volume and what is not.

use super::*;

#[test]
fn a_volume_is_made_replaced_and_leaves_nothing() {
    let pool = need!(Pool::new());
    let report = rebuild(&mut pool.volume(), &old()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect("old", &["c1"]);
    assert_eq!((pool.get("mountpoint", "c1"), pool.get("canmount", "c1")), ("legacy".into(), "noauto".into()));
    let before = pool.get("guid", "c1");
    let report = rebuild(&mut pool.volume(), &new()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect("new", &["c1"]);
    assert_ne!(pool.get("guid", "c1"), before);
    assert!(!pool.visit("c1", |root| root.join("old").exists()));
}

#[test]
fn what_is_no_volume_is_refused() {
    let pool = need!(Pool::with_old());
    for bad in ["", "pool", "/c1", "p/../c1", "p/c1@x", "p/c1.reroot-staged", "p/c1.reroot-retired"] {
        refused(ZfsVolume::open(bad), ErrorKind::InvalidInput);
    }
    assert!(refused(ZfsVolume::open("no-such-pool/c1"), ErrorKind::NotFound).contains("zpool import"));
    zfs(&["create", "-s", "-V", "8M", &pool.name("block")]).unwrap();
    assert!(refused(ZfsVolume::open(&pool.name("block")), ErrorKind::InvalidInput).contains("not a file system"));
    let mut volume = ZfsVolume::open(&pool.name("no/such/parent")).unwrap();
    let error = rebuild(&mut volume, &new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    assert!(error.remedy().unwrap().contains("zfs create -p"), "{}", error.report());
}

#[test]
fn a_stranger_under_a_reserved_name_survives() {
    for name in ["c1.reroot-staged", "c1.reroot-retired"] {
        survives(name, need!(Pool::with_old()));
        survives(name, need!(Pool::with_foreign(&[])));
    }
}

fn survives(name: &str, pool: Pool) {
    pool.zfs(&["create", "-o", "mountpoint=legacy"], name);
    pool.visit(name, |root| fs::write(root.join("precious"), "").unwrap());
    for _ in 0..2 {
        let error = rebuild(&mut pool.volume(), &new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.report());
        assert!(error.report().to_string().contains("zfs rename"), "{}", error.report());
    }
    reroot::recover(&mut pool.volume(), &soon()).unwrap_err();
    assert!(pool.visit(name, |root| root.join("precious").exists()));
    pool.expect("old", &["c1", name]);
}
