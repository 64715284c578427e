use super::*;

#[test]
fn keys_are_set_read_and_removed() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let object = "test-omap";
    let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    assert!(pool.omap(object, &keys(&["a"])).unwrap().is_empty());
    assert!(pool.omap_with_prefix(object, "").unwrap().is_empty());
    pool.remove_omap(object, &keys(&["a"])).unwrap();
    let pairs: Vec<_> = (0..2500).map(|number| (format!("key.{number:04}"), vec![b'v'; number % 7])).collect();
    pool.set_omap(object, &pairs).unwrap();
    pool.set_omap(object, &[("other".to_owned(), b"\0\xff".to_vec())]).unwrap();
    let found = pool.omap(object, &keys(&["key.0006", "none", "other"])).unwrap();
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        [("key.0006".to_owned(), b"vvvvvv".to_vec()), ("other".to_owned(), b"\0\xff".to_vec())]
    );
    assert_eq!(pool.omap_with_prefix(object, "key.").unwrap().into_iter().collect::<Vec<_>>(), pairs);
    assert_eq!(pool.omap_with_prefix(object, "").unwrap().len(), 2501);
    assert!(pool.omap(object, &[]).unwrap().is_empty());
    pool.remove_omap(object, &keys(&["other", "none"])).unwrap();
    assert_eq!(pool.omap_with_prefix(object, "o").unwrap().len(), 0);
    // It is there, and empty.
    assert_eq!(pool.read(object, 16).unwrap(), Some(Vec::new()));
    pool.remove_object(object).unwrap();
    pool.remove_object(object).unwrap();
    assert_eq!(pool.read(object, 16).unwrap(), None);
}

#[test]
fn the_directory_says_what_rbd_says() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    shell("rbd create --size 8 directory-1; rbd create --size 8 directory-2");
    let names = pool.image_names("directory-").unwrap();
    assert_eq!(names, ["directory-1", "directory-2"]);
    let ids = pool.image_ids(&["directory-2", "directory-3", "directory-1"]).unwrap();
    assert_eq!(ids[1], None);
    let first = ids[2].clone().unwrap();
    assert_eq!(pool.open(&Which::Name("directory-1"), Access::ReadOnly).unwrap().id().unwrap(), first);
    assert_eq!(pool.image_name(&first).unwrap().as_deref(), Some("directory-1"));
    assert_eq!(pool.image_name("none").unwrap(), None);
    assert_eq!(pool.id_object("directory-1").unwrap(), Some(first));
    assert_eq!(pool.id_object("directory-3").unwrap(), None);
    for name in names {
        pool.remove(&name, &wait()).unwrap();
        assert_eq!(pool.id_object(&name).unwrap(), None);
        pool.remove_id_object(&name).unwrap();
    }
}
