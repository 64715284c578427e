use super::*;

#[test]
fn a_pool_says_what_it_is() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    assert_eq!(pool.fsid(), shell("ceph fsid").trim());
    assert_eq!(pool.pool_name_of(pool.pool_id()).unwrap(), "rbd");
    assert_eq!(errno(pool.pool_name_of(1 << 40)), Errno::ENOENT);
    assert_ne!(pool.instance(), 0);
    assert!(pool.addresses().unwrap().starts_with("192.0.2.2:0/"), "{:?}", pool.addresses());
    let key = pool.key().unwrap().unwrap();
    assert_eq!(key.decoded().unwrap().len(), 28);
    assert_eq!(shell("ceph auth get-key client.admin | base64 --decode | wc -c").trim(), "28");
    let health = pool.mon_command(r#"{"prefix": "health", "format": "json"}"#).unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&health).unwrap()["status"].is_string());
    assert_eq!(errno(pool.mon_command(r#"{"prefix": "no such command"}"#)), Errno::EINVAL);
}

#[test]
fn what_is_not_there_is_named() {
    let Some(_cluster) = cluster() else { return };
    match Pool::connect(&settings(), "nothing", "") {
        Err(Unavailable::NoPool(name)) => assert_eq!(name, "nothing"),
        other => panic!("{other:?}"),
    }
    match Pool::connect(&settings(), "rbd", "nowhere") {
        Err(Unavailable::NoNamespace(name)) => assert_eq!(name, "nowhere"),
        other => panic!("{other:?}"),
    }
    let nowhere = Settings { config: Some("/etc/ceph/nothing.conf".into()), ..settings() };
    match Pool::connect(&nowhere, "rbd", "") {
        Err(Unavailable::Refused(failed)) => {
            assert_eq!(failed, Failed { call: "rados_conf_read_file", errno: Errno::ENOENT });
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_namespace_has_images_of_its_own() {
    let Some(_cluster) = cluster() else { return };
    shell("rbd namespace create rbd/own");
    let (outer, inner) = (pool(), Pool::connect(&settings(), "rbd", "own").unwrap());
    inner.create("of-the-namespace", ByteSize::mib(8), &layout()).unwrap();
    assert_eq!(inner.image_names("of-the").unwrap(), ["of-the-namespace"]);
    assert_eq!(outer.image_names("of-the").unwrap(), [""; 0]);
    assert_eq!(shell("rbd ls rbd/own"), "of-the-namespace\n");
    inner.remove("of-the-namespace", &wait()).unwrap();
}

#[test]
fn a_wrong_key_and_a_wrong_address_are_refused_in_time() {
    let Some(_cluster) = cluster() else { return };
    let refused = |settings: Settings| match Pool::connect(&settings, "rbd", "") {
        Err(Unavailable::Refused(failed)) => failed,
        other => panic!("{other:?}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let keyring = folder.path().join("keyring");
    std::fs::write(&keyring, "[client.admin]\n\tkey = AQAtut9ZdMbNJBAAHz6yBAWyJyz2yYRyeMWDag==\n").unwrap();
    let failed = refused(Settings { keyring: Some(keyring), ..settings() });
    assert_eq!(failed, Failed { call: "rados_connect", errno: Errno::EACCES });
    for settings in
        [Settings { user: "nobody".to_owned(), ..settings() }, Settings { keyring: Some(folder.path().join("none")), ..settings() }]
    {
        assert_eq!(refused(settings), Failed { call: "rados_connect", errno: Errno::EACCES });
    }
    let start = std::time::Instant::now();
    let failed = refused(Settings { monitors: Some("192.0.2.1:9".to_owned()), timeout: Duration::from_secs(2), ..settings() });
    assert_eq!(failed, Failed { call: "rados_connect", errno: Errno::ETIMEDOUT });
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_connection_leaves_neither_threads_nor_descriptors() {
    let Some(_cluster) = cluster() else { return };
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let counts = || (count("task"), count("fd"));
    // What the libraries keep for good comes with the first.
    drop(pool());
    let before = counts();
    for _ in 0..3 {
        let pool = pool();
        pool.set_omap("test-threads", &[]).unwrap();
        let watch = pool.watch("test-threads").unwrap();
        let image = image(&pool, "threads");
        assert!(count("task") > before.0);
        drop((pool, image, watch));
        self::pool().remove("threads", &wait()).unwrap();
    }
    // One that was refused, too.
    Pool::connect(&settings(), "nothing", "").unwrap_err();
    Pool::connect(&Settings { user: "nobody".to_owned(), ..settings() }, "rbd", "").unwrap_err();
    assert_eq!(counts(), before);
    pool().remove_object("test-threads").unwrap();
}
