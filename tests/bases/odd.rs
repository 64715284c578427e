//! Bases where none should be, and pools that are not as they should be.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use reroot::base::{BaseOptions, CollectPolicy, Verdict};
use reroot::btrfs::{BtrfsBases, BtrfsVolume};
use reroot::dir::{DirBases, DirVolume};
use reroot::{Bases, CancelToken, ErrorKind, Image, Outcome};

use super::common::loopfs::{Kind, run};
use super::{Scheme, Stand, anew, failed, from_base, is_root, list, need, no_wait, odd_name, shown, tree};

#[test]
fn a_base_that_can_be_written_to_is_refused() {
    need!(is_root());
    let stand = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 128));
    let base = stand.ensure(&stand.image("a.tar", &tree("a")));
    run(Command::new("btrfs").args(["property", "set", "-f"]).arg(stand.path_of(&base)).args(["ro", "false"])).unwrap();
    let error = failed(from_base(&base).run(&mut *stand.volume("c1")));
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
    assert!(error.remedy().unwrap().contains("remove it"), "{}", error.report());
    assert!(matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack));
    stand.expect_volumes(&[]);
}

#[test]
fn a_base_of_another_file_system_or_backend_is_refused_where_it_cannot_be_cloned() {
    need!(is_root());
    let stand = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 128));
    let other = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 128));
    let plain = Stand::new();
    let path = stand.image("a.tar", &tree("a"));
    other.rebuild("c1", &other.ensure(&other.image("old.tar", &tree("old"))));
    for base in [stand.ensure(&path), plain.ensure(&path)] {
        let error = failed(from_base(&base).run(&mut *other.volume("c1")));
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
        assert!(matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack), "{}", error.report());
        assert!(error.remedy().unwrap().contains("pool"), "{}", error.report());
        other.expect_volumes(&["c1"]);
        assert!(other.root("c1").join("old").exists());
    }
    // A directory takes what it is given.
    shown(from_base(&stand.ensure(&path)).run(&mut *plain.volume("c1")));
    assert!(plain.root("c1").join("a").exists());
    let error = failed(BtrfsBases::open(plain.pool()));
    assert!(error.kind() == ErrorKind::InvalidInput && error.remedy().unwrap().contains("dir:"), "{}", error.report());
}

#[test]
fn a_pool_that_is_none() {
    let stand = Stand::new();
    for path in [stand.path("missing"), stand.image("file", &tree("a"))] {
        let error = failed(DirBases::open(&path));
        assert!(error.report().to_string().contains("pool:"), "{}", error.report());
    }
    // The folder for bases is made, and never through a link.
    let elsewhere = stand.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, stand.folder_of_bases()).unwrap();
    let path = stand.image("a.tar", &tree("a"));
    let open = || Image::open(&path).unwrap();
    let error = failed(stand.bases().ensure(open(), &BaseOptions::default()));
    assert!(error.report().to_string().contains("folder of bases"), "{}", error.report());
    assert!(failed(stand.bases().list()).report().to_string().contains("folder of bases"));
    assert!(stand.bases().collect(&CollectPolicy::unused_for(Default::default()), &CancelToken::new()).is_err());
    assert_eq!(list(&elsewhere), [""; 0]);
    fs::remove_file(stand.folder_of_bases()).unwrap();
    fs::write(stand.folder_of_bases(), "").unwrap();
    failed(stand.bases().ensure(open(), &BaseOptions::default()));
    fs::remove_file(stand.folder_of_bases()).unwrap();
    assert_eq!(stand.bases().list().unwrap(), []);
    assert_eq!(list(&stand.pool()), ["containers"]);
    let name = stand.ensure(&path).name().clone();
    // Gone below it.
    fs::remove_dir_all(stand.folder_of_bases()).unwrap();
    assert!(shown(stand.bases().find(&name, &no_wait())).is_none());
    stand.ensure(&path);
    assert!(stand.bases().list().unwrap()[0].record.is_some());
}

#[test]
fn a_pool_that_is_read_only_can_be_looked_at() {
    need!(is_root());
    for (kind, scheme) in [(Kind::Ext4, Scheme::Dir), (Kind::Btrfs, Scheme::Btrfs)] {
        let stand = need!(Stand::on(kind, scheme, 128));
        let path = stand.image("a.tar", &tree("a"));
        let name = stand.ensure(&path).name().clone();
        let remount = |options: &str| {
            run(Command::new("mount").args(["-o", options]).arg(stand.fs.as_ref().unwrap().path())).unwrap();
        };
        remount("remount,ro");
        let listed = shown(stand.bases().list());
        assert!(listed[0].name == name && listed[0].record.is_some());
        let error = failed(stand.bases().ensure(Image::open(&path).unwrap(), &BaseOptions::default()));
        assert!(error.report().to_string().to_lowercase().contains("read-only"), "{}", error.report());
        let collected = shown(stand.bases().collect(&CollectPolicy::unused_for(Default::default()), &CancelToken::new()));
        assert_eq!((collected.removed.len(), collected.kept.len()), (0, 1), "{collected}");
        remount("remount,rw");
        stand.ensure(&path);
    }
}

