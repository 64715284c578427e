//! Small file systems of their own for tests: an image file, a loop device, a mount, all gone when the value is dropped.

#![allow(dead_code, unused_imports, unused_macros, reason = "each program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

/// What a test needs, or the end of it: with a reason, and as a failure where CI requires every test.
macro_rules! need {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(why) => {
                assert!(std::env::var_os("REROOT_REQUIRE").is_none(), "cannot run: {why}");
                eprintln!("skipped: {why}");
                return;
            }
        }
    };
}
pub(crate) use need;

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
    Tmpfs,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
            Kind::Tmpfs => "tmpfs",
        }
    }

    /// The least that its mkfs takes.
    fn min_mib(self) -> u64 {
        match self {
            Kind::Ext4 | Kind::Tmpfs => 16,
            Kind::Xfs => 300,
            Kind::Btrfs => 120,
        }
    }
}

/// A mounted file system.
#[derive(Debug)]
pub(crate) struct LoopFs {
    folder: tempfile::TempDir,
    mounted: bool,
}

impl LoopFs {
    /// A file system of `mib` MiB, or more where it needs more. `Err` says why there can be none here.
    pub(crate) fn new(kind: Kind, mib: u64) -> Result<LoopFs, String> {
        let mut made = LoopFs { folder: folder()?, mounted: false };
        std::fs::create_dir(made.path()).map_err(|error| error.to_string())?;
        let mib = mib.max(kind.min_mib());
        if kind == Kind::Tmpfs {
            let options = format!("size={mib}m,mode=755");
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "reroot-test"]).arg(made.path()))?;
            made.mounted = true;
            return Ok(made);
        }
        let image = made.folder.path().join("image");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(mib << 20).map_err(|error| error.to_string())?;
        let quiet: &[&str] = match kind {
            // The block size of real ones: with less, an attribute of a thousand bytes has no room.
            Kind::Ext4 => &["-q", "-F", "-b", "4096", "-E", "nodiscard"],
            Kind::Xfs => &["-q", "-f", "-K"],
            _ => &["-q", "-f", "-K"],
        };
        run(Command::new(format!("mkfs.{}", kind.name())).args(quiet).arg(&image))?;
        // The kernel detaches the device at the last unmount, also when this process is killed.
        let mount = || run(Command::new("mount").args(["-t", kind.name(), "-o", "loop"]).arg(&image).arg(made.path()));
        let mut result = mount();
        for _ in 0..5 {
            // Two who ask for a free device at once may get the same one.
            if !matches!(&result, Err(why) if why.contains("loop device")) {
                break;
            }
            sleep(Duration::from_millis(200));
            result = mount();
        }
        result?;
        made.mounted = true;
        Ok(made)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        if !self.mounted {
            return;
        }
        // Recursively: a failed test may have left mounts of its own.
        for _ in 0..20 {
            if run(Command::new("umount").arg("-R").arg(self.path())).is_ok() {
                return;
            }
            sleep(Duration::from_millis(100));
        }
        if let Err(why) = run(Command::new("umount").arg("-R").arg("-l").arg(self.path())) {
            eprintln!("cannot unmount {}: {why}", self.path().display());
        }
    }
}

/// A block device over an image file, with nothing on it.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    folder: tempfile::TempDir,
    path: PathBuf,
    // The kernel detaches the device when the last who has it open closes it, also when this process is killed.
    open: std::fs::File,
}

impl LoopDevice {
    /// A device of `mib` MiB. `Err` says why there can be none here.
    pub(crate) fn new(mib: u64) -> Result<LoopDevice, String> {
        let folder = folder()?;
        let image = std::fs::File::create(folder.path().join("image")).map_err(|error| error.to_string())?;
        image.set_len(mib << 20).map_err(|error| error.to_string())?;
        LoopDevice::over(folder)
    }

    /// Another one with the same content as it is now, whatever is still on its way to it.
    pub(crate) fn clone_now(&self) -> Result<LoopDevice, String> {
        let folder = folder()?;
        std::fs::copy(self.image(), folder.path().join("image")).map_err(|error| error.to_string())?;
        LoopDevice::over(folder)
    }

    fn over(folder: tempfile::TempDir) -> Result<LoopDevice, String> {
        let image = folder.path().join("image");
        for _ in 0..20 {
            // Two who ask for a free device at once may get the same one.
            let Ok(path) = run(Command::new("losetup").args(["--find", "--show"]).arg(&image)) else {
                sleep(Duration::from_millis(100));
                continue;
            };
            let path = PathBuf::from(path.trim());
            let open = std::fs::File::open(&path).map_err(|error| error.to_string());
            let detach = run(Command::new("losetup").arg("--detach").arg(&path));
            return Ok(LoopDevice { folder, path, open: detach.and(open)? });
        }
        Err("there is no loop device".into())
    }

    /// Makes it larger.
    pub(crate) fn grow(&self, mib: u64) {
        std::fs::File::options().write(true).open(self.image()).and_then(|image| image.set_len(mib << 20)).unwrap();
        run(Command::new("losetup").arg("--set-capacity").arg(&self.path)).unwrap();
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file below it.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }
}

/// In memory where there is some set aside: what is tested is the file system in the image, not the disk below it.
fn folder() -> Result<tempfile::TempDir, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("not root: cannot mount".into());
    }
    let prefix = "reroot-fs-";
    let in_memory = tempfile::Builder::new().prefix(prefix).tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::Builder::new().prefix(prefix).tempdir()).map_err(|error| error.to_string())
}

/// A mount on `at` that goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts the directory `what` on `at` too.
    pub(crate) fn bind(what: &Path, at: &Path) -> Result<Mounted, String> {
        run(Command::new("mount").arg("--bind").arg(what).arg(at))?;
        Ok(Mounted(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if run(Command::new("umount").arg(&self.0)).is_err() {
            let _ = run(Command::new("umount").arg("-l").arg(&self.0));
        }
    }
}

/// Runs a command; its error output is the error.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr).trim()))
}
