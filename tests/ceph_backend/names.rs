//! What is a volume and what is not.

use super::*;

const KINDS: [FilesystemKind; 3] = [FilesystemKind::Ext4, FilesystemKind::Xfs, FilesystemKind::Btrfs];

#[test]
fn a_volume_is_made_replaced_and_leaves_nothing() {
    for kind in KINDS {
        let pool = need!(Pool::of(kind));
        let report = rebuild(&mut pool.volume(), &old()).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        pool.expect("old", &["c1"]);
        let (facts, uuid) = (pool.facts("c1"), pool.uuid("c1"));
        let report = rebuild(&mut pool.volume(), &new()).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        pool.expect("new", &["c1"]);
        let after = pool.facts("c1");
        assert!(after.id != facts.id && pool.uuid("c1") != uuid, "{kind}");
        assert_eq!((after.size, after.features, after.metadata), (facts.size, facts.features, facts.metadata));
        assert_eq!(after.size, pool.size.bytes());
        assert!(!pool.visit("c1", |root| root.join("old").exists()));
    }
}

#[test]
fn what_is_no_volume_is_refused() {
    let pool = need!(Pool::with_old());
    let space = &pool.space.name;
    let long = format!("{space}/{}", "x".repeat(82));
    let bad = [
        "",
        "c1",
        "/c1",
        "rbd/",
        "rbd//c1",
        "rbd/a/b/c",
        "rbd/.",
        "rbd/..",
        "-rbd/c1",
        "rbd/-c1",
        "rbd/a b",
        "rbd/a\n",
        "rbd/a\u{a0}b",
    ];
    // What the kernel, the `rbd` command or Ceph itself read otherwise than as a name.
    let hostile = [
        "rbd/a@b",
        "rbd/a,ro",
        "rbd/n,s/a",
        "rbd/a\0b",
        "rbd/a b - ",
        "rbd/--pool=x",
        "rbd/\u{1b}[31m",
        "rbd/c1.reroot-staged",
        "rbd/c1.reroot-retired",
    ];
    for name in bad.into_iter().chain(hostile).chain([&*long]) {
        let error = CephVolume::open(name).map(drop).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidInput, Outcome::Untouched), "{name:?}");
        let said = error.report().to_string();
        assert!(!said.contains('\u{1b}') && !said.contains('\0') && said.lines().count() < 8, "{said:?}");
    }
    assert!(refused(CephVolume::open("no-such-pool/c1"), ErrorKind::NotFound).contains("ceph osd pool ls"));
    assert!(refused(CephVolume::open("rbd/no-such-namespace/c1"), ErrorKind::NotFound).contains("rbd namespace create"));
    assert!(
        refused(CephVolume::open(&pool.name("c1")).unwrap().with_data_pool("no-such-pool").run(), ErrorKind::NotFound)
            .contains("no-such-pool")
    );
    pool.expect("old", &["c1"]);
}

/// Has a setting judged, which a builder only takes.
trait Run {
    fn run(self) -> reroot::Result<Report>;
}

impl Run for CephVolume {
    fn run(mut self) -> reroot::Result<Report> {
        rebuild(&mut self, &new())
    }
}

#[test]
fn the_longest_names_and_odd_ones_work() {
    let pool = need!(Pool::new());
    // Neighbours that differ in what separates and doubles elsewhere, and what a manager writes.
    let long = "x".repeat(81);
    let names = ["a", "a-", "a-b", "a.b", "a_b", "a+b:c", "container_my--app", "größe", &long, "1", "a%s$(x)'\"\\"];
    for name in names {
        let mut tree = Tree::new();
        tree.file("name", name);
        rebuild(&mut pool.open(name), &tree).unwrap_or_else(|error| panic!("{name}: {}", error.report()));
    }
    for name in names {
        assert_eq!(pool.visit(name, |root| fs::read_to_string(root.join("name")).unwrap()), name);
        rebuild(&mut pool.open(name), &new()).unwrap();
        assert!(pool.visit(name, |root| root.join("new").exists()), "{name}");
    }
    let mut sorted = names.map(str::to_owned);
    sorted.sort();
    pool.expect_only(&sorted.each_ref().map(String::as_str));
}

