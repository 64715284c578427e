//! Limits: kept, set before the first byte, grown, refused, and what is left of them.

use std::fs;
use std::process::Command;

use reroot::btrfs::QuotaPolicy;
use reroot::conformance::Tree;
use reroot::volume::{RootMetadata, StageSpec, UsageDetail};
use reroot::{
    ByteSize, ErrorKind, Image, ImageRecord, Origin, Outcome, Rebuild, RebuildableVolume, SnapshotPolicy, Space, Strategy,
};

use super::loopfs::run;
use super::{Pool, file_image, image, need, new, rebuild, refused, soon};

const POLICIES: [QuotaPolicy; 2] = [QuotaPolicy::Enable, QuotaPolicy::EnableSimple];

/// A tree of so many MiB that do not compress.
pub(crate) fn large(mib: usize) -> Tree {
    let mut tree = new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for part in 0..mib {
        let content: Vec<u8> = (0..1 << 17)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        tree.file(format!("part-{part}"), content);
    }
    tree
}

/// A pool with quotas on, and a volume of this size.
fn sized(policy: QuotaPolicy, size: ByteSize) -> Result<Pool, String> {
    let pool = Pool::new(512)?;
    let mut volume = pool.volume().with_quota(policy);
    Rebuild::new(image(&super::old())).size(size).run(&mut volume).map_err(|error| error.report().to_string())?;
    Ok(pool)
}

/// `0/ID MAX_REFERENCED MAX_EXCLUSIVE PARENTS` of all groups, as the command shows them.
fn groups(pool: &Pool) -> Vec<String> {
    let shown = pool.btrfs(&["qgroup", "show", "-pcre", "--raw", "--sync"], &["."]);
    let rows = shown.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    rows.map(|row| {
        let fields: Vec<_> = row.split_whitespace().collect();
        format!("{} {} {} {}", fields[0], fields[3], fields[4], fields[5])
    })
    .collect()
}

