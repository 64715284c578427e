//! A pool of ZFS.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use reroot::Space;

use super::super::common::lab::{run, zfs};
use super::super::common::pools::Backend;
use super::super::datasets::Datasets;
use super::super::place::Place;
use super::super::space::Shortage;
use super::Ground;

const POOL: &str = "reroot-power";

pub(crate) struct Zpool;

impl Ground for Zpool {
    fn backend(&self) -> Backend {
        Backend::Zfs
    }

    fn mib(&self) -> u64 {
        192
    }

    fn make(&self, device: &Path) -> Result<(), String> {
        run(Command::new("zpool").args(["create", "-f", "-o", "cachefile=none", "-m", "none", POOL]).arg(device))?;
        zfs(&["create", &format!("{POOL}/containers")]).map(drop)
    }

    fn up(&self, device: &Path) -> Result<(), String> {
        run(Command::new("zpool").args(["import", "-N", "-o", "cachefile=none", "-d"]).arg(device).arg(POOL)).map(drop)
    }

    fn down(&self) -> Result<(), String> {
        let mut done = Ok(String::new());
        for _ in 0..50 {
            done = run(Command::new("zpool").args(["export", POOL]));
            match &done {
                Err(why) if why.contains("busy") => sleep(Duration::from_millis(50)),
                _ => break,
            }
        }
        done.map(drop)
    }

    fn heal(&self) {
        let _ = run(Command::new("zpool").args(["clear", POOL]));
    }

    fn shortages(&self) -> Vec<Shortage> {
        let quota = Shortage {
            name: "quota",
            told: &[Space::Quota],
            begin: String::new(),
            // Less than what is used it cannot be.
            take: format!(
                "zpool sync {POOL}; used=$(zfs get -Hp -o value used {POOL}/containers); \
                 zfs set quota=$((used + LEFT * 1024)) {POOL}/containers; zpool sync {POOL}"
            ),
            give: format!("zfs set quota=none {POOL}/containers"),
            enough: 4096,
        };
        let each = format!("zfs list -Hp -r -t filesystem -o name,referenced {POOL}/containers | while read -r name size; do");
        // Of each root alone; a new one gets what the old one has.
        let refquota = Shortage {
            name: "refquota",
            told: &[Space::Quota],
            begin: String::new(),
            take: format!(
                "zpool sync {POOL}; {each} case $name in */c1*) zfs set refquota=$((size + LEFT * 1024)) $name;; esac; done; zpool sync {POOL}"
            ),
            give: format!("{each} zfs set refquota=none $name; done"),
            enough: 2048,
        };
        let at = format!("/tmp/{POOL}-ballast");
        let full = Shortage {
            name: "no_space",
            told: &[Space::Pool],
            begin: String::new(),
            take: format!(
                "zfs create -o mountpoint=legacy -o compression=off {POOL}/ballast && mkdir -p {at} && mount -t zfs {POOL}/ballast {at} && \
                 dd if=/dev/urandom of={at}/reserve bs=1k count=$LEFT && \
                 for size in 1M 64k 4k 512; do dd if=/dev/urandom of={at}/$size bs=$size; zpool sync {POOL}; done; \
                 rm {at}/reserve; zpool sync {POOL}"
            ),
            give: format!(
                "umount {at} && zfs destroy {POOL}/ballast && zpool sync {POOL} && zpool wait -t free {POOL} && zpool sync {POOL}"
            ),
            enough: 8192,
        };
        vec![full, quota, refquota]
    }

    fn place(&self) -> Result<Box<dyn Place>, String> {
        Ok(Box::new(Datasets::within(POOL)?))
    }

    fn abandon(&self) {
        let _ = run(Command::new("zpool").args(["export", "-f", POOL]));
    }
}
