//! What a volume keeps when it is rebuilt from a base is what it keeps when it is rebuilt from the image.

use std::fs;
use std::path::Path;
use std::process::Command;

use reroot::conformance::manifest::DirectoryTimes;
use reroot::conformance::{Manifest, ManifestOptions, Tree};
use reroot::rebuild::{Disposal, Made};
use reroot::volume::{Commit, RebuildableVolume};
use reroot::{Dispose, ErrorKind, Image, Outcome, SnapshotPolicy, Strategy, recover};

use super::common::loopfs::{Kind, run};
use super::{Scheme, Stand, anew, btrfs, failed, from_base, is_root, list, need, shown, soon, tree};

const PLACES: [(Kind, Scheme); 5] = [
    (Kind::Tmpfs, Scheme::Dir),
    (Kind::Ext4, Scheme::Dir),
    (Kind::Xfs, Scheme::Dir),
    (Kind::Btrfs, Scheme::Dir),
    (Kind::Btrfs, Scheme::Btrfs),
];

/// An image whose root directory has what no live root has.
fn topped() -> Tree {
    let mut tree = tree("new");
    tree.directory("srv/inner");
    let top = tree.root();
    top.mode = 0o2711;
    top.owner = (31, 32);
    // An ACL for the user 5, as the kernel has it.
    let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x04\0\x05\0\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    let named = |name: &str, value: &[u8]| (std::ffi::CString::new(name).unwrap(), value.to_vec());
    top.xattrs = vec![
        named("system.posix_acl_default", acl),
        named("user.image", b"of the image"),
        named("user.both", b"of the image"),
        named("trusted.image", b"of the image"),
    ];
    tree
}

fn top_of(root: &Path) -> String {
    let manifest = shown(ManifestOptions::new().with_directory_times(DirectoryTimes::IgnoredOfRoot).read(root));
    format!("{:?}", manifest.root())
}

