//! The ZFS backend against a real pool. What it did is checked with the command `zfs`.

#![cfg(all(feature = "zfs", feature = "conformance"))]

#[path = "../common/lab.rs"]
mod lab;
#[path = "../common/shell.rs"]
mod shell;
#[path = "../common/small.rs"]
mod small;
#[path = "../common/streams.rs"]
mod streams;
#[path = "../common/visit.rs"]
mod visit;

mod bases;
mod busy;
mod dependents;
mod kept;
mod names;
mod within;

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::{Dataset, need, run, zfs};
use nix::mount::{MsFlags, mount};
use reroot::conformance::Tree;
use reroot::zfs::ZfsVolume;
use reroot::{ErrorKind, Image, Outcome, Rebuild, Report};
use small::{image, new, old, refused, soon};
use streams::broken;
use visit::Mounted;

/// A dataset with volumes in it.
struct Pool {
    parent: Dataset,
}

impl Pool {
    fn new() -> Result<Pool, String> {
        Ok(Pool { parent: Dataset::new()? })
    }

    /// With the volume `c1` that holds [`old`].
    fn with_old() -> Result<Pool, String> {
        let pool = Pool::new()?;
        rebuild(&mut pool.volume(), &old()).unwrap();
        Ok(pool)
    }

    /// With the volume `c1` that someone else made with these options of `zfs create`, and that holds a file.
    fn with_foreign(options: &[&str]) -> Result<Pool, String> {
        let pool = Pool::new()?;
        let name = pool.name("c1");
        zfs(&[&["create", "-o", "mountpoint=legacy"], options, &[&name]].concat()).unwrap();
        pool.visit("c1", |root| fs::write(root.join("old"), "old").unwrap());
        Ok(pool)
    }

    /// The whole name of what lies in it.
    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.parent.0).trim_end_matches('/').to_owned()
    }

    fn volume(&self) -> ZfsVolume {
        ZfsVolume::open(&self.name("c1")).unwrap()
    }

    /// Runs `zfs` with these words and then the name of what lies in the pool.
    fn zfs(&self, words: &[&str], rest: &str) -> String {
        zfs(&[words, &[&self.name(rest)]].concat()).unwrap()
    }

    /// The value of a property.
    fn get(&self, property: &str, rest: &str) -> String {
        self.zfs(&["get", "-Hp", "-o", "value", property], rest).trim().to_owned()
    }

    fn source(&self, property: &str, rest: &str) -> String {
        self.zfs(&["get", "-H", "-o", "source", property], rest).trim().to_owned()
    }

    /// Everything in the pool, by names within it.
    fn list(&self) -> Vec<String> {
        let all = zfs(&["list", "-H", "-r", "-o", "name", "-t", "filesystem,snapshot", &self.parent.0]).unwrap();
        let mut names: Vec<_> =
            all.lines().filter_map(|name| name.strip_prefix(&format!("{}/", self.parent.0))).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Shows a dataset, or a snapshot, mounted for as long as it takes.
    fn visit<T>(&self, rest: &str, look: impl FnOnce(&Path) -> T) -> T {
        look(show(&self.name(rest)).path())
    }

    /// Demands that the live root holds this file and nothing else of the volume is there but these.
    fn expect(&self, file: &str, all: &[&str]) {
        assert!(self.visit("c1", |root| root.join(file).exists()), "{file} is not in the root");
        assert_eq!(self.list(), all);
    }
}

/// Mounts a dataset as a manager does.
fn show(dataset: &str) -> Mounted {
    let place = std::env::temp_dir();
    Mounted::new(&place, |at| mount(Some(dataset), at, Some("zfs"), MsFlags::empty(), None::<&Path>)).unwrap()
}

fn rebuild(volume: &mut ZfsVolume, tree: &Tree) -> reroot::Result<Report> {
    // Between its fork and its exec a process that another test starts holds copies of our descriptors.
    Rebuild::new(image(tree)).busy_wait(Duration::from_secs(5)).run(volume)
}
