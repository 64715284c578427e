//! A rebuild from a base on btrfs, against the least that any program could do for it: clone, exchange, sync. With `--tables`: how its time depends on
//! the size of the image, on the number of clones there are, and on quotas.
//!
//! Needs root. The file system lies in memory, in a mount namespace of its own, so that nothing stays behind, whatever ends it.

// The floor is the kernel's own calls.
#![allow(unsafe_code, missing_docs)]

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criterion::Criterion;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use reroot::base::BaseOptions;
use reroot::btrfs::{BtrfsBases, BtrfsVolume};
use reroot::{Base, Bases, CancelToken, Dispose, Image, Rebuild, RebuildableVolume, Sha256, Wait, recover};

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
    let image = std::env::var_os("REROOT_ROOTFS").map(|dir| PathBuf::from(dir).join("rootfs.tar"));
    let image = image.expect("REROOT_ROOTFS names a folder that tests/rootfs made; benches/run --base sets it");
    let memory = memory();
    if std::env::args().any(|argument| argument == "--tables") {
        return tables(&memory, &image);
    }
    let pool = btrfs(&memory, "pool", &[]);
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));

    let bases = Bases::new(BtrfsBases::open(&pool).unwrap());
    let base = make_base(&bases, &image);
    let mut volume = BtrfsVolume::open(pool.join("containers/c1")).unwrap();
    Rebuild::from_base(&base).run(&mut volume).unwrap();
    let floor = Floor::new(&pool, Path::new(base.id().name()));
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
                bencher.iter_custom(|times| (0..times).map(|_| once(&base, &mut volume, dispose)).sum());
            });
        }
        group.finish();
    }
    let mut parts = criterion.benchmark_group("parts");
    parts.bench_function("find the base by the image's file", |bencher| bencher.iter(|| make_base(&bases, &image)));
    let digest: Sha256 = base.name().image();
    parts.bench_function("find the base by a digest", |bencher| {
        bencher.iter(|| bases.ensure(Image::open(&image).unwrap().with_sha256(digest), &BaseOptions::default()).unwrap());
    });
    parts.bench_function("who holds the volume", |bencher| bencher.iter(|| volume.holders().unwrap()));
    parts.bench_function("snapshots", |bencher| bencher.iter(|| volume.snapshots().unwrap()));
    parts.finish();
    criterion.final_summary();
}

/// How the time of a rebuild depends on what should not matter to it.
fn tables(memory: &Path, image: &Path) {
    let large = memory.join("large.tar");
    ten_times(image, &large);
    println!("median of {TURNS} rebuilds, in ms; the old root is destroyed each time");
    println!("quotas   clones     floor   image of {:>4} MiB   of {:>4} MiB", mib(image), mib(&large));
    for (quotas, how) in
        [("off", &[][..]), ("qgroups", &["btrfs", "quota", "enable"]), ("simple", &["btrfs", "quota", "enable", "--simple"])]
    {
        let pool = btrfs(memory, quotas, how);
        let bases = Bases::new(BtrfsBases::open(&pool).unwrap());
        let [small, large] = [image, &large].map(|image| make_base(&bases, image));
        let floor = Floor::new(&pool, Path::new(small.id().name()));
        let mut made = 0;
        // With qgroups the kernel counts every shared extent anew for every root, and a thousand take it hours.
        let most = if quotas == "qgroups" { 100 } else { 1000 };
        for clones in [1, 10, 100, 300, 1000].into_iter().filter(|&clones| clones <= most) {
            for number in made..clones {
                let mut volume = BtrfsVolume::open(pool.join(format!("containers/clone-{number}"))).unwrap();
                Rebuild::from_base(&small).run(&mut volume).unwrap();
            }
            made = clones;
            let mut volume = BtrfsVolume::open(pool.join("containers/probe")).unwrap();
            let least = median(|| {
                settle(&mut volume);
                floor.once()
            });
            let [small, large] = [&small, &large].map(|base| median(|| once(base, &mut volume, Dispose::Wait)));
            println!("{quotas:<8} {clones:>6}   {least:>7.1}   {small:>17.1}   {large:>11.1}");
        }
        drop((bases, small, large, floor));
        nix::mount::umount(&pool).unwrap();
    }
}

const TURNS: usize = 15;

/// In ms, without the first one.
fn median(mut measure: impl FnMut() -> Duration) -> f64 {
    let mut times: Vec<_> = (0..=TURNS).map(|_| measure()).skip(1).collect();
    times.sort();
    times[TURNS / 2].as_secs_f64() * 1e3
}

/// The time of one rebuild, begun when the kernel is done with what was destroyed before: it takes old roots apart by and by, and one would pay for the
/// other.
fn once(base: &Base, volume: &mut BtrfsVolume, dispose: Dispose) -> Duration {
    settle(volume);
    let begun = Instant::now();
    Rebuild::from_base(base).dispose(dispose).run(volume).unwrap();
    begun.elapsed()
}

fn settle(volume: &mut BtrfsVolume) {
    let wait = Wait::new(Duration::from_secs(60), CancelToken::new());
    recover(volume, &wait).unwrap();
    volume.wait_reclaimed(&wait).unwrap();
}

fn make_base(bases: &Bases, image: &Path) -> Base {
    bases.ensure(Image::open(image).unwrap(), &BaseOptions::default()).unwrap()
}

fn mib(file: &Path) -> u64 {
    fs::metadata(file).unwrap().len() >> 20
}

/// An image with the files of another ten times.
fn ten_times(image: &Path, large: &Path) {
    let mut to = tar::Builder::new(File::create(large).unwrap());
    for copy in 0..10 {
        for entry in tar::Archive::new(File::open(image).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let kind = entry.header().entry_type();
            if !(kind.is_dir() || kind.is_file()) {
                continue;
            }
            let path = Path::new(&format!("copy-{copy}")).join(entry.path().unwrap().strip_prefix(".").unwrap());
            let mut header = entry.header().clone();
            to.append_data(&mut header, path, &mut entry).unwrap();
        }
    }
    to.into_inner().unwrap().sync_all().unwrap();
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

/// A folder in memory that goes with this process.
fn memory() -> PathBuf {
    unshare(CloneFlags::CLONE_NEWNS).expect("this benchmark needs root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let dir = PathBuf::from("/mnt");
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=10g")).unwrap();
    dir
}

/// A btrfs in a file there, with a folder for volumes; `quotas` is a command that is run on it.
fn btrfs(memory: &Path, name: &str, quotas: &[&str]) -> PathBuf {
    let (image, pool) = (memory.join(format!("{name}.btrfs")), memory.join(name));
    File::create(&image).unwrap().set_len(8 << 30).unwrap();
    fs::create_dir(&pool).unwrap();
    run(Command::new("mkfs.btrfs").arg("--quiet").arg(&image));
    run(Command::new("mount").args(["-o", "loop"]).args([&image, &pool]));
    if let [program, arguments @ ..] = quotas {
        run(Command::new(program).args(arguments).arg(&pool));
    }
    fs::create_dir(pool.join("containers")).unwrap();
    pool
}

fn run(command: &mut Command) {
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success(), "{command:?}");
}
