use super::*;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::super::process::command;
use crate::progress::{CancelToken, Wait};
use crate::sys::command::Program;
use crate::sys::mounts;

/// Runs `test` with an empty directory, in a mount namespace of its own that ends with it: nothing is left mounted whatever happens there.
#[expect(clippy::print_stderr, reason = "a test that cannot run says why")]
fn in_own_namespace(test: impl FnOnce(&Path) + Send) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("REROOT_REQUIRE").is_none(), "cannot run: a mount needs root");
        eprintln!("skipped: a mount needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&Path>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        test(dir.path());
    };
    let result = std::thread::scope(|scope| scope.spawn(run).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn run(name: &'static str, args: &[&OsStr]) -> String {
    let wait = Wait::new(Duration::from_secs(60), CancelToken::new());
    let done = Program::find(name, "what the tests need").unwrap().command().args(args).run("prepare a test", &wait).unwrap();
    String::from_utf8(done.success("prepare a test").unwrap()).unwrap().trim().to_owned()
}

/// A file system mounted in the namespace of the test.
struct Mounted {
    source: String,
    fs_type: &'static str,
    at: PathBuf,
    id: u64,
    dev: libc::dev_t,
}

impl Mounted {
    fn tmpfs(dir: &Path) -> Self {
        let at = dir.join("mnt");
        fs::create_dir_all(&at).unwrap();
        let source = format!("reroot-test/{}", dir.file_name().unwrap().display());
        mount(Some(source.as_str()), &at, Some("tmpfs"), MsFlags::empty(), Some("size=32m")).unwrap();
        Mounted::new(source, "tmpfs", at)
    }

    fn ext4(dir: &Path) -> Self {
        let (image, at) = (dir.join("image"), dir.join("mnt"));
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_os_str()]);
        run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), at.as_os_str()]);
        let table = mounts::own().unwrap();
        let source = &table.iter().find(|mount| mount.point == at.as_os_str().as_bytes()).unwrap().source;
        Mounted::new(String::from_utf8(source.clone()).unwrap(), "ext4", at)
    }

    fn new(source: String, fs_type: &'static str, at: PathBuf) -> Self {
        fs::create_dir(at.join("sub")).unwrap();
        fs::write(at.join("sub/file"), "content").unwrap();
        let table = mounts::own().unwrap();
        let id = table.iter().rfind(|mount| mount.point == at.as_os_str().as_bytes()).unwrap().id;
        let dev = fs::metadata(&at).unwrap().dev();
        Mounted { source, fs_type, at, id, dev }
    }

    fn named(&self, device: Option<libc::dev_t>) -> FileSystem<'_> {
        FileSystem { fs_type: Some(self.fs_type), sources: std::slice::from_ref(&self.source), device, block: None }
    }

    /// Asked with no more than its name, and with its number, which must tell the same; our mount is none.
    fn holders(&self) -> Vec<Holder> {
        let found = of_file_system(&self.named(None), &[self.id]).unwrap();
        assert_eq!(found, of_file_system(&self.named(Some(self.dev)), &[self.id]).unwrap());
        found
    }

    /// How a process holds it, asked by its number.
    fn how(&self, pid: u32) -> Option<String> {
        of_file_system(&self.named(Some(self.dev)), &[self.id]).unwrap().into_iter().find_map(|holder| match holder {
            Holder::Process { pid: found, how, .. } if pid == found => Some(how),
            _ => None,
        })
    }
}

/// A child that is ended and reaped whatever the test does.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command) -> Reaped {
    Reaped(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
}

/// A shell that has run `script`, which is shown `dir` as `$1`, in a mount namespace of its own, and sleeps.
fn shell(propagation: &str, dir: &Path, script: &str) -> Reaped {
    let ready = dir.join("ready");
    let script = format!("{script}\n: > \"$1/ready\"; exec sleep 60");
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "--propagation", propagation, "sh", "-ec", &script, "sh"]).arg(dir);
    let shell = spawn(&mut unshare);
    until(|| ready.exists());
    fs::remove_file(ready).unwrap();
    shell
}

