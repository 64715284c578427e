//! Checks of filesystems that were damaged on purpose.

use super::*;

/// Runs commands of debugfs on an ext4.
fn debugfs(path: &Path, command: &str) {
    at(path, |device| device.succeed("debugfs", Needs::E2fsprogs, |debugfs| debugfs.args(["-w", "-R", command]).arg(device.path)))
        .unwrap();
}

/// An ext4 with some files in it.
fn ext4() -> std::result::Result<LoopDevice, String> {
    let device = LoopDevice::new(64)?;
    make(device.path(), &Recipe::new(FilesystemKind::Ext4)).unwrap();
    let root = mount(device.path(), FilesystemKind::Ext4).unwrap();
    for name in ["a", "b"] {
        write_durably(&root, name, name.as_bytes());
    }
    Ok(device)
}

#[test]
fn what_needs_no_decision_is_mended() {
    let device = need!(ext4());
    debugfs(device.path(), "clri a");
    // It does not look everywhere unless it is told that there is something.
    assert_eq!(check(device.path(), FilesystemKind::Ext4).unwrap(), Checked::Clean);
    debugfs(device.path(), "set_super_value state 2");
    assert_eq!(check(device.path(), FilesystemKind::Ext4).unwrap(), Checked::Mended);
    assert_eq!(check(device.path(), FilesystemKind::Ext4).unwrap(), Checked::Clean);
    let root = mount(device.path(), FilesystemKind::Ext4).unwrap();
    assert_eq!(fs::read(below(&root, "b")).unwrap(), b"b");
    assert!(!below(&root, "a").exists());
}

#[test]
fn what_needs_one_is_told() {
    let device = need!(ext4());
    debugfs(device.path(), "clri <2>");
    debugfs(device.path(), "set_super_value state 2");
    let error = check(device.path(), FilesystemKind::Ext4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.message().contains("Root inode is not a directory"), "{error}");
    assert_eq!(error.remedy(), Some(format!("mend it by hand: e2fsck -f {}", device.path().display()).as_str()));
    // Nor is it grown: the tool wants a check first.
    device.grow(128);
    assert_eq!(at(device.path(), |device| device.grow_offline(FilesystemKind::Ext4)).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn the_others_are_never_mended() {
    let xfs = need!(LoopDevice::new(mib(FilesystemKind::Xfs)));
    make(xfs.path(), &Recipe::new(FilesystemKind::Xfs)).unwrap();
    let root = mount(xfs.path(), FilesystemKind::Xfs).unwrap();
    write_durably(&root, "file", b"content");
    drop(root);
    // The free space of its last group, which nobody has looked at yet.
    let raw = fs::File::options().read(true).write(true).open(xfs.path()).unwrap();
    let mut sector = [0; 4096];
    let group = 3 * (mib(FilesystemKind::Xfs) << 20) / 4;
    raw.read_exact_at(&mut sector, group + 4096).unwrap();
    assert_eq!(&sector[..4], b"AB3B");
    raw.write_all_at(&[0xff; 256], group + 4096 + 56).unwrap();
    raw.sync_all().unwrap();
    let error = check(xfs.path(), FilesystemKind::Xfs).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.message().starts_with("its xfs is damaged: "), "{error}");
    assert!(error.remedy().unwrap().starts_with("mend it by hand: xfs_repair /dev/loop"), "{error}");

    let btrfs = need!(LoopDevice::new(mib(FilesystemKind::Btrfs)));
    make(btrfs.path(), &Recipe::new(FilesystemKind::Btrfs).with_options(["-m", "single"])).unwrap();
    let dump = at(btrfs.path(), |device| {
        let arguments = ["inspect-internal", "dump-super"];
        device.succeed("btrfs", Needs::BtrfsProgs, |btrfs| btrfs.args(arguments).arg(device.path)).unwrap()
    });
    let raw = fs::File::options().write(true).open(btrfs.path()).unwrap();
    // The metadata of a new one lie where they say that they do, from the first chunk on.
    let at_root: u64 = dump.lines().find_map(|line| line.strip_prefix("root\t")).unwrap().trim().parse().unwrap();
    raw.write_all_at(&[0xff; 64], at_root + 200).unwrap();
    raw.sync_all().unwrap();
    let error = check(btrfs.path(), FilesystemKind::Btrfs).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.message().starts_with("its btrfs is damaged: "), "{error}");
    let error = mount(btrfs.path(), FilesystemKind::Btrfs).unwrap_err();
    assert!(error.remedy().unwrap().contains("btrfs check --readonly /dev/loop"), "{error}");
}
