//! A rebuild on ZFS against the `zfs` commands that Incus runs for one, in turns: from a base, and with a thousand snapshots to purge.
//!
//! `benches/run --zfs` runs it in the lab; it makes a pool on the disk that `REROOT_TEST_DISK` names.

#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount, umount};
use reroot::base::BaseOptions;
use reroot::volume::UsageDetail;
use reroot::zfs::{ZfsBases, ZfsVolume};
use reroot::{Bases, Image, Rebuild, RebuildableVolume, Report, SnapshotPolicy};

const POOL: &str = "reroot-bench";
const TURNS: usize = 15;
const SNAPSHOTS: usize = 1000;

fn main() {
    let disk = std::env::var("REROOT_TEST_DISK").expect("REROOT_TEST_DISK names a disk for the pool; benches/run --zfs sets it");
    let image = std::env::var_os("REROOT_ROOTFS").map(|dir| PathBuf::from(dir).join("rootfs.tar"));
    let image = image.expect("REROOT_ROOTFS names a folder that tests/rootfs made; benches/run --zfs sets it");
    // With what the image has: otherwise every rebuild from its base says what was lost.
    run(&["zpool", "create", "-f", "-m", "none", "-O", "acltype=posix", "-O", "xattr=sa", POOL, &disk]);
    run(&["zfs", "create", &format!("{POOL}/containers")]);
    clones(&image);
    purges();
    run(&["zpool", "destroy", POOL]);
}

/// A rebuild from a base that was made of a root filesystem.
fn clones(image: &Path) {
    let bases = Bases::new(ZfsBases::open(POOL).unwrap());
    let base = bases.ensure(Image::open(image).unwrap(), &BaseOptions::default()).unwrap();
    let origin = format!("{}@reroot-base", base.id().name().to_str().unwrap());
    let (ours, theirs) = (format!("{POOL}/containers/ours"), format!("{POOL}/containers/theirs"));
    let mut volume = ZfsVolume::open(&ours).unwrap();
    Rebuild::from_base(&base).run(&mut volume).unwrap();
    run(&["zfs", "clone", "-o", "mountpoint=legacy", &origin, &theirs]);
    run(&["zfs", "set", "refquota=10G", &ours]);
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
        run(&["zfs", "destroy", "-r", &theirs]);
        run(&["zfs", "clone", &origin, &theirs]);
        run(&["zfs", "set", "mountpoint=legacy", "canmount=noauto", &theirs]);
        run(&["zfs", "set", "refquota=10G", &theirs]);
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
}

/// What a rebuild asks, one by one.
fn parts(volume: &mut ZfsVolume) {
    let mut part = |what: &str, ask: &mut dyn FnMut(&mut ZfsVolume)| {
        let times = (0..TURNS).map(|_| {
            let begun = Instant::now();
            ask(volume);
            begun.elapsed()
        });
        println!("    {what:<10} {:>6.1} ms", median(times.collect()));
    };
    part("names", &mut |volume| _ = volume.names().unwrap());
    part("holders", &mut |volume| drop(volume.holders().unwrap()));
    part("snapshots", &mut |volume| drop(volume.snapshots().unwrap()));
    part("usage", &mut |volume| _ = volume.usage(UsageDetail::Free).unwrap());
    part("record", &mut |volume| drop(volume.record().unwrap()));
    part("mount", &mut |volume| {
        let place = Path::new("/mnt");
        show(volume.dataset().as_str(), place);
        umount(place).unwrap();
    });
    part("capture", &mut |volume| volume.capture().unwrap());
}

/// Snapshots that go with an old root.
fn purges() {
    let name = format!("{POOL}/containers/purged");
    run(&["zfs", "create", "-o", "mountpoint=legacy", &name]);
    let snapshot = |count: usize| (0..count).for_each(|number| run(&["zfs", "snapshot", &format!("{name}@s{number}")]));
    snapshot(SNAPSHOTS);
    let mut volume = ZfsVolume::open(&name).unwrap();
    let begun = Instant::now();
    let report = Rebuild::new(Image::empty()).snapshots(SnapshotPolicy::Purge).run(&mut volume).unwrap();
    let ours = begun.elapsed();
    assert_eq!(report.purged.len(), SNAPSHOTS);
    show_phases(&report);
    snapshot(SNAPSHOTS);
    let begun = Instant::now();
    (0..SNAPSHOTS).for_each(|number| run(&["zfs", "destroy", &format!("{name}@s{number}")]));
    compare("a whole rebuild that purges 1,000 snapshots, and `zfs destroy` of as many", vec![ours], vec![begun.elapsed()]);
}

fn show_phases(report: &Report) {
    for phase in &report.phases {
        println!("    {:<8} {:>7.1} ms", phase.phase.to_string(), phase.elapsed.as_secs_f64() * 1e3);
    }
}

fn show(dataset: &str, place: &Path) {
    mount(Some(dataset), place, Some("zfs"), MsFlags::empty(), None::<&str>).unwrap();
}

fn compare(what: &str, ours: Vec<Duration>, theirs: Vec<Duration>) {
    let (ours, theirs) = (median(ours), median(theirs));
    println!("{what}: {ours:.1} ms, with the commands {theirs:.1} ms: {:.1} times as long", theirs / ours);
}

/// In ms.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{words:?}");
}
