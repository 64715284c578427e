//! What a rebuild keeps of the old root's logical volume and of its file system.

use super::*;

/// What LVM can be told of a volume.
const FIELDS: &str = "lv_size,lv_permissions,lv_skip_activation,lv_allocation_policy,lv_read_ahead";

#[test]
fn the_logical_volume_is_as_before() {
    let options = "--addtag site=north --addtag a.b+c --setactivationskip y --readahead 512";
    let pool = need!(Pool::with_foreign(FilesystemKind::Ext4, options, ""));
    // Of a new one LVM does not take it.
    pool.change("c1", "--alloc cling");
    let before = pool.get(FIELDS, "c1");
    assert!(before.contains("skip activation") && before.contains("cling") && before.contains("262144"), "{before}");
    for tree in [new(), old(), new()] {
        let report = rebuild(&mut pool.volume(), &tree).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        assert_eq!(pool.get(FIELDS, "c1"), before);
        let tags = pool.get("lv_tags", "c1");
        let mut tags: Vec<_> = tags.split(',').collect();
        tags.sort_unstable();
        assert_eq!(tags, ["a.b+c", "reroot-made", "site=north"]);
        assert!(!pool.is_active("c1"), "it is active, and was not");
    }
    pool.expect("new", &["c1"]);
}

#[test]
fn a_read_only_volume_is_one_again() {
    let pool = need!(Pool::with_foreign(FilesystemKind::Ext4, "", ""));
    pool.change("c1", "--permission r");
    let before = pool.get(FIELDS, "c1");
    assert!(before.contains("read-only"), "{before}");
    for tree in [new(), old()] {
        rebuild(&mut pool.volume(), &tree).unwrap();
        assert_eq!(pool.get(FIELDS, "c1"), before);
    }
    pool.expect("old", &["c1"]);
}

#[test]
fn one_that_is_active_is_so_afterwards() {
    let pool = need!(Pool::with_foreign(FilesystemKind::Ext4, "", ""));
    for active in [true, false, true] {
        let word = if active { "y" } else { "n" };
        pool.change("c1", &format!("--activate {word}"));
        // Also where a rebuild fails, or nothing is done at all.
        Rebuild::new(broken()).run(&mut pool.volume()).unwrap_err();
        assert_eq!(pool.is_active("c1"), active);
        Rebuild::new(image(&new())).plan(&pool.volume()).unwrap();
        assert_eq!(pool.is_active("c1"), active);
        rebuild(&mut pool.volume(), &new()).unwrap();
        assert_eq!(pool.is_active("c1"), active);
    }
    pool.expect("new", &["c1"]);
}

#[test]
fn ext4_is_made_as_it_was() {
    let mkfs = "-L root-c1 -b 4096 -I 512 -m 1 -O ^has_journal,metadata_csum,quota,project,64bit -E stride=16,stripe_width=64 -i 8192 -e remount-ro";
    let pool = need!(Pool::with_foreign(FilesystemKind::Ext4, "", mkfs));
    let facts = || {
        let said = pool.with_device("c1", |device| run(Command::new("dumpe2fs").arg("-h").arg(device)).unwrap());
        let kept = [
            "Filesystem volume name",
            "Filesystem features",
            "Errors behavior",
            "Inode count",
            "Block count",
            "Reserved block count",
            "Block size",
            "Inode size",
            "RAID stride",
            "RAID stripe width",
        ];
        let line = |name: &&str| said.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap_or(name).to_owned();
        kept.iter().map(line).collect::<Vec<_>>()
    };
    let before = facts();
    for tree in [new(), old()] {
        let report = rebuild(&mut pool.volume(), &tree).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        assert_eq!(facts(), before);
    }
}

#[test]
fn xfs_is_made_as_it_was() {
    let mkfs = "-K -L rootc1 -b size=4096 -m crc=1,finobt=1,rmapbt=0,reflink=0,bigtime=0 -i size=1024,sparse=0 -n size=8192";
    let pool = need!(Pool::with_foreign(FilesystemKind::Xfs, "", mkfs));
    let facts = || {
        pool.with_device("c1", |device| {
            let info = run(Command::new("xfs_db").args(["-r", "-c", "info", "-c", "label"]).arg(device)).unwrap();
            // The log and the groups follow from the size.
            info.replace(&*device.to_string_lossy(), "DEVICE")
        })
    };
    let before = facts();
    for tree in [new(), old()] {
        let report = rebuild(&mut pool.volume(), &tree).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        assert_eq!(facts(), before);
    }
}

