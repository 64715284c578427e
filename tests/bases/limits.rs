//! A clone and the limits of its volume, with qgroups and with simple quotas.

use std::process::Command;

use reroot::btrfs::QuotaPolicy;
use reroot::conformance::Tree;
use reroot::volume::UsageDetail;
use reroot::{ByteSize, ErrorKind, Image, Outcome, Space, Strategy};

use super::common::loopfs::{Kind, run};
use super::{Scheme, Stand, anew, btrfs, failed, from_base, is_root, list, need, shown, tree};

const POLICIES: [QuotaPolicy; 2] = [QuotaPolicy::Enable, QuotaPolicy::EnableSimple];

/// So many MiB that do not compress.
fn large(mib: u64) -> Tree {
    let mut tree = tree("large");
    for part in 0..mib {
        let noise = (0..1_u64 << 20).map(|at| ((at + part).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8);
        tree.file(format!("part-{part}"), noise.collect::<Vec<_>>());
    }
    tree
}

/// A pool with quotas on, and a volume `c1` of this size.
fn sized(policy: QuotaPolicy, size: ByteSize) -> Result<Stand, String> {
    is_root()?;
    let stand = Stand::on(Kind::Btrfs, Scheme::Btrfs, 512)?;
    let old = stand.image("old.tar", &tree("old"));
    let mut volume = stand.subvolume("c1").with_quota(policy);
    let rebuild = anew(Image::open(&old).unwrap()).size(size);
    rebuild.run(&mut volume).map_err(|error| error.report().to_string())?;
    Ok(stand)
}

/// `ID MAX_REFERENCED MAX_EXCLUSIVE PARENTS` of all groups but the top's, as the command shows them.
fn groups(stand: &Stand) -> Vec<String> {
    let shown = btrfs(&["qgroup", "show", "-pcre", "--raw", "--sync"], &stand.fs.as_ref().unwrap().path());
    let rows = shown.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()) && !line.starts_with("0/5 "));
    rows.map(|row| {
        let fields: Vec<_> = row.split_whitespace().collect();
        format!("{} {} {} {}", fields[0], fields[3], fields[4], fields[5])
    })
    .collect()
}

fn id(path: &std::path::Path) -> String {
    run(Command::new("btrfs").args(["inspect-internal", "rootid"]).arg(path)).unwrap().trim().to_owned()
}

#[test]
fn a_base_larger_than_the_limit_is_refused_or_the_limit_grows() {
    let stand = need!(sized(QuotaPolicy::Enable, ByteSize::mib(8)));
    let base = stand.ensure(&stand.image("large.tar", &large(20)));
    let before = (list(&stand.root("c1")), groups(&stand));
    for round in 0..2 {
        let error = failed(from_base(&base).run(&mut stand.subvolume("c1")));
        assert_eq!(error.kind(), ErrorKind::NoSpace(Space::Quota), "{}", error.report());
        assert!(matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack), "{}", error.report());
        assert!(error.remedy().is_some());
        stand.expect_volumes(&["c1"]);
        stand.settle();
        assert_eq!((list(&stand.root("c1")), groups(&stand)), before, "round {round}");
    }
    let error = failed(from_base(&base).max_size(ByteSize::mib(16)).run(&mut stand.subvolume("c1")));
    assert_eq!(error.kind(), ErrorKind::NoSpace(Space::Quota), "{}", error.report());
    stand.settle();
    assert_eq!((list(&stand.root("c1")), groups(&stand)), before);

    let report = shown(from_base(&base).max_size(ByteSize::mib(200)).run(&mut stand.subvolume("c1")));
    assert_eq!(report.grown, Some(ByteSize::mib(72)), "{report}");
    let quota = stand.subvolume("c1").quota().unwrap().unwrap();
    assert_eq!(quota.max_referenced, Some(ByteSize::mib(72)));
    assert!(quota.referenced >= ByteSize::mib(20) && quota.consistent, "{quota:?}");
    // And holds.
    let error = std::fs::write(stand.root("c1").join("more"), vec![7; 60 << 20]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EDQUOT as i32));
    stand.expect_volumes(&["c1"]);
}

#[test]
fn an_in_place_rebuild_from_too_large_a_base_says_what_is_left() {
    let stand = need!(sized(QuotaPolicy::Enable, ByteSize::mib(8)));
    let base = stand.ensure(&stand.image("large.tar", &large(20)));
    let error = failed(from_base(&base).strategy(Strategy::InPlace).run(&mut stand.subvolume("c1")));
    assert_eq!(error.kind(), ErrorKind::NoSpace(Space::Quota), "{}", error.report());
    // Whatever it is, it is what it says, and the next one mends it.
    match error.outcome() {
        Outcome::Untouched | Outcome::RolledBack => assert!(stand.root("c1/old").exists(), "{}", error.report()),
        outcome => assert_eq!((outcome, stand.root("c1").exists()), (Outcome::NoRoot, false), "{}", error.report()),
    }
    shown(from_base(&base).size(ByteSize::mib(64)).run(&mut stand.subvolume("c1")));
    stand.expect_volumes(&["c1"]);
}

