//! The devices of a trial: logical volumes of the lab's group, views of one that are thrown away, and devices that can be made to fail.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use super::common::group::{self, GROUP};
use super::common::lab::run;
use super::ground::Ground;

/// For what one run writes, and what one trial does.
const RECORD_MIB: u64 = 640;
const CHANGES_MIB: u64 = 256;

/// A disk as it is before a rebuild, and room for what becomes of it. LVM does not look for its own on a logical volume, and so sees of a group that
/// lies on a view of it only that view.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) base: PathBuf,
    pub(crate) record: PathBuf,
    changes: PathBuf,
    sectors: u64,
    views: Cell<u32>,
}

impl Disks {
    pub(crate) fn new(mib: u64) -> Result<Disks, String> {
        group::group()?;
        // Of an earlier trial that failed in the midst of it.
        drop(Disks::remove());
        let make = |name: &str, mib: u64| -> Result<PathBuf, String> {
            group::lvm(&format!("lvcreate --yes --wipesignatures y --size {mib}M --name {name} {GROUP}"))?;
            group::device(&format!("{GROUP}/{name}")).ok_or_else(|| format!("{name} has no device"))
        };
        let (base, record, changes) =
            (make("power-base", mib)?, make("power-record", RECORD_MIB)?, make("power-changes", CHANGES_MIB)?);
        let sectors = run(Command::new("blockdev").arg("--getsz").arg(&base))?;
        let sectors = sectors.trim().parse().map_err(|_| format!("{} has {sectors} sectors", base.display()))?;
        Ok(Disks { base, record, changes, sectors, views: Cell::new(0) })
    }

    fn remove() -> Result<(), String> {
        let mut volumes = group::volumes(GROUP)?;
        volumes.retain(|volume| volume.contains("/power-"));
        group::remove(&volumes)
    }

    /// The disk, to be written to where all may see it.
    pub(crate) fn open(&self) -> Result<File, String> {
        File::options().read(true).write(true).open(&self.base).map_err(|error| format!("cannot open the disk: {error}"))
    }

    /// A copy of the disk as it is now. What is written to it is gone with it. There is one at a time.
    pub(crate) fn view(&self, seen: Seen) -> Result<View, String> {
        let number = self.views.get() + 1;
        self.views.set(number);
        let name = format!("power-view-{number}");
        let (base, changes) = (self.base.display(), self.changes.display());
        // Not persistent, in chunks of 4 KiB.
        let table = format!("0 {} snapshot {base} {changes} N 8", self.sectors);
        let mut command = Command::new("dmsetup");
        command.args(["create", &name, "--table", &table]);
        if seen == Seen::Below {
            // What bears LVM's mark is a logical volume to it.
            command.args(["--uuid", &format!("LVM-{name}")]);
        }
        run(&mut command)?;
        Ok(View(PathBuf::from(format!("/dev/mapper/{name}"))))
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        if let Err(why) = Disks::remove() {
            eprintln!("cannot remove the disks of a trial: {why}");
        }
    }
}

/// Whether a view is used itself, or another device over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Itself,
    Below,
}

/// Gone when it is dropped.
#[derive(Debug)]
pub(crate) struct View(PathBuf);

impl View {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Err(why) = run(Command::new("dmsetup").args(["remove", "--retry"]).arg(&self.0)) {
            eprintln!("cannot remove {}: {why}", self.0.display());
        }
    }
}

/// A device over another one, made by `lab-fault`, and gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Fault(PathBuf);

impl Fault {
    /// As `lab-fault` takes the words.
    pub(crate) fn new(kind: &str, device: &Path, more: &[&str]) -> Result<Fault, String> {
        let path = run(Command::new("lab-fault").arg(kind).arg(device).args(more))?;
        Ok(Fault(PathBuf::from(path.trim())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn is_gone(&self) -> bool {
        let name = self.0.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        !group::devices().iter().any(|(known, _)| known == name)
    }

    /// Demands that nobody has it open any more, after it has vanished.
    pub(crate) fn expect_gone(&self) -> Result<(), String> {
        for _ in 0..500 {
            if self.is_gone() {
                return Ok(());
            }
            sleep(Duration::from_millis(20));
        }
        Err(format!("{} is still open", self.0.display()))
    }
}

/// Takes the device away for good: now, or when whoever has it open lets go of it.
pub(crate) fn vanish(device: &Path) -> Result<(), String> {
    run(Command::new("dmsetup").args(["remove", "--force", "--deferred"]).arg(device)).map(drop)
}

/// Makes a device of `lab-fault` fail in another way from now on.
pub(crate) fn switch(device: &Path, words: &[&str]) -> Result<(), String> {
    run(Command::new("lab-fault").arg("switch").arg(device).args(words)).map(drop)
}

/// Puts a mark into a record.
pub(crate) fn mark(device: &Path, text: &str) -> Result<(), String> {
    run(Command::new("dmsetup").arg("message").arg(device).args(["0", "mark", text])).map(drop)
}

impl Drop for Fault {
    fn drop(&mut self) {
        if !self.is_gone()
            && let Err(why) = run(Command::new("lab-fault").arg("remove").arg(&self.0))
        {
            eprintln!("cannot remove {}: {why}", self.0.display());
        }
    }
}

/// Does something with disks of their own, and takes down what is left on them if that fails.
pub(crate) fn on_disks(ground: &dyn Ground, work: impl FnOnce(&Disks) -> Result<(), String>) -> Result<(), String> {
    let done = work(&Disks::new(ground.mib())?);
    if done.is_err() {
        ground.abandon();
    }
    done
}
