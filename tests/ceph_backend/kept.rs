//! What a rebuild keeps of the old root's image and of its file system.

use super::*;
use reroot::ceph::UnreadablePolicy;

impl Pool {
    /// All but what tells one image from another.
    fn kept(&self, rest: &str) -> Facts {
        Facts { id: String::new(), parent: String::new(), snapshots: Vec::new(), watchers: Vec::new(), ..self.facts(rest) }
    }
}

/// Options of `rbd create`, from the plainest to all that the kernel knows.
const OPTIONS: [&str; 4] = [
    "--image-feature layering",
    "--image-feature layering,exclusive-lock,object-map,fast-diff,deep-flatten",
    "--image-feature layering,exclusive-lock --object-size 1M --stripe-unit 64K --stripe-count 4",
    "--image-feature layering,deep-flatten --object-size 8M --data-pool data",
];

#[test]
fn the_image_is_as_before() {
    for options in OPTIONS {
        let pool = need!(Pool::with_foreign(FilesystemKind::Ext4, options, ""));
        for (key, value) in [("conf_rbd_qos_iops_limit", "1000"), ("conf_rbd_qos_bps_burst", "7"), ("site", "north\nby west")] {
            pool.space.ask::<serde_json::Value>("set_metadata", &["c1".into(), key.into(), value.into()]).unwrap();
        }
        let before = pool.kept("c1");
        assert_eq!(before.metadata.len(), 3, "{before:?}");
        assert_eq!(before.data_pool, if options.contains("data-pool") { DATA_POOL } else { "" });
        for tree in [new(), old(), new()] {
            let report = rebuild(&mut pool.volume(), &tree).unwrap();
            assert!(report.warnings.is_empty(), "{report}");
            let after = pool.kept("c1");
            let ours: Vec<_> = after.metadata.keys().filter(|key| !before.metadata.contains_key(*key)).collect();
            assert!(ours.iter().all(|key| key.contains("reroot")), "{ours:?}");
            let mut metadata = after.metadata.clone();
            metadata.retain(|key, _| before.metadata.contains_key(key));
            assert_eq!(Facts { metadata, ..after }, before);
        }
        pool.expect("new", &["c1"]);
    }
}

#[test]
fn a_new_image_is_as_it_was_asked_for() {
    let pool = need!(Pool::new());
    let mut volume = pool.open("c2").with_size(ByteSize::mib(96)).with_data_pool(DATA_POOL);
    rebuild(&mut volume, &new()).unwrap();
    let facts = pool.facts("c2");
    assert_eq!((facts.size, facts.data_pool.as_str()), (96 << 20, DATA_POOL));
    // Of one that exists the next rebuild keeps it, without being told.
    rebuild(&mut pool.open("c2"), &old()).unwrap();
    let facts = pool.facts("c2");
    assert_eq!((facts.size, facts.data_pool.as_str()), (96 << 20, DATA_POOL));
    pool.expect_only(&["c2"]);
}

#[test]
fn a_size_grows_and_is_never_shrunk() {
    let pool = need!(Pool::with_old());
    for smaller in [ByteSize::mib(32), ByteSize::mib(63)] {
        let said = refused(Rebuild::new(image(&new())).size(smaller).run(&mut pool.volume()), ErrorKind::Unsupported);
        assert!(said.contains("shrink"), "{said}");
    }
    Rebuild::new(image(&new())).size(ByteSize::mib(100)).run(&mut pool.volume()).unwrap();
    assert!(pool.facts("c1").size == 100 << 20 && pool.capacity("c1").0 > 80 << 20, "{:?}", pool.capacity("c1"));
    pool.expect("new", &["c1"]);
    // While it is filled: a stream does not say how much is to come.
    let report = Rebuild::new(large(140).stream()).max_size(ByteSize::mib(512)).run(&mut pool.volume()).unwrap();
    assert_eq!(report.grown, Some(ByteSize::from_bytes(pool.facts("c1").size)), "{report}");
    pool.expect("large", &["c1"]);
    // And before, where it does.
    let report = Rebuild::new(large(620).file(pool.folder.path())).max_size(ByteSize::gib(1)).run(&mut pool.volume()).unwrap();
    assert!(report.warnings.is_empty() && pool.facts("c1").size > 620 << 20, "{report}");
    pool.expect("large", &["c1"]);
}

