//! Bases that are images, and volumes that are clones of one.

use super::*;
use reroot::base::{BaseOptions, CollectPolicy};
use reroot::ceph::{CephBases, ClonePolicy};
use reroot::{Base, Bases, CancelToken};
use std::time::Instant;

const KINDS: [FilesystemKind; 3] = [FilesystemKind::Ext4, FilesystemKind::Xfs, FilesystemKind::Btrfs];

impl Pool {
    fn bases(&self) -> Bases {
        let pool = CephBases::open(&self.space.name).unwrap();
        Bases::new(pool.with_recipe(Recipe::new(self.kind)).with_size(self.size))
    }

    fn base(&self) -> Base {
        self.bases().ensure(seekable(self.folder.path(), &new()), &BaseOptions::default()).unwrap()
    }

    /// What all others are called in [`Pool::expect`].
    fn base_images(&self) -> Vec<String> {
        self.list().into_iter().filter(|name| name.starts_with("reroot-base-")).collect()
    }

    fn collect(&self) {
        self.bases().collect(&CollectPolicy::unused_for(Duration::ZERO), &CancelToken::new()).unwrap();
    }
}

#[test]
fn a_volume_is_a_clone_with_a_uuid_of_its_own() {
    for kind in KINDS {
        let pool = need!(Pool::of(kind));
        let base = pool.base();
        for name in ["c1", "c2"] {
            let report = Rebuild::from_base(&base).run(&mut pool.open(name)).unwrap();
            assert!(report.warnings.is_empty(), "{report}");
        }
        let images = pool.base_images();
        assert_eq!(images.len(), 1, "{images:?}");
        let parents = ["c1", "c2"].map(|name| pool.facts(name).parent);
        assert!(parents.iter().all(|parent| parent.starts_with(&format!("{}/", images[0]))), "{parents:?}");
        // All three at once, where a UUID tells file systems apart.
        pool.visit("c1", |one| {
            pool.visit("c2", |other| {
                fs::write(one.join("own"), "own").unwrap();
                assert!(one.join("new").exists() && other.join("new").exists(), "{kind}");
                assert!(!other.join("own").exists(), "{kind}");
            })
        });
        if kind != FilesystemKind::Ext4 {
            assert_ne!(pool.uuid("c1"), pool.uuid("c2"), "{kind}");
        }
        // It stays for as long as there are clones.
        let name = base.name().clone();
        drop(base);
        pool.collect();
        assert_eq!(pool.base_images(), images);
        rebuild(&mut pool.open("c1"), &old()).unwrap();
        rebuild(&mut pool.open("c2"), &old()).unwrap();
        assert!(["c1", "c2"].iter().all(|name| pool.facts(name).parent.is_empty()));
        pool.bases().remove(&name, &soon()).unwrap();
        pool.expect("old", &["c1", "c2"]);
    }
}

#[test]
fn whoever_wants_a_base_to_go_has_it_go_or_is_told_why() {
    let pool = need!(Pool::new());
    let base = pool.base();
    Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
    let name = base.name().clone();
    drop(base);
    match pool.bases().remove(&name, &soon()) {
        // Whatever becomes of it, the clone is whole.
        Ok(_) => assert!(pool.base_images().is_empty()),
        Err(error) => {
            assert!(error.kind().is_refusal() && error.report().to_string().contains("c1"), "{}", error.report());
            assert_eq!(pool.base_images().len(), 1);
        }
    }
    assert!(pool.visit("c1", |root| root.join("new").exists()));
    rebuild(&mut pool.volume(), &old()).unwrap();
    drop(pool.bases().remove(&name, &soon()));
    pool.collect();
    pool.expect("old", &["c1"]);
}

#[test]
fn a_volume_that_shares_nothing_is_made_where_that_is_wanted() {
    let pool = need!(Pool::new());
    let base = pool.base();
    let report = Rebuild::from_base(&base).run(&mut pool.volume().with_clones(ClonePolicy::Flattened)).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    assert!(pool.facts("c1").parent.is_empty());
    let name = base.name().clone();
    drop(base);
    pool.bases().remove(&name, &soon()).unwrap();
    pool.expect("new", &["c1"]);
}

