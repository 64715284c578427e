//! Whether a base is what it was.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reroot::base::{BaseOptions, Verdict};
use reroot::{CancelToken, ErrorKind, Image};

use super::common::loopfs::{Kind, Mounted, run};
use super::{Scheme, Stand, failed, from_base, is_root, need, shown, tree};

fn verdict(stand: &Stand, base: &reroot::Base) -> Verdict {
    shown(stand.bases().verify(base.name(), &CancelToken::new()))
}

/// Changes something of a base.
type Change<'a> = &'a dyn Fn(&Path);

fn set_times(path: &Path, time: std::time::SystemTime) {
    // Also a file that may only be read.
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_change_of_any_kind_is_found() {
    let stand = Stand::new();
    let path = stand.image("a.tar", &tree("a"));
    let changes: [(&str, Change<'_>); 9] = [
        ("content", &|root| {
            let file = root.join("a");
            let time = fs::metadata(&file).unwrap().modified().unwrap();
            fs::File::options().write(true).open(&file).unwrap().write_all_at(b"b", 1000).unwrap();
            set_times(&file, time);
        }),
        ("length", &|root| {
            let file = root.join("a");
            let time = fs::metadata(&file).unwrap().modified().unwrap();
            fs::File::options().append(true).open(&file).unwrap().write_all(&[0; 5000]).unwrap();
            set_times(&file, time);
        }),
        ("mode", &|root| fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o4644)).unwrap()),
        ("attribute", &|root| {
            run(Command::new("setfattr").args(["-n", "user.note", "-v", "x"]).arg(root.join("etc"))).unwrap();
        }),
        ("time", &|root| set_times(&root.join("a"), std::time::UNIX_EPOCH + Duration::new(5, 7))),
        ("one more", &|root| fs::write(root.join("etc/more"), "").unwrap()),
        ("one less", &|root| fs::remove_file(root.join("etc/link")).unwrap()),
        ("name", &|root| {
            let etc = root.join("etc");
            let time = fs::metadata(&etc).unwrap().modified().unwrap();
            fs::rename(etc.join("hostname"), etc.join("hostnamf")).unwrap();
            set_times(&etc, time);
        }),
        ("link", &|root| {
            let etc = root.join("etc");
            let time = fs::metadata(&etc).unwrap().modified().unwrap();
            let of = fs::metadata(etc.join("hostname")).unwrap().modified().unwrap();
            fs::remove_file(etc.join("same")).unwrap();
            fs::copy(etc.join("hostname"), etc.join("same")).unwrap();
            set_times(&etc.join("same"), of);
            set_times(&etc, time);
        }),
    ];
    for (what, change) in changes {
        let base = stand.ensure(&path);
        assert_eq!(verdict(&stand, &base), Verdict::Intact, "{what}");
        change(&stand.path_of(&base));
        assert_eq!(verdict(&stand, &base), Verdict::Changed, "{what}");
        let name = base.name().clone();
        drop(base);
        shown(stand.bases().remove(&name, &super::soon()));
    }
    let base = stand.ensure(&path);
    // A root's own metadata is every volume's own business; access times are nobody's.
    fs::set_permissions(stand.path_of(&base), fs::Permissions::from_mode(0o700)).unwrap();
    fs::read(stand.path_of(&base).join("a")).unwrap();
    assert_eq!(verdict(&stand, &base), Verdict::Intact);
    let none = format!("{}-0011223344556677", base.name()).parse().unwrap();
    let error = failed(stand.bases().verify(&none, &CancelToken::new()));
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    assert!(!stand.kept().iter().any(|name| name.contains("0011223344556677")));
}

/// Written-out zeros and holes are one, and so is a file before and after the file system wrote it out.
#[test]
fn holes_and_zeros_are_the_same() {
    need!(is_root());
    for kind in Kind::ALL {
        let stand = need!(Stand::on(kind, Scheme::Dir, 300));
        let source = stand.path("source");
        fs::create_dir(&source).unwrap();
        let file = fs::File::create(source.join("sparse")).unwrap();
        for part in 0..20_u64 {
            file.write_all_at(&[7; 8192], part * 300_000 / 4096 * 4096).unwrap();
        }
        file.set_len(8 << 20).unwrap();
        let path = stand.path("images/sparse.tar");
        run(Command::new("tar").arg("-C").arg(&source).args(["--sparse", "--format=posix", "-cf"]).arg(&path).arg(".")).unwrap();
        let base = stand.ensure(&path);
        assert_eq!(verdict(&stand, &base), Verdict::Intact, "{kind:?}");
        run(Command::new("sync").arg("-f").arg(stand.path_of(&base))).unwrap();
        let _ = fs::write("/proc/sys/vm/drop_caches", "1");
        assert_eq!(verdict(&stand, &base), Verdict::Intact, "{kind:?}, from the disk");
        let sparse = stand.path_of(&base).join("sparse");
        let time = fs::metadata(&sparse).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&sparse).unwrap();
        file.write_all_at(&[0; 100_000], 7 << 20).unwrap();
        file.set_modified(time).unwrap();
        file.sync_all().unwrap();
        assert_eq!(verdict(&stand, &base), Verdict::Intact, "{kind:?}, with zeros");
        file.write_all_at(&[1], (7 << 20) + 5000).unwrap();
        file.set_modified(time).unwrap();
        assert_eq!(verdict(&stand, &base), Verdict::Changed, "{kind:?}");
    }
}

