//! Bases that are thin volumes, and volumes that are snapshots of one.

use super::*;
use reroot::base::{BaseOptions, CollectPolicy};
use reroot::lvm::LvmBases;
use reroot::{Base, Bases, CancelToken, Space};

const KINDS: [FilesystemKind; 3] = [FilesystemKind::Ext4, FilesystemKind::Xfs, FilesystemKind::Btrfs];

impl Pool {
    /// In a thin pool of its own: bases are named in the whole group by their images.
    fn for_bases(kind: FilesystemKind) -> Result<Pool, String> {
        let sizes = Pool::of(kind)?.size;
        Ok(Pool { kind, size: sizes, ..Pool::with_own_thin("--size 500M --poolmetadatasize 4M")? })
    }

    fn bases(&self) -> Bases {
        let pool = LvmBases::open(&format!("{GROUP}/{}", self.thin)).unwrap();
        Bases::new(pool.with_recipe(Recipe::new(self.kind)).with_size(self.size))
    }

    /// Of a tree that is this test's alone.
    fn base(&self) -> Base {
        let mut tree = new();
        tree.file("whose", self.prefix.0.as_str());
        self.bases().ensure(seekable(self.folder.path(), &tree), &BaseOptions::default()).unwrap()
    }

    /// The logical volumes of bases in its thin pool, with these fields.
    fn list_bases(&self, fields: &str) -> Vec<String> {
        let form = "--noheadings --separator ;";
        let all = lvm(&format!("lvs {form} --options lv_name,{fields} --select pool_lv={} {GROUP}", self.thin)).unwrap();
        all.lines().map(str::trim).filter(|line| line.starts_with("reroot-base-")).map(str::to_owned).collect()
    }
}

#[test]
fn a_volume_is_a_snapshot_with_a_uuid_of_its_own() {
    for kind in KINDS {
        let pool = need!(Pool::for_bases(kind));
        let base = pool.base();
        for name in ["c1", "c2"] {
            let report = Rebuild::from_base(&base).run(&mut pool.open(name)).unwrap();
            assert!(report.warnings.is_empty(), "{report}");
        }
        let listed = pool.list_bases("lv_permissions,lv_skip_activation,lv_size");
        assert!(listed.len() == 1 && listed[0].contains("read-only") && listed[0].contains("skip activation"), "{listed:?}");
        let origin = listed[0].split(';').next().unwrap().to_owned();
        assert_eq!([pool.get("origin", "c1"), pool.get("origin", "c2")], [origin.clone(), origin.clone()]);
        assert!(pool.get("lv_permissions,lv_skip_activation", "c1").starts_with("writeable"));
        // All three at once, where a UUID tells file systems apart.
        let base_root = Visited::new(&format!("{GROUP}/{origin}"), pool.folder.path()).unwrap().unwrap();
        pool.visit("c1", |one| {
            pool.visit("c2", |other| {
                fs::write(one.join("own"), "own").unwrap();
                assert!(one.join("new").exists() && other.join("new").exists() && base_root.path().join("new").exists(), "{kind}");
                assert!(!other.join("own").exists() && !base_root.path().join("own").exists());
            })
        });
        drop(base_root);
        if kind != FilesystemKind::Ext4 {
            assert_ne!(pool.uuid("c1"), pool.uuid("c2"), "{kind}");
        }
        // A volume depends on nothing.
        let name = base.name().clone();
        drop(base);
        pool.bases().remove(&name, &soon()).unwrap();
        assert!(pool.list_bases("lv_size").is_empty());
        pool.expect("own", &["c1", "c2", "thin"]);
        rebuild(&mut pool.volume(), &old()).unwrap();
        pool.expect("old", &["c1", "c2", "thin"]);
    }
}

#[test]
fn properties_are_kept_on_a_snapshot() {
    let pool = need!(Pool::for_bases(FilesystemKind::Ext4));
    let base = pool.base();
    pool.make("c1", "--addtag site=north --setactivationskip y");
    pool.change("c1", "--alloc cling");
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(group::device(&pool.name("c1")).unwrap())).unwrap();
    let fields = "lv_size,lv_permissions,lv_skip_activation,lv_allocation_policy,lv_read_ahead";
    let before = pool.get(fields, "c1");
    for _ in 0..2 {
        Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
        assert_eq!(pool.get(fields, "c1"), before);
        let tags = pool.get("lv_tags", "c1");
        let mut tags: Vec<_> = tags.split(',').collect();
        tags.sort_unstable();
        assert_eq!(tags, ["reroot-made", "site=north"]);
    }
    pool.expect("new", &["c1", "thin"]);
    drop(base);
    pool.bases().collect(&CollectPolicy::unused_for(Duration::ZERO), &CancelToken::new()).unwrap();
}

#[test]
fn a_volume_has_its_own_size() {
    for kind in KINDS {
        let pool = need!(Pool::for_bases(kind));
        let base = pool.base();
        Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
        // btrfs grows to no less than 256 MiB.
        let (before, larger) = (pool.capacity().0, pool.size.saturating_add(ByteSize::mib(64)).max(ByteSize::mib(256)));
        Rebuild::from_base(&base).size(larger).run(&mut pool.volume()).unwrap();
        assert_eq!(pool.lv_size(), larger);
        assert!(pool.capacity().0 > before + (48 << 20), "{kind}: {before} and {:?}", pool.capacity());
        pool.expect("new", &["c1", "thin"]);
        drop(base);
        pool.bases().collect(&CollectPolicy::unused_for(Duration::ZERO), &CancelToken::new()).unwrap();
    }
}

#[test]
fn a_base_that_does_not_fit_is_refused() {
    let mut pool = need!(Pool::for_bases(FilesystemKind::Ext4));
    rebuild(&mut pool.volume(), &old()).unwrap();
    pool.size = ByteSize::mib(128);
    let base = pool.base();
    let said = refused(Rebuild::from_base(&base).run(&mut pool.volume()), ErrorKind::NoSpace(Space::Quota));
    assert!(said.contains("128"), "{said}");
    pool.expect("old", &["c1", "thin"]);
    // In another pool, or in another group.
    let mut elsewhere = LvmVolume::open(&pool.name("c3")).unwrap().with_pool(POOL).unwrap().with_size(pool.size);
    refused(Rebuild::from_base(&base).run(&mut elsewhere), ErrorKind::Unsupported);
    // Of another kind.
    let mut other = pool.open("c4").with_recipe(Recipe::new(FilesystemKind::Btrfs));
    let error = Rebuild::from_base(&base).run(&mut other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
    pool.expect("old", &["c1", "thin"]);
    drop(base);
    pool.bases().collect(&CollectPolicy::unused_for(Duration::ZERO), &CancelToken::new()).unwrap();
}