fn flags(root: &Path) -> String {
    run(Command::new("lsattr").arg("-dp").arg(root))
        .map_or_else(|_| "none".into(), |told| told.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

#[test]
fn a_new_volume_gets_the_root_of_the_image() {
    need!(is_root());
    for (kind, scheme) in PLACES {
        let stand = need!(Stand::on(kind, scheme, 128));
        // A pool that bequeaths what no root should have.
        for path in [stand.pool(), stand.path("pool/containers")] {
            let _ = run(Command::new("setfacl").args(["-m", "d:u:99:rwx"]).arg(path));
        }
        let path = stand.image("topped.tar", &topped());
        shown(anew(Image::open(&path).unwrap()).run(&mut *stand.volume("direct")));
        let base = stand.ensure(&path);
        let report = stand.rebuild("c1", &base);
        assert!(report.warnings.is_empty() && report.losses.is_empty(), "{report}");
        assert_eq!(top_of(&stand.root("c1")), top_of(&stand.root("direct")), "{scheme:?} {kind:?}");
        assert!(top_of(&stand.root("c1")).contains("user.image"));
        let (one, other) = (Manifest::of(&stand.root("direct")).unwrap(), Manifest::of(&stand.root("c1")).unwrap());
        assert_eq!(one.len(), other.len());
        let differences = one.diff(&other);
        let others = differences.iter().filter(|difference| difference.path() != Path::new(".")).count();
        assert!(others == 0 || differences.len() == 1, "{scheme:?} {kind:?}: {differences}");
    }
}

#[test]
fn owner_mode_attributes_flags_and_project_are_those_of_the_old_root() {
    need!(is_root());
    for (kind, scheme) in PLACES {
        let stand = need!(Stand::on(kind, scheme, 128));
        let path = stand.image("topped.tar", &topped());
        let base = stand.ensure(&path);
        let old = stand.image("old.tar", &tree("old"));
        for name in ["direct", "c1"] {
            shown(anew(Image::open(&old).unwrap()).run(&mut *stand.volume(name)));
            let root = stand.root(name);
            let command = |command: &str, words: &[&str]| run(Command::new(command).args(words).arg(&root));
            command("chown", &["1000000:1000001"]).unwrap();
            command("chmod", &["0750"]).unwrap();
            command("setfattr", &["-n", "user.both", "-v", "of the volume"]).unwrap();
            command("setfattr", &["-n", "trusted.volume", "-v", "of the volume"]).unwrap();
            command("setfacl", &["-m", "u:1234:rwx"]).unwrap();
            match kind {
                Kind::Ext4 => _ = command("chattr", &["+Ad"]).unwrap(),
                // A project id that is inherited, and so a limit.
                Kind::Xfs => _ = command("chattr", &["+P", "-p", "4711"]).unwrap(),
                Kind::Btrfs if scheme == Scheme::Btrfs => {
                    command("chattr", &["+A"]).unwrap();
                    run(Command::new("btrfs").args(["property", "set"]).arg(&root).args(["compression", "zstd"])).unwrap();
                }
                Kind::Btrfs => _ = command("chattr", &["+C"]).unwrap(),
                Kind::Tmpfs => {}
            }
        }
        let direct = shown(anew(Image::open(&path).unwrap()).run(&mut *stand.volume("direct")));
        let report = stand.rebuild("c1", &base);
        let what = format!("{scheme:?} {kind:?}");
        assert_eq!(top_of(&stand.root("c1")), top_of(&stand.root("direct")), "{what}");
        assert!(top_of(&stand.root("c1")).contains("1000000") && !top_of(&stand.root("c1")).contains("user.image"), "{what}");
        assert_eq!(flags(&stand.root("c1")), flags(&stand.root("direct")), "{what}");
        assert!(direct.warnings.is_empty(), "{what}: {direct}");
        if scheme == Scheme::Btrfs {
            // What cannot be kept is told: nothing of the base is written anew.
            let [warning] = &report.warnings[..] else { panic!("{what}: {report}") };
            assert!(warning.to_string().contains("compressed"), "{warning}");
        } else {
            assert!(report.warnings.is_empty(), "{what}: {report}");
            // Also of what lies in it.
            for file in ["new", "srv"] {
                let (c1, direct) = (stand.root("c1").join(file), stand.root("direct").join(file));
                assert_eq!(flags(&c1), flags(&direct), "{what}: {file}");
            }
        }
        if kind == Kind::Btrfs && scheme == Scheme::Dir {
            // What is not copied on write is not shared either.
            assert_eq!(report.shared.bytes(), 0, "{what}: {report}");
        }
        assert_eq!(fs::read_to_string(stand.root("c1").join("etc/hostname")).unwrap(), "new");
        stand.expect_volumes(&["c1", "direct"]);
    }
}

#[test]
fn properties_of_the_pool_are_not_taken_for_those_of_the_image() {
    need!(is_root());
    for scheme in [Scheme::Dir, Scheme::Btrfs] {
        let stand = need!(Stand::on(Kind::Btrfs, scheme, 128));
        // The bases lie compressed, the volumes do not.
        run(Command::new("btrfs").args(["property", "set"]).arg(stand.pool()).args(["compression", "zstd"])).unwrap();
        let path = stand.image("new.tar", &tree("new"));
        shown(anew(Image::open(&path).unwrap()).run(&mut *stand.volume("direct")));
        let base = stand.ensure(&path);
        let listed = run(Command::new("getfattr").args(["-d", "-m", "-"]).arg(stand.path_of(&base).join("new"))).unwrap();
        // A subvolume has nothing of the folder it lies in.
        assert_eq!(listed.contains("btrfs.compression"), scheme == Scheme::Dir, "{listed}");
        let report = stand.rebuild("c1", &base);
        assert!(report.losses.is_empty() && report.warnings.is_empty(), "{report}");
        if scheme == Scheme::Dir {
            let (one, other) = (Manifest::of(&stand.root("direct")).unwrap(), Manifest::of(&stand.root("c1")).unwrap());
            let differences = one.diff(&other);
            assert!(differences.iter().all(|difference| difference.path() == Path::new(".")), "{differences}");
        }
    }
}

#[test]
fn a_volume_that_is_not_copied_on_write_is_told_of_its_base() {
    need!(is_root());
    let stand = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 128));
    let base = stand.ensure(&stand.image("new.tar", &tree("new")));
    stand.rebuild("c1", &base);
    run(Command::new("chattr").arg("+C").arg(stand.root("c1"))).unwrap();
    for _ in 0..2 {
        let report = stand.rebuild("c1", &base);
        let [warning] = &report.warnings[..] else { panic!("{report}") };
        assert!(warning.to_string().contains("not copied on write"), "{warning}");
        assert!(flags(&stand.root("c1")).contains('C'), "{}", flags(&stand.root("c1")));
    }
    fs::write(stand.root("c1").join("another"), "x").unwrap();
    assert!(flags(&stand.root("c1").join("another")).contains('C'));
    // The base is as it was.
    assert!(!flags(&stand.path_of(&base)).contains('C'));
}

