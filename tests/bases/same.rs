//! A root from a base is the root from the image, on every file system.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use reroot::base::{BaseOptions, Verdict};
use reroot::conformance::manifest::DirectoryTimes;
use reroot::conformance::{Manifest, ManifestOptions, Tree};
use reroot::rebuild::Made;
use reroot::{ByteSize, CancelToken, Image, Limits};

use super::common::loopfs::{Kind, run};
use super::{Scheme, Stand, anew, btrfs, from_base, is_root, need, odd_name, shown};

/// Where the holes of `sparse` are not: its first and its last block.
const SPARSE: u64 = 5 << 20;

/// A tree with all that there is, made by other programs, and packed by GNU tar.
fn image(stand: &Stand) -> PathBuf {
    let source = stand.path("source");
    fs::create_dir_all(source.join("usr/bin")).unwrap();
    fs::create_dir_all(source.join("closed")).unwrap();
    let file = |name: &str, content: &[u8]| fs::write(source.join(name), content).unwrap();
    file("empty", b"");
    file("usr/bin/tool", &[0x7f; 70_000]);
    file("large", &(0..900_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    file("byte", b"x");
    fs::write(source.join(odd_name()), "odd").unwrap();
    fs::create_dir(source.join("-rf \n*")).unwrap();
    file("-rf \n*/\t", b"tab");
    for (target, name) in [("usr/bin/tool", "usr/bin/same"), ("usr/bin/tool", "closed/same too"), ("byte", "a first name")] {
        fs::hard_link(source.join(target), source.join(name)).unwrap();
    }
    symlink("/no/where \n", source.join("dangling")).unwrap();
    symlink(OsString::from_vec(vec![b'a'; 1000]), source.join("long")).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.write_all_at(&[1; 4096], 0).unwrap();
    sparse.write_all_at(&[2; 4096], SPARSE - 8192).unwrap();
    sparse.set_len(SPARSE).unwrap();
    fs::File::create(source.join("hole")).unwrap().set_len(1 << 20).unwrap();
    let mut deep = source.join("deep");
    for _ in 0..320 {
        deep.push("deeper");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "found").unwrap();
    let command = |command: &str, words: &[&str]| {
        run(Command::new(command).args(words).current_dir(&source)).unwrap();
    };
    command("mkfifo", &["pipe"]);
    command("setfattr", &["-n", "user.note", "-v", "a\nnote", "empty"]);
    command("setfattr", &["-h", "-n", "trusted.link", "-v", "t", "dangling"]);
    command("setfattr", &["-n", "security.label", "-v", "l", "pipe"]);
    command("setfattr", &["-n", "user.top", "-v", "of the image", "."]);
    command("setfacl", &["-m", "u:1234:rw,g:77:r", "byte"]);
    command("setfacl", &["-m", "u:1234:rx", "-m", "d:u:55:rwx", "usr"]);
    command("setcap", &["cap_net_raw+ep", "usr/bin/tool"]);
    command("mknod", &["null", "c", "1", "3"]);
    command("mknod", &["disk", "b", "259", "70000"]);
    fs::hard_link(source.join("null"), source.join("zero")).unwrap();
    command("chown", &["-h", "1000:2000", "dangling", "large", "pipe", "usr/bin", "null"]);
    command("chown", &["4000000000:4000000001", "empty"]);
    command("chmod", &["6755", "large"]);
    command("chmod", &["1777", "usr/bin"]);
    command("chmod", &["0000", "closed", "empty"]);
    command("touch", &["-h", "-d", "1969-12-31 23:59:58.123456789 UTC", "dangling", "byte", "closed"]);
    command("touch", &["-d", "2001-02-03 04:05:06.7 UTC", "large", "."]);
    let path = stand.path("images/all.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&source).args(["--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner", "--format=posix"]);
    run(tar.arg("-cf").arg(&path).arg(".")).unwrap();
    fs::remove_dir_all(&source).unwrap();
    path
}

fn manifest(root: &Path) -> Manifest {
    shown(ManifestOptions::new().with_directory_times(DirectoryTimes::IgnoredOfRoot).read(root))
}

#[track_caller]
fn expect_same(one: &Path, other: &Path, what: &str) {
    let (one, other) = (manifest(one), manifest(other));
    assert!(one.len() > 300, "{what}: {}", one.len());
    let differences = one.diff(&other);
    assert!(differences.is_empty(), "{what}: {differences}");
}

/// The blocks of which a file is made, in bytes.
fn stored(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// How many extents of these files are shared with another file, as the kernel says.
fn shared_extents(path: &Path) -> usize {
    let told = run(Command::new("filefrag").arg("-v").arg(path)).unwrap();
    told.lines().filter(|line| line.contains("shared")).count()
}

fn on(kind: Kind, scheme: Scheme, shares: bool) {
    need!(is_root());
    let stand = need!(Stand::on(kind, scheme, 400));
    let what = format!("{} on {}", if scheme == Scheme::Dir { "dir" } else { "btrfs" }, kind.name());
    let path = image(&stand);
    let open = || Image::open(&path).unwrap();
    let report = shown(anew(open()).run(&mut *stand.volume("direct")));
    assert!(report.losses.is_empty() && report.warnings.is_empty(), "{what}: {report}");
    assert_eq!(report.made, Made::Unpacked);
    let base = stand.ensure(&path);
    if scheme == Scheme::Btrfs {
        // A clone of it shows before it can be closed.
        let closed = fs::metadata(stand.path_of(&base)).unwrap();
        assert_eq!((closed.mode() & 0o7777, closed.uid()), (0o700, nix::unistd::geteuid().as_raw()), "{what}");
    } else {
        expect_same(&stand.root("direct"), &stand.path_of(&base), &what);
    }
    let contents = base.record().contents.unwrap();
    assert_eq!(contents.entries, manifest(&stand.root("direct")).len() as u64 - 1, "{what}");

    // A new volume, and one that is rebuilt.
    for round in 0..2 {
        let report = stand.rebuild("c1", &base);
        assert!(report.losses.is_empty() && report.warnings.is_empty(), "{what}: {report}");
        expect_same(&stand.root("direct"), &stand.root("c1"), &format!("{what}, round {round}"));
        let expected = if scheme == Scheme::Btrfs { Made::Cloned } else { Made::Copied };
        assert_eq!(report.made, expected, "{what}");
        assert_eq!(report.entries, contents.entries, "{what}");
        assert_eq!(report.bytes, contents.bytes, "{what}");
        if shares {
            assert_eq!(report.shared, report.bytes, "{what}");
            for file in ["large", "usr/bin/tool", "sparse"] {
                assert!(shared_extents(&stand.root("c1").join(file)) > 0, "{what}: {file}");
            }
        } else {
            assert_eq!(report.shared, ByteSize::ZERO, "{what}");
            assert_eq!(shared_extents_if_told(&stand.root("c1").join("large")), 0, "{what}");
        }
        let said = report.to_string();
        let word = if scheme == Scheme::Btrfs {
            "cloned"
        } else if shares {
            "shared"
        } else {
            "copied"
        };
        assert!(said.contains(word), "{said}");
        for (file, most) in [("sparse", 512 << 10), ("hole", 64 << 10)] {
            let root = stand.root("c1").join(file);
            assert!(stored(&root) <= most, "{what}: {file} takes {}", stored(&root));
        }
    }
    // The record says both, and the image is found by it.
    let record = stand.volume("c1").record().unwrap().unwrap();
    assert_eq!(record.base.as_ref(), Some(base.name()), "{what}");
    assert_eq!((record.digest, &record.contents), (Some(base.name().image()), &None), "{what}");
    let image = shown(Image::from_record(&record));
    shown(anew(image).run(&mut *stand.volume("c1")));
    expect_same(&stand.root("direct"), &stand.root("c1"), &what);
    assert_eq!(stand.volume("c1").record().unwrap().unwrap().base, None, "{what}");

    // What is written to a volume stays there.
    stand.rebuild("c1", &base);
    fs::write(stand.root("c1").join("large"), "mine").unwrap();
    fs::write(stand.root("c1").join("usr/bin/same"), "mine").unwrap();
    remount(&stand);
    assert_eq!(stand.bases().verify(base.name(), &CancelToken::new()).unwrap(), Verdict::Intact, "{what}");
    stand.rebuild("c2", &base);
    expect_same(&stand.root("direct"), &stand.root("c2"), &what);
    // And the volume outlives its base.
    let name = base.name().clone();
    drop(base);
    shown(stand.bases().remove(&name, &super::soon()));
    assert_eq!(stand.kept(), [""; 0], "{what}");
    stand.settle();
    expect_same(&stand.root("direct"), &stand.root("c2"), &what);
    stand.expect_volumes(&["c1", "c2", "direct"]);
}

/// Forgets what is in memory: what is on the disk is what counts.
fn remount(stand: &Stand) {
    let fs = stand.fs.as_ref().unwrap().path();
    run(Command::new("sync").arg("-f").arg(&fs)).unwrap();
    let _ = fs::write("/proc/sys/vm/drop_caches", "1");
}

fn shared_extents_if_told(path: &Path) -> usize {
    run(Command::new("filefrag").arg("-v").arg(path)).map_or(0, |told| told.matches("shared").count())
}

#[test]
fn copied_on_tmpfs() {
    on(Kind::Tmpfs, Scheme::Dir, false);
}

#[test]
fn copied_on_ext4() {
    on(Kind::Ext4, Scheme::Dir, false);
}

#[test]
fn shared_on_xfs() {
    on(Kind::Xfs, Scheme::Dir, true);
}

#[test]
fn shared_on_btrfs() {
    on(Kind::Btrfs, Scheme::Dir, true);
}

#[test]
fn cloned_on_btrfs() {
    on(Kind::Btrfs, Scheme::Btrfs, true);
}

#[test]
fn a_copy_is_made_across_file_systems() {
    need!(is_root());
    let near = need!(Stand::on(Kind::Xfs, Scheme::Dir, 300));
    let far = Stand::new();
    let path = image(&near);
    let base = near.ensure(&path);
    let report = shown(from_base(&base).run(&mut *far.volume("c1")));
    assert_eq!((report.made, report.shared), (Made::Copied, ByteSize::ZERO));
    expect_same(&near.path_of(&base), &far.root("c1"), "from xfs");
    assert!(stored(&far.root("c1/sparse")) <= 512 << 10);
}

#[test]
fn sharing_takes_no_space() {
    need!(is_root());
    for scheme in [Scheme::Dir, Scheme::Btrfs] {
        let stand = need!(Stand::on(Kind::Btrfs, scheme, 256));
        let mut tree = Tree::new();
        let noise: Vec<u8> = (0..4_000_000_u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
        for part in 0..6 {
            tree.file(format!("part-{part}"), noise.clone());
        }
        let path = stand.image("noise.tar", &tree);
        let base = stand.ensure(&path);
        let free = || {
            btrfs(&["filesystem", "sync"], &stand.fs.as_ref().unwrap().path());
            let stat = nix::sys::statvfs::statvfs(&stand.fs.as_ref().unwrap().path()).unwrap();
            stat.blocks_available() * stat.fragment_size()
        };
        let before = free();
        for number in 0..8 {
            let report = stand.rebuild(&format!("c{number}"), &base);
            assert_eq!(report.shared, ByteSize::from_bytes(24_000_000));
        }
        let taken = before.saturating_sub(free());
        assert!(taken < 12 << 20, "{scheme:?}: eight volumes took {taken}");
    }
}

#[test]
fn a_base_larger_than_any_default_limit_is_copied() {
    let stand = Stand::new();
    let mut tree = Tree::new();
    tree.file(format!("{}bottom", "directory/".repeat(900)), "found");
    let path = stand.image("deep.tar", &tree);
    let options = BaseOptions::new().with_limits(Limits::new().with_path(20_000));
    let base = shown(stand.bases().ensure(Image::open(&path).unwrap(), &options));
    assert_eq!(stand.rebuild("c1", &base).entries, 901);
    let (one, other) = (manifest(&stand.path_of(&base)), manifest(&stand.root("c1")));
    assert!(one.diff(&other).is_empty());
    assert_eq!(stand.bases().verify(base.name(), &CancelToken::new()).unwrap(), Verdict::Intact);
    stand.rebuild("c1", &base);
    let name = base.name().clone();
    drop(base);
    shown(stand.bases().remove(&name, &super::soon()));
    assert_eq!(stand.kept(), [""; 0]);
}
