//! A rebuild from a base on a thin volume against the commands that Incus runs for one, in turns, with each file system.
//!
//! `benches/run --lvm` runs it in the lab; it makes a volume group on the disk that `REROOT_TEST_GROUP_DISK` names.

#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use reroot::base::BaseOptions;
use reroot::filesystem::{FilesystemKind, Recipe};
use reroot::lvm::{LvmBases, LvmVolume};
use reroot::volume::UsageDetail;
use reroot::{Bases, ByteSize, Image, Rebuild, RebuildableVolume, Report};

const GROUP: &str = "reroot-bench";
const SIZE: ByteSize = ByteSize::gib(2);
const TURNS: usize = 15;

fn main() {
    let disk = std::env::var("REROOT_TEST_GROUP_DISK");
    let disk = disk.expect("REROOT_TEST_GROUP_DISK names a disk for the group; benches/run --lvm sets it");
    let image = std::env::var_os("REROOT_ROOTFS").map(|dir| PathBuf::from(dir).join("rootfs.tar"));
    let image = image.expect("REROOT_ROOTFS names a folder that tests/rootfs made; benches/run --lvm sets it");
    run(&format!("vgcreate --yes {GROUP} {disk}"));
    run(&format!("lvcreate --yes --type thin-pool --size 3G --poolmetadatasize 32M --name pool {GROUP}"));
    for kind in [FilesystemKind::Ext4, FilesystemKind::Xfs, FilesystemKind::Btrfs] {
        clones(kind, &image);
    }
    run(&format!("vgremove --yes {GROUP}"));
}

/// From a volume that is as a stopped instance leaves it to one that is so again.
fn clones(kind: FilesystemKind, image: &Path) {
    let pool = LvmBases::open(&format!("{GROUP}/pool")).unwrap().with_recipe(Recipe::new(kind)).with_size(SIZE);
    let bases = Bases::new(pool);
    let base = bases.ensure(Image::open(image).unwrap(), &BaseOptions::default()).unwrap();
    let origin = base.id().name().to_str().unwrap().to_owned();
    let (ours, theirs) = (format!("{GROUP}/ours-{kind}"), format!("{GROUP}/theirs-{kind}"));
    let mut volume = LvmVolume::open(&ours).unwrap().with_size(SIZE).with_recipe(Recipe::new(kind));
    Rebuild::from_base(&base).run(&mut volume).unwrap();
    run(&format!("lvchange --setactivationskip y {ours}"));
    run(&format!("lvchange --activate n {ours}"));
    run(&format!("lvcreate --name theirs-{kind} --snapshot {origin} --setactivationskip y -prw"));
    let place = tempfile::tempdir().unwrap();
    let (mut reroot, mut incus) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        let begun = Instant::now();
        let report = Rebuild::from_base(&base).run(&mut volume).unwrap();
        let took = begun.elapsed();
        assert!(report.warnings.is_empty(), "{report}");

        let begun = Instant::now();
        rebuild_as_incus(&theirs, &origin, kind, place.path());
        let took_theirs = begun.elapsed();
        if turn > 0 {
            reroot.push(took);
            incus.push(took_theirs);
        }
        if turn == TURNS {
            show_phases(&report);
        }
    }
    let (ours_ms, theirs_ms) = (median(reroot), median(incus));
    println!(
        "{kind}: a rebuild from a base: {ours_ms:.0} ms, with the commands {theirs_ms:.0} ms: {:.2} of the time",
        ours_ms / theirs_ms
    );
    if kind == FilesystemKind::Ext4 {
        parts(&mut volume);
    }
    drop(volume);
    run(&format!("lvremove --yes {ours} {theirs}"));
    let name = base.name().clone();
    drop(base);
    bases.remove(&name, &reroot::Wait::new(Duration::from_secs(10), reroot::CancelToken::new())).unwrap();
}

/// What a trace of `incus rebuild` (6.0.4) shows on a thin pool, with the image cached and the instance stopped. That of ext4; for the others Incus makes a new
/// UUID as well.
fn rebuild_as_incus(volume: &str, origin: &str, kind: FilesystemKind, place: &Path) {
    let exists = |what: &str| run(&format!("lvs --noheadings -o lv_name {what}"));
    let size = |what: &str| run(&format!("lvs --noheadings --nosuffix --units b -o lv_size {what}"));
    let activate = || run(&format!("lvchange --activate y --ignoreactivationskip {volume}"));
    let deactivate = || run(&format!("lvchange --activate n --ignoreactivationskip {volume}"));
    let visit = || {
        let device = format!("/dev/{volume}");
        nix::mount::mount(Some(device.as_str()), place, Some(kind.to_string().as_str()), MsFlags::empty(), Some("discard"))
            .unwrap();
        nix::mount::umount(place).unwrap();
    };
    exists(volume);
    exists(GROUP);
    exists(volume);
    run(&format!("lvremove -f {volume}"));
    exists(origin);
    size(origin);
    exists(GROUP);
    run(&format!("lvcreate --name theirs-{kind} --snapshot {origin} --setactivationskip y -prw"));
    activate();
    match kind {
        FilesystemKind::Xfs => run(&format!("xfs_admin -U generate /dev/{volume}")),
        FilesystemKind::Btrfs => {
            run(&format!("btrfs rescue zero-log /dev/{volume}"));
            run(&format!("btrfstune -f -u /dev/{volume}"));
        }
        _ => {}
    }
    visit();
    deactivate();
    size(volume);
    activate();
    visit();
    deactivate();
}

/// What a rebuild asks, one by one.
fn parts(volume: &mut LvmVolume) {
    let mut part = |what: &str, ask: &mut dyn FnMut(&mut LvmVolume)| {
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
    part("capture", &mut |volume| volume.capture().unwrap());
}

fn show_phases(report: &Report) {
    for phase in &report.phases {
        println!("    {:<8} {:>7.1} ms", phase.phase.to_string(), phase.elapsed.as_secs_f64() * 1e3);
    }
}

/// In ms.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// Runs a command whose words hold no spaces.
fn run(line: &str) {
    let words: Vec<_> = line.split(' ').collect();
    let status = Command::new(words[0]).args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{line}");
}