fn until(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn bind(what: &Path, at: &Path) {
    fs::create_dir_all(at).unwrap();
    mount(Some(what), at, None::<&Path>, MsFlags::MS_BIND, None::<&Path>).unwrap();
}

fn on(path: &Path, namespace_of: Option<&Reaped>) -> Holder {
    Holder::Mount { path: path.display().to_string(), namespace_of: namespace_of.map(|child| child.0.id()) }
}

#[test]
fn mounts_of_it_and_in_it_are_holders_in_every_namespace() {
    in_own_namespace(|dir| {
        let fs = Mounted::tmpfs(dir);
        assert_eq!(fs.holders(), []);
        assert_eq!(of_file_system(&fs.named(None), &[]).unwrap(), [on(&fs.at, None)]);
        let stranger = FileSystem { sources: &["reroot-test/none".to_owned()], ..fs.named(None) };
        assert_eq!(of_file_system(&stranger, &[]).unwrap(), []);
        assert_eq!(of_file_system(&FileSystem { fs_type: Some("zfs"), ..fs.named(None) }, &[]).unwrap(), []);
        // A part of it, elsewhere.
        let part = dir.join("part");
        bind(&fs.at.join("sub"), &part);
        assert_eq!(fs.holders(), [on(&part, None)]);
        umount2(&part, MntFlags::empty()).unwrap();
        // Another inside, and one in that.
        let inside = fs.at.join("sub");
        mount(Some("other"), &inside, Some("tmpfs"), MsFlags::empty(), None::<&Path>).unwrap();
        bind(Path::new("/proc"), &inside.join("deep"));
        assert_eq!(fs.holders(), [on(&inside, None), on(&inside.join("deep"), None)]);
        umount2(&inside, MntFlags::MNT_DETACH).unwrap();
        assert_eq!(fs.holders(), []);
        // A namespace that took a copy of all mounts along, and keeps it for itself.
        let copy = shell("private", dir, "mount --bind \"$1/mnt/sub\" \"$1/part\"");
        assert_eq!(fs.holders(), [on(&fs.at, Some(&copy)), on(&part, Some(&copy))]);
        // And one that no longer has it anywhere but there.
        umount2(&fs.at, MntFlags::empty()).unwrap();
        assert_eq!(fs.holders(), [on(&fs.at, Some(&copy)), on(&part, Some(&copy))]);
    });
}

#[test]
fn what_the_kernel_copies_goes_with_ours() {
    in_own_namespace(|dir| {
        bind(dir, dir);
        let none = None::<&Path>;
        mount(none, dir, none, MsFlags::MS_SHARED, none).unwrap();
        fs::create_dir_all(dir.join("part")).unwrap();
        fs::create_dir_all(dir.join("peer")).unwrap();
        bind(dir, &dir.join("peer"));
        // One that passes on to others what it gets, and one of these.
        let slave = shell("slave", dir, "mount --make-shared \"$1\"");
        let mut enter = Command::new("nsenter");
        enter.args(["-m", "-t", &slave.0.id().to_string(), "unshare", "-m", "--propagation", "slave"]);
        let other = spawn(enter.args(["sleep", "60"]));
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        let known = [namespace("thread-self"), namespace(&slave.0.id().to_string())];
        until(|| !known.contains(&namespace(&other.0.id().to_string())));

        let fs = Mounted::tmpfs(dir);
        let all = of_file_system(&fs.named(None), &[]).unwrap();
        let peer = dir.join("peer/mnt");
        for copy in [on(&fs.at, None), on(&peer, None), on(&fs.at, Some(&slave)), on(&fs.at, Some(&other))] {
            assert!(all.contains(&copy), "no {copy} in {all:?}");
        }
        assert_eq!(fs.holders(), []);
        // What else of it is mounted there does not go.
        let part = dir.join("part");
        let in_slave = |args: &[&OsStr]| run("nsenter", &[&["-m", "-t", &slave.0.id().to_string()].map(OsStr::new), args].concat());
        in_slave(&["mount".as_ref(), "--bind".as_ref(), fs.at.as_ref(), part.as_ref()]);
        let found = fs.holders();
        assert!(found.contains(&on(&part, Some(&slave))) && !found.contains(&on(&fs.at, Some(&slave))), "{found:?}");
        in_slave(&["umount".as_ref(), part.as_ref()]);
        assert_eq!(fs.holders(), []);
        // As the kernel has it.
        umount2(&fs.at, MntFlags::empty()).unwrap();
        assert_eq!(of_file_system(&fs.named(Some(fs.dev)), &[]).unwrap(), []);
    });
}

/// A process whose root directory is `dir`, where there is no program that it could run.
fn confined(dir: &Path) -> Forked {
    let dir = CString::new(dir.as_os_str().as_bytes()).unwrap();
    // SAFETY: the child makes system calls only, and never returns.
    match unsafe { libc::fork() } {
        // SAFETY: as above; the path lives on in the child's copy of the memory.
        0 => unsafe {
            if libc::chroot(dir.as_ptr()) != 0 {
                libc::_exit(1);
            }
            loop {
                libc::pause();
            }
        },
        child => Forked(child),
    }
}

struct Forked(libc::pid_t);

impl Drop for Forked {
    fn drop(&mut self) {
        let child = nix::unistd::Pid::from_raw(self.0);
        let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(child, None);
    }
}

#[test]
fn processes_hold_it_with_a_mount_and_without() {
    in_own_namespace(|dir| {
        let fs = Mounted::tmpfs(dir);
        fs::copy("/bin/sleep", fs.at.join("sub/own sleep")).unwrap();
        let cwd = spawn(Command::new("sleep").arg("60").current_dir(fs.at.join("sub")));
        let exe = spawn(Command::new(fs.at.join("sub/own sleep")).arg("60"));
        let file = spawn(Command::new("sleep").arg("60").stderr(File::open(fs.at.join("sub/file")).unwrap()));
        let root = confined(&fs.at);
        let root = (root.0 as u32, root);
        // By a path in a namespace that shows a part of it somewhere else.
        let other =
            shell("private", dir, "mkdir \"$1/part\"; mount --bind \"$1/mnt/sub\" \"$1/part\"; umount \"$1/mnt\"; cd \"$1/part\"");
        until(|| fs.how(root.0).is_some());

        let told = || {
            assert_eq!(fs.how(cwd.0.id()).unwrap(), "working directory sub");
            assert_eq!(fs.how(exe.0.id()).unwrap(), "executable sub/own sleep");
            assert_eq!(fs.how(file.0.id()).unwrap(), "open file sub/file");
            assert_eq!(fs.how(root.0).unwrap(), "root directory");
            assert_eq!(fs.how(other.0.id()).unwrap(), "working directory sub");
        };
        told();
        let processes = |found: Vec<Holder>| found.into_iter().filter(|holder| matches!(holder, Holder::Process { .. })).count();
        assert_eq!(processes(fs.holders()), 5);
        umount2(&fs.at, MntFlags::MNT_DETACH).unwrap();
        told();
        drop(other);
        // Now no table names it, and its number alone leads to them.
        told_nowhere(&fs, 4);
        drop((cwd, exe, file, root));
        told_nowhere(&fs, 0);
    });
}

fn told_nowhere(fs: &Mounted, processes: usize) {
    assert_eq!(of_file_system(&fs.named(None), &[]).unwrap(), []);
    assert_eq!(of_file_system(&fs.named(Some(fs.dev)), &[]).unwrap().len(), processes);
}

#[test]
fn our_descriptors_are_no_holders_and_our_mappings_are() {
    in_own_namespace(|dir| {
        let fs = Mounted::tmpfs(dir);
        let file = File::open(fs.at.join("sub/file")).unwrap();
        let _dir = File::open(&fs.at).unwrap();
        assert_eq!(fs.holders(), []);
        let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
        // SAFETY: a new mapping that nothing reads, at an address the kernel chooses.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), 4096, read, private, std::os::fd::AsRawFd::as_raw_fd(&file), 0) };
        assert_ne!(map, libc::MAP_FAILED);
        let me = std::process::id();
        let mapped = |name: &str| Holder::Process { pid: me, command: command(me), how: format!("mapped file {name}") };
        assert_eq!(fs.holders(), [mapped("sub/file")]);
        umount2(&fs.at, MntFlags::MNT_DETACH).unwrap();
        let found = of_file_system(&fs.named(Some(fs.dev)), &[]).unwrap();
        // SAFETY: the mapping made above, which nothing refers to.
        assert_eq!(unsafe { libc::munmap(map, 4096) }, 0);
        assert_eq!(found, [mapped("sub/file")]);
        told_nowhere(&fs, 0);
    });
}

#[test]
fn the_kernel_itself_holds_files_of_it() {
    in_own_namespace(|dir| {
        let fs = Mounted::ext4(dir);
        assert_eq!(fs.holders(), []);
        let swap = fs.at.join("swap file");
        fs::write(&swap, vec![0; 4 << 20]).unwrap();
        fs::set_permissions(&swap, fs::Permissions::from_mode(0o600)).unwrap();
        run("mkswap", &[swap.as_os_str()]);
        run("swapon", &[swap.as_os_str()]);
        let found = fs.holders();
        run("swapoff", &[swap.as_os_str()]);
        assert_eq!(found, [Holder::Other(format!("swap file {}", swap.display()))]);

        let image = fs.at.join("sub/disk image");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let device = run("losetup", &["--find".as_ref(), "--show".as_ref(), image.as_os_str()]);
        let found = fs.holders();
        umount2(&fs.at, MntFlags::MNT_DETACH).unwrap();
        let detached = of_file_system(&fs.named(Some(fs.dev)), &[]).unwrap();
        run("losetup", &["-d".as_ref(), device.as_ref()]);
        assert_eq!(found, [Holder::Device { device: device.clone(), file: image.display().to_string() }]);
        assert_eq!(detached, [Holder::Device { device, file: "/sub/disk image".to_owned() }]);
        until(|| of_file_system(&fs.named(Some(fs.dev)), &[]).unwrap().is_empty());
    });
}
