//! The tools against real devices.

mod damage;
mod growing;

use super::*;

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::statvfs::fstatvfs;

use crate::loopfs::{LoopDevice, need};
use crate::progress::CancelToken;

const MINUTES: Duration = Duration::from_secs(300);

/// Calls `then` with the device at a path.
fn at<T>(path: &Path, then: impl FnOnce(Device<'_>) -> T) -> T {
    let wait = Wait::new(MINUTES, CancelToken::new());
    then(Device { path, operation: "test", wait: &wait })
}

fn make(path: &Path, recipe: &Recipe) -> Result<()> {
    at(path, |device| device.make(recipe, Storage::Used))
}

fn probe(path: &Path) -> Result<Option<Found>> {
    at(path, |device| device.probe())
}

fn mount(path: &Path, kind: FilesystemKind) -> Result<OwnedFd> {
    at(path, |device| device.mount(kind, Access::ReadWrite, ""))
}

fn recipe(path: &Path, kind: FilesystemKind) -> Recipe {
    at(path, |device| device.recipe(kind)).unwrap()
}

fn check(path: &Path, kind: FilesystemKind) -> Result<Checked> {
    at(path, |device| device.check(kind))
}

/// A path to what is below a directory that no path leads to.
fn below(root: &OwnedFd, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(root.as_raw_fd().to_string()).join(name)
}

/// Writes to a file and waits for it, which leaves something in the journal that the rest of the filesystem does not know yet.
fn write_durably(root: &OwnedFd, name: &str, content: &[u8]) {
    let mut file = fs::File::create(below(root, name)).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
}

fn inodes(root: &OwnedFd) -> u64 {
    fstatvfs(root).unwrap().files()
}

fn mib(kind: FilesystemKind) -> u64 {
    smallest(kind).bytes() >> 20
}

#[test]
fn kinds_are_written_as_they_are_read() {
    for kind in FilesystemKind::ALL {
        assert_eq!(kind.to_string().parse::<FilesystemKind>().unwrap(), kind);
    }
    let error = "ext3".parse::<FilesystemKind>().unwrap_err();
    assert_eq!((error.kind(), error.remedy()), (ErrorKind::InvalidInput, Some("use ext4, xfs or btrfs")));
}

#[test]
fn the_smallest_is_of_use_and_less_is_refused() {
    for kind in FilesystemKind::ALL {
        let least = mib(kind);
        let device = need!(LoopDevice::new(least - 1));
        let error = make(device.path(), &Recipe::new(kind)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooSmall, "{error}");
        assert!(error.message().starts_with(&format!("{kind} needs {}", smallest(kind))), "{error}");
        assert_eq!(probe(device.path()).unwrap(), None, "nothing was written");

        device.grow(least);
        for storage in [Storage::Zeroed, Storage::Used] {
            at(device.path(), |device| device.make(&Recipe::new(kind).with_label("a label"), storage)).unwrap();
            let found = probe(device.path()).unwrap().unwrap();
            assert_eq!((found.kind, found.label.as_deref()), (kind, Some("a label".as_ref())));
            assert_eq!(check(device.path(), kind).unwrap(), Checked::Clean);
            let root = mount(device.path(), kind).unwrap();
            write_durably(&root, "file", &[7; 1 << 20]);
            assert!(fs::read(below(&root, "file")).unwrap().iter().all(|&byte| byte == 7));
        }
    }
}

#[test]
fn a_second_one_of_the_same_form_is_like_the_first() {
    let forms: [(FilesystemKind, u64, &[&str]); 9] = [
        (FilesystemKind::Ext4, 64, &[]),
        (FilesystemKind::Ext4, 200, &["-b", "4096", "-I", "512", "-i", "8192", "-m", "1.5", "-e", "remount-ro", "-G", "32"]),
        (
            FilesystemKind::Ext4,
            64,
            &["-O", "^has_journal,^metadata_csum,^resize_inode,sparse_super2", "-E", "stride=16,stripe_width=32"],
        ),
        (FilesystemKind::Ext4, 300, &["-b", "4096", "-O", "bigalloc,metadata_csum_seed,^resize_inode", "-C", "16384"]),
        // Not every kernel mounts it.
        (FilesystemKind::Ext4, 64, &["-O", "casefold,quota,project,encrypt", "-E", "quotatype=usrquota:prjquota"]),
        (FilesystemKind::Xfs, 300, &[]),
        (FilesystemKind::Xfs, 320, &["-m", "rmapbt=1,bigtime=0", "-i", "size=1024,maxpct=40", "-n", "size=8192"]),
        (FilesystemKind::Btrfs, 128, &[]),
        (FilesystemKind::Btrfs, 128, &["--csum", "sha256", "-O", "^no-holes,mixed-bg", "-n", "4096", "-R", "^free-space-tree"]),
    ];
    for (kind, mib, options) in forms {
        let device = need!(LoopDevice::new(mib));
        make(device.path(), &Recipe::new(kind).with_options(options).with_label("first")).unwrap();
        let first = (recipe(device.path(), kind), probe(device.path()).unwrap().unwrap());
        assert_eq!(first.0.label.as_deref(), Some("first".as_ref()));
        let mounts = !options.iter().any(|option| option.starts_with("casefold"));
        // It does not depend on whether it is in use.
        let limit = mounts.then(|| {
            let root = mount(device.path(), kind).unwrap();
            write_durably(&root, "file", b"content");
            assert_eq!(recipe(device.path(), kind), first.0, "{options:?}");
            inodes(&root)
        });
        make(device.path(), &first.0).unwrap();
        let second = (recipe(device.path(), kind), probe(device.path()).unwrap().unwrap());
        assert_eq!(second.0, first.0, "{options:?}");
        assert_ne!(second.1.uuid, first.1.uuid);
        if let Some(limit) = limit {
            let root = mount(device.path(), kind).unwrap();
            assert_eq!(inodes(&root), limit, "{options:?}");
            assert!(!below(&root, "file").exists());
        }
    }
}

#[test]
fn what_was_tuned_is_kept() {
    let (device, second) = (need!(LoopDevice::new(64)), need!(LoopDevice::new(64)));
    make(device.path(), &Recipe::new(FilesystemKind::Ext4)).unwrap();
    let tuned = ["-o", "^acl,nodelalloc,journal_data_writeback", "-c", "20", "-i", "3d", "-u", "5", "-E", "mount_opts=commit=7"];
    at(device.path(), |device| device.succeed("tune2fs", Needs::E2fsprogs, |tune| tune.args(tuned).arg(device.path))).unwrap();
    let tuned = recipe(device.path(), FilesystemKind::Ext4);
    make(second.path(), &tuned).unwrap();
    assert_eq!(recipe(second.path(), FilesystemKind::Ext4), tuned);
    let dump = at(second.path(), |device| device.succeed("dumpe2fs", Needs::E2fsprogs, |dump| dump.arg("-h").arg(device.path)));
    let dump = dump.unwrap();
    for line in ["journal_data_writeback user_xattr nodelalloc\n", "commit=7\n", "(user games)\n", "259200 (3 days)\n", "   20\n"] {
        assert!(dump.contains(line), "{line:?} in {dump}");
    }
}

#[test]
fn inodes_are_foreseen_and_found() {
    let cases: [(FilesystemKind, u64, &[&str]); 7] = [
        (FilesystemKind::Ext4, 8, &[]),
        (FilesystemKind::Ext4, 100, &[]),
        (FilesystemKind::Ext4, 513, &[]),
        (FilesystemKind::Ext4, 100, &["-T", "news"]),
        (FilesystemKind::Ext4, 100, &["-i", "65536", "-b", "4096"]),
        (FilesystemKind::Xfs, 300, &[]),
        (FilesystemKind::Xfs, 400, &["-i", "size=1024,maxpct=10"]),
    ];
    for (kind, mib, options) in cases {
        let device = need!(LoopDevice::new(mib));
        let recipe = Recipe::new(kind).with_options(options);
        make(device.path(), &recipe).unwrap();
        let found = inodes(&mount(device.path(), kind).unwrap());
        let foreseen = recipe.inodes(ByteSize::mib(mib)).unwrap();
        assert!(foreseen <= found && found - foreseen <= found / 50 + 32, "{kind} {mib} {options:?}: {foreseen}, {found}");

        // Twice as many have room, where it is not all inodes.
        let demanding = recipe.clone().with_inodes(foreseen * 2);
        make(device.path(), &demanding).unwrap();
        let found = inodes(&mount(device.path(), kind).unwrap());
        assert!(found >= foreseen * 2, "{kind} {mib} {options:?}: {found} of {}", foreseen * 2);
        assert_eq!(demanding.inodes(ByteSize::mib(mib)), Some(foreseen * 2));
    }
    assert_eq!(Recipe::new(FilesystemKind::Btrfs).with_inodes(1 << 40).inodes(ByteSize::mib(128)), None);
    for kind in [FilesystemKind::Ext4, FilesystemKind::Xfs] {
        let device = need!(LoopDevice::new(mib(kind)));
        let error = make(device.path(), &Recipe::new(kind).with_inodes(1 << 22)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooSmall, "{error}");
    }
}

#[test]
fn a_clone_mounts_beside_its_source() {
    for kind in FilesystemKind::ALL {
        let source = need!(LoopDevice::new(mib(kind)));
        let seeded: &[&str] = if kind == FilesystemKind::Ext4 { &["-O", "metadata_csum_seed"] } else { &[] };
        make(source.path(), &Recipe::new(kind).with_options(seeded)).unwrap();
        let root = mount(source.path(), kind).unwrap();
        write_durably(&root, "first", b"1");
        nix::unistd::syncfs(&root).unwrap();
        write_durably(&root, "second", b"2");
        // One as it is after a loss of power, and one that was put away.
        let torn = need!(source.clone_now());
        drop(root);
        at(source.path(), |device| device.unused()).unwrap();
        let clean = need!(source.clone_now());
        let root = mount(source.path(), kind).unwrap();
        let uuid = |device: &LoopDevice| probe(device.path()).unwrap().unwrap().uuid;
        for clone in [&torn, &clean] {
            at(clone.path(), |clone| clone.renew(kind)).unwrap();
            assert_eq!(uuid(clone) != uuid(&source), kind != FilesystemKind::Ext4, "{kind}");
            let settings = [Setting::Text(c"data", c"ordered")];
            let c_text = |text: &str| CString::new(text).unwrap();
            let (name, path) = (c_text(kind.name()), c_text(clone.path().to_str().unwrap()));
            let settings = if kind == FilesystemKind::Ext4 { &settings[..] } else { &[] };
            // As anyone would mount it.
            let beside = detached::mount_with(&name, &path, Access::ReadWrite, settings).unwrap();
            renew_mounted(beside.as_fd(), kind);
            for (file, content) in [("first", b"1"), ("second", b"2")] {
                assert_eq!(fs::read(below(&beside, file)).unwrap(), content, "{kind}");
            }
            drop(beside);
            assert_eq!(check(clone.path(), kind).unwrap(), Checked::Clean, "{kind}");
            assert_ne!(uuid(clone), uuid(&source), "{kind}");
        }
        assert_eq!(fs::read(below(&root, "second")).unwrap(), b"2");
    }
}

#[test]
fn what_is_mounted_is_left_alone() {
    for kind in FilesystemKind::ALL {
        let device = need!(LoopDevice::new(mib(kind)));
        make(device.path(), &Recipe::new(kind)).unwrap();
        let found = probe(device.path()).unwrap();
        let root = mount(device.path(), kind).unwrap();
        write_durably(&root, "file", b"content");
        for error in [make(device.path(), &Recipe::new(kind)).unwrap_err(), check(device.path(), kind).map(drop).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Busy, "{kind}: {error}");
        }
        assert_eq!(probe(device.path()).unwrap(), found);
        drop(root);
        let root = mount(device.path(), kind).unwrap();
        assert_eq!(fs::read(below(&root, "file")).unwrap(), b"content");
    }
}