fn referenced(pool: &Pool, group: &str) -> u64 {
    let shown = pool.btrfs(&["qgroup", "show", "--raw", "--sync"], &["."]);
    let row = shown.lines().find(|line| line.starts_with(&format!("{group} "))).unwrap();
    row.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn id(pool: &Pool) -> String {
    run(Command::new("btrfs").args(["inspect-internal", "rootid"]).arg(pool.root())).unwrap().trim().to_owned()
}

#[test]
fn limits_and_groups_are_kept() {
    for policy in POLICIES {
        let pool = need!(sized(policy, ByteSize::mib(64)));
        for (limit, flag) in [("80M", None), ("70M", Some("-e"))] {
            run(Command::new("btrfs").args(["qgroup", "limit"]).args(flag).arg(limit).arg(pool.root())).unwrap();
        }
        for group in ["1/7", "2/9"] {
            run(Command::new("btrfs").args(["qgroup", "create", group]).arg(pool.path("."))).unwrap();
        }
        for (member, group) in [(format!("0/{}", id(&pool)), "1/7"), ("1/7".into(), "2/9")] {
            // The command's own advice is to count afresh; nothing here depends on it.
            run(Command::new("btrfs").args(["qgroup", "assign", "--no-rescan", &member, group]).arg(pool.path("."))).unwrap();
        }
        if policy == QuotaPolicy::Enable {
            pool.btrfs(&["quota", "rescan", "-w"], &["."]);
        }
        for _ in 0..2 {
            let report = rebuild(&mut pool.volume(), &large(3)).unwrap();
            assert!(report.warnings.is_empty(), "{report}");
            pool.expect_only("part-2");
            pool.cleaned();
            let expected = [
                "0/5 none none -".to_owned(),
                format!("0/{} {} {} 1/7", id(&pool), 80 << 20, 70 << 20),
                "1/7 none none 2/9".to_owned(),
                "2/9 none none -".to_owned(),
            ];
            assert_eq!(groups(&pool), expected, "{policy:?}");
            // The count stays right, and what is gone counts for no group.
            let quota = pool.volume().quota().unwrap().unwrap();
            assert!(quota.consistent, "{policy:?}");
            assert_eq!(referenced(&pool, "2/9"), quota.referenced.bytes(), "{policy:?}");
        }
        let quota = pool.volume().quota().unwrap().unwrap();
        assert_eq!((quota.max_referenced, quota.max_exclusive), (Some(ByteSize::mib(80)), Some(ByteSize::mib(70))));
        assert_eq!(quota.parents, ["1/7"]);
        assert_eq!(pool.volume().usage(UsageDetail::Free).unwrap().size, Some(ByteSize::mib(70)));
    }
}

#[test]
fn the_limit_is_there_before_the_first_byte() {
    for policy in POLICIES {
        let pool = need!(sized(policy, ByteSize::mib(16)));
        let mut volume = pool.volume();
        let _lock = volume.lock(&soon()).unwrap();
        volume.capture().unwrap();
        let root = volume.stage(&StageSpec::new()).unwrap();
        let staged = pool.path("containers/c1.reroot-staged");
        let error = fs::write(staged.join("large"), vec![7; 32 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EDQUOT as i32), "{policy:?}");
        drop(root);
        fs::remove_file(staged.join("large")).unwrap();
        volume.seal(&ImageRecord::new(Origin::Empty), RootMetadata::Keep).unwrap();
    }
}

#[test]
fn a_full_quota_is_told_as_one_and_changes_nothing() {
    for policy in POLICIES {
        let pool = need!(sized(policy, ByteSize::mib(16)));
        let error = rebuild(&mut pool.volume(), &large(32)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace(Space::Quota), "{policy:?}: {}", error.report());
        assert_eq!(error.outcome(), Outcome::RolledBack);
        assert!(error.remedy().unwrap().contains("quota"), "{}", error.report());
        pool.expect_only("old");
        // A volume that may grow does.
        let report = Rebuild::new(image(&large(32))).max_size(ByteSize::mib(256)).run(&mut pool.volume()).unwrap();
        assert_eq!(report.grown, Some(ByteSize::mib(80)), "{report}");
        pool.expect_only("part-31");
        assert_eq!(pool.volume().quota().unwrap().unwrap().max_referenced, Some(ByteSize::mib(80)));
        let used = pool.volume().usage(UsageDetail::Full).unwrap().used.unwrap();
        assert!(used >= ByteSize::mib(32) && used < ByteSize::mib(34), "{policy:?}: {used}");
    }
}

#[test]
fn a_size_without_quotas_is_refused_before_anything_goes() {
    let pool = need!(Pool::with_old(128));
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let rebuild = Rebuild::new(file_image(&pool.path("backup"), &new())).strategy(strategy).size(ByteSize::gib(1));
        let said = refused(rebuild.run(&mut pool.volume()), ErrorKind::Unsupported);
        assert!(said.contains("quotas are off") && said.contains("btrfs quota enable"), "{said}");
        pool.expect_only("old");
    }
    assert_eq!(pool.volume().quota().unwrap(), None);
    assert_eq!(pool.volume().usage(UsageDetail::Full).unwrap().size, None);
    // Where it is to be so, they are turned on, for a volume that is there as for one that is not.
    let mut volume = pool.volume().with_quota(QuotaPolicy::Enable);
    Rebuild::new(image(&new())).size(ByteSize::mib(32)).run(&mut volume).unwrap();
    let quota = volume.quota().unwrap().unwrap();
    assert_eq!((quota.max_referenced, quota.consistent), (Some(ByteSize::mib(32)), true));
    // And it does not shrink unasked.
    refused(Rebuild::new(image(&new())).size(ByteSize::mib(16)).run(&mut volume), ErrorKind::Unsupported);
    Rebuild::new(image(&new())).size(ByteSize::mib(48)).run(&mut volume).unwrap();
    assert_eq!(volume.quota().unwrap().unwrap().max_referenced, Some(ByteSize::mib(48)));
}

#[test]
fn no_group_is_left_behind() {
    for policy in POLICIES {
        let pool = need!(sized(policy, ByteSize::mib(64)));
        let before = groups(&pool).len();
        for number in 0..3 {
            pool.btrfs(&["subvolume", "create"], &["containers/c1/inner"]);
            pool.btrfs(&["subvolume", "snapshot", "-r"], &["containers/c1", &format!("containers-snapshots/c1/snap{number}")]);
            let rebuild = Rebuild::new(image(&large(2))).snapshots(SnapshotPolicy::Purge);
            let report = rebuild.run(&mut pool.volume()).unwrap();
            assert!(report.warnings.is_empty(), "{report}");
        }
        Rebuild::new(Image::empty()).run(&mut pool.volume()).unwrap();
        assert_eq!(pool.subvolumes(), ["containers/c1"]);
        pool.cleaned();
        let after = groups(&pool);
        assert_eq!(after.len(), before, "{policy:?}: {after:?}");
        assert!(after.iter().any(|group| group.starts_with(&format!("0/{} {}", id(&pool), 64 << 20))), "{after:?}");
    }
}