#[test]
fn a_subvolume_that_was_made_writable_is_found() {
    need!(is_root());
    let stand = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 128));
    let path = stand.image("a.tar", &tree("a"));
    let base = stand.ensure(&path);
    let root = stand.path_of(&base);
    let error = fs::write(root.join("a"), "changed").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EROFS as i32));
    assert_eq!(verdict(&stand, &base), Verdict::Intact);
    let access = |value: &str| run(Command::new("btrfs").args(["property", "set", "-f"]).arg(&root).args(["ro", value])).unwrap();
    access("false");
    fs::write(root.join("a"), "changed").unwrap();
    access("true");
    assert_eq!(verdict(&stand, &base), Verdict::Changed);
    // It is removed, and made again.
    let name = base.name().clone();
    drop(base);
    shown(stand.bases().remove(&name, &super::soon()));
    let base = stand.ensure(&path);
    assert_eq!(verdict(&stand, &base), Verdict::Intact);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    need!(is_root());
    let stand = need!(Stand::on(Kind::Ext4, Scheme::Dir, 64));
    let base = stand.ensure(&stand.image("a.tar", &tree("a")));
    let inner = stand.path_of(&base).join("etc");
    let mounted = Mounted::bind(&stand.path("images"), &inner).unwrap();
    let error = failed(stand.bases().verify(base.name(), &CancelToken::new()));
    assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.report());
    assert!(error.report().to_string().contains("etc"), "{}", error.report());
    let error = failed(from_base(&base).run(&mut *stand.volume("c1")));
    assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.report());
    stand.expect_volumes(&[]);
    drop(mounted);
    assert_eq!(verdict(&stand, &base), Verdict::Intact);
    // One that says nothing of what it holds, or nothing that can be read.
    let root = stand.path_of(&base);
    let record = |value: &str| {
        run(Command::new("setfattr").args(["-n", "trusted.reroot.image", "-v", value]).arg(&root)).unwrap();
    };
    record("reroot 1\nempty=\ntime=5\n");
    assert_eq!(verdict(&stand, &base), Verdict::Unrecorded);
    run(Command::new("setfattr").args(["-x", "trusted.reroot.image"]).arg(stand.path_of(&base))).unwrap();
    assert_eq!(verdict(&stand, &base), Verdict::Unrecorded);
    let path = stand.path("images/a.tar");
    drop(base);
    let base = stand.ensure(&path);
    assert_eq!(base.record().digest, Some(base.name().image()));
    record("nonsense");
    let name = base.name().clone();
    drop(base);
    let error = failed(stand.bases().ensure(Image::open(&path).unwrap(), &BaseOptions::default()));
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}", error.report());
    assert!(stand.bases().list().unwrap()[0].record.is_none());
    shown(stand.bases().remove(&name, &super::soon()));
    stand.ensure(&path);
}

/// Two trees of the same entries are the same, and one with another is not, however many names the files have.
#[test]
fn names_that_are_far_apart_are_one_file() {
    let stand = Stand::new();
    let mut tree = tree("a");
    for number in 0..200 {
        tree.file(format!("first/{number}"), "x");
    }
    for number in 0..200 {
        tree.hard_link(format!("second/{number}"), format!("first/{number}"));
        tree.hard_link(format!("third/{number}"), format!("first/{number}"));
    }
    let base = stand.ensure(&stand.image("links.tar", &tree));
    assert_eq!(verdict(&stand, &base), Verdict::Intact);
    stand.rebuild("c1", &base);
    let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(stand.root("c1").join(path)).unwrap());
    for number in 0..200 {
        let first = inode(&format!("first/{number}"));
        assert_eq!((inode(&format!("second/{number}")), inode(&format!("third/{number}"))), (first, first));
    }
}
