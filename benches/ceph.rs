//! A rebuild from a base on an RBD image against the commands that Incus runs for one, in turns, with each file system; and how it grows with the image's size.
//!
//! `benches/run --ceph` runs it in the lab, in the pool `rbd` of its cluster.

#![allow(missing_docs)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::MsFlags;
use reroot::base::BaseOptions;
use reroot::ceph::{CephBases, CephVolume};
use reroot::filesystem::{FilesystemKind, Recipe};
use reroot::{Base, Bases, ByteSize, CancelToken, Image, Rebuild, Report, Wait};

use common::{TURNS, compare, median, parts, run, show_phases, timed};

const POOL: &str = "rbd";
const SIZE: ByteSize = ByteSize::gib(2);

fn main() {
    assert!(std::env::var_os("REROOT_LAB").is_some(), "it fills the pool {POOL} of the lab's cluster: benches/run --ceph");
    let image = common::image();
    for kind in [FilesystemKind::Ext4, FilesystemKind::Xfs] {
        clones(kind, &image);
    }
    sizes();
}

/// Has a base made, shows it, and removes it.
fn with_base(kind: FilesystemKind, size: ByteSize, image: Image, look: impl FnOnce(&Base)) {
    let pool = CephBases::open(POOL).unwrap().with_recipe(Recipe::new(kind)).with_size(size);
    let bases = Bases::new(pool);
    let base = bases.ensure(image, &BaseOptions::default()).unwrap();
    look(&base);
    let name = base.name().clone();
    drop(base);
    bases.remove(&name, &Wait::new(Duration::from_secs(30), CancelToken::new())).unwrap();
}

fn rebuild(base: &Base, volume: &mut CephVolume) -> (Duration, Report) {
    let mut report = None;
    let took = timed(|| report = Some(Rebuild::from_base(base).run(volume).unwrap()));
    let report = report.unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    (took, report)
}

/// From a volume that is as a stopped instance leaves it to one that is so again.
fn clones(kind: FilesystemKind, image: &Path) {
    with_base(kind, SIZE, Image::open(image).unwrap(), |base| {
        let (ours, theirs) = (format!("ours-{kind}"), format!("theirs-{kind}"));
        let mut volume = CephVolume::open(&format!("{POOL}/{ours}")).unwrap().with_size(SIZE).with_recipe(Recipe::new(kind));
        rebuild(base, &mut volume);
        // The library's base is theirs too, by the snapshot that volumes are cloned from.
        let origin = parent(&ours);
        rbd(&format!("snap protect {origin}"));
        rbd(&format!("--image-feature layering clone {origin} {POOL}/{theirs}"));
        let place = tempfile::tempdir().unwrap();
        let (mut reroot, mut incus) = (Vec::new(), Vec::new());
        for turn in 0..=TURNS {
            let (took, report) = rebuild(base, &mut volume);
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
        [ours, theirs].iter().for_each(|image| rbd(&format!("--no-progress rm {POOL}/{image}")));
        rbd(&format!("snap unprotect {origin}"));
    });
}

/// What `incus rebuild` (6.0) runs on a pool of the kind `ceph`, with the image cached and the instance stopped, by its source. The image says which filesystem
/// it is; ext4 keeps its UUID.
fn rebuild_as_incus(volume: &str, origin: &str, kind: FilesystemKind, place: &Path) {
    let cached = origin.split(['/', '@']).nth(1).unwrap();
    let device = format!("/dev/rbd/{POOL}/{volume}");
    let visit = || {
        nix::mount::mount(Some(device.as_str()), place, Some(kind.to_string().as_str()), MsFlags::empty(), Some("discard"))
            .unwrap();
        nix::mount::umount(place).unwrap();
    };
    rbd(&format!("info {volume}"));
    rbd(&format!("--format json snap ls {volume}"));
    rbd(&format!("info {volume}"));
    unmap_again(volume);
    rbd(&format!("--no-progress rm {volume}"));
    rbd(&format!("info {cached}"));
    rbd(&format!("--image-feature layering clone {origin} {POOL}/{volume}"));
    rbd(&format!("map {volume}"));
    if kind == FilesystemKind::Xfs {
        run(&format!("xfs_admin -U generate {device}"));
    }
    visit();
    rbd(&format!("unmap {volume}"));
    unmap_again(volume);
    // Once more, for the instance's backup file.
    rbd(&format!("map {volume}"));
    visit();
    rbd(&format!("unmap {volume}"));
}

/// It unmaps until it is told that nothing is mapped.
fn unmap_again(volume: &str) {
    let words = ["--id", "admin", "--cluster", "ceph", "--pool", POOL, "unmap", volume];
    let status = Command::new("rbd").args(words).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(22));
}

/// Runs `rbd` as it does.
fn rbd(words: &str) {
    run(&format!("rbd --id admin --cluster ceph --pool {POOL} {words}"));
}

/// The snapshot that an image was cloned from.
fn parent(image: &str) -> String {
    let output = Command::new("rbd").args(["info", "--format", "json", "--pool", POOL, image]).output().unwrap();
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let word = |name: &str| info["parent"][name].as_str().unwrap().to_owned();
    format!("{}/{}@{}", word("pool"), word("image"), word("snapshot"))
}

/// One image in bases of different sizes, and volumes as large.
fn sizes() {
    for size in [ByteSize::gib(1), ByteSize::gib(32)] {
        let sample = Image::open(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/sample/sample.tar.zst")).unwrap();
        with_base(FilesystemKind::Ext4, size, sample, |base| {
            let name = format!("{POOL}/sized");
            let mut volume = CephVolume::open(&name).unwrap().with_size(size);
            rebuild(base, &mut volume);
            let (times, mut reports): (Vec<_>, Vec<_>) = (0..TURNS).map(|_| rebuild(base, &mut volume)).unzip();
            println!("a volume of {size}: {:.0} ms", median(times));
            show_phases(&reports.remove(0));
            drop(volume);
            rbd(&format!("--no-progress rm {name}"));
        });
    }
}
