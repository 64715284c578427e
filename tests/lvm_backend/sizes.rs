//! Sizes: asked for, rounded, too small, and met on the way.

use super::*;
use reroot::{RebuildableVolume, Space};
use std::io::Read;

impl Pool {
    pub(super) fn lv_size(&self) -> ByteSize {
        ByteSize::from_bytes(self.get("lv_size", "c1").parse().unwrap())
    }

    /// What its file system says of itself: bytes and inodes.
    pub(super) fn capacity(&self) -> (u64, u64) {
        self.visit("c1", |root| {
            let stat = nix::sys::statvfs::statvfs(root).unwrap();
            (stat.blocks() * stat.fragment_size(), stat.files())
        })
    }
}

#[test]
fn a_size_is_rounded_up_to_extents_and_never_shrunk() {
    let pool = need!(Pool::with_old());
    // A page more than a round size has the room of a whole extent more.
    let asked = SIZE.saturating_add(ByteSize::from_bytes(4096));
    Rebuild::new(image(&new())).size(asked).run(&mut pool.volume()).unwrap();
    assert_eq!(pool.lv_size(), ByteSize::mib(68));
    pool.expect("new", &["c1"]);
    for smaller in [ByteSize::mib(32), SIZE] {
        let said = refused(Rebuild::new(image(&old())).size(smaller).run(&mut pool.volume()), ErrorKind::Unsupported);
        assert!(said.contains("shrink"), "{said}");
    }
    // What it has is what it asked for.
    for same in [asked, ByteSize::mib(68)] {
        Rebuild::new(image(&new())).size(same).run(&mut pool.volume()).unwrap();
        assert_eq!(pool.lv_size(), ByteSize::mib(68));
    }
    Rebuild::new(image(&new())).size(ByteSize::mib(100)).run(&mut pool.volume()).unwrap();
    assert!(pool.lv_size() == ByteSize::mib(100) && pool.capacity().0 > 80 << 20, "{:?}", pool.capacity());
    pool.expect("new", &["c1"]);
}

#[test]
fn a_size_that_no_file_system_has_is_refused() {
    for kind in [FilesystemKind::Ext4, FilesystemKind::Xfs, FilesystemKind::Btrfs] {
        let mut pool = need!(Pool::of(kind));
        pool.size = ByteSize::mib(4);
        let said = refused(rebuild(&mut pool.volume(), &new()), ErrorKind::TooSmall);
        assert!(said.contains("MiB"), "{said}");
        pool.expect_only(&[]);
    }
}

#[test]
fn an_image_that_cannot_fit_is_seen_before() {
    let pool = need!(Pool::with_old());
    let image = || large(100).file(pool.folder.path());
    for strategy in [reroot::Strategy::Swap, reroot::Strategy::InPlace] {
        let error = Rebuild::new(image()).strategy(strategy).run(&mut pool.volume()).unwrap_err();
        assert!(matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack), "{}", error.report());
        assert!(matches!(error.kind(), ErrorKind::TooSmall | ErrorKind::NoSpace(_)), "{}", error.report());
        pool.expect("old", &["c1"]);
    }
    // One that may grow is made as large as it takes.
    let report = Rebuild::new(image()).max_size(ByteSize::mib(512)).run(&mut pool.volume()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect("large", &["c1"]);
    assert!(pool.lv_size() > ByteSize::mib(100) && pool.lv_size() <= ByteSize::mib(512), "{}", pool.lv_size());
}

#[test]
fn a_volume_grows_while_it_is_filled() {
    for (kind, image_size) in [(FilesystemKind::Ext4, 100), (FilesystemKind::Xfs, 280), (FilesystemKind::Btrfs, 160)] {
        let pool = need!(Pool::of(kind));
        rebuild(&mut pool.volume(), &old()).unwrap();
        // A stream does not say how much is to come.
        let error = Rebuild::new(large(image_size).stream()).run(&mut pool.volume()).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::NoSpace(Space::Quota), Outcome::RolledBack), "{}", error.report());
        assert!(error.remedy().is_some(), "{}", error.report());
        pool.expect("old", &["c1"]);
        let report = Rebuild::new(large(image_size).stream()).max_size(ByteSize::gib(1)).run(&mut pool.volume()).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        assert_eq!(report.grown, Some(pool.lv_size()), "{report}");
        pool.expect("large", &["c1"]);
        pool.visit("c1", |root| {
            let (mut file, pattern) = (fs::File::open(root.join("large")).unwrap(), pattern());
            let mut part = vec![0; pattern.len()];
            (0..image_size).for_each(|mib| {
                file.read_exact(&mut part).unwrap();
                assert!(part == pattern, "{kind}: the MiB {mib} is another");
            });
            assert_eq!(file.read(&mut part).unwrap(), 0);
        });
        // One that may grow only so far.
        let said = Rebuild::new(large(600).stream()).max_size(ByteSize::mib(400)).run(&mut pool.volume()).unwrap_err();
        assert!(matches!(said.kind(), ErrorKind::NoSpace(_) | ErrorKind::TooSmall), "{}", said.report());
        pool.expect("large", &["c1"]);
    }
}

#[test]
fn inodes_are_planned_and_grown() {
    let pool = need!(Pool::with_old());
    let before = pool.capacity().1;
    let tree = many(before as usize + 2000);
    // A stream does not say how many are to come.
    let error = rebuild(&mut pool.volume(), &tree).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::NoSpace(Space::Inodes), Outcome::RolledBack), "{}", error.report());
    pool.expect("old", &["c1"]);
    let report = Rebuild::new(image(&tree)).max_size(ByteSize::mib(512)).run(&mut pool.volume()).unwrap();
    assert_eq!(report.grown, Some(pool.lv_size()), "{report}");
    pool.expect("many", &["c1"]);
    // One whose entries were counted before has as many as it takes, and needs no more space for that.
    rebuild(&mut pool.open("c2"), &old()).unwrap();
    let from_file = || Rebuild::new(seekable(pool.folder.path(), &tree));
    let report = from_file().run(&mut pool.open("c2"));
    match report {
        Ok(_) => {
            let (size, files) =
                (pool.get("lv_size", "c2"), pool.visit("c2", |root| nix::sys::statvfs::statvfs(root).unwrap().files()));
            assert!(size == SIZE.bytes().to_string() && files > before + 2000, "{size} bytes, {files} inodes");
        }
        // Its entries are counted on demand only.
        Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace(Space::Inodes), "{}", error.report()),
    }
    pool.expect_only(&["c1", "c2"]);
}

#[test]
fn usage_says_what_there_is() {
    let pool = need!(Pool::with_old());
    let usage = pool.volume().usage(reroot::volume::UsageDetail::Full).unwrap();
    assert_eq!(usage.size, Some(SIZE));
    assert!(usage.free > ByteSize::mib(500) && usage.free < ByteSize::gib(2), "{usage:?}");
    assert!(usage.used.is_none_or(|used| used > ByteSize::ZERO && used < SIZE), "{usage:?}");
}