#[test]
fn an_image_that_cannot_fit_is_seen_before() {
    let pool = need!(Pool::with_old());
    for strategy in [reroot::Strategy::Swap, reroot::Strategy::InPlace] {
        let error = Rebuild::new(large(100).file(pool.folder.path())).strategy(strategy).run(&mut pool.volume()).unwrap_err();
        assert!(matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack), "{}", error.report());
        assert!(matches!(error.kind(), ErrorKind::TooSmall | ErrorKind::NoSpace(_)), "{}", error.report());
        pool.expect("old", &["c1"]);
    }
}

#[test]
fn the_file_system_is_made_as_it_was() {
    for (kind, mkfs) in [(FilesystemKind::Ext4, "-L mine -O ^has_journal -N 4096"), (FilesystemKind::Xfs, "-L mine -m reflink=0")] {
        let pool = need!(Pool::with_foreign(kind, "", mkfs));
        let facts = || {
            let said = pool.with_device("c1", |device| match kind {
                FilesystemKind::Xfs => {
                    run(Command::new("xfs_db").args(["-r", "-c", "sb 0", "-c", "p fname rextents features_ro_compat"]).arg(device))
                }
                _ => run(Command::new("dumpe2fs").arg("-h").arg(device)),
            });
            let said = said.unwrap();
            let kept = ["Filesystem volume name", "Filesystem features", "Inode count", "fname", "features_ro_compat"];
            kept.map(|name| said.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned())
        };
        let before = facts();
        for tree in [new(), old()] {
            let report = rebuild(&mut pool.volume(), &tree).unwrap();
            assert!(report.warnings.is_empty(), "{report}");
            assert_eq!(facts(), before);
        }
        pool.expect("old", &["c1"]);
    }
}

#[test]
fn what_cannot_be_read_is_replaced_where_that_is_wanted() {
    let pool = need!(Pool::new());
    pool.make("c1", "");
    refused(rebuild(&mut pool.volume(), &new()), ErrorKind::Unsupported);
    let recipe = Recipe::new(FilesystemKind::Xfs);
    let mut volume = pool.volume().with_unreadable(UnreadablePolicy::Replace).with_recipe(recipe).with_size(pool.size);
    // The image is too small for it, and stays.
    let error = rebuild(&mut volume, &new()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooSmall, Outcome::Untouched), "{}", error.report());
    let report = rebuild(&mut pool.volume().with_unreadable(UnreadablePolicy::Replace), &new()).unwrap();
    assert!(!report.warnings.is_empty(), "{report}");
    pool.expect("new", &["c1"]);
}

#[test]
fn usage_says_what_there_is() {
    let pool = need!(Pool::with_old());
    let usage = pool.volume().usage(reroot::volume::UsageDetail::Full).unwrap();
    assert_eq!(usage.size, Some(SIZE));
    assert!(usage.free > ByteSize::mib(100) && usage.free < ByteSize::gib(64), "{usage:?}");
    assert!(usage.used.is_none_or(|used| used > ByteSize::ZERO && used < SIZE), "{usage:?}");
}

#[test]
fn mount_options_are_the_kernels_to_judge() {
    let pool = need!(Pool::with_old());
    rebuild(&mut pool.volume().with_mount_options("noatime,discard,commit=30"), &new()).unwrap();
    pool.expect("new", &["c1"]);
    let error = rebuild(&mut pool.volume().with_mount_options("noatime,no_such_option=7"), &old()).unwrap_err();
    assert!(error.report().to_string().contains("no_such_option"), "{}", error.report());
    pool.expect("new", &["c1"]);
}
