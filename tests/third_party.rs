//! A backend written outside the crate, against its public interface alone: directories on a tmpfs whose size is the volume's.
//!
//! It shows that the trait can be implemented elsewhere, and what happens when a volume that may grow runs full while it is filled.

#![cfg(all(feature = "dir", feature = "tar"))]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use reroot::dir::DirVolume;
use reroot::volume::{
    Capabilities, Holder, Names, RootId, RootMetadata, Sizing, Slot, Snapshot, StageSpec, Tidied, Usage, UsageDetail, VolumeId,
    VolumeLock, Warning,
};
use reroot::{ByteSize, ErrorKind, Event, Image, ImageRecord, Outcome, Progress, Rebuild, RebuildableVolume, Result, Space, Wait};

/// A tmpfs of its own, gone with the value.
#[derive(Debug)]
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` where the caller may not mount, which is said.
    fn new(size: ByteSize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("REROOT_REQUIRE").is_none(), "mounting a tmpfs needs root");
            eprintln!("not tested, growth while a root is filled: mounting a tmpfs needs root");
            return None;
        }
        let tmpfs = Tmpfs(dir);
        tmpfs.mount(&["-t", "tmpfs", "-o", &format!("size={},mode=0755", size.bytes()), "reroot-test"]);
        Some(tmpfs)
    }

    fn mount(&self, arguments: &[&str]) {
        assert!(Command::new("mount").args(arguments).arg(self.0.path()).status().unwrap().success());
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[derive(Debug)]
struct TmpfsVolume<'a> {
    tmpfs: &'a Tmpfs,
    dir: DirVolume,
}

impl<'a> TmpfsVolume<'a> {
    fn open(tmpfs: &'a Tmpfs) -> Self {
        TmpfsVolume { tmpfs, dir: DirVolume::open(tmpfs.path().join("c1")).unwrap() }
    }

    fn size(&self) -> Result<ByteSize> {
        let stat = nix::sys::statvfs::statvfs(self.tmpfs.path())
            .map_err(|error| reroot::Error::io("measure the tmpfs", "statvfs failed", error))?;
        Ok(ByteSize::from_bytes(stat.blocks() * stat.fragment_size()))
    }
}

impl RebuildableVolume for TmpfsVolume<'_> {
    fn id(&self) -> VolumeId {
        VolumeId::new("tmpfs", self.tmpfs.path())
    }

    fn capabilities(&self) -> Capabilities {
        self.dir.capabilities().with_sizing(Sizing::Growable)
    }

    fn usage(&self, detail: UsageDetail) -> Result<Usage> {
        Ok(self.dir.usage(detail)?.with_size(self.size()?))
    }

    fn grow(&mut self, to: ByteSize) -> Result<ByteSize> {
        self.tmpfs.mount(&["-o", &format!("remount,size={}", to.bytes())]);
        self.size()
    }

    fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        if let Some(size) = spec.size {
            self.grow(size)?;
        }
        self.dir.stage(&StageSpec::new())
    }

    fn lock(&self, wait: &Wait) -> Result<VolumeLock> {
        self.dir.lock(wait)
    }

    fn names(&self) -> Result<Names> {
        self.dir.names()
    }

    fn identity(&self, slot: Slot) -> Result<Option<RootId>> {
        self.dir.identity(slot)
    }

    fn holders(&self) -> Result<Vec<Holder>> {
        self.dir.holders()
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.dir.snapshots()
    }

    fn record(&self) -> Result<Option<ImageRecord>> {
        self.dir.record()
    }

    fn capture(&mut self) -> Result<()> {
        self.dir.capture()
    }

    fn seal(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
        self.dir.seal(record, root)
    }

    fn rename(&mut self, from: Slot, to: Slot) -> Result<()> {
        self.dir.rename(from, to)
    }

    fn exchange(&mut self) -> Result<()> {
        self.dir.exchange()
    }

    fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        self.dir.purge(snapshots)
    }

    fn discard(&mut self, slot: Slot) -> Result<()> {
        self.dir.discard(slot)
    }

    fn tidy(&mut self) -> Result<Tidied> {
        self.dir.tidy()
    }
}

#[derive(Default)]
struct Grown(Mutex<Vec<ByteSize>>);

impl Progress for Grown {
    fn event(&self, event: &Event<'_>) {
        if let Event::Grown(size) = event {
            self.0.lock().unwrap().push(*size);
        }
    }
}

fn image_of(size: ByteSize) -> Image {
    let mut builder = tar::Builder::new(Vec::new());
    for part in 0..size.bytes() / (1 << 20) {
        let mut header = tar::Header::new_gnu();
        header.set_size(1 << 20);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, format!("part-{part}"), &vec![part as u8 + 1; 1 << 20][..]).unwrap();
    }
    Image::from_reader(std::io::Cursor::new(builder.into_inner().unwrap()), "parts")
}

#[test]
fn a_volume_that_may_grow_is_grown_and_the_fill_goes_on() {
    let Some(tmpfs) = Tmpfs::new(ByteSize::mib(8)) else { return };
    let grown = Arc::new(Grown::default());
    let mut volume = TmpfsVolume::open(&tmpfs);
    let rebuild = Rebuild::new(image_of(ByteSize::mib(100))).max_size(ByteSize::mib(256)).progress(grown.clone());
    let report = rebuild.run(&mut volume).unwrap();
    let steps = grown.0.lock().unwrap().clone();
    assert!(!steps.is_empty() && steps.iter().all(|size| *size <= ByteSize::mib(256)), "{steps:?}");
    assert_eq!(report.grown, steps.last().copied());
    for part in 0..100u8 {
        assert_eq!(std::fs::read(tmpfs.path().join(format!("c1/part-{part}"))).unwrap(), vec![part + 1; 1 << 20]);
    }
}

#[test]
fn a_volume_that_may_not_grow_enough_keeps_its_old_root() {
    let Some(tmpfs) = Tmpfs::new(ByteSize::mib(8)) else { return };
    std::fs::create_dir(tmpfs.path().join("c1")).unwrap();
    std::fs::write(tmpfs.path().join("c1/old"), "old").unwrap();
    for max_size in [None, Some(ByteSize::mib(32))] {
        let mut rebuild = Rebuild::new(image_of(ByteSize::mib(100)));
        if let Some(size) = max_size {
            rebuild = rebuild.max_size(size);
        }
        let error = rebuild.run(&mut TmpfsVolume::open(&tmpfs)).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::NoSpace(Space::Pool), Outcome::RolledBack), "{error:?}");
        assert!(error.remedy().is_some());
        assert_eq!(std::fs::read_to_string(tmpfs.path().join("c1/old")).unwrap(), "old");
        assert_eq!(std::fs::read_dir(tmpfs.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_size_is_set_before_the_fill_and_never_shrunk() {
    let Some(tmpfs) = Tmpfs::new(ByteSize::mib(8)) else { return };
    let mut volume = TmpfsVolume::open(&tmpfs);
    Rebuild::new(image_of(ByteSize::mib(20))).size(ByteSize::mib(64)).run(&mut volume).unwrap();
    assert_eq!(volume.size().unwrap(), ByteSize::mib(64));
    let error = Rebuild::new(image_of(ByteSize::mib(1))).size(ByteSize::mib(32)).run(&mut volume).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unsupported, Outcome::Untouched));
    assert!(tmpfs.path().join("c1/part-19").exists());
}
