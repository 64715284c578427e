//! Growing, with and without a mount.

use super::*;

fn blocks(root: &OwnedFd) -> u64 {
    let stat = fstatvfs(root).unwrap();
    stat.blocks() * stat.fragment_size()
}

/// ext4 wants a capability that root may lack, as in containers and some virtual machines.
fn may_grow(kind: FilesystemKind) -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    const CAP_SYS_RESOURCE: u64 = 24;
    kind != FilesystemKind::Ext4 || u64::from_str_radix(effective, 16).unwrap() & 1 << CAP_SYS_RESOURCE != 0
}

fn assert_denied(grown: Result<()>) {
    let error = grown.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.remedy().unwrap().starts_with("CAP_SYS_RESOURCE is needed"), "{error}");
}

#[test]
fn it_grows_while_files_are_written() {
    for kind in FilesystemKind::ALL {
        let least = mib(kind);
        let device = need!(LoopDevice::new(least));
        make(device.path(), &Recipe::new(kind)).unwrap();
        let root = mount(device.path(), kind).unwrap();
        let before = blocks(&root);
        let grown = grow_online(root.as_fd(), kind, ByteSize::mib(least), "test");
        if !may_grow(kind) {
            assert_denied(grown);
            continue;
        }
        grown.unwrap();
        assert_eq!(blocks(&root), before, "there was no room to grow into");

        if kind == FilesystemKind::Btrfs {
            device.grow(least + 64);
            let error = grow_online(root.as_fd(), kind, ByteSize::mib(least + 64), "test").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooSmall, "{error}");
        }
        device.grow(least * 3);
        let done = std::sync::atomic::AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut written = 0_u32;
                while !done.load(std::sync::atomic::Ordering::Relaxed) && written < 4000 {
                    fs::write(below(&root, &format!("f{written}")), [written as u8; 512]).unwrap();
                    written += 1;
                }
                written
            });
            std::thread::sleep(Duration::from_millis(5));
            let grown = grow_online(root.as_fd(), kind, ByteSize::mib(least * 3), "test");
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            grown.unwrap();
            writer.join().unwrap()
        });
        assert!(blocks(&root) > before * 2, "{kind}: {before}, {}", blocks(&root));
        // What did not fit before.
        write_durably(&root, "large", &vec![9; (least as usize) << 20]);
        drop(root);
        assert_eq!(check(device.path(), kind).unwrap(), Checked::Clean);
        let root = mount(device.path(), kind).unwrap();
        assert!(written > 0);
        for number in 0..written {
            assert_eq!(fs::read(below(&root, &format!("f{number}"))).unwrap(), [number as u8; 512]);
        }
    }
}

#[test]
fn it_grows_without_a_mount() {
    for kind in FilesystemKind::ALL {
        let least = mib(kind);
        let device = need!(LoopDevice::new(least));
        make(device.path(), &Recipe::new(kind)).unwrap();
        let root = mount(device.path(), kind).unwrap();
        let before = blocks(&root);
        write_durably(&root, "file", b"content");
        // The journal is not replayed yet in what is grown.
        let torn = need!(device.clone_now());
        drop(root);
        for device in [&device, &torn] {
            device.grow(least * 2);
            if kind == FilesystemKind::Btrfs {
                // Two of one UUID are one to some kernels, for as long as one is mounted.
                at(device.path(), |device| device.renew(kind)).unwrap();
            }
            at(device.path(), |device| device.grow_offline(kind)).unwrap();
            let root = mount(device.path(), kind).unwrap();
            assert!(blocks(&root) > before * 3 / 2, "{kind}: {before}, {}", blocks(&root));
            assert_eq!(fs::read(below(&root, "file")).unwrap(), b"content");
            drop(root);
            assert_eq!(check(device.path(), kind).unwrap(), Checked::Clean);
        }
    }
}

#[test]
fn it_keeps_its_inodes_to_the_size() {
    let device = need!(LoopDevice::new(64));
    let recipe = Recipe::new(FilesystemKind::Ext4).with_inodes(40_000);
    make(device.path(), &recipe).unwrap();
    device.grow(128);
    at(device.path(), |device| device.grow_offline(FilesystemKind::Ext4)).unwrap();
    let root = mount(device.path(), FilesystemKind::Ext4).unwrap();
    assert!(inodes(&root) >= 80_000, "{}", inodes(&root));
}

#[test]
fn what_cannot_be_grown_says_what_to_do() {
    let device = need!(LoopDevice::new(64));
    make(device.path(), &Recipe::new(FilesystemKind::Ext4)).unwrap();
    let root = mount(device.path(), FilesystemKind::Ext4).unwrap();
    // The device is smaller than that.
    let error = grow_online(root.as_fd(), FilesystemKind::Ext4, ByteSize::gib(1), "grow").unwrap_err();
    assert!(error.to_string().starts_with("cannot grow: cannot grow the mounted ext4 to 1 GiB"), "{error}");
    drop(root);
    // The kernel reads what it is to grow into.
    let device = need!(LoopDevice::new(300));
    make(device.path(), &Recipe::new(FilesystemKind::Xfs)).unwrap();
    let root = mount(device.path(), FilesystemKind::Xfs).unwrap();
    let error = grow_online(root.as_fd(), FilesystemKind::Xfs, ByteSize::gib(1), "grow").unwrap_err();
    assert!(error.to_string().starts_with("cannot grow: cannot grow the mounted xfs to 1 GiB"), "{error}");
    let error = grow_online(root.as_fd(), FilesystemKind::Btrfs, ByteSize::gib(1), "grow").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let read_only = at(device.path(), |device| device.mount(FilesystemKind::Xfs, Access::ReadOnly, "")).unwrap();
    device.grow(400);
    let error = grow_online(read_only.as_fd(), FilesystemKind::Xfs, ByteSize::mib(400), "grow").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}
