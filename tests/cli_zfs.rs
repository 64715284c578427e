//! The examples on ZFS, in a pool of the lab.

#![cfg(all(feature = "zfs", feature = "dir", feature = "tar", feature = "gzip", feature = "zstd"))]

#[path = "common/examples.rs"]
mod examples;
#[path = "common/lab.rs"]
mod lab;

use std::process::Output;

use serde_json::Value;

use examples::{SAMPLE, assert_status, example};
use lab::{Dataset, need, zfs};

/// A dataset with volumes in `containers`.
struct Pool(Dataset);

impl Pool {
    fn new() -> Result<Self, String> {
        let pool = Pool(Dataset::new()?);
        zfs(&["create", &pool.name("containers")])?;
        Ok(pool)
    }

    /// The whole name of what lies in it.
    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.0.0)
    }

    fn spec(&self) -> String {
        format!("zfs:{}", self.0.0)
    }

    fn volume(&self) -> String {
        format!("zfs:{}", self.name("containers/c1"))
    }

    fn rebuild(&self, arguments: &[&str]) -> Output {
        example("rebuild").args(arguments).arg(self.volume()).output().unwrap()
    }

    fn bases(&self, arguments: &[&str]) -> Output {
        example("bases").arg(self.spec()).args(arguments).output().unwrap()
    }

    fn recover(&self) -> Output {
        example("recover").args(["--json", &self.volume()]).output().unwrap()
    }

    #[track_caller]
    fn inspect(&self) -> Value {
        assert_status(&example("inspect").args(["--json", &self.volume()]).output().unwrap(), 0)
    }

    /// What the volume was filled from.
    #[track_caller]
    fn image(&self) -> String {
        self.inspect()["image"]["origin"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_volume_is_made_kept_and_recovered() {
    let pool = need!(Pool::new());
    assert_eq!(pool.inspect()["names"]["live"], false);
    assert_status(&pool.rebuild(&["--empty", "--size", "64MiB"]), 0);
    assert_eq!((pool.image().as_str(), &pool.inspect()["usage"]["size"]), ("empty", &(64 << 20).into()));

    // A snapshot is named, and nothing is done; kept if that is asked for.
    let live = pool.name("containers/c1");
    zfs(&["snapshot", &format!("{live}@snapshot-daily")]).unwrap();
    let error = assert_status(&pool.rebuild(&["--json", SAMPLE]), 3);
    assert!(error["message"].as_str().unwrap().contains("snapshot-daily"), "{error}");
    let guid = zfs(&["get", "-H", "-o", "value", "guid", &live]).unwrap();
    let report = assert_status(&pool.rebuild(&["--snapshots", "keep", "--json", SAMPLE]), 0);
    assert_eq!(report["kept"][0]["name"], "snapshot-daily", "{report}");
    assert_eq!(zfs(&["get", "-H", "-o", "value", "guid", &live]).unwrap(), guid);
    assert_eq!(pool.image(), "file");

    // What a kill between the two renames leaves.
    let report = assert_status(&pool.rebuild(&["--snapshots", "purge", "--detach", "--json", "--empty"]), 0);
    assert_eq!(report["old_root"], "left", "{report}");
    zfs(&["rename", &live, &format!("{live}.reroot-staged")]).unwrap();
    assert_eq!(pool.inspect()["names"]["live"], false);
    let recovery = assert_status(&pool.recover(), 0);
    assert_eq!(recovery["actions"], serde_json::json!(["roll-forward", "dispose-retired"]));
    assert_eq!(pool.image(), "empty");
    assert_eq!(zfs(&["list", "-H", "-r", "-o", "name", &pool.name("containers")]).unwrap().lines().count(), 2);
}

#[test]
fn a_base_is_found_two_datasets_up() {
    let pool = need!(Pool::new());
    for _ in 0..2 {
        let report = assert_status(&pool.rebuild(&["--base", "--json", SAMPLE]), 0);
        assert_eq!(report["made"], "cloned", "{report}");
    }
    let list = assert_status(&pool.bases(&["--json"]), 0);
    let name = list[0]["name"].as_str().unwrap();
    assert_eq!(list[0]["clones"], serde_json::json!([pool.name("containers/c1")]), "{list}");
    assert_eq!(zfs(&["list", "-H", "-o", "name", &pool.name(&format!("reroot-bases/{name}"))]).unwrap().lines().count(), 1);
    assert_eq!(assert_status(&pool.bases(&["--verify", "--json"]), 0)[0]["verdict"], "intact");
    // A volume depends on it: whoever wants it to go is told which.
    let removed = pool.bases(&["--remove", name]);
    assert_status(&removed, 3);
    assert!(String::from_utf8_lossy(&removed.stderr).contains("containers/c1"), "{removed:?}");
    assert_status(&pool.rebuild(&["--empty", "--quiet"]), 0);
    assert_status(&pool.bases(&["--remove", name]), 0);
    assert_eq!(assert_status(&pool.bases(&["--json"]), 0), serde_json::json!([]));
}

#[test]
fn what_is_no_dataset_is_a_mistake() {
    let pool = need!(Pool::new());
    for volume in ["zfs:", "zfs:pool", "zfs:pool/", "zfs:/pool/c1", "zfs:pool/c1@snapshot"] {
        assert_status(&example("rebuild").args(["--empty", volume]).output().unwrap(), 2);
    }
    let missing = format!("zfs:{}", pool.name("no/such/c1"));
    let error = assert_status(&example("rebuild").args(["--empty", "--json", &missing]).output().unwrap(), 1);
    assert!(error["remedy"].as_str().unwrap().contains("zfs create"), "{error}");
    assert_status(&pool.rebuild(&["--base", "--pool", "zfs:no-such-pool", SAMPLE]), 1);
}