#[test]
fn a_full_pool_leaves_no_half_base() {
    need!(is_root());
    for (kind, scheme) in [(Kind::Tmpfs, Scheme::Dir), (Kind::Btrfs, Scheme::Btrfs)] {
        let stand = need!(Stand::on(kind, scheme, 24));
        let elsewhere = Stand::new();
        let mut large = tree("large");
        let noise: Vec<u8> = (0..4_000_000_u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
        for part in 0..60 {
            large.file(format!("part-{part}"), noise.clone());
        }
        let path = elsewhere.image("large.tar", &large);
        let error = failed(stand.bases().ensure(Image::open(&path).unwrap(), &BaseOptions::default()));
        assert!(matches!(error.kind(), ErrorKind::NoSpace(_) | ErrorKind::TooSmall), "{}", error.report());
        assert!(error.remedy().is_some());
        assert_eq!(stand.kept(), [""; 0]);
        stand.settle();
        stand.ensure(&stand.image("a.tar", &tree("a")));
    }
}

#[test]
fn a_pool_by_a_relative_path_or_an_odd_one() {
    const MARKER: &str = "REROOT_TEST_BASES_RELATIVE";
    if std::env::var_os(MARKER).is_some() {
        let bases = Bases::new(DirBases::open(".").unwrap());
        let base = shown(bases.ensure(Image::open("a.tar").unwrap(), &BaseOptions::default()));
        for path in ["containers/c1", "./containers/../containers/c2"] {
            shown(from_base(&base).run(&mut DirVolume::open(path).unwrap()));
            let record = reroot::RebuildableVolume::record(&DirVolume::open(path).unwrap()).unwrap().unwrap();
            shown(anew(shown(Image::from_record(&record))).run(&mut DirVolume::open(path).unwrap()));
        }
        return;
    }
    let stand = Stand::new();
    fs::write(stand.pool().join("a.tar"), tree("a").to_tar().unwrap()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "odd::a_pool_by_a_relative_path_or_an_odd_one", "--nocapture"]).env(MARKER, "1");
    let said = run(command.current_dir(stand.pool())).unwrap();
    assert!(said.contains("1 passed"), "{said}");
    stand.expect_volumes(&["c1", "c2"]);
    assert_eq!(stand.kept().len(), 1);

    let odd = stand.path(odd_name());
    fs::create_dir_all(odd.join("containers")).unwrap();
    let path = odd.join("image \n.tar");
    fs::write(&path, tree("a").to_tar().unwrap()).unwrap();
    let bases = Bases::new(DirBases::open(&odd).unwrap());
    let base = shown(bases.ensure(Image::open(&path).unwrap(), &BaseOptions::default()));
    let mut volume = DirVolume::open(odd.join("containers").join(odd_name())).unwrap();
    let report = shown(from_base(&base).run(&mut volume));
    let said = format!("{report}\n{}\n{bases:?}", bases.list().unwrap()[0]);
    assert!(!said.contains('\x1b') && !report.to_string().contains("name\n"), "{said}");
    assert_eq!(bases.verify(base.name(), &CancelToken::new()).unwrap(), Verdict::Intact);
    let record = reroot::RebuildableVolume::record(&volume).unwrap().unwrap();
    shown(anew(shown(Image::from_record(&record))).run(&mut volume));
}

#[test]
fn a_pool_of_subvolumes_with_an_odd_path() {
    need!(is_root());
    let stand = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 128));
    let odd = stand.path(odd_name());
    fs::create_dir_all(odd.join("containers")).unwrap();
    // By a link, which may be moved later: the pool itself is not.
    symlink(&odd, stand.path("link")).unwrap();
    let path = stand.image("a.tar", &tree("a"));
    let bases = Bases::new(BtrfsBases::open(stand.path("link")).unwrap());
    let base = shown(bases.ensure(Image::open(&path).unwrap(), &BaseOptions::default()));
    let mut volume = BtrfsVolume::open(odd.join("containers").join(odd_name())).unwrap();
    shown(from_base(&base).run(&mut volume));
    let report = shown(from_base(&base).run(&mut volume));
    assert!(!report.to_string().contains('\x1b'), "{report}");
    let clones = &bases.list().unwrap()[0].clones;
    assert!(clones.len() == 1 && !clones[0].contains(['\n', '\x1b']), "{clones:?}");
    let mode = fs::metadata(odd.join("reroot-bases-btrfs")).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700);
    // And in a subvolume of its own, as pools of LXD are.
    run(Command::new("btrfs").args(["subvolume", "create"]).arg(stand.path("inner"))).unwrap();
    fs::create_dir(stand.path("inner/containers")).unwrap();
    let bases = Bases::new(BtrfsBases::open(stand.path("inner")).unwrap());
    let base = shown(bases.ensure(Image::open(&path).unwrap(), &BaseOptions::default()));
    shown(from_base(&base).run(&mut BtrfsVolume::open(stand.path("inner/containers/c1")).unwrap()));
    let name = base.name().clone();
    drop(base);
    shown(bases.remove(&name, &super::soon()));
}