#[test]
fn strangers_are_named() {
    let device = need!(LoopDevice::new(64));
    assert_eq!(probe(device.path()).unwrap(), None);
    let run = |tool, with: &[&str]| {
        at(device.path(), |device| device.succeed(tool, Needs::UtilLinux, |tool| tool.args(with).arg(device.path)))
    };
    run("mkswap", &[]).unwrap();
    let error = probe(device.path()).unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Unsupported, "it holds swap, which is no root's"));
    assert!(error.to_string().contains(device.path().to_str().unwrap()), "{error}");
    run("mke2fs", &["-q", "-F", "-t", "ext3"]).unwrap();
    assert_eq!(probe(device.path()).unwrap_err().message(), "it holds ext3, which is no root's");
    let error = at(device.path(), |device| device.recipe(FilesystemKind::Xfs)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    // A sector that ends as one of a master boot record does, with one partition in it.
    let raw = fs::File::options().write(true).open(device.path()).unwrap();
    raw.write_all_at(&vec![0; 1 << 20], 0).unwrap();
    raw.write_all_at(&[0, 0, 2, 0, 0x83, 0, 3, 0, 8, 0, 0, 0, 0, 0, 1, 0], 446).unwrap();
    raw.write_all_at(&[0x55, 0xaa], 510).unwrap();
    raw.sync_all().unwrap();
    assert_eq!(probe(device.path()).unwrap_err().message(), "it holds a partition table (dos), which is no root's");

    let error = probe(Path::new("/dev/reroot-none")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = mount(device.path(), FilesystemKind::Ext4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    raw.write_all_at(&vec![0; 1 << 20], 0).unwrap();
    raw.sync_all().unwrap();
    // What it was to become is not what the user's options made of it.
    let error = make(device.path(), &Recipe::new(FilesystemKind::Ext4).with_options(["-n"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn mount_options_are_the_filesystem_s_own() {
    let device = need!(LoopDevice::new(64));
    make(device.path(), &Recipe::new(FilesystemKind::Ext4)).unwrap();
    let mount = |options: &str| at(device.path(), |device| device.mount(FilesystemKind::Ext4, Access::ReadWrite, options));
    drop(mount("commit=7,discard").unwrap());
    let error = mount("no-such-option=3").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.message().contains("no-such-option"), "{error}");
    let read_only = at(device.path(), |device| device.mount(FilesystemKind::Ext4, Access::Snapshot, "noload")).unwrap();
    assert!(fs::write(below(&read_only, "x"), "x").is_err());
}

#[test]
fn nothing_is_begun_once_the_time_is_up() {
    let device = need!(LoopDevice::new(64));
    let wait = Wait::new(Duration::ZERO, CancelToken::new());
    let late = Device { path: device.path(), operation: "test", wait: &wait };
    let error = late.make(&Recipe::new(FilesystemKind::Ext4), Storage::Zeroed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(probe(device.path()).unwrap(), None);
}
