//! The directory backend against real file systems, mounts, processes and devices.

#![cfg(feature = "dir")]

#[path = "common/loopfs.rs"]
mod loopfs;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use loopfs::{Kind, LoopFs, Mounted, need, run};
use reroot::dir::DirVolume;
use reroot::volume::{Commit, Holder, RootMetadata, Slot, Snapshot, SnapshotOwner, StageSpec, Tidied, UsageDetail};
use reroot::{CancelToken, ErrorKind, ImageRecord, Origin, RebuildableVolume, Wait};

fn root() -> Result<(), &'static str> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err("not root") }
}

/// A pool as LXD lays it out, in `folder`.
fn volume(folder: &Path) -> DirVolume {
    fs::create_dir_all(folder.join("containers")).unwrap();
    DirVolume::open(folder.join("containers/c1")).unwrap()
}

fn record() -> ImageRecord {
    let mut record = ImageRecord::new(Origin::File("/images/a b.tar.zst".into()));
    record.time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    record
}

/// Stages, fills with one file of that content, seals.
fn staged(volume: &mut DirVolume, content: &str, root: RootMetadata) -> Vec<String> {
    volume.capture().unwrap();
    drop(volume.stage(&StageSpec::new()).unwrap());
    fs::write(path(volume, Slot::Staged).join("file"), content).unwrap();
    volume.seal(&record(), root).unwrap().iter().map(ToString::to_string).collect()
}

fn path(volume: &DirVolume, slot: Slot) -> PathBuf {
    let suffix = match slot {
        Slot::Live => "",
        Slot::Staged => ".reroot-staged",
        Slot::Retired => ".reroot-retired",
    };
    PathBuf::from(format!("{}{suffix}", volume.path().display()))
}

fn names(volume: &DirVolume) -> String {
    volume.names().unwrap().to_string()
}

fn content(volume: &DirVolume) -> String {
    fs::read_to_string(volume.path().join("file")).unwrap()
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for something another process does.
fn until(mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing happened for 20 seconds");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_path_that_can_be_no_volume_says_why() {
    let temp = tempfile::tempdir().unwrap();
    let open = |path: &str| DirVolume::open(temp.path().join(path)).unwrap_err();
    let error = open("none/c1");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.remedy().unwrap().starts_with("make it: mkdir -p /"), "{}", error.report());
    fs::create_dir(temp.path().join("real")).unwrap();
    symlink("real", temp.path().join("link")).unwrap();
    let error = open("link");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("symbolic link to real"), "{error}");
    assert_eq!(error.remedy(), Some("name the directory itself: real"));
    fs::write(temp.path().join("file"), "").unwrap();
    assert_eq!(open("file").kind(), ErrorKind::InvalidInput);
    for bad in ["real/.", "real/..", "real.reroot-staged"] {
        assert_eq!(open(bad).kind(), ErrorKind::InvalidInput, "{bad}");
    }
    let volume = DirVolume::open(temp.path().join("real/")).unwrap();
    assert_eq!(volume.id().to_string(), format!("dir:{}", temp.path().join("real").display()));
    let strange = DirVolume::open(temp.path().join("-a b\n\u{202e}")).unwrap();
    assert_eq!(names(&strange), "none");
    // A relative path is fixed at once; the parent of a bare name is the current directory.
    let relative = DirVolume::open("no-such-volume-here").unwrap();
    assert_eq!(relative.path(), std::env::current_dir().unwrap().join("no-such-volume-here"));
}