#[test]
fn two_namespaces_know_nothing_of_each_other() {
    let (one, other) = (need!(Pool::with_old()), need!(Pool::with_old()));
    one.snapshot("c1", "snapshot_a");
    // A device of the one is none of the other.
    let mapped = Mapped::new(&one.name("c1")).unwrap();
    rebuild(&mut other.volume(), &new()).unwrap();
    other.expect("new", &["c1"]);
    drop(mapped);
    refused(rebuild(&mut one.volume(), &new()), ErrorKind::HasSnapshots);
    one.expect("old", &["c1"]);
    // Nor is the pool's own namespace one of them.
    let name = format!("{POOL}/t-{}-own", std::process::id());
    let mut volume = CephVolume::open(&name).unwrap().with_size(SIZE);
    rebuild(&mut volume, &old()).unwrap();
    rebuild(&mut volume, &new()).unwrap();
    drop(volume);
    let root = Visited::new(&name, one.folder.path()).unwrap().unwrap();
    assert!(root.path().join("new").exists());
    drop(root);
    ceph(&format!("rbd rm --no-progress {name}")).unwrap();
    assert_eq!(run_words("rbd ls rbd"), "");
}

#[test]
fn what_holds_no_file_system_survives() {
    let pool = need!(Pool::new());
    pool.make("c1", "");
    let id = pool.facts("c1").id;
    // Nothing at all, what is no file system, and one that is none of the three.
    let mut said = Vec::new();
    for command in ["true", "mkswap", "mksquashfs /etc/ceph"] {
        pool.with_device("c1", |device| {
            run_words(&format!("{command} {}{}", device.display(), if command.contains(' ') { " -noappend" } else { "" }))
        });
        let error = rebuild(&mut pool.volume(), &new()).unwrap_err();
        assert_eq!(error.outcome(), Outcome::Untouched, "{}", error.report());
        said.push(error.report().to_string());
        assert_eq!(pool.facts("c1").id, id);
        pool.expect_only(&["c1"]);
    }
    assert!(said[1].contains("swap") && said[2].contains("squashfs"), "{said:?}");
}

#[test]
fn a_stranger_under_a_reserved_name_survives() {
    for name in ["c1.reroot-staged", "c1.reroot-retired"] {
        let pool = need!(Pool::with_old());
        pool.make(name, "");
        pool.format(name, "");
        let open = || CephVolume::open(&pool.name("c1"));
        for _ in 0..2 {
            let error = open().and_then(|mut volume| rebuild(&mut volume, &new())).unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::AlreadyExists, Outcome::Untouched), "{}", error.report());
            assert!(error.report().to_string().contains("rbd"), "{}", error.report());
        }
        open().and_then(|mut volume| reroot::recover(&mut volume, &soon())).unwrap_err();
        assert!(pool.visit(name, |root| root.join("old").exists()));
        pool.expect("old", &["c1", name]);
    }
}

/// What an old root that was not unmounted leaves is a journal to replay, and no reason to refuse.
#[test]
fn a_root_that_was_not_unmounted_is_replaced() {
    for kind in [FilesystemKind::Ext4, FilesystemKind::Xfs] {
        let pool = need!(Pool::with_foreign(kind, "", ""));
        let at = pool.folder.path().join("at");
        fs::create_dir(&at).unwrap();
        // As a host that loses its power: a snapshot while it is mounted, and the image rolled back to it.
        pool.with_device("c1", |device| {
            run(Command::new("mount").arg(device).arg(&at)).unwrap();
            fs::write(at.join("late"), vec![7; 100_000]).unwrap();
            run(Command::new("sync").arg("-f").arg(at.join("late"))).unwrap();
            pool.snapshot("c1", "now");
            run(Command::new("umount").arg(&at)).unwrap();
        });
        let name = pool.name("c1");
        run_words(&format!("rbd snap rollback --no-progress {name}@now"));
        run_words(&format!("rbd snap rm --no-progress {name}@now"));
        rebuild(&mut pool.volume(), &new()).unwrap();
        pool.expect("new", &["c1"]);
    }
}
