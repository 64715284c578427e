//! A rebuild on ZFS against the `zfs` commands that Incus runs for one, in turns: from a base, and with a thousand snapshots to purge.
//!
//! `benches/run --zfs` runs it in the lab; it makes a pool on the disk that `REROOT_TEST_DISK` names.

#![allow(missing_docs)]

mod common;

use std::path::Path;
use std::time::Instant;

use nix::mount::{MsFlags, mount, umount};
use reroot::base::BaseOptions;
use reroot::zfs::{ZfsBases, ZfsVolume};
use reroot::{Bases, Image, Rebuild, SnapshotPolicy};

use common::{TURNS, compare, part, parts, run, show_phases};

const POOL: &str = "reroot-bench";
const SNAPSHOTS: usize = 1000;

fn main() {
    let disk = std::env::var("REROOT_TEST_DISK").expect("REROOT_TEST_DISK names a disk for the pool; benches/run --zfs sets it");
    let image = common::image();
    // With what the image has: otherwise every rebuild from its base says what was lost.
    run(&format!("zpool create -f -m none -O acltype=posix -O xattr=sa {POOL} {disk}"));
    run(&format!("zfs create {POOL}/containers"));
    clones(&image);
    purges();
    run(&format!("zpool destroy {POOL}"));
}

/// A rebuild from a base that was made of a root filesystem.
fn clones(image: &Path) {
    let bases = Bases::new(ZfsBases::open(POOL).unwrap());
    let base = bases.ensure(Image::open(image).unwrap(), &BaseOptions::default()).unwrap();
    let origin = format!("{}@reroot-base", base.id().name().to_str().unwrap());
    let (ours, theirs) = (format!("{POOL}/containers/ours"), format!("{POOL}/containers/theirs"));
    let mut volume = ZfsVolume::open(&ours).unwrap();
    Rebuild::from_base(&base).run(&mut volume).unwrap();
    run(&format!("zfs clone -o mountpoint=legacy {origin} {theirs}"));
    run(&format!("zfs set refquota=10G {ours}"));
    let place = tempfile::tempdir().unwrap();
    let (mut reroot, mut incus) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        let begun = Instant::now();
        let report = Rebuild::from_base(&base).run(&mut volume).unwrap();
        show(&ours, place.path());
        let took = begun.elapsed();
        assert!(report.warnings.is_empty(), "{report}");
        umount(place.path()).unwrap();

        let begun = Instant::now();
        run(&format!("zfs destroy -r {theirs}"));
        run(&format!("zfs clone {origin} {theirs}"));
        run(&format!("zfs set mountpoint=legacy canmount=noauto {theirs}"));
        run(&format!("zfs set refquota=10G {theirs}"));
        show(&theirs, place.path());
        let took_theirs = begun.elapsed();
        umount(place.path()).unwrap();
        if turn > 0 {
            reroot.push(took);
            incus.push(took_theirs);
        }
        if turn == TURNS {
            show_phases(&report);
        }
    }
    compare("rebuild from a base, and mount it", reroot, incus);
    parts(&mut volume);
    part("mount", || {
        let place = Path::new("/mnt");
        show(volume.dataset().as_str(), place);
        umount(place).unwrap();
    });
}

/// Snapshots that go with an old root.
fn purges() {
    let name = format!("{POOL}/containers/purged");
    run(&format!("zfs create -o mountpoint=legacy {name}"));
    let snapshot = |count: usize| (0..count).for_each(|number| run(&format!("zfs snapshot {name}@s{number}")));
    snapshot(SNAPSHOTS);
    let mut volume = ZfsVolume::open(&name).unwrap();
    let begun = Instant::now();
    let report = Rebuild::new(Image::empty()).snapshots(SnapshotPolicy::Purge).run(&mut volume).unwrap();
    let ours = begun.elapsed();
    assert_eq!(report.purged.len(), SNAPSHOTS);
    show_phases(&report);
    snapshot(SNAPSHOTS);
    let begun = Instant::now();
    (0..SNAPSHOTS).for_each(|number| run(&format!("zfs destroy {name}@s{number}")));
    compare("a whole rebuild that purges 1,000 snapshots, and `zfs destroy` of as many", vec![ours], vec![begun.elapsed()]);
}

fn show(dataset: &str, place: &Path) {
    mount(Some(dataset), place, Some("zfs"), MsFlags::empty(), None::<&str>).unwrap();
}
