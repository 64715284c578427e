//! A rebuild from a base on btrfs, against the least that any program could do for it: clone, exchange, sync.
//!
//! Needs root. The file system lies in memory, in a mount namespace of its own, so that nothing stays behind, whatever ends it.

// The floor is the kernel's own calls.
#![allow(unsafe_code, missing_docs)]

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::Criterion;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use reroot::base::BaseOptions;
use reroot::btrfs::{BtrfsBases, BtrfsVolume};
use reroot::{Bases, CancelToken, Dispose, Image, Rebuild, RebuildableVolume, Sha256, Wait, recover};

/// `struct btrfs_ioctl_vol_args_v2` of linux/btrfs.h, as far as a snapshot takes it.
#[repr(C)]
struct VolArgs {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

nix::ioctl_write_ptr!(snapshot, 0x94, 23, VolArgs);
/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct DestroyArgs {
    fd: i64,
    name: [u8; 4088],
}
nix::ioctl_write_ptr!(destroy, 0x94, 15, DestroyArgs);

const STAGED: &str = "floor.staged";
const LIVE: &str = "floor";

fn main() {
    let image = std::env::var_os("REROOT_ROOTFS").map(|dir| PathBuf::from(dir).join("rootfs.tar.zst"));
    let image = image.expect("REROOT_ROOTFS names a folder that tests/rootfs made; benches/run sets it");
    let pool = pool();
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));

    let bases = Bases::new(BtrfsBases::open(&pool).unwrap());
    let base = bases.ensure(Image::open(&image).unwrap(), &BaseOptions::default()).unwrap();
    let containers = pool.join("containers");
    fs::create_dir(&containers).unwrap();
    let mut volume = BtrfsVolume::open(containers.join("c1")).unwrap();
    Rebuild::from_base(&base).run(&mut volume).unwrap();

    let floor = Floor::new(&pool, Path::new(base.id().name()));
    let rebuild = |volume: &mut BtrfsVolume, dispose| {
        let begun = Instant::now();
        Rebuild::from_base(&base).dispose(dispose).run(volume).unwrap();
        begun.elapsed()
    };
    // The kernel takes old roots apart by and by. Each turn begins when it has nothing left to do, or one would pay for the other.
    let settle = |volume: &mut BtrfsVolume| {
        recover(volume, &no_wait()).unwrap();
        volume.wait_reclaimed(&Wait::new(Duration::from_secs(30), CancelToken::new())).unwrap();
    };
    // In turns, so that all see the same machine.
    for round in 1..=3 {
        let mut group = criterion.benchmark_group(format!("round {round}"));
        group.bench_function("floor: clone, exchange, sync", |bencher| {
            bencher.iter_custom(|times| {
                let once = |_| {
                    settle(&mut volume);
                    floor.once()
                };
                (0..times).map(once).sum()
            });
        });
        for (name, dispose) in [("rebuild, old root destroyed", Dispose::Wait), ("rebuild, old root left", Dispose::Detach)] {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|times| {
                    let once = |_| {
                        settle(&mut volume);
                        rebuild(&mut volume, dispose)
                    };
                    (0..times).map(once).sum()
                });
            });
        }
        group.finish();
    }
    let mut parts = criterion.benchmark_group("parts");
    parts.bench_function("find the base by the image's file", |bencher| {
        bencher.iter(|| bases.ensure(Image::open(&image).unwrap(), &BaseOptions::default()).unwrap());
    });
    let digest: Sha256 = base.name().image();
    parts.bench_function("find the base by a digest", |bencher| {
        bencher.iter(|| {
            bases.ensure(Image::open(&image).unwrap().with_sha256(digest), &BaseOptions::default()).unwrap();
        });
    });
    parts.bench_function("who holds the volume", |bencher| bencher.iter(|| volume.holders().unwrap()));
    parts.bench_function("snapshots", |bencher| bencher.iter(|| volume.snapshots().unwrap()));
    parts.finish();
    criterion.final_summary();
}

fn no_wait() -> Wait {
    Wait::new(Duration::ZERO, CancelToken::new())
}

/// The floor's own volume beside the library's.
struct Floor {
    dir: File,
    base: File,
}

impl Floor {
    fn new(pool: &Path, base: &Path) -> Self {
        let dir = pool.join("floor-volumes");
        fs::create_dir_all(&dir).unwrap();
        let floor = Floor { dir: File::open(dir).unwrap(), base: File::open(base).unwrap() };
        if fs::metadata(pool.join("floor-volumes").join(LIVE)).is_err() {
            floor.clone_base(LIVE);
        }
        floor
    }

    fn clone_base(&self, name: &str) {
        let mut args = VolArgs { fd: self.base.as_raw_fd().into(), transid: 0, flags: 0, unused: [0; 4], name: [0; 4040] };
        args.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the argument is what the request wants.
        unsafe { snapshot(self.dir.as_raw_fd(), &args) }.unwrap();
    }

    /// The time of one, without the removal of what it leaves.
    fn once(&self) -> Duration {
        let begun = Instant::now();
        self.clone_base(STAGED);
        let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
        nix::fcntl::renameat2(self.dir.as_fd(), STAGED, self.dir.as_fd(), LIVE, flags).unwrap();
        self.dir.sync_all().unwrap();
        let took = begun.elapsed();
        let mut args = DestroyArgs { fd: 0, name: [0; 4088] };
        args.name[..STAGED.len()].copy_from_slice(STAGED.as_bytes());
        // SAFETY: the argument is what the request wants.
        unsafe { destroy(self.dir.as_raw_fd(), &args) }.unwrap();
        took
    }
}

/// A btrfs in memory that goes with this process.
fn pool() -> PathBuf {
    unshare(CloneFlags::CLONE_NEWNS).expect("this benchmark needs root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let dir = PathBuf::from("/mnt");
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=3g")).unwrap();
    let (image, pool) = (dir.join("image"), dir.join("pool"));
    File::create(&image).unwrap().set_len(4 << 30).unwrap();
    fs::create_dir(&pool).unwrap();
    for command in [vec!["mkfs.btrfs", "--quiet"], vec!["mount", "-o", "loop"]] {
        let mut run = Command::new(command[0]);
        run.args(&command[1..]).arg(&image);
        if command[0] == "mount" {
            run.arg(&pool);
        }
        assert!(run.status().unwrap().success(), "{command:?}");
    }
    pool
}