#[test]
fn a_swap_and_an_in_place_switch_on_every_file_system() {
    let mut pools = vec![];
    for kind in Kind::ALL {
        let fs = need!(LoopFs::new(kind, 16));
        pools.push((kind.name(), fs));
    }
    let temp = tempfile::tempdir().unwrap();
    let folders: Vec<_> =
        pools.iter().map(|(name, fs)| (*name, fs.path())).chain([("temporary", temp.path().to_owned())]).collect();
    for (name, folder) in folders {
        for commit in [Commit::Exchange, Commit::TwoRenames] {
            let mut volume = volume(&folder.join(format!("{commit:?}"))).with_commit(commit);
            assert_eq!(names(&volume), "none", "{name}");
            assert!(staged(&mut volume, "first", RootMetadata::FromImage).is_empty(), "{name}");
            assert_eq!(volume.stage(&StageSpec::new()).unwrap_err().kind(), ErrorKind::AlreadyExists, "{name}");
            volume.rename(Slot::Staged, Slot::Live).unwrap();
            assert_eq!((names(&volume).as_str(), content(&volume).as_str()), ("live", "first"), "{name}");
            assert_eq!(volume.record().unwrap(), Some(record()), "{name}");
            assert_eq!(mode(volume.path()), 0o755, "{name}");

            assert!(staged(&mut volume, "second", RootMetadata::Keep).is_empty(), "{name}");
            let error = volume.rename(Slot::Staged, Slot::Live).unwrap_err();
            assert_eq!((error.kind(), names(&volume).as_str()), (ErrorKind::AlreadyExists, "live + staged"), "{name}");
            if commit == Commit::Exchange {
                volume.exchange().unwrap();
                assert_eq!(names(&volume), "live + staged", "{name}");
                volume.discard(Slot::Staged).unwrap();
            } else {
                assert_eq!(volume.exchange().unwrap_err().kind(), ErrorKind::Unsupported, "{name}");
                assert_eq!(content(&volume), "first", "{name}");
                volume.rename(Slot::Live, Slot::Retired).unwrap();
                volume.rename(Slot::Staged, Slot::Live).unwrap();
                assert_eq!(names(&volume), "live + retired", "{name}");
                volume.discard(Slot::Retired).unwrap();
                volume.discard(Slot::Retired).unwrap();
            }
            assert_eq!((names(&volume).as_str(), content(&volume).as_str()), ("live", "second"), "{name}");
            assert_eq!(volume.discard(Slot::Live).unwrap_err().kind(), ErrorKind::InvalidInput);
            assert_eq!(names(&volume), "live");
        }
    }
}

#[test]
fn what_has_a_reserved_name_and_is_no_root_is_told_and_stays() {
    let temp = tempfile::tempdir().unwrap();
    let mut volume = volume(temp.path());
    for slot in [Slot::Staged, Slot::Retired] {
        let taken = path(&volume, slot);
        symlink("/nowhere", &taken).unwrap();
        let error = volume.names().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(".reroot-") && error.remedy().is_some(), "{}", error.report());
        assert!(volume.discard(slot).is_err() && taken.is_symlink());
        fs::remove_file(taken).unwrap();
    }
}

