//! The examples on LVM, in the group of the lab.

#![cfg(all(feature = "lvm", feature = "dir", feature = "tar", feature = "gzip", feature = "zstd"))]

#[path = "common/examples.rs"]
mod examples;
#[path = "common/group.rs"]
mod group;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/visit.rs"]
mod visit;

use std::process::{Command, Output};

use serde_json::Value;

use examples::{SAMPLE, assert_status, example};
use group::{GROUP, Prefix, lvm};
use lab::{need, run};

/// A thin pool and a volume that a manager made in it: of 64 MiB, with ext4, and active with its group.
struct Pool(Prefix);

impl Pool {
    fn new() -> Result<Self, String> {
        let pool = Pool(Prefix::new()?);
        let thin = pool.name("thin");
        lvm(&format!("lvcreate --yes --type thin-pool --size 300M --poolmetadatasize 4M --name {thin} {GROUP}"))?;
        lvm(&format!("lvcreate --yes --virtualsize 64M --thinpool {thin} --name {} {GROUP}", pool.name("c1")))?;
        let device = group::device(&format!("{GROUP}/{}", pool.name("c1"))).ok_or("the volume has no device")?;
        run(Command::new("mkfs.ext4").arg("-q").arg(device))?;
        Ok(pool)
    }

    /// The name of what lies in it, within the group.
    fn name(&self, rest: &str) -> String {
        format!("{}{rest}", self.0.0)
    }

    fn spec(&self, rest: &str) -> String {
        format!("lvm:{GROUP}/{}", self.name(rest))
    }

    fn rebuild(&self, arguments: &[&str]) -> Output {
        example("rebuild").args(arguments).arg(self.spec("c1")).output().unwrap()
    }

    fn bases(&self, arguments: &[&str]) -> Output {
        example("bases").arg(self.spec("thin")).args(arguments).output().unwrap()
    }

    fn recover(&self) -> Output {
        example("recover").args(["--json", &self.spec("c1")]).output().unwrap()
    }

    #[track_caller]
    fn inspect(&self) -> Value {
        assert_status(&example("inspect").args(["--json", &self.spec("c1")]).output().unwrap(), 0)
    }

    /// What the volume was filled from.
    #[track_caller]
    fn image(&self) -> String {
        self.inspect()["image"]["origin"].as_str().unwrap_or_default().to_owned()
    }

    fn list(&self) -> Vec<String> {
        let prefix = format!("{GROUP}/{}", self.0.0);
        self.0.volumes(GROUP).unwrap().iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
    }
}

#[test]
fn a_volume_is_replaced_kept_and_recovered() {
    let pool = need!(Pool::new());
    let inspected = pool.inspect();
    assert_eq!((&inspected["names"]["live"], &inspected["usage"]["size"]), (&true.into(), &(64 << 20).into()), "{inspected}");
    assert_status(&pool.rebuild(&["--empty", "--size", "70MiB"]), 0);
    // In whole extents.
    assert_eq!((pool.image().as_str(), &pool.inspect()["usage"]["size"]), ("empty", &(72 << 20).into()));
    let error = assert_status(&pool.rebuild(&["--json", "--empty", "--size", "60MiB"]), 3);
    assert!(error["message"].as_str().unwrap().contains("shrink"), "{error}");

    // A snapshot is named, and nothing is done; kept if that is asked for.
    let live = format!("{GROUP}/{}", pool.name("c1"));
    let options = "--yes --snapshot --permission r --setactivationskip y";
    lvm(&format!("lvcreate {options} --name {} {live}", pool.name("c1-daily"))).unwrap();
    let error = assert_status(&pool.rebuild(&["--json", SAMPLE]), 3);
    assert!(error["message"].as_str().unwrap().contains("c1-daily"), "{error}");
    let report = assert_status(&pool.rebuild(&["--snapshots", "keep", "--json", SAMPLE]), 0);
    assert_eq!(report["kept"][0]["name"], pool.name("c1-daily"), "{report}");
    assert_eq!(pool.image(), "file");
    assert_eq!(pool.list(), ["c1", "c1-daily", "thin"]);

    // What a kill between the two renames leaves.
    let report = assert_status(&pool.rebuild(&["--snapshots", "purge", "--detach", "--json", "--empty"]), 0);
    assert_eq!(report["old_root"], "left", "{report}");
    lvm(&format!("lvrename {live} {live}.reroot-staged")).unwrap();
    assert_eq!(pool.inspect()["names"]["live"], false);
    let recovery = assert_status(&pool.recover(), 0);
    assert_eq!(recovery["actions"], serde_json::json!(["roll-forward", "dispose-retired"]));
    assert_eq!(pool.image(), "empty");
    assert_eq!(pool.list(), ["c1", "thin"]);
}

#[test]
fn a_base_is_found_in_the_volumes_pool() {
    let pool = need!(Pool::new());
    for _ in 0..2 {
        let report = assert_status(&pool.rebuild(&["--base", "--json", SAMPLE]), 0);
        assert_eq!(report["made"], "cloned", "{report}");
    }
    let list = assert_status(&pool.bases(&["--json"]), 0);
    let name = list[0]["name"].as_str().unwrap_or_else(|| panic!("{list}"));
    assert_eq!(list[0]["clones"], serde_json::json!([format!("{GROUP}/{}", pool.name("c1"))]), "{list}");
    assert_eq!(assert_status(&pool.bases(&["--verify", "--json"]), 0)[0]["verdict"], "intact");
    // A volume depends on nothing: whoever wants it to go has it go.
    assert_status(&pool.bases(&["--remove", name]), 0);
    assert_eq!(assert_status(&pool.bases(&["--json"]), 0), serde_json::json!([]));
    assert_eq!(pool.image(), "file");
    // The same, with the pool's name.
    let thin = pool.spec("thin");
    assert_status(&pool.rebuild(&["--dry-run", "--base", "--pool", &thin, SAMPLE]), 0);
    assert_eq!(pool.list(), ["c1", "thin"]);
}

#[test]
fn what_is_no_logical_volume_is_a_mistake() {
    let pool = need!(Pool::new());
    for volume in ["lvm:", "lvm:group", "lvm:group/", "lvm:/c1", "lvm:group/c1/x", "lvm:group/-c1", "lvm:group/c1.reroot-staged"] {
        assert_status(&example("rebuild").args(["--empty", volume]).output().unwrap(), 2);
    }
    let error = assert_status(&example("rebuild").args(["--empty", "--json", "lvm:no-such-group/c1"]).output().unwrap(), 1);
    assert!(error["remedy"].as_str().unwrap().contains("vgs"), "{error}");
    assert_status(&pool.rebuild(&["--base", "--pool", "lvm:no-such-group/thin", SAMPLE]), 1);
    assert_status(&pool.rebuild(&["--empty", "--size", "1GiB", "--quiet"]), 0);
}