#[test]
fn properties_are_kept_by_a_clone() {
    for options in [
        "--image-feature layering",
        "--image-feature layering,exclusive-lock,object-map,fast-diff --data-pool data",
        "--image-feature layering --object-size 1M",
    ] {
        let pool = need!(Pool::with_foreign(FilesystemKind::Ext4, options, ""));
        pool.space
            .ask::<serde_json::Value>("set_metadata", &["c1".into(), "conf_rbd_qos_iops_limit".into(), "1000".into()])
            .unwrap();
        let base = pool.base();
        let before = pool.facts("c1");
        for _ in 0..2 {
            Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
            let after = pool.facts("c1");
            let same = |facts: &Facts| (facts.size, facts.features, facts.object_size, facts.stripe, facts.data_pool.clone());
            assert_eq!(same(&after), same(&before));
            assert_eq!(after.metadata["conf_rbd_qos_iops_limit"], "1000");
        }
        drop(base);
        assert!(pool.visit("c1", |root| root.join("new").exists()));
    }
}

#[test]
fn a_volume_has_its_own_size() {
    for kind in KINDS {
        let pool = need!(Pool::of(kind));
        let base = pool.base();
        Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
        // btrfs grows to no less than 256 MiB.
        let (before, larger) = (pool.capacity("c1").0, pool.size.saturating_add(ByteSize::mib(64)).max(ByteSize::mib(256)));
        Rebuild::from_base(&base).size(larger).run(&mut pool.volume()).unwrap();
        assert_eq!(pool.facts("c1").size, larger.bytes());
        assert!(pool.capacity("c1").0 > before + (48 << 20), "{kind}: {before} and {:?}", pool.capacity("c1"));
        drop(base);
    }
}

#[test]
fn a_base_that_does_not_fit_is_refused() {
    let mut pool = need!(Pool::with_old());
    pool.size = ByteSize::mib(128);
    let base = pool.base();
    let said = refused(Rebuild::from_base(&base).run(&mut pool.volume()), ErrorKind::NoSpace(reroot::Space::Quota));
    assert!(said.contains("128"), "{said}");
    // Of another kind.
    let mut other = pool.open("c4").with_recipe(Recipe::new(FilesystemKind::Btrfs));
    let error = Rebuild::from_base(&base).run(&mut other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
    drop(base);
    pool.collect();
    pool.expect("old", &["c1"]);
}

/// A clone is made of what a base is called and not of what it holds, and an old root goes by what it holds and not by its size. The base has the volume's size: one that is smaller
/// has to be grown, by as much as the filesystem writes for that.
#[test]
fn a_rebuild_does_not_grow_with_the_size() {
    let sizes = [ByteSize::gib(1), ByteSize::gib(32)];
    let pools = sizes.map(|size| Pool::new().map(|pool| pool.with_size(size)));
    let [small, large] = pools;
    let pools = [need!(small), need!(large)];
    let bases = pools.each_ref().map(Pool::base);
    let mut volumes = pools.each_ref().map(Pool::volume);
    for (volume, base) in volumes.iter_mut().zip(&bases) {
        Rebuild::from_base(base).run(volume).unwrap();
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..5 {
        for ((volume, base), times) in volumes.iter_mut().zip(&bases).zip(&mut times) {
            let begun = Instant::now();
            let report = Rebuild::from_base(base).run(volume).unwrap();
            times.push((begun.elapsed(), report));
        }
    }
    drop(volumes);
    assert_eq!(pools.each_ref().map(|pool| pool.facts("c1").size), sizes.map(ByteSize::bytes));
    let medians = times.each_mut().map(|times| {
        times.sort_by_key(|(time, _)| *time);
        times[times.len() / 2].0
    });
    println!("a rebuild from a base: {:?} of 1 GiB, {:?} of 32 GiB", medians[0], medians[1]);
    let phases = times.each_ref().map(|times| &times[times.len() / 2].1.phases);
    // Twice as long, on a busy machine; by size it would be 32 times.
    assert!(medians[1] < medians[0].mul_f64(2.0) + Duration::from_millis(200), "{medians:?}: {phases:?}");
    drop(bases);
}
