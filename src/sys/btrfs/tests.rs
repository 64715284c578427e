//! The calls against a real btrfs, and their numbers against those of the kernel's header.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::subvolume::Access;
use super::*;
use crate::loopfs::{Kind, LoopFs, need};

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

#[cfg(all(target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
#[test]
#[allow(clippy::unnecessary_cast, reason = "the type of the numbers is the C library's")]
fn numbers_and_sizes_are_those_of_the_header() {
    // As a C program printed them that includes linux/btrfs.h of Linux 6.1.
    let expected: [(Ioctl, u64); 20] = [
        (subvolume::CREATE, 0x5000_9418),
        (subvolume::SNAPSHOT, 0x5000_9417),
        (subvolume::DESTROY, 0x5000_940f),
        (subvolume::DESTROY_V2, 0x5000_943f),
        (subvolume::INFO, 0x81f8_943c),
        (subvolume::GET_FLAGS, 0x8008_9419),
        (subvolume::SET_FLAGS, 0x4008_941a),
        (subvolume::SET_RECEIVED, 0xc0c8_9425),
        (lookup::ROOT_REFS, 0xd000_943d),
        (lookup::LOOKUP, 0xd000_9412),
        (lookup::LOOKUP_USER, 0xd000_943e),
        (quota::CONTROL, 0xc010_9428),
        (quota::CREATE, 0x4010_942a),
        (quota::ASSIGN, 0x4018_9429),
        (quota::LIMIT, 0x8030_942b),
        (quota::RESCAN, 0x4040_942c),
        (quota::RESCAN_STATUS, 0x8040_942d),
        (tree::SEARCH, 0xc070_9411),
        (sync::SYNC, 0x9408),
        (FS_INFO, 0x8400_941f),
    ];
    for (ioctl, number) in expected {
        // The numbers hold the sizes of the arguments.
        assert_eq!(ioctl.request as u64, number, "{}", ioctl.name);
    }
    assert_eq!(size_of::<subvolume::VolArgs>(), 4096);
    assert_eq!(size_of::<subvolume::VolArgsV2>(), 4096);
    assert_eq!(size_of::<subvolume::Inherit>(), 72);
    assert_eq!(size_of::<tree::SearchKey>(), 104);
}

#[test]
fn an_old_kernel_is_named() {
    let error = lookup::LOOKUP_USER.refuse(Errno::ENOTTY).explain("list", "cannot look");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.remedy().unwrap().contains("Linux 4.18"), "{}", error.report());
    let error = lookup::LOOKUP_USER.refuse(Errno::EPERM).explain("list", "cannot look");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn what_is_no_btrfs_is_told_so() {
    assert!(!is_btrfs(open(Path::new("/proc")).as_fd()).unwrap());
    let refused = subvolume::info(open(Path::new("/proc")).as_fd()).unwrap_err();
    assert_eq!(refused.errno, Errno::ENOTTY);
}