#[test]
fn in_place_detached_and_by_two_renames() {
    need!(is_root());
    for scheme in [Scheme::Dir, Scheme::Btrfs] {
        let stand = need!(Stand::on(Kind::Btrfs, scheme, 192));
        let base = stand.ensure(&stand.image("new.tar", &tree("new")));
        let old = stand.image("old.tar", &tree("old"));
        let reset = || shown(anew(Image::open(&old).unwrap()).run(&mut *stand.volume("c1")));
        let expect = |name: &str| {
            let root = list(&stand.root("c1"));
            assert_eq!(root.iter().map(String::as_str).collect::<Vec<_>>(), ["etc", name], "{scheme:?}");
        };
        reset();
        let rebuild = from_base(&base).strategy(Strategy::InPlace);
        let plan = shown(rebuild.plan(&*stand.volume("c1")));
        let text = plan.to_string();
        assert!(text.contains("base: "), "{text}");
        // A copy that cannot be made must not cost the old root.
        assert_eq!(text.contains("read and check"), scheme == Scheme::Dir, "{text}");
        assert_eq!(text.contains("clone the base"), scheme == Scheme::Btrfs, "{text}");
        let report = shown(rebuild.run(&mut *stand.volume("c1")));
        assert_eq!(report.old_root, Disposal::Removed);
        expect("new");
        stand.expect_volumes(&["c1"]);

        reset();
        let report = shown(from_base(&base).dispose(Dispose::Detach).run(&mut *stand.volume("c1")));
        assert_eq!(report.old_root, Disposal::Left);
        expect("new");
        stand.expect_volumes(&["c1", "c1.reroot-staged"]);
        assert!(stand.root("c1.reroot-staged").join("old").exists());
        shown(recover(&mut *stand.volume("c1"), &soon()));
        stand.expect_volumes(&["c1"]);

        reset();
        let mut volume: Box<dyn RebuildableVolume> = match scheme {
            Scheme::Dir => Box::new(reroot::dir::DirVolume::open(stand.root("c1")).unwrap().with_commit(Commit::TwoRenames)),
            Scheme::Btrfs => Box::new(stand.subvolume("c1").with_commit(Commit::TwoRenames)),
        };
        shown(from_base(&base).run(&mut *volume));
        expect("new");

        // An in-place rebuild that a kill ended, of which a part is left.
        fs::rename(stand.root("c1"), stand.root("c1.reroot-staged")).unwrap();
        let report = stand.rebuild("c1", &base);
        assert!(report.recovered.is_without_root(), "{report}");
        assert_eq!(report.made, if scheme == Scheme::Btrfs { Made::Cloned } else { Made::Copied });
        expect("new");
        stand.expect_volumes(&["c1"]);
    }
}

#[test]
fn snapshots_of_a_volume_have_their_policies() {
    need!(is_root());
    for scheme in [Scheme::Dir, Scheme::Btrfs] {
        let stand = need!(Stand::on(Kind::Btrfs, scheme, 192));
        let base = stand.ensure(&stand.image("new.tar", &tree("new")));
        stand.rebuild("c1", &base);
        // A volume of the same base is no snapshot of this one, and neither is the base.
        stand.rebuild("c2", &base);
        assert_eq!(stand.volume("c1").snapshots().unwrap(), []);
        let folder = stand.path("pool/containers-snapshots/c1");
        fs::create_dir_all(&folder).unwrap();
        match scheme {
            Scheme::Dir => fs::create_dir(folder.join("snap0")).unwrap(),
            Scheme::Btrfs => {
                run(Command::new("btrfs").args(["subvolume", "snapshot", "-r"]).arg(stand.root("c1")).arg(folder.join("snap0")))
                    .unwrap();
            }
        }
        let error = failed(from_base(&base).run(&mut *stand.volume("c1")));
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::HasSnapshots, Outcome::Untouched), "{}", error.report());
        let report = shown(from_base(&base).snapshots(SnapshotPolicy::Keep).run(&mut *stand.volume("c1")));
        assert_eq!((report.kept.len(), list(&folder)), (1, vec!["snap0".to_owned()]));
        let report = shown(from_base(&base).snapshots(SnapshotPolicy::Purge).run(&mut *stand.volume("c1")));
        assert_eq!((report.purged.len(), list(&folder).len()), (1, 0));
        stand.expect_volumes(&["c1", "c2"]);
        if scheme == Scheme::Btrfs {
            stand.settle();
            let listed = btrfs(&["subvolume", "list"], &stand.fs.as_ref().unwrap().path());
            assert_eq!(listed.lines().count(), 3, "{listed}");
        }
    }
}

#[test]
fn a_read_only_root_stays_one() {
    need!(is_root());
    let stand = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 128));
    let base = stand.ensure(&stand.image("new.tar", &tree("new")));
    stand.rebuild("c1", &base);
    // A clone of what is read-only is not.
    fs::write(stand.root("c1").join("mine"), "x").unwrap();
    run(Command::new("btrfs").args(["property", "set"]).arg(stand.root("c1")).args(["ro", "true"])).unwrap();
    stand.rebuild("c1", &base);
    let told = run(Command::new("btrfs").args(["property", "get"]).arg(stand.root("c1")).arg("ro")).unwrap();
    assert_eq!(told.trim(), "ro=true");
    assert!(!stand.root("c1").join("mine").exists());
}
