use super::*;

#[test]
fn a_clone_outlives_its_snapshot_and_its_flattening_ends_both() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let parent = image(&pool, "parent");
    shell("rbd bench --io-type write --io-size 4M --io-total 64M --io-threads 4 parent");
    parent.create_snapshot("base").unwrap();
    assert_eq!(errno(parent.create_snapshot("base")), Errno::EEXIST);
    pool.clone_image("parent", "base", "child", &layout()).unwrap();
    assert_eq!(errno(pool.clone_image("parent", "base", "child", &layout())), Errno::EEXIST);
    assert_eq!(errno(pool.clone_image("parent", "none", "child-2", &layout())), Errno::ENOENT);
    let snaps = parent.snapshots().unwrap();
    assert_eq!(snaps.len(), 1);
    let snap = Snap { id: snaps[0].id, name: "base".to_owned(), size: ByteSize::mib(64), kind: SnapKind::User, protected: false };
    assert_eq!(snaps, std::slice::from_ref(&snap));
    let child = pool.open(&Which::Name("child"), Access::Write).unwrap();
    let expected = Parent {
        pool: "rbd".to_owned(),
        namespace: String::new(),
        image: "parent".to_owned(),
        id: parent.id().unwrap(),
        trash: false,
        snapshot: "base".to_owned(),
        snapshot_id: snap.id,
    };
    assert_eq!(child.parent().unwrap(), Some(expected.clone()));
    assert_eq!(parent.parent().unwrap(), None);
    let expected_child =
        Child { pool: "rbd".to_owned(), namespace: String::new(), name: "child".to_owned(), id: child.id().unwrap(), trash: false };
    assert_eq!(parent.children(snap.id).unwrap(), [expected_child]);
    assert_eq!(child.used(&wait()).unwrap(), ByteSize::ZERO);
    assert_ne!(child.op_features().unwrap() & features::OP_CLONE_CHILD, 0);

    // Its snapshot goes out of sight, and stays.
    parent.remove_snapshot("base").unwrap();
    assert_eq!(errno(parent.remove_snapshot("base")), Errno::ENOENT);
    let snaps = parent.snapshots().unwrap();
    assert_eq!((snaps.len(), &snaps[0].kind), (1, &SnapKind::Trash { original: "base".to_owned() }));
    assert_eq!(snaps[0].id, snap.id);
    assert_eq!(parent.children(snap.id).unwrap().len(), 1);
    assert_eq!(errno(parent.remove_snapshot_by_id(snap.id)), Errno::EBUSY);
    drop(parent);
    // Who has a clone open knows the snapshot's name of before; who opens it hears that of now.
    assert_eq!(child.parent().unwrap(), Some(expected.clone()));
    let again = pool.open(&Which::Name("child"), Access::ReadOnly).unwrap().parent().unwrap().unwrap();
    assert_eq!(again.snapshot, snaps[0].name);
    assert_eq!(errno(pool.remove("parent", &wait())), Errno::ENOTEMPTY);
    pool.trash("parent", Duration::ZERO).unwrap();
    assert!(child.parent().unwrap().unwrap().trash);
    assert_eq!(errno(pool.remove_trash(&expected.id, Deferment::Ignore, &wait())), Errno::ENOTEMPTY);
    pool.trash("child", Duration::ZERO).unwrap();
    let parent = pool.open(&Which::Id(&expected.id), Access::ReadOnly).unwrap();
    assert!(parent.children(snap.id).unwrap()[0].trash);
    pool.restore_trash(&child.id().unwrap(), "child").unwrap();

    // Cancelled, it is a clone still.
    let cancel = CancelToken::new();
    cancel.cancel();
    assert_eq!(errno(child.flatten(&Wait::new(Duration::from_secs(60), cancel))), Errno::ECANCELED);
    assert_eq!(errno(child.flatten(&Wait::new(Duration::ZERO, CancelToken::new()))), Errno::ETIMEDOUT);
    assert!(child.parent().unwrap().is_some());
    child.flatten(&wait()).unwrap();
    assert_eq!(child.parent().unwrap(), None);
    assert_eq!(child.used(&wait()).unwrap(), ByteSize::mib(64));
    assert_eq!(errno(child.flatten(&wait())), Errno::EINVAL);
    // The snapshot went with its last clone. Who has the parent open to read only has not heard.
    assert_eq!(parent.snapshots().unwrap().len(), 1);
    drop((parent, child));
    assert_eq!(pool.open(&Which::Id(&expected.id), Access::ReadOnly).unwrap().snapshots().unwrap(), []);
    pool.remove_trash(&expected.id, Deferment::Ignore, &wait()).unwrap();
    pool.remove("child", &wait()).unwrap();
}

#[test]
fn what_is_protected_stays() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let image = image(&pool, "protected");
    image.create_snapshot("one").unwrap();
    image.protect("one").unwrap();
    assert_eq!(errno(image.protect("one")), Errno::EBUSY);
    assert!(image.snapshots().unwrap()[0].protected);
    assert_eq!(errno(image.remove_snapshot("one")), Errno::EBUSY);
    drop(image);
    assert_eq!(errno(pool.remove("protected", &wait())), Errno::ENOTEMPTY);
    assert_eq!(pool.image_names("protected").unwrap(), ["protected"]);
    let image = pool.open(&Which::Name("protected"), Access::Write).unwrap();
    image.unprotect("one").unwrap();
    assert_eq!(errno(image.unprotect("one")), Errno::EINVAL);
    image.remove_snapshot("one").unwrap();
    for number in 0..50 {
        image.create_snapshot(&format!("many.{number}")).unwrap();
    }
    let snaps = image.snapshots().unwrap();
    assert_eq!(snaps.len(), 50);
    for snap in snaps {
        image.remove_snapshot_by_id(snap.id).unwrap();
    }
    assert_eq!(image.snapshots().unwrap(), []);
    drop(image);
    pool.remove("protected", &wait()).unwrap();
}

#[test]
fn a_cancelled_removal_leaves_the_rest_in_the_trash() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let id = image(&pool, "cancelled").id().unwrap();
    shell("rbd bench --io-type write --io-size 4M --io-total 64M --io-threads 4 cancelled");
    let cancel = CancelToken::new();
    cancel.cancel();
    let cancelled = Wait::new(Duration::from_secs(60), cancel);
    assert_eq!(errno(pool.remove("cancelled", &cancelled)), Errno::ECANCELED);
    assert_eq!(pool.image_ids(&["cancelled"]).unwrap(), [None]);
    assert_eq!(pool.trash_entry(&id).unwrap().unwrap().source, TrashSource::Removing);
    assert_eq!(errno(pool.remove_trash(&id, Deferment::Ignore, &cancelled)), Errno::ECANCELED);
    pool.remove_trash(&id, Deferment::Ignore, &wait()).unwrap();
    assert_eq!(pool.trash_entry(&id).unwrap(), None);
}
