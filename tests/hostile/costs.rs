//! What unpacking costs: memory, descriptors, time.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use reroot::unpack::{Hooks, LossKind, NoHooks, Tally, Threads, UnpackOptions, unpack};

use crate::forge::Forge;

/// Says to a process that it is the one to be measured.
const MEASURED: &str = "REROOT_HOSTILE_COSTS";
const MIB: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(300);

/// Runs `work` in a process of its own, as the test `name` of this file: a peak of memory never falls, and a limit cannot be taken back.
fn in_a_process(name: &str, wrapper: &[&str], work: impl FnOnce()) {
    if std::env::var_os(MEASURED).is_some() {
        return work();
    }
    let exe = std::env::current_exe().unwrap();
    let exe = exe.to_str().unwrap();
    let test = format!("costs::{name}");
    let words: Vec<_> = wrapper.iter().copied().chain([exe, "--exact", &test, "--nocapture", "--test-threads=1"]).collect();
    let mut child = Command::new(words[0]).args(&words[1..]).env(MEASURED, "1").spawn().unwrap();
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if begun.elapsed() > DEADLINE => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{name} takes longer than {DEADLINE:?}");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(status.success(), "{name}: {status}");
}

/// The most memory this process has had so far, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

/// A stream of pieces, each made when it is read.
struct Pieces<F> {
    make: F,
    next: u64,
    count: u64,
    piece: Vec<u8>,
    at: usize,
}

fn pieces<F: FnMut(u64) -> Forge>(count: u64, make: F) -> Pieces<F> {
    Pieces { make, next: 0, count, piece: Vec::new(), at: 0 }
}

impl<F: FnMut(u64) -> Forge> Read for Pieces<F> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.piece.len() && self.next <= self.count {
            self.piece = if self.next < self.count { (self.make)(self.next).without_end() } else { vec![0; 1024] };
            self.next += 1;
            self.at = 0;
        }
        let length = out.len().min(self.piece.len() - self.at);
        out[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// A folder, in memory where there is some: what a disk costs is not measured here.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("reroot-hostile-");
        Folder(builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).unwrap())
    }

    fn open(&self) -> File {
        File::open(self.0.path()).unwrap()
    }
}

impl Drop for Folder {
    /// The standard library would hold a descriptor for each level.
    fn drop(&mut self) {
        let _ = Command::new("rm").args(["-rf", "--"]).arg(self.0.path()).status();
    }
}

#[test]
fn memory_is_for_depth_and_not_for_count() {
    in_a_process("memory_is_for_depth_and_not_for_count", &["env"], || {
        const DIRECTORIES: u64 = 100_000;
        let stream = pieces(DIRECTORIES, |number| {
            let path = format!("d{}/d{}/d{number}", number / 10_000, number / 100);
            Forge::new().dir(&path).file(&format!("{path}/f"), b"")
        });
        let dir = Folder::new();
        let before = peak();
        let unpacked = unpack(stream, dir.open().as_fd(), &UnpackOptions::default(), &mut NoHooks).unwrap();
        let grown = peak() - before;
        println!("{} entries: memory grew by {} KiB", unpacked.tally.entries, grown / 1024);
        assert_eq!(unpacked.tally.entries, 2 * DIRECTORIES);
        assert!(grown < 64 * MIB, "memory grew by {} KiB", grown / 1024);
    });
}

#[test]
fn losses_do_not_fill_memory() {
    in_a_process("losses_do_not_fill_memory", &["env"], || {
        // Namespaces that no kernel knows, each another one.
        let filling = "n".repeat(200);
        let stream = pieces(400, |number| {
            let keys: Vec<_> = (0..200).map(|key| format!("SCHILY.xattr.{filling}{number}-{key}.x")).collect();
            let records: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &b"1"[..])).collect();
            Forge::new().pax(&records).file("f", b"")
        });
        let dir = Folder::new();
        let (before, begun) = (peak(), Instant::now());
        let unpacked = unpack(stream, dir.open().as_fd(), &UnpackOptions::default(), &mut NoHooks).unwrap();
        let lost: u64 = unpacked.losses.iter().filter(|loss| matches!(loss.kind, LossKind::Xattr(_))).map(|loss| loss.count).sum();
        assert_eq!(lost, 80_000, "each is counted");
        let kinds = unpacked.losses.iter().count();
        let (grown, shown) = (peak() - before, unpacked.losses.to_string().len());
        println!("{kinds} kinds in {:?}: memory grew by {} KiB, {shown} bytes to show", begun.elapsed(), grown / 1024);
        assert!(kinds < 40 && shown < 64 << 10, "{kinds} kinds, {shown} bytes to show");
        assert!(grown < 8 * MIB, "memory grew by {} KiB", grown / 1024);
    });
}

/// When each entry has begun.
#[derive(Default)]
struct Begun(Vec<Instant>);

impl Hooks for Begun {
    fn entry(&mut self, _: &Tally) -> reroot::Result<()> {
        self.0.push(Instant::now());
        Ok(())
    }
}

#[test]
fn deep_paths_take_few_descriptors_and_little_time() {
    // One deep path after another, with nothing in common: each is made, and left, from the ground.
    in_a_process("deep_paths_take_few_descriptors_and_little_time", &["prlimit", "--nofile=64"], || {
        const DEPTH: usize = 2000;
        const TURNS: u64 = 20;
        let deep = |name: &str| vec![name; DEPTH].join("/");
        let (a, b) = (deep("a"), deep("b"));
        let stream = pieces(TURNS, |number| {
            let path = format!("{}/f{number}", if number % 2 == 0 { &a } else { &b });
            Forge::new().pax(&[("path", path.as_bytes())]).file("cut", b"x")
        });
        let dir = Folder::new();
        // In one thread, of which each entry takes its time.
        let options = UnpackOptions::default().with_threads(Threads::Caller);
        let mut begun = Begun::default();
        let unpacked =
            unpack(stream, dir.open().as_fd(), &options, &mut begun).unwrap_or_else(|error| panic!("{}", error.report()));
        assert_eq!(unpacked.tally.entries, TURNS);
        // The fastest turn, but for the first, which leaves nothing: the machine has other things to do too.
        let fastest = begun.0.windows(2).skip(1).map(|pair| pair[1] - pair[0]).min().unwrap();
        println!("{DEPTH} levels up and {DEPTH} down: {fastest:?}");
        let mut here = dir.open();
        for _ in 0..DEPTH {
            let flags = nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
            here = nix::fcntl::openat(&here, "a", flags, nix::sys::stat::Mode::empty()).unwrap().into();
        }
        let file = nix::fcntl::openat(&here, "f18", nix::fcntl::OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty()).unwrap();
        let mut content = String::new();
        File::from(file).read_to_string(&mut content).unwrap();
        assert_eq!(content, "x");
        // Some 10 microseconds a level; several times that where each level costs all those above it.
        assert!(fastest < Duration::from_millis(150), "{fastest:?}");
    });
}
