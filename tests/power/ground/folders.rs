//! A file system, with volumes that are folders or subvolumes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use reroot::Space;

use super::super::common::Folder;
use super::super::common::lab::run;
use super::super::common::loopfs::Kind;
use super::super::common::pools::Backend;
use super::super::place::{Folders, Place};
use super::super::space::Shortage;
use super::Ground;

/// Mounted in a folder of its own.
pub(crate) struct Mount {
    backend: Backend,
    kind: Kind,
    options: &'static str,
    folder: Folder,
}

impl Mount {
    pub(crate) fn new(backend: Backend, kind: Kind) -> Result<Mount, String> {
        let folder = Folder::new(&std::env::temp_dir()).map_err(|error| error.to_string())?;
        fs::create_dir(folder.path().join("mnt")).map_err(|error| error.to_string())?;
        let options = if kind == Kind::Xfs { "prjquota" } else { "defaults" };
        Ok(Mount { backend, kind, options, folder })
    }

    fn mnt(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn mount(&self, device: &Path) -> Result<(), String> {
        run(Command::new("mount").args(["-t", self.kind.name(), "-o", self.options]).arg(device).arg(self.mnt())).map(drop)
    }
}

impl Ground for Mount {
    fn backend(&self) -> Backend {
        self.backend
    }

    fn mib(&self) -> u64 {
        match self.kind {
            Kind::Xfs => 300,
            Kind::Btrfs => 192,
            _ => 64,
        }
    }

    fn make(&self, device: &Path) -> Result<(), String> {
        let words: &[&str] = match self.kind {
            // With few inodes, so that they are soon used up.
            Kind::Ext4 => &["-q", "-F", "-b", "4096", "-N", "1024", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
            Kind::Xfs => &["-q", "-f", "-K", "-i", "maxpct=1"],
            _ => &["-q", "-f", "-K"],
        };
        run(Command::new(format!("mkfs.{}", self.kind.name())).args(words).arg(device))?;
        self.mount(device)?;
        fs::create_dir(self.mnt().join("pool")).map_err(|error| error.to_string())
    }

    fn up(&self, device: &Path) -> Result<(), String> {
        if self.kind == Kind::Btrfs {
            // The kernel still knows other copies of it, some of them newer.
            let _ = run(Command::new("btrfs").args(["device", "scan", "--forget"]));
        }
        self.mount(device)
    }

    fn down(&self) -> Result<(), String> {
        let mut done = Ok(String::new());
        for _ in 0..50 {
            done = run(Command::new("umount").arg(self.mnt()));
            match &done {
                Err(why) if why.contains("busy") => sleep(Duration::from_millis(20)),
                _ => break,
            }
        }
        done.map(drop)
    }

    fn shortages(&self) -> Vec<Shortage> {
        let mnt = self.mnt();
        let mnt = mnt.display();
        let full = Shortage {
            name: "no_space",
            told: &[Space::Pool],
            begin: String::new(),
            take: format!(
                "test $LEFT = 0 || dd if=/dev/zero of={mnt}/ballast.reserve bs=1k count=$LEFT conv=fsync; \
                 for size in 1M 64k 4k 1k; do dd if=/dev/zero of={mnt}/ballast.$size bs=$size; done; \
                 test $LEFT = 0 || {{ sync --file-system {mnt}; rm {mnt}/ballast.reserve; sync --file-system {mnt}; }}"
            ),
            give: format!("rm {mnt}/ballast.* && sync --file-system {mnt}"),
            enough: if self.kind == Kind::Btrfs { 16384 } else { 4096 },
        };
        let many = format!("cd {mnt}/many; free=$(stat --file-system --format %d .);");
        let inodes = Shortage {
            name: "no_inodes",
            told: &[Space::Inodes],
            begin: format!("mkdir {mnt}/many; {many} seq --format kept%g $((free - 600)) | xargs touch"),
            take: format!("{many} seq --format taken%g $((free - LEFT)) | xargs touch"),
            give: format!("find {mnt}/many -name 'taken*' -delete"),
            enough: 200,
        };
        let used = |what: &str| format!("used=$(xfs_quota -x -c 'report -p -N {what}' {mnt} | awk '$1 == \"#7\" {{ print $2 }}');");
        let begin = format!("xfs_quota -x -c 'project -s -p {mnt}/pool 7' {mnt}");
        // 0 would be no limit.
        let limit = |script: &str| format!("{script} xfs_quota -x -c \"limit -p $limit 7\" {mnt}");
        let project = Shortage {
            name: "project_quota",
            told: &[Space::Quota],
            begin: begin.clone(),
            take: limit(&format!("{} limit=bhard=$((used + LEFT))k;", used("-b"))),
            give: limit("limit=bhard=0;"),
            enough: 4096,
        };
        let project_inodes = Shortage {
            name: "project_inodes",
            told: &[Space::Quota],
            begin,
            take: limit(&format!("{} limit=ihard=$((used + LEFT));", used("-i"))),
            give: limit("limit=ihard=0;"),
            enough: 200,
        };
        let group = Shortage {
            name: "qgroup",
            told: &[Space::Quota],
            begin: format!(
                "btrfs quota enable {mnt}; btrfs qgroup create 1/7 {mnt}; btrfs qgroup assign 0/$(btrfs inspect-internal rootid {mnt}/pool/c1) 1/7 {mnt}"
            ),
            take: format!(
                "used=$(btrfs qgroup show --raw --sync {mnt} | awk '$1 == \"1/7\" {{ print $2 }}'); \
                 btrfs qgroup limit $((used * (LEFT > 0) + LEFT * 1024 + 4096)) 1/7 {mnt}"
            ),
            give: format!("btrfs qgroup limit none 1/7 {mnt}"),
            enough: 4096,
        };
        match (self.kind, self.backend) {
            (Kind::Ext4, _) => vec![full, inodes],
            (Kind::Xfs, _) => vec![full, inodes, project, project_inodes],
            (_, Backend::Dir) => vec![full],
            _ => vec![full, group],
        }
    }

    fn place(&self) -> Result<Box<dyn Place>, String> {
        let images = Folder::new(self.folder.path()).map_err(|error| error.to_string())?;
        Ok(Box::new(Folders::on(self.mnt(), images)))
    }

    fn abandon(&self) {
        let _ = run(Command::new("umount").arg("-l").arg(self.mnt()));
    }
}