#[test]
fn limits_and_groups_are_kept_and_none_is_left() {
    for policy in POLICIES {
        let stand = need!(sized(policy, ByteSize::mib(64)));
        let fs = stand.fs.as_ref().unwrap().path();
        let base = stand.ensure(&stand.image("large.tar", &large(3)));
        for (limit, flag) in [("80M", None), ("70M", Some("-e"))] {
            run(Command::new("btrfs").args(["qgroup", "limit"]).args(flag).arg(limit).arg(stand.root("c1"))).unwrap();
        }
        run(Command::new("btrfs").args(["qgroup", "create", "1/7"]).arg(&fs)).unwrap();
        let own = format!("0/{}", id(&stand.root("c1")));
        run(Command::new("btrfs").args(["qgroup", "assign", "--no-rescan", &own, "1/7"]).arg(&fs)).unwrap();
        if policy == QuotaPolicy::Enable {
            btrfs(&["quota", "rescan", "-w"], &fs);
        }
        for round in 0..3 {
            let report = stand.rebuild("c1", &base);
            if policy == QuotaPolicy::Enable {
                // What the clone shares is new to the group: only a count of all can tell how much it is. It is begun, and told.
                let [warning] = &report.warnings[..] else { panic!("{report}") };
                assert!(warning.to_string().contains("counted afresh") && !warning.to_string().contains("rescan"), "{warning}");
                while btrfs(&["quota", "rescan", "-s"], &fs).contains("running") {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            } else {
                assert!(report.warnings.is_empty(), "{report}");
            }
            stand.settle();
            let mut expected = vec![
                format!("0/{} none none -", id(&stand.path_of(&base))),
                format!("0/{} {} {} 1/7", id(&stand.root("c1")), 80 << 20, 70 << 20),
                "1/7 none none -".to_owned(),
            ];
            let mut found = groups(&stand);
            if policy == QuotaPolicy::Enable {
                // A root that the kernel gives back while it counts afresh leaves it a group, which is the kernel's own to clear.
                btrfs(&["qgroup", "clear-stale"], &fs);
                found = groups(&stand);
            }
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "{policy:?}, round {round}");
            let quota = stand.subvolume("c1").quota().unwrap().unwrap();
            assert!(quota.consistent, "{policy:?}, round {round}");
            assert_eq!(quota.parents, ["1/7"]);
        }
        // What a clone shares with its base is counted in full by qgroups; what simple quotas count is what was first written in it.
        let quota = stand.subvolume("c1").quota().unwrap().unwrap();
        assert_eq!(quota.referenced >= ByteSize::mib(3), policy == QuotaPolicy::Enable, "{policy:?}: {quota:?}");
        assert_eq!(stand.volume("c1").usage(UsageDetail::Free).unwrap().size, Some(ByteSize::mib(70)));
        // With the base goes its group, once nothing is counted for it any more; the volume stays as it is.
        let name = base.name().clone();
        drop(base);
        shown(stand.bases().remove(&name, &super::soon()));
        stand.settle();
        assert!(stand.root("c1").join("part-2").exists());
        let quota = stand.subvolume("c1").quota().unwrap().unwrap();
        assert!(quota.consistent && quota.max_exclusive == Some(ByteSize::mib(70)), "{policy:?}: {quota:?}");
        if policy == QuotaPolicy::Enable {
            assert_eq!(groups(&stand).len(), 2, "{:?}", groups(&stand));
        }
    }
}

#[test]
fn a_size_needs_quotas() {
    need!(is_root());
    let stand = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 192));
    let base = stand.ensure(&stand.image("a.tar", &tree("a")));
    let sized = || from_base(&base).size(ByteSize::mib(50));
    let error = failed(sized().run(&mut stand.subvolume("c1")));
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unsupported, Outcome::Untouched), "{}", error.report());
    stand.expect_volumes(&[]);
    for policy in POLICIES {
        let report = shown(sized().run(&mut stand.subvolume("c1").with_quota(policy)));
        assert!(report.warnings.is_empty(), "{report}");
        assert_eq!(stand.subvolume("c1").quota().unwrap().unwrap().max_referenced, Some(ByteSize::mib(50)), "{policy:?}");
        btrfs(&["quota", "disable"], &stand.fs.as_ref().unwrap().path());
    }
}