#[test]
fn btrfs_is_made_as_it_was() {
    let pool = need!(Pool::with_foreign(FilesystemKind::Btrfs, "", "-K --label root-c1 --csum xxhash --nodesize 8192"));
    let facts = || {
        let dump = ["inspect-internal", "dump-super"];
        let said = pool.with_device("c1", |device| run(Command::new("btrfs").args(dump).arg(device)).unwrap());
        let kept = ["label", "csum_type", "nodesize", "sectorsize", "incompat_flags"];
        let line = |name: &&str| said.lines().find(|line| line.starts_with(*name)).unwrap_or(name).to_owned();
        kept.iter().map(line).collect::<Vec<_>>()
    };
    let before = facts();
    for tree in [new(), old()] {
        let report = rebuild(&mut pool.volume(), &tree).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        assert_eq!(facts(), before);
    }
}

#[test]
fn a_recipe_decides_otherwise() {
    let mut pool = need!(Pool::of(FilesystemKind::Btrfs));
    rebuild(&mut pool.volume(), &old()).unwrap();
    let ext4 = Recipe::new(FilesystemKind::Ext4).with_options(["-L", "mine", "-O", "^has_journal"]);
    rebuild(&mut pool.volume().with_recipe(ext4), &new()).unwrap();
    let said = pool.with_device("c1", |device| run(Command::new("dumpe2fs").arg("-h").arg(device)).unwrap());
    assert!(said.contains("mine") && !said.contains("has_journal"), "{said}");
    pool.expect("new", &["c1"]);
    // What mkfs does not know it says itself, and nothing is changed.
    let bad = Recipe::new(FilesystemKind::Ext4).with_options(["-O", "no_such_feature"]);
    let error = rebuild(&mut pool.volume().with_recipe(bad), &old()).unwrap_err();
    assert!(error.report().to_string().contains("no_such_feature"), "{}", error.report());
    pool.expect("new", &["c1"]);
    pool.kind = FilesystemKind::Ext4;
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

/// A file system that was not unmounted has a journal to replay; one that is damaged is not what a root is read from.
#[test]
fn a_root_that_was_not_unmounted_is_replaced() {
    for kind in [FilesystemKind::Ext4, FilesystemKind::Xfs, FilesystemKind::Btrfs] {
        let pool = need!(Pool::with_foreign(kind, "", ""));
        pool.change("c1", "--activate y");
        let device = group::device(&pool.name("c1")).unwrap();
        // What a machine that loses its power leaves: a copy of the device while it is mounted.
        let (copy, at) = (pool.folder.path().join("copy"), pool.folder.path().join("at"));
        fs::create_dir(&at).unwrap();
        run(Command::new("mount").arg(&device).arg(&at)).unwrap();
        fs::write(at.join("late"), vec![7; 100_000]).unwrap();
        run(Command::new("sync").arg("-f").arg(at.join("late"))).unwrap();
        run(Command::new("dd")
            .args(["bs=1M", "conv=sparse"])
            .arg(format!("if={}", device.display()))
            .arg(format!("of={}", copy.display())))
        .unwrap();
        run(Command::new("umount").arg(&at)).unwrap();
        run(Command::new("dd")
            .args(["bs=1M", "conv=fsync"])
            .arg(format!("if={}", copy.display()))
            .arg(format!("of={}", device.display())))
        .unwrap();
        rebuild(&mut pool.volume(), &new()).unwrap();
        pool.expect("new", &["c1"]);
    }
}

#[test]
fn more_tags_than_fit_in_a_line_of_the_shell() {
    let pool = need!(Pool::with_old());
    let tags: String = (0..40).map(|tag| format!("--addtag tag{tag} ")).collect();
    pool.change("c1", &tags);
    rebuild(&mut pool.volume(), &new()).unwrap();
    assert_eq!(pool.get("lv_tags", "c1").matches("tag").count(), 40);
}
