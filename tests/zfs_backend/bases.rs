//! Bases that are datasets, and volumes that are clones of one.

use super::*;
use reroot::base::{BaseOptions, CollectPolicy, References};
use reroot::volume::BasePool;
use reroot::zfs::ZfsBases;
use reroot::{Base, Bases, ByteSize, CancelToken, Space};

impl Pool {
    fn bases(&self) -> Bases {
        Bases::new(ZfsBases::open(&self.parent.0).unwrap())
    }

    pub(crate) fn base(&self, tree: &Tree) -> Base {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        fs::write(&path, tree.to_tar().unwrap()).unwrap();
        self.bases().ensure(Image::open(path).unwrap(), &BaseOptions::default()).unwrap()
    }
}

fn large() -> Tree {
    let mut tree = new();
    let noise: Vec<u8> = (0..8u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    tree.file("large", noise);
    tree
}

#[test]
fn a_volume_is_a_clone_and_the_base_stays_as_long() {
    let pool = need!(Pool::new());
    let base = pool.base(&new());
    let report = Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    let origin = format!("{}@reroot-base", pool.name(&format!("reroot-bases/{}", base.name())));
    assert_eq!(pool.get("origin", "c1"), origin);
    assert!(pool.visit("c1", |root| root.join("new").exists()));
    let clones = ZfsBases::open(&pool.parent.0).unwrap().clones(base.name()).unwrap();
    assert_eq!(clones, [pool.name("c1")]);
    let name = base.name().clone();
    drop(base);
    let wait = reroot::Wait::new(std::time::Duration::ZERO, CancelToken::new());
    let error = pool.bases().remove(&name, &wait).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HasDependents, "{}", error.report());
    assert!(error.report().to_string().contains(&pool.name("c1")), "{}", error.report());
    let all = CollectPolicy::unused_for(std::time::Duration::ZERO);
    for policy in [all, all.with_references(References::Ignore)] {
        assert_eq!(pool.bases().collect(&policy, &CancelToken::new()).unwrap().kept.len(), 1);
    }
    // What was cloned from it is rebuilt otherwise: then it goes.
    rebuild(&mut pool.volume(), &old()).unwrap();
    assert_eq!(pool.bases().collect(&all, &CancelToken::new()).unwrap().removed, [name]);
    pool.expect("old", &["c1", "reroot-bases"]);
}

#[test]
fn a_limit_counts_what_a_clone_shares() {
    let pool = need!(Pool::with_foreign(&["-o", "quota=32M", "-o", "compression=off"]));
    pool.zfs(&["set", "compression=off"], "");
    let base = pool.base(&large());
    Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
    assert_eq!((pool.get("quota", "c1").as_str(), pool.get("refquota", "c1").as_str()), ("33554432", "33554432"));
    // 8 MiB are the base's: of 32 there are 24 left, and not 32.
    let refused = pool.visit("c1", |root| fs::write(root.join("more"), vec![7u8; 28 << 20]).and_then(|()| sync(root)));
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(nix::libc::EDQUOT));
    // The stand-in is no one's wish: it goes again.
    rebuild(&mut pool.volume(), &new()).unwrap();
    assert_eq!((pool.get("quota", "c1").as_str(), pool.get("refquota", "c1").as_str()), ("33554432", "0"));
    // What someone set since is theirs and stays.
    Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
    pool.zfs(&["set", "refquota=16M"], "c1");
    rebuild(&mut pool.volume(), &new()).unwrap();
    assert_eq!((pool.get("quota", "c1").as_str(), pool.get("refquota", "c1").as_str()), ("33554432", "16777216"));
    pool.zfs(&["set", "refquota=none"], "c1");
    // A base that is larger than the limit is refused before anything is done, unless the volume may grow.
    pool.zfs(&["set", "quota=6M"], "c1");
    let said = super::refused(Rebuild::from_base(&base).run(&mut pool.volume()), ErrorKind::NoSpace(Space::Quota));
    assert!(said.contains("the base holds 8"), "{said}");
    let report = Rebuild::from_base(&base).max_size(ByteSize::gib(1)).run(&mut pool.volume()).unwrap();
    assert!(report.grown.is_some(), "{report}");
    pool.visit("c1", |root| assert!(root.join("large").exists()));
}

fn sync(root: &Path) -> std::io::Result<()> {
    Ok(nix::unistd::syncfs(fs::File::open(root)?)?)
}

#[test]
fn properties_are_kept_on_a_clone() {
    let pool = need!(Pool::with_foreign(&["-o", "recordsize=16K", "-o", "atime=off", "-o", "user:x=y"]));
    let base = pool.base(&new());
    for _ in 0..2 {
        Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
        assert_eq!(
            (pool.get("recordsize", "c1").as_str(), pool.source("atime", "c1").as_str(), pool.get("user:x", "c1").as_str()),
            ("16384", "local", "y")
        );
        assert_eq!(pool.source("canmount", "c1"), "default");
    }
    // Within, a base is copied.
    pool.zfs(&["snapshot"], "c1@a");
    let guid = pool.get("guid", "c1");
    Rebuild::from_base(&base).snapshots(reroot::SnapshotPolicy::Keep).run(&mut pool.volume()).unwrap();
    assert_eq!(pool.get("guid", "c1"), guid);
    assert!(pool.visit("c1", |root| root.join("new").exists()));
}

#[test]
fn a_base_of_another_key_is_refused() {
    let pool = need!(Pool::new());
    let key = tempfile::NamedTempFile::new().unwrap();
    fs::write(key.path(), [7u8; 32]).unwrap();
    let location = format!("keylocation=file://{}", key.path().display());
    zfs(&["create", "-o", "mountpoint=none", "-o", "encryption=on", "-o", "keyformat=raw", "-o", &location, &pool.name("secret")])
        .unwrap();
    let mut volume = ZfsVolume::open(&pool.name("secret/c1")).unwrap();
    let base = pool.base(&new());
    let said = refused(Rebuild::from_base(&base).run(&mut volume), ErrorKind::Unsupported);
    assert!(said.contains("key"), "{said}");
    assert_eq!(pool.get("name", "secret"), pool.name("secret"));
}

#[test]
fn a_stranger_where_the_bases_go_survives() {
    let pool = need!(Pool::with_old());
    pool.zfs(&["create", "-o", "mountpoint=legacy"], "reroot-bases");
    let error = ZfsBases::open(&pool.parent.0).unwrap().names().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.report());
    assert!(refused(ZfsBases::open(&pool.name("no-such")), ErrorKind::NotFound).contains("zfs create"));
}

#[test]
fn what_a_loss_of_power_left_where_the_bases_go_is_made_anew() {
    let pool = need!(Pool::with_old());
    pool.zfs(&["create"], "reroot-bases");
    assert!(ZfsBases::open(&pool.parent.0).unwrap().names().unwrap().is_empty());
    let base = pool.base(&new());
    assert_eq!(pool.get("canmount", "reroot-bases"), "off");
    Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
    assert!(pool.visit("c1", |root| root.join("new").exists()));
}
