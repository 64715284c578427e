//! A volume group, with a thin pool or without one.

use std::path::{Path, PathBuf};
use std::process::Command;

use reroot::conformance::manifest::Manifest;
use reroot::filesystem::{FilesystemKind, Recipe};
use reroot::lvm::{LvmBases, LvmVolume};
use reroot::volume::{BasePool, Commit};
use reroot::{RebuildableVolume, Space};

use super::super::common::Folder;
use super::super::common::group::{self, lvm};
use super::super::common::lab::run;
use super::super::common::pools::{Backend, Layout};
use super::super::place::Place;
use super::super::space::Shortage;
use super::super::volumes;
use super::Ground;

const GROUP: &str = "reroot-power";
const POOL: &str = "pool";

pub(crate) struct Group(pub(crate) Layout);

impl Ground for Group {
    fn backend(&self) -> Backend {
        Backend::Lvm
    }

    fn mib(&self) -> u64 {
        match self.0 {
            Layout::Thin(FilesystemKind::Ext4) => 128,
            Layout::Thin(_) => 320,
            // Two roots.
            Layout::Thick(_) => 2 * self.0.size().bytes().div_ceil(1 << 20) + 32,
        }
    }

    fn make(&self, device: &Path) -> Result<(), String> {
        lvm(&format!("vgcreate --yes --physicalextentsize 1M {GROUP} {}", device.display()))?;
        let options = "--type thin-pool --extents 90%FREE --poolmetadatasize 2M --poolmetadataspare n";
        match self.0 {
            Layout::Thin(_) => lvm(&format!("lvcreate --yes {options} --name {POOL} {GROUP}")).map(drop),
            Layout::Thick(_) => Ok(()),
        }
    }

    /// As the machine's start does: whatever is not to be skipped, and can be activated. A pool whose disk failed writes nothing until its metadata was
    /// checked, and the mark of that taken away: LVM checks it, and leaves the mark to who sees to the machine.
    fn up(&self, _: &Path) -> Result<(), String> {
        let checked = r#"--config global{thin_check_options=["-q","--clear-needs-check-flag"]}"#;
        if let Err(why) = lvm(&format!("vgchange {checked} --activate ay {GROUP}")) {
            println!("  {why}");
        }
        Ok(())
    }

    fn down(&self) -> Result<(), String> {
        lvm(&format!("vgchange --activate n {GROUP}")).map(drop)
    }

    fn stands_disorder(&self) -> bool {
        false
    }

    fn shortages(&self) -> Vec<Shortage> {
        let device = group::device_name(&format!("{GROUP}/{POOL}"));
        let (ballast, pool) = (group::device_name(&format!("{GROUP}/ballast")), format!("{device}-tpool"));
        let data = Shortage {
            name: "thin_data",
            told: &[Space::ThinData],
            begin: format!("lvchange --errorwhenfull y {GROUP}/{POOL}"),
            // Of the pool's state the sixth word is how many chunks of 64 KiB are used, and how many there are.
            take: format!(
                "lvcreate --yes --virtualsize 512M --thinpool {POOL} --name ballast {GROUP} && set -- $(dmsetup status {pool}) && \
                 free=$((${{6#*/}} - ${{6%/*}} - LEFT / 64)) && if test $LEFT = 0; then unset free; fi && \
                 dd if=/dev/zero of=/dev/mapper/{ballast} bs=64k oflag=direct ${{free+count=$free}}"
            ),
            give: format!("lvremove --yes {GROUP}/ballast"),
            enough: 32 << 10,
        };
        // Thin devices that LVM does not know of; each takes a block of 4 KiB. Of the pool's state the fifth word is of these.
        let fill = |left: &str| {
            format!(
                "set -- $(dmsetup status {pool}); number=$((${{5%/*}} * 10)); last=$((number + ${{5#*/}} - ${{5%/*}} - {left})); \
                 while test $number -lt $last && dmsetup message {pool} 0 \"create_thin $number\"; do number=$((number + 1)); done"
            )
        };
        let metadata = Shortage {
            name: "thin_metadata",
            told: &[Space::ThinMetadata],
            // LVM makes no volume in a pool with more than three quarters in use. A pool shows how full it is while something in it is active.
            begin: format!("lvchange --activate y --ignoreactivationskip {GROUP}/c1; {}", fill("150")),
            take: format!("lvchange --activate y --ignoreactivationskip {GROUP}/{POOL}; {}", fill("(LEFT + 3) / 4")),
            give: format!(
                "lvextend --poolmetadatasize +4M {GROUP}/{POOL} && vgchange --activate n {GROUP} && vgchange --activate ay {GROUP}"
            ),
            enough: 480,
        };
        let group = Shortage {
            name: "group_full",
            told: &[Space::Pool],
            begin: String::new(),
            // Extents of 1 MiB. What the rebuild takes meanwhile cannot be taken.
            take: format!(
                "size=100%FREE; test $LEFT = 0 || size=$(($(vgs --noheadings --options vg_free_count {GROUP}) - LEFT / 1024)); \
                 lvcreate --yes --wipesignatures n --extents $size --name ballast {GROUP}"
            ),
            give: format!("! lvs {GROUP}/ballast || lvremove --yes {GROUP}/ballast"),
            enough: (self.0.size().bytes() >> 10) + 4096,
        };
        match self.0 {
            Layout::Thin(_) => vec![data, metadata],
            Layout::Thick(_) => vec![group],
        }
    }

