//! What is a volume and what is not.

use super::*;

#[test]
fn a_volume_is_made_replaced_and_leaves_nothing() {
    for kind in [FilesystemKind::Ext4, FilesystemKind::Xfs, FilesystemKind::Btrfs] {
        let pool = need!(Pool::of(kind));
        let report = rebuild(&mut pool.volume(), &old()).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        pool.expect("old", &["c1"]);
        let (lv, filesystem) = (pool.get("lv_uuid", "c1"), pool.uuid("c1"));
        let report = rebuild(&mut pool.volume(), &new()).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        pool.expect("new", &["c1"]);
        assert!(pool.get("lv_uuid", "c1") != lv && pool.uuid("c1") != filesystem, "{kind}");
        assert_eq!(pool.get("lv_size,pool_lv,lv_tags", "c1"), format!("{};{POOL};reroot-made", pool.size.bytes()));
        assert!(!pool.visit("c1", |root| root.join("old").exists()));
    }
}

#[test]
fn what_is_no_volume_is_refused() {
    let pool = need!(Pool::with_old());
    let long = format!("{GROUP}/{}", "x".repeat(110));
    // With every hyphen twice it is too long for a device.
    let hyphens = format!("{GROUP}/{}", "a-".repeat(40));
    let bad =
        ["", "c1", "/c1", "reroot-lab/", "reroot-lab/..", "reroot-lab/a/b", "reroot-lab/-x", "reroot-lab/a b", "reroot-lab/a\n"];
    let reserved = ["snapshot1", "pvmove0", "a_tdata", "x_mimage_0", "y_vorigin", "c1.reroot-staged", "c1.reroot-retired"];
    let reserved = reserved.map(|name| format!("{GROUP}/{name}"));
    for name in bad.into_iter().chain([&*long, &*hyphens]).chain(reserved.iter().map(String::as_str)) {
        assert_eq!(LvmVolume::open(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
    }
    assert!(refused(LvmVolume::open("no-such-group/c1"), ErrorKind::NotFound).contains("vgs"));
    assert!(
        refused(LvmVolume::open(&pool.name("c1")).unwrap().with_pool("no-such-pool"), ErrorKind::NotFound).contains("no-such-pool")
    );
    // A pool is no volume, and a volume no pool.
    let error = LvmVolume::open(&format!("{GROUP}/{POOL}")).map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported), "{}", error.report());
    let error = pool.open("c2").with_pool(&pool.short("c1")).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
}

#[test]
fn what_holds_no_file_system_survives() {
    let pool = need!(Pool::new());
    pool.make("c1", "");
    // Nothing at all, what is no file system, and one that is none of the three.
    let mut said = Vec::new();
    for command in ["true", "mkswap", "mksquashfs /etc/lvm -noappend"] {
        let device = group::device(&pool.name("c1")).unwrap();
        let words: Vec<_> = command.split(' ').collect();
        // Where mksquashfs wants it, before its options.
        let (before, after) = words.split_at(words.len().min(2));
        run(Command::new(before[0]).args(&before[1..]).arg(&device).args(after)).unwrap();
        let uuid = pool.get("lv_uuid", "c1");
        let error = rebuild(&mut pool.volume(), &new()).unwrap_err();
        assert_eq!(error.outcome(), Outcome::Untouched, "{}", error.report());
        said.push(error.report().to_string());
        assert_eq!(pool.get("lv_uuid", "c1"), uuid);
        pool.expect_only(&["c1"]);
    }
    assert!(said[1].contains("swap") && said[2].contains("squashfs"), "{said:?}");
}

#[test]
fn hyphens_and_neighbours_are_told_apart() {
    let pool = need!(Pool::new());
    let names = ["a", "a-", "a-b", "a--b", "a.b", "a_b", "a+b-", "a-b-c"];
    for name in names {
        let mut tree = Tree::new();
        tree.file("name", name);
        rebuild(&mut pool.open(name), &tree).unwrap();
    }
    // Of writable volumes none is another's snapshot, whatever it is called.
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
fn a_stranger_under_a_reserved_name_survives() {
    for name in ["c1.reroot-staged", "c1.reroot-retired"] {
        survives(name, need!(Pool::with_old()));
        survives(name, need!(Pool::with_foreign(FilesystemKind::Ext4, "", "")));
    }
}

fn survives(name: &str, pool: Pool) {
    pool.make(name, "");
    let device = group::device(&pool.name(name)).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").arg(&device)).unwrap();
    pool.visit(name, |root| fs::write(root.join("precious"), "").unwrap());
    let open = || LvmVolume::open(&pool.name("c1"));
    for _ in 0..2 {
        let error = open().and_then(|mut volume| rebuild(&mut volume, &new())).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::AlreadyExists, Outcome::Untouched), "{}", error.report());
        assert!(error.report().to_string().contains("lvrename"), "{}", error.report());
    }
    open().and_then(|mut volume| reroot::recover(&mut volume, &soon())).unwrap_err();
    assert!(pool.visit(name, |root| root.join("precious").exists()));
    pool.expect("old", &["c1", name]);
}
