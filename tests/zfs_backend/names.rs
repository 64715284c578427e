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

/// A dataset is made in one transaction of the pool, and noted as ours in the next.
#[test]
fn what_a_loss_of_power_left_of_a_staged_root_goes() {
    let pool = need!(Pool::with_old());
    let base = pool.base(&new());
    let origin = format!("{}@reroot-base", pool.name(&format!("reroot-bases/{}", base.name())));
    let leave = [vec!["create"], vec!["clone", &origin]];
    for words in &leave {
        pool.zfs(words, "c1.reroot-staged");
        let recovery = reroot::recover(&mut pool.volume(), &soon()).unwrap();
        assert_eq!(recovery.actions.len(), 1, "{recovery:?}");
        assert!(!pool.list().contains(&"c1.reroot-staged".to_owned()), "{:?}", pool.list());
        // Nor does it keep a rebuild from happening.
        pool.zfs(words, "c1.reroot-staged");
        rebuild(&mut pool.volume(), &old()).unwrap();
        assert!(!pool.list().contains(&"c1.reroot-staged".to_owned()), "{:?}", pool.list());
    }
}

#[test]
fn what_somebody_cares_for_is_nothing_that_a_loss_of_power_left() {
    let pool = need!(Pool::with_old());
    let staged = "c1.reroot-staged";
    let base = pool.base(&new());
    let of_base = format!("{}@reroot-base", pool.name(&format!("reroot-bases/{}", base.name())));
    pool.zfs(&["snapshot"], "c1@mine");
    let of_mine = pool.name("c1@mine");
    let ways: [(&[&str], &dyn Fn()); 7] = [
        (&["create", "-o", "compression=zstd"], &|| {}),
        (&["create"], &|| pool.visit(staged, |root| fs::create_dir(root.join("precious")).unwrap())),
        (&["create"], &|| drop(pool.zfs(&["set", "mine:note=x"], staged))),
        (&["create"], &|| drop(pool.zfs(&["snapshot"], "c1.reroot-staged@mine"))),
        (&["create"], &|| drop(pool.zfs(&["create"], "c1.reroot-staged/mine"))),
        (&["clone", &of_mine], &|| {}),
        (&["clone", &of_base], &|| {
            let noise: Vec<u8> = (0..64u32 << 10).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            pool.visit(staged, |root| fs::write(root.join("precious"), noise).unwrap());
        }),
    ];
    for (words, care) in ways {
        pool.zfs(words, staged);
        care();
        let before = pool.list();
        let error = reroot::recover(&mut pool.volume(), &soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{words:?}: {}", error.report());
        assert!(error.report().to_string().contains("zfs rename"), "{words:?}: {}", error.report());
        assert_eq!(pool.list(), before);
        pool.zfs(&["destroy", "-r"], staged);
    }
}

/// Or an empty one would be taken for complete, and the only whole root would go.
#[test]
fn nothing_was_staged_where_only_the_retired_root_is_whole() {
    let pool = need!(Pool::with_old());
    let retired = pool.name("c1.reroot-retired");
    zfs(&["rename", &pool.name("c1"), &retired]).unwrap();
    pool.zfs(&["create"], "c1.reroot-staged");
    let error = reroot::recover(&mut pool.volume(), &soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.report());
    pool.zfs(&["destroy"], "c1.reroot-staged");
    reroot::recover(&mut pool.volume(), &soon()).unwrap();
    pool.expect("old", &["c1"]);
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
