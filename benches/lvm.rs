//! A rebuild from a base on a thin volume against the commands that Incus runs for one, in turns, with each file system.
//!
//! `benches/run --lvm` runs it in the lab; it makes a volume group on the disk that `REROOT_TEST_GROUP_DISK` names.

#![allow(missing_docs)]

mod common;

use std::path::Path;
use std::time::Duration;

use nix::mount::MsFlags;
use reroot::base::BaseOptions;
use reroot::filesystem::{FilesystemKind, Recipe};
use reroot::lvm::{LvmBases, LvmVolume};
use reroot::{Bases, ByteSize, Image, Rebuild};

use common::{TURNS, compare, parts, run, show_phases, timed};

const GROUP: &str = "reroot-bench";
const SIZE: ByteSize = ByteSize::gib(2);

fn main() {
    let disk = std::env::var("REROOT_TEST_GROUP_DISK");
    let disk = disk.expect("REROOT_TEST_GROUP_DISK names a disk for the group; benches/run --lvm sets it");
    let image = common::image();
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
        let mut report = None;
        let took = timed(|| report = Some(Rebuild::from_base(&base).run(&mut volume).unwrap()));
        let report = report.unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        let took_theirs = timed(|| rebuild_as_incus(&theirs, &origin, kind, place.path()));
        if turn > 0 {
            reroot.push(took);
            incus.push(took_theirs);
        }
        if turn == TURNS {
            show_phases(&report);
        }
    }
    compare(&format!("{kind}: a rebuild from a base"), reroot, incus);
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