#[test]
fn a_new_root_takes_the_mode_of_its_image_or_0755() {
    let temp = tempfile::tempdir().unwrap();
    let mut volume = volume(temp.path());
    for (image, expected) in [(None, 0o755), (Some(0o700), 0o700), (Some(0o2751), 0o2751), (Some(0o555), 0o555)] {
        volume.capture().unwrap();
        let root = volume.stage(&StageSpec::new()).unwrap();
        assert_eq!(mode(&path(&volume, Slot::Staged)) & 0o077, 0, "others can enter a staged root");
        if let Some(image) = image {
            nix::sys::stat::fchmod(&root, nix::sys::stat::Mode::from_bits_truncate(image)).unwrap();
        }
        drop(root);
        let warnings = volume.seal(&record(), RootMetadata::FromImage).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(mode(&path(&volume, Slot::Staged)), expected);
        volume.discard(Slot::Staged).unwrap();
    }
    let sized = StageSpec::new().with_size(reroot::ByteSize::gib(1));
    assert_eq!(volume.stage(&sized).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(names(&volume), "none");
}

fn getfattr(path: &Path) -> String {
    let text = run(Command::new("getfattr").args(["-d", "-m", "-", "-e", "hex", "--absolute-names"]).arg(path)).unwrap();
    text.lines().skip(1).filter(|line| !line.contains("reroot")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn owner_mode_attributes_and_acls_survive_whatever_the_image_set() {
    need!(root());
    for kind in Kind::ALL {
        let fs = need!(LoopFs::new(kind, 16));
        let mut volume = volume(&fs.path());
        // A default ACL on the parent must not reach the new root.
        run(Command::new("setfacl").args(["-d", "-m", "u:777:rwx"]).arg(fs.path().join("containers"))).unwrap();
        let live = volume.path().to_owned();
        fs::create_dir(&live).unwrap();
        run(Command::new("setfacl").arg("-b").arg(&live)).unwrap();
        chown(&live, Some(100_000), Some(100_001)).unwrap();
        fs::set_permissions(&live, fs::Permissions::from_mode(0o2711)).unwrap();
        run(Command::new("setfacl").args(["-m", "u:1000:r-x", "-m", "d:g:5:rwx"]).arg(&live)).unwrap();
        for (name, value) in [("user.note", "kept"), ("trusted.mark", "too"), ("security.label", "x")] {
            run(Command::new("setfattr").args(["-n", name, "-v", value]).arg(&live)).unwrap();
        }
        let before = (getfattr(&live), mode(&live), live.metadata().unwrap().uid(), live.metadata().unwrap().gid());
        assert!(before.0.contains("system.posix_acl_default") && before.0.contains("security.label"), "{}", before.0);

        volume.capture().unwrap();
        drop(volume.stage(&StageSpec::new()).unwrap());
        let staged = path(&volume, Slot::Staged);
        assert!(!getfattr(&staged).contains("posix_acl"), "{}: {}", kind.name(), getfattr(&staged));
        assert_eq!(mode(&staged), 0o700);
        // What an image may have put on its root.
        run(Command::new("setfattr").args(["-n", "user.of-image", "-v", "gone"]).arg(&staged)).unwrap();
        run(Command::new("setfacl").args(["-m", "u:1:rwx", "-m", "d:u:2:rwx"]).arg(&staged)).unwrap();
        fs::set_permissions(&staged, fs::Permissions::from_mode(0o1777)).unwrap();
        chown(&staged, Some(7), Some(7)).unwrap();
        let warnings = volume.seal(&record(), RootMetadata::Keep).unwrap();
        assert!(warnings.is_empty(), "{}: {warnings:?}", kind.name());
        let after = (getfattr(&staged), mode(&staged), staged.metadata().unwrap().uid(), staged.metadata().unwrap().gid());
        assert_eq!(before, after, "{}", kind.name());
        volume.exchange().unwrap();
        assert_eq!(volume.record().unwrap(), Some(record()));
        // The old root's record, here none, went with the old root; and a record is no property.
        run(Command::new("setfattr").args(["-n", "user.reroot.image", "-v", "forged"]).arg(&live)).unwrap();
        volume.discard(Slot::Staged).unwrap();
        assert_eq!(volume.record().unwrap(), Some(record()), "the trusted record comes first");
        volume.capture().unwrap();
        drop(volume.stage(&StageSpec::new()).unwrap());
        assert!(volume.seal(&ImageRecord::new(Origin::Empty), RootMetadata::Keep).unwrap().is_empty());
        let all = run(Command::new("getfattr").args(["-d", "-m", "reroot", "--absolute-names"]).arg(&staged)).unwrap();
        assert!(all.contains("trusted.reroot.image") && !all.contains("user.reroot.image"), "{all}");
    }
}

#[test]
fn a_project_id_holds_before_the_first_byte() {
    need!(root());
    let fs = need!(LoopFs::new(Kind::Xfs, 300));
    let mut volume = volume(&fs.path());
    fs::create_dir(volume.path()).unwrap();
    run(Command::new("chattr").args(["-p", "10042", "+P"]).arg(volume.path())).unwrap();
    run(Command::new("chattr").arg("+dA").arg(volume.path())).unwrap();
    let listed = |path: &Path| {
        let line = run(Command::new("lsattr").args(["-d", "-p"]).arg(path)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = listed(volume.path());
    assert_eq!(before[0], "10042");
    volume.capture().unwrap();
    drop(volume.stage(&StageSpec::new()).unwrap());
    let staged = path(&volume, Slot::Staged);
    assert_eq!(listed(&staged), before);
    fs::write(staged.join("file"), "x").unwrap();
    assert_eq!(listed(&staged.join("file"))[0], "10042");
    assert!(volume.seal(&record(), RootMetadata::Keep).unwrap().is_empty());
    volume.exchange().unwrap();
    assert_eq!(listed(volume.path()), before);
}

#[test]
fn inheritable_flags_are_kept() {
    need!(root());
    for (kind, flags) in [(Kind::Btrfs, "+C"), (Kind::Btrfs, "+c"), (Kind::Ext4, "+AdDS")] {
        let fs = need!(LoopFs::new(kind, 16));
        let mut volume = volume(&fs.path());
        fs::create_dir(volume.path()).unwrap();
        run(Command::new("chattr").arg(flags).arg(volume.path())).unwrap();
        let listed =
            |path: &Path| run(Command::new("lsattr").arg("-d").arg(path)).unwrap().split_whitespace().next().unwrap().to_owned();
        let before = listed(volume.path());
        volume.capture().unwrap();
        drop(volume.stage(&StageSpec::new()).unwrap());
        assert_eq!(listed(&path(&volume, Slot::Staged)), before, "{flags}");
        assert!(volume.seal(&record(), RootMetadata::Keep).unwrap().is_empty());
    }
}

#[test]
fn a_protected_root_is_switched_and_the_loss_is_told() {
    need!(root());
    let fs = need!(LoopFs::new(Kind::Ext4, 16));
    for (n, commit) in [Commit::Exchange, Commit::TwoRenames].into_iter().enumerate() {
        let mut volume = volume(&fs.path().join(n.to_string())).with_commit(commit);
        fs::create_dir(volume.path()).unwrap();
        fs::write(volume.path().join("old"), "").unwrap();
        run(Command::new("chattr").arg("+i").arg(volume.path())).unwrap();
        let warnings = staged(&mut volume, "new", RootMetadata::Keep);
        assert!(warnings.len() == 1 && warnings[0].contains("chattr +i"), "{warnings:?}");
        if commit == Commit::Exchange {
            volume.exchange().unwrap();
            volume.discard(Slot::Staged).unwrap();
        } else {
            volume.rename(Slot::Live, Slot::Retired).unwrap();
            volume.rename(Slot::Staged, Slot::Live).unwrap();
            volume.discard(Slot::Retired).unwrap();
        }
        assert_eq!((names(&volume).as_str(), content(&volume).as_str()), ("live", "new"));
    }
}

#[test]
fn removal_clears_flags_and_nothing_else() {
    need!(root());
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs] {
        let fs = need!(LoopFs::new(kind, 16));
        let mut volume = volume(&fs.path());
        let retired = path(&volume, Slot::Retired);
        let canary = fs.path().join("canary");
        fs::write(&canary, "alive").unwrap();
        for dir in ["i-dir/sub", "a-dir/sub", "i-empty"] {
            fs::create_dir_all(retired.join(dir)).unwrap();
        }
        for file in ["i-file", "a-file", "i-dir/file", "a-dir/file", "a-dir/sub/i-file"] {
            fs::write(retired.join(file), "x").unwrap();
        }
        symlink(&canary, retired.join("i-dir/link")).unwrap();
        nix::unistd::mkfifo(&retired.join("a-dir/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        run(Command::new("mknod").arg(retired.join("i-dir/tape")).args(["c", "9", "0"])).unwrap();
        run(Command::new("chattr").arg("+i").arg(&canary)).unwrap();
        for (flag, entries) in [
            ("+i", ["i-file", "a-dir/sub/i-file", "i-dir", "i-empty"].as_slice()),
            ("+a", ["a-file", "i-dir/../a-dir/file", "a-dir"].as_slice()),
        ] {
            for entry in entries {
                run(Command::new("chattr").arg(flag).arg(retired.join(entry))).unwrap();
            }
        }
        run(Command::new("chattr").arg("+i").arg(&retired)).unwrap();
        volume.discard(Slot::Retired).unwrap();
        assert!(!retired.exists(), "{}", kind.name());
        let flags = run(Command::new("lsattr").arg(&canary)).unwrap();
        assert!(flags.split_whitespace().next().unwrap().contains('i'), "{flags}");
        run(Command::new("chattr").arg("-i").arg(&canary)).unwrap();
    }
}

#[test]
fn a_mount_inside_is_refused_before_anything_is_removed() {
    need!(root());
    let fs = need!(LoopFs::new(Kind::Ext4, 16));
    let mut volume = volume(&fs.path());
    let retired = path(&volume, Slot::Retired);
    fs::create_dir_all(retired.join("deep/mnt point")).unwrap();
    for n in 0..50 {
        fs::write(retired.join(format!("file-{n}")), "").unwrap();
    }
    let canary = fs.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("alive"), "").unwrap();
    let mounted = need!(Mounted::bind(&canary, &retired.join("deep/mnt point")));
    let error = volume.discard(Slot::Retired).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("deep/mnt point") && error.remedy().unwrap().contains("umount"), "{}", error.report());
    assert_eq!(fs::read_dir(&retired).unwrap().count(), 51);
    assert!(canary.join("alive").exists());
    drop(mounted);
    // The root itself as a mount point.
    let mounted = need!(Mounted::bind(&canary, &retired));
    assert_eq!(volume.discard(Slot::Retired).unwrap_err().kind(), ErrorKind::Busy);
    drop(mounted);
    assert!(canary.join("alive").exists());
    volume.discard(Slot::Retired).unwrap();
    assert_eq!(names(&volume), "none");
}

#[test]
fn nested_subvolumes_go_too_and_read_only_ones_are_told() {
    need!(root());
    let fs = need!(LoopFs::new(Kind::Btrfs, 120));
    let mut volume = volume(&fs.path());
    let retired = path(&volume, Slot::Retired);
    fs::create_dir(&retired).unwrap();
    let btrfs = |words: &[&str], path: &Path| run(Command::new("btrfs").args(words).arg(path)).unwrap();
    for name in ["empty", "full", "full/nested"] {
        btrfs(&["subvolume", "create"], &retired.join(name));
    }
    fs::write(retired.join("full/file"), "x").unwrap();
    fs::write(retired.join("full/nested/file"), "x").unwrap();
    volume.discard(Slot::Retired).unwrap();
    assert_eq!(names(&volume), "none");

    fs::create_dir(&retired).unwrap();
    btrfs(&["subvolume", "create"], &retired.join("frozen"));
    fs::write(retired.join("frozen/file"), "x").unwrap();
    run(Command::new("btrfs").args(["property", "set"]).arg(retired.join("frozen")).args(["ro", "true"])).unwrap();
    let error = volume.discard(Slot::Retired).unwrap_err();
    assert!(error.to_string().contains("frozen"), "{error}");
    assert!(error.remedy().unwrap().contains("btrfs subvolume delete"), "{}", error.report());
    btrfs(&["subvolume", "delete"], &retired.join("frozen"));
    volume.discard(Slot::Retired).unwrap();
    assert_eq!(names(&volume), "none");
}

#[test]
fn a_wide_directory_goes_in_linear_time() {
    need!(root());
    for kind in Kind::ALL {
        let fs = need!(LoopFs::new(kind, 500));
        let mut volume = volume(&fs.path());
        let retired = path(&volume, Slot::Retired);
        let mut time = |count: u32| {
            fs::create_dir(&retired).unwrap();
            (0..count).for_each(|n| drop(fs::File::create(retired.join(n.to_string())).unwrap()));
            let began = Instant::now();
            volume.discard(Slot::Retired).unwrap();
            assert!(!retired.exists());
            began.elapsed()
        };
        let (small, large) = (time(10_000), time(100_000));
        eprintln!("{}: {small:?} for 10,000 entries, {large:?} for 100,000", kind.name());
        // Ten times the entries; a hundredfold would be quadratic. Noise on a busy machine is allowed for.
        assert!(large < small * 40 + Duration::from_secs(2), "{}: {small:?}, {large:?}", kind.name());
    }
}

#[test]
fn removal_keeps_pace_with_rm() {
    need!(root());
    let fs = need!(LoopFs::new(Kind::Ext4, 400));
    let mut volume = volume(&fs.path());
    let retired = path(&volume, Slot::Retired);
    let make = || {
        for dir in 0..2_000 {
            let dir = retired.join(format!("{}/{dir}", dir % 40));
            fs::create_dir_all(&dir).unwrap();
            (0..30).for_each(|file| drop(fs::File::create(dir.join(file.to_string())).unwrap()));
        }
    };
    let (mut rm, mut ours) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        make();
        let began = Instant::now();
        run(Command::new("rm").arg("-rf").arg(&retired)).unwrap();
        rm = rm.min(began.elapsed());
        make();
        let began = Instant::now();
        volume.discard(Slot::Retired).unwrap();
        ours = ours.min(began.elapsed());
    }
    eprintln!("60,000 files in 2,000 directories: rm -rf {rm:?}, discard {ours:?}");
    assert!(ours < rm * 3 + Duration::from_secs(1), "rm -rf {rm:?}, discard {ours:?}");
}

#[test]
fn snapshots_are_listed_purged_and_tidied() {
    let temp = tempfile::tempdir().unwrap();
    let mut volume = volume(temp.path());
    let dir = temp.path().join("containers-snapshots/c1");
    assert!(volume.snapshots().unwrap().is_empty());
    volume.purge(&[Snapshot::new("gone", SnapshotOwner::Manager)]).unwrap();
    assert_eq!(volume.tidy().unwrap(), Tidied::Nothing);
    let long = "s".repeat(255);
    for name in ["weekly", "a\nb", "daily", &long] {
        fs::create_dir_all(dir.join(name).join("rootfs/etc")).unwrap();
        fs::write(dir.join(name).join("rootfs/etc/x"), "x").unwrap();
    }
    fs::create_dir_all(dir.join("half.reroot-retired/rest")).unwrap();
    fs::write(dir.join("a-file"), "").unwrap();
    symlink(temp.path(), dir.join("a-link")).unwrap();
    // Without a live root there is nothing they could be snapshots of.
    assert!(volume.snapshots().unwrap().is_empty());
    fs::create_dir(volume.path()).unwrap();
    let listed = |volume: &DirVolume| volume.snapshots().unwrap().into_iter().map(|s| s.name).collect::<Vec<_>>();
    assert_eq!(listed(&volume), [OsStr::new("a\nb"), OsStr::new("daily"), OsStr::new(&long), OsStr::new("weekly")]);
    for bad in ["", ".", "..", "../c1", "x.reroot-retired"] {
        let error = volume.purge(&[Snapshot::new(bad, SnapshotOwner::Manager)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    // An earlier purge of the same name was interrupted.
    fs::create_dir_all(dir.join("daily.reroot-retired/rest")).unwrap();
    let all: Vec<_> = volume.snapshots().unwrap().into_iter().filter(|snapshot| snapshot.name != "weekly").collect();
    volume.purge(&all).unwrap();
    volume.purge(&all).unwrap();
    assert_eq!(listed(&volume), ["weekly"]);
    assert_eq!(volume.tidy().unwrap(), Tidied::Something);
    assert_eq!(volume.tidy().unwrap(), Tidied::Nothing);
    let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["a-file", "a-link", "weekly"]);
    // Elsewhere, if the caller says so.
    let elsewhere = temp.path().join("elsewhere");
    fs::create_dir_all(elsewhere.join("one")).unwrap();
    let volume = volume.with_snapshots_dir(&elsewhere);
    assert_eq!(listed(&volume), ["one"]);
}

#[test]
fn space_is_that_of_the_pool() {
    for kind in Kind::ALL {
        let fs = need!(LoopFs::new(kind, 32));
        let volume = volume(&fs.path());
        let usage = volume.usage(UsageDetail::Free).unwrap();
        let df = run(Command::new("df").args(["-B1", "--output=avail"]).arg(fs.path())).unwrap();
        let free: u64 = df.lines().nth(1).unwrap().trim().parse().unwrap();
        assert!(usage.free.bytes().abs_diff(free) < 1 << 20, "{}: {} {free}", kind.name(), usage.free.bytes());
        assert_eq!(usage.free_inodes.is_none(), kind == Kind::Btrfs, "{}", kind.name());
        assert_eq!((usage.used, usage.size), (None, None));
        assert_eq!(volume.usage(UsageDetail::Full).unwrap().used, None);
        fs::create_dir(volume.path()).unwrap();
        fs::write(volume.path().join("a"), vec![7; 4 << 20]).unwrap();
        fs::hard_link(volume.path().join("a"), volume.path().join("b")).unwrap();
        fs::create_dir(volume.path().join("mnt")).unwrap();
        let big = fs.path().join("big");
        fs::create_dir(&big).unwrap();
        fs::write(big.join("x"), vec![7; 8 << 20]).unwrap();
        let _mounted = need!(Mounted::bind(&big, &volume.path().join("mnt")));
        run(Command::new("sync").arg("-f").arg(fs.path())).unwrap();
        let used = volume.usage(UsageDetail::Full).unwrap().used.unwrap().bytes();
        assert!((4 << 20..5 << 20).contains(&used), "{}: {used}", kind.name());
    }
}

#[test]
fn locks_exclude_other_values_for_the_same_volume() {
    let temp = tempfile::tempdir().unwrap();
    let first = volume(temp.path());
    let second = volume(temp.path());
    let now = || Wait::new(Duration::ZERO, CancelToken::new());
    let lock = first.lock(&now()).unwrap();
    let error = second.lock(&now()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(
        error.to_string().contains(&format!("process {}", std::process::id())) && error.to_string().contains("dir:/"),
        "{error}"
    );
    drop(lock);
    drop(second.lock(&now()).unwrap());
    assert_eq!(fs::read_dir(temp.path().join("containers")).unwrap().count(), 0);
}

#[test]
fn mounts_are_found_in_every_namespace() {
    need!(root());
    let fs = need!(LoopFs::new(Kind::Ext4, 16));
    let mut volume = volume(&fs.path());
    fs::create_dir_all(volume.path().join("sub dir")).unwrap();
    fs::create_dir_all(fs.path().join("containers/c10/x")).unwrap();
    let elsewhere = fs.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    assert_eq!(volume.holders().unwrap(), []);
    let shown = |path: &Path| Holder::Mount { path: path.display().to_string(), namespace_of: None };
    {
        let _neighbour = need!(Mounted::bind(&elsewhere, &fs.path().join("containers/c10/x")));
        assert_eq!(volume.holders().unwrap(), []);
        let _inside = need!(Mounted::bind(&elsewhere, &volume.path().join("sub dir")));
        assert_eq!(volume.holders().unwrap(), [shown(&volume.path().join("sub dir"))]);
    }
    {
        let _part = need!(Mounted::bind(&volume.path().join("sub dir"), &elsewhere));
        assert_eq!(volume.holders().unwrap(), [shown(&elsewhere)]);
    }
    {
        let _on = need!(Mounted::bind(&elsewhere, volume.path()));
        assert_eq!(volume.holders().unwrap(), [shown(volume.path())]);
        // The kernel refuses to rename what is a mount point, and the message says which.
        drop(volume.stage(&StageSpec::new()).unwrap());
        let error = volume.exchange().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains("holder mount"), "{}", error.report());
        volume.discard(Slot::Staged).unwrap();
    }
    // In a mount namespace of its own: a part bound elsewhere, and something mounted inside.
    let ready = fs.path().join("ready");
    let script = format!(
        "mount --bind '{0}/sub dir' '{1}' && mount -t tmpfs none '{0}/sub dir' && : > '{2}' && exec sleep 60",
        volume.path().display(),
        elsewhere.display(),
        ready.display()
    );
    let command = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", script]).stdin(Stdio::null());
        command
    };
    let child = Reaped(command(&script).spawn().unwrap());
    until(|| ready.exists());
    let there = |path: &Path| Holder::Mount { path: path.display().to_string(), namespace_of: Some(child.0.id()) };
    let found = volume.holders().unwrap();
    assert_eq!(found, [there(&volume.path().join("sub dir")), there(&elsewhere)]);
    drop(child);
    fs::remove_file(&ready).unwrap();
    // A container: the volume is its root, and only its own paths show.
    let script = format!(
        "mount --bind '{0}' '{0}' && cd '{0}' && pivot_root . 'sub dir' && cd / && : > '/sub dir{1}' && exec '/sub dir/bin/sleep' 60",
        volume.path().display(),
        ready.display()
    );
    // The dynamic linker's folders, as far as the system has them.
    for lib in ["lib", "lib64", "usr"] {
        symlink(format!("sub dir/{lib}"), volume.path().join(lib)).unwrap();
    }
    let child = Reaped(command(&script).spawn().unwrap());
    until(|| ready.exists());
    let found = volume.holders().unwrap();
    let pid = child.0.id();
    assert!(found.contains(&Holder::Mount { path: "/".into(), namespace_of: Some(pid) }), "{found:?}");
    let how = found.iter().find_map(|holder| match holder {
        Holder::Process { pid: found, how, .. } if *found == pid => Some(how.as_str()),
        _ => None,
    });
    assert_eq!(how, Some("root directory"), "{found:?}");
}

#[test]
fn loop_devices_are_found_by_their_file() {
    need!(root());
    let fs = need!(LoopFs::new(Kind::Ext4, 16));
    let volume = volume(&fs.path());
    fs::create_dir(volume.path()).unwrap();
    let image = volume.path().join("disk image");
    fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let device = need!(run(Command::new("losetup").args(["--find", "--show"]).arg(&image)));
    let device = device.trim().to_owned();
    let found = volume.holders();
    run(Command::new("losetup").args(["-d", &device])).unwrap();
    assert_eq!(found.unwrap(), [Holder::Device { device, file: image.display().to_string() }]);
    until(|| volume.holders().unwrap().is_empty());
}

#[test]
fn swap_files_are_found() {
    need!(root());
    let fs = need!(LoopFs::new(Kind::Ext4, 32));
    let volume = volume(&fs.path());
    fs::create_dir(volume.path()).unwrap();
    let file = volume.path().join("swap file");
    fs::write(&file, vec![0; 4 << 20]).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    run(Command::new("mkswap").arg(&file)).unwrap();
    need!(run(Command::new("swapon").arg(&file)));
    let found = volume.holders();
    run(Command::new("swapoff").arg(&file)).unwrap();
    assert_eq!(found.unwrap(), [Holder::Other(format!("swap file {}", file.display()))]);
}

#[test]
fn without_root_what_is_lost_is_told() {
    const MARKER: &str = "REROOT_TEST_ORDINARY_USER";
    if let Some(folder) = std::env::var_os(MARKER) {
        let mut volume = volume(Path::new(&folder));
        let warnings = staged(&mut volume, "new", RootMetadata::Keep);
        assert!(warnings.len() == 1 && warnings[0].contains("owner 0:0"), "{warnings:?}");
        assert!(volume.record().unwrap().is_none());
        volume.exchange().unwrap();
        assert_eq!(volume.record().unwrap(), Some(record()));
        assert_eq!((content(&volume).as_str(), mode(volume.path())), ("new", 0o555));
        assert!(getfattr(volume.path()).contains("user.note"));
        volume.discard(Slot::Staged).unwrap();
        assert_eq!(names(&volume), "live");
        return;
    }
    need!(root());
    // An ordinary user may not be able to reach the build folder.
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let exe = temp.path().join("exe");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let containers = temp.path().join("pool/containers");
    fs::create_dir_all(containers.join("c1")).unwrap();
    run(Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(containers.join("c1"))).unwrap();
    fs::set_permissions(containers.join("c1"), fs::Permissions::from_mode(0o555)).unwrap();
    chown(&containers, Some(65534), Some(65534)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&exe);
    command.args(["--exact", "without_root_what_is_lost_is_told", "--nocapture"]).env(MARKER, temp.path().join("pool"));
    let output = run(&mut command).unwrap();
    assert!(output.contains("1 passed"), "{output}");
}