    fn place(&self) -> Result<Box<dyn Place>, String> {
        Ok(Box::new(Volumes { layout: self.0, folder: Folder::new(&std::env::temp_dir()).map_err(|error| error.to_string())? }))
    }

    fn abandon(&self) {
        let _ = self.down();
        let ours = group::device_name(&format!("{GROUP}/"));
        let each = |words: &[&str]| {
            for (name, _) in group::devices().iter().filter(|(name, _)| name.starts_with(&ours)) {
                let _ = run(Command::new("dmsetup").args(words).arg(name));
            }
        };
        // One lies on another, and what lies above goes first: to what is wiped it would wait for ever.
        (0..4).for_each(|_| each(&["remove"]));
        each(&["wipe_table", "--force", "--noflush", "--nolockfs"]);
        (0..4).for_each(|_| each(&["remove"]));
    }
}

/// A folder for the images; the volumes lie in the group.
struct Volumes {
    layout: Layout,
    folder: Folder,
}

impl Volumes {
    fn name() -> String {
        format!("{GROUP}/c1")
    }

    fn recipe(&self) -> Recipe {
        Recipe::new(self.layout.kind())
    }
}

impl Place for Volumes {
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn volume(&self) -> PathBuf {
        Self::name().into()
    }

    fn open(&self, _: Backend, _: Commit) -> reroot::Result<Box<dyn RebuildableVolume>> {
        let volume = LvmVolume::open(&Self::name())?.with_recipe(self.recipe()).with_size(self.layout.size());
        Ok(Box::new(match self.layout {
            Layout::Thin(_) => volume.with_pool(POOL)?,
            Layout::Thick(_) => volume,
        }))
    }

    fn bases(&self, _: Backend) -> reroot::Result<Box<dyn BasePool>> {
        match self.layout {
            Layout::Thin(_) => {
                let bases = LvmBases::open(&format!("{GROUP}/{POOL}"))?;
                Ok(Box::new(bases.with_recipe(self.recipe()).with_size(self.layout.size())))
            }
            // There are none, and nobody asks for one.
            Layout::Thick(_) => Backend::Dir.pool_of(&self.folder.path().join("pool/c1")),
        }
    }

    fn root_of(&self, volume: &Path) -> Result<Option<Manifest>, String> {
        volumes::root_of(volume, self.folder())
    }

    fn names(&self) -> Result<Vec<String>, String> {
        volumes::names(GROUP)
    }

    fn snapshot(&self) -> Result<(), String> {
        volumes::snapshot(GROUP)
    }

    fn snapshots_outlive(&self) -> bool {
        true
    }

    fn left_of_bases(&self) -> Result<Vec<String>, String> {
        volumes::left_of_bases(GROUP)
    }
}