#[test]
fn subvolumes_are_made_cloned_and_destroyed() {
    let fs = need!(LoopFs::new(Kind::Btrfs, 128));
    let top = open(&fs.path());
    let fd = top.as_fd();
    subvolume::create(fd, name("a b\nc"), None).unwrap();
    assert_eq!(subvolume::create(fd, name("a b\nc"), None).unwrap_err().errno, Errno::EEXIST);
    assert_eq!(subvolume::create(fd, name(&"x".repeat(4040)), None).unwrap_err().errno, Errno::ENAMETOOLONG);
    let a = open(&fs.path().join("a b\nc"));
    assert!(subvolume::is_subvolume(a.as_fd()).unwrap());
    fs::create_dir(fs.path().join("folder")).unwrap();
    assert!(!subvolume::is_subvolume(open(&fs.path().join("folder")).as_fd()).unwrap());
    fs::write(fs.path().join("a b\nc/file"), "content").unwrap();

    subvolume::snapshot(a.as_fd(), fd, name("clone"), Access::ReadWrite, None).unwrap();
    subvolume::snapshot(a.as_fd(), fd, name("frozen"), Access::ReadOnly, None).unwrap();
    sync::all(fd).unwrap();
    let info = subvolume::info(a.as_fd()).unwrap();
    let frozen = open(&fs.path().join("frozen"));
    let frozen_info = subvolume::info(frozen.as_fd()).unwrap();
    assert_eq!((frozen_info.parent_uuid, frozen_info.access), (info.uuid, Access::ReadOnly));
    assert!(info.parent_uuid.is_none() && !info.uuid.is_none() && info.access == Access::ReadWrite);
    assert_eq!(fs::read(fs.path().join("clone/file")).unwrap(), b"content");
    assert!(fs::write(fs.path().join("frozen/file"), "").is_err());
    subvolume::set_access(frozen.as_fd(), Access::ReadWrite).unwrap();
    fs::write(fs.path().join("frozen/file"), "changed").unwrap();
    subvolume::set_received(frozen.as_fd(), Uuid([7; 16])).unwrap();
    subvolume::set_access(frozen.as_fd(), Access::ReadOnly).unwrap();
    assert_eq!(subvolume::info(frozen.as_fd()).unwrap().received_uuid, Uuid([7; 16]));

    // One in another: found by its reference, and it goes first.
    fs::create_dir_all(fs.path().join("clone/in a\nfolder")).unwrap();
    let clone = open(&fs.path().join("clone"));
    subvolume::create(open(&fs.path().join("clone/in a\nfolder")).as_fd(), name(" deep\n"), None).unwrap();
    let children = lookup::children(clone.as_fd()).unwrap();
    assert_eq!(children.len(), 1);
    assert_eq!((children[0].folder.as_path(), children[0].name.as_os_str()), (Path::new("in a\nfolder"), name(" deep\n")));
    assert_eq!(lookup::path_in(fd, lookup::id(clone.as_fd()).unwrap(), 256).unwrap(), Path::new(""));
    let inode = fs::metadata(fs.path().join("clone/in a\nfolder")).unwrap().ino();
    let clone_id = lookup::id(clone.as_fd()).unwrap();
    assert_eq!(lookup::path_in(fd, clone_id, inode).unwrap(), Path::new("in a\nfolder"));
    let all = tree::subvolumes(fd).unwrap();
    assert_eq!(all.len(), 4);
    let deep = all.iter().find(|subvolume| subvolume.id == children[0].id).unwrap();
    let place = deep.place.as_ref().unwrap();
    assert_eq!((place.tree, place.dir, place.name.as_bytes()), (clone_id, inode, &b" deep\n"[..]));
    assert_eq!(all.iter().filter(|subvolume| subvolume.parent_uuid == info.uuid).count(), 2);
    assert_eq!(tree::default_subvolume(fd).unwrap(), Some(5));
    assert_eq!(subvolume::destroy(fd, name("clone")).unwrap_err().errno, Errno::ENOTEMPTY);
    subvolume::destroy_id(fd, children[0].id).unwrap();
    assert_eq!(subvolume::destroy_id(fd, children[0].id).unwrap_err().errno, Errno::ENOENT);
    assert!(lookup::children(clone.as_fd()).unwrap().is_empty());
    subvolume::destroy(fd, name("clone")).unwrap();
    assert_eq!(subvolume::destroy(fd, name("clone")).unwrap_err().errno, Errno::ENOENT);
    assert_eq!(tree::subvolumes(fd).unwrap().len(), 2);
    drop(clone);

    // What is gone is given back by and by.
    let begun = Instant::now();
    while !tree::reclaiming(fd).unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "still reclaiming {:?}", tree::reclaiming(fd));
        sync::all(fd).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn more_subvolumes_than_one_call_returns() {
    let fs = need!(LoopFs::new(Kind::Btrfs, 256));
    let top = open(&fs.path());
    for number in 0..600 {
        subvolume::create(top.as_fd(), name(&format!("{number:>0200}")), None).unwrap();
    }
    let mut names: Vec<_> = lookup::children(top.as_fd()).unwrap().into_iter().map(|child| child.name).collect();
    names.sort();
    assert_eq!(names.len(), 600);
    names.dedup();
    assert_eq!(names.len(), 600);
    assert_eq!(tree::subvolumes(top.as_fd()).unwrap().len(), 600);
}

#[test]
fn qgroups_limit_and_count() {
    let fs = need!(LoopFs::new(Kind::Btrfs, 128));
    let top = open(&fs.path());
    let fd = top.as_fd();
    assert_eq!(quota::status(fd).unwrap(), None);
    assert_eq!(quota::qgroup(fd, 256).unwrap(), None);
    for mode in [quota::Mode::Full, quota::Mode::Simple] {
        match quota::enable(fd, mode) {
            Err(refused) if mode == quota::Mode::Simple && refused.errno == Errno::EINVAL => {
                eprintln!("skipped: the kernel has no simple quotas");
                continue;
            }
            result => result.unwrap(),
        }
        while mode == quota::Mode::Full && quota::is_rescanning(fd).unwrap() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let group = 1 << 48 | 7;
        quota::create(fd, group).unwrap();
        let made = format!("{mode:?}");
        subvolume::create(fd, name(&made), Some(&[group])).unwrap();
        let root = open(&fs.path().join(&made));
        let id = lookup::id(root.as_fd()).unwrap();
        let limits = quota::Limits { referenced: Some(8 << 20), exclusive: None };
        quota::set_limits(fd, id, limits).unwrap();
        assert_eq!(quota::visible_limits(root.as_fd()), Some(limits));
        fs::write(fs.path().join(&made).join("fits"), vec![1; 4 << 20]).unwrap();
        nix::unistd::syncfs(&root).unwrap();
        let found = quota::qgroup(fd, id).unwrap().unwrap();
        assert_eq!((found.limits, found.parents.as_slice()), (limits, &[group][..]));
        assert!(found.referenced > 4 << 20 && found.referenced < 5 << 20, "{found:?}");
        let error = fs::write(fs.path().join(&made).join("large"), vec![1; 8 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDQUOT));
        quota::set_limits(fd, id, quota::Limits::default()).unwrap();
        assert_eq!(quota::qgroup(fd, id).unwrap().unwrap().limits, quota::Limits::default());
        fs::write(fs.path().join(&made).join("large"), vec![1; 8 << 20]).unwrap();
        assert_eq!(quota::status(fd).unwrap().unwrap().mode, mode);
        // The group of a subvolume that is there does not go.
        assert_eq!(quota::destroy(fd, id).unwrap_err().errno, Errno::EBUSY);
        subvolume::create(fd, name("joins"), None).unwrap();
        let joins = lookup::id(open(&fs.path().join("joins")).as_fd()).unwrap();
        quota::assign(fd, joins, group).unwrap();
        assert_eq!(quota::qgroup(fd, joins).unwrap().unwrap().parents, [group]);
        subvolume::destroy(fd, name("joins")).unwrap();
        quota::disable(fd).unwrap();
        assert_eq!(quota::status(fd).unwrap(), None);
    }
}
