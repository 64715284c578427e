//! The examples on Ceph, in the cluster of the lab.

#![cfg(all(feature = "ceph", feature = "dir", feature = "tar", feature = "gzip", feature = "zstd"))]

#[path = "common/cluster.rs"]
mod cluster;
#[path = "common/examples.rs"]
mod examples;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/visit.rs"]
mod visit;

use std::process::{Command, Output};

use serde_json::{Value, json};

use cluster::{LOCKS, Mapped, Space, ceph};
use examples::{SAMPLE, assert_status, example};
use lab::{need, run};

/// A namespace and a volume that a manager made in it: of 64 MiB, with ext4.
struct Pool(Space);

impl Pool {
    fn new() -> Result<Self, String> {
        let pool = Pool(Space::new()?);
        pool.0.ask::<Value>("create", &[json!("c1"), json!(64 << 20), json!(1)])?;
        let mapped = Mapped::new(&pool.0.full("c1"))?;
        run(Command::new("mkfs.ext4").arg("-q").arg(mapped.device()))?;
        Ok(pool)
    }

    fn spec(&self, rest: &str) -> String {
        format!("ceph:{}", self.0.full(rest)).trim_end_matches('/').to_owned()
    }

    fn rebuild(&self, arguments: &[&str]) -> Output {
        example("rebuild").args(arguments).arg(self.spec("c1")).output().unwrap()
    }

    fn bases(&self, arguments: &[&str]) -> Output {
        example("bases").arg(self.spec("")).args(arguments).output().unwrap()
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

    #[track_caller]
    fn expect_only(&self, images: &[&str]) {
        assert_eq!(self.0.images().unwrap(), images);
        assert_eq!(self.0.beside().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_volume_is_replaced_and_recovered() {
    let pool = need!(Pool::new());
    let inspected = pool.inspect();
    assert_eq!((&inspected["names"]["live"], &inspected["usage"]["size"]), (&true.into(), &(64 << 20).into()), "{inspected}");
    assert_status(&pool.rebuild(&["--empty", "--size", "70MiB"]), 0);
    assert_eq!((pool.image().as_str(), &pool.inspect()["usage"]["size"]), ("empty", &(70 << 20).into()));
    let error = assert_status(&pool.rebuild(&["--json", "--empty", "--size", "60MiB"]), 3);
    assert!(error["message"].as_str().unwrap().contains("shrink"), "{error}");

    // A snapshot is named, and nothing is done.
    pool.0.snapshot("c1", "snapshot_daily").unwrap();
    let error = assert_status(&pool.rebuild(&["--json", SAMPLE]), 3);
    assert!(error["message"].as_str().unwrap().contains("snapshot_daily"), "{error}");
    let report = assert_status(&pool.rebuild(&["--snapshots", "purge", "--json", SAMPLE]), 0);
    assert_eq!(report["purged"][0]["name"], "snapshot_daily", "{report}");
    assert_eq!(pool.image(), "file");
    pool.expect_only(&["c1"]);

    // What a kill between the two renames leaves.
    let report = assert_status(&pool.rebuild(&["--detach", "--json", "--empty"]), 0);
    assert_eq!(report["old_root"], "left", "{report}");
    pool.0.ask::<Value>("rename", &[json!("c1"), json!("c1.reroot-staged")]).unwrap();
    // As it was announced before it was made.
    let (place, id) = (pool.0.full(""), pool.0.facts("c1.reroot-staged").unwrap().unwrap().id);
    let (rbd, namespace) = place.trim_end_matches('/').split_once('/').unwrap();
    ceph(&format!("rados --pool {rbd} --namespace {namespace} setomapval {LOCKS} made/c1.reroot-staged {id}")).unwrap();
    assert_eq!(pool.inspect()["names"]["live"], false);
    let recovery = assert_status(&pool.recover(), 0);
    assert_eq!(recovery["actions"], json!(["roll-forward", "dispose-retired"]), "{recovery}");
    assert_eq!(pool.image(), "empty");
    pool.expect_only(&["c1"]);
}

#[test]
fn who_holds_it_is_named() {
    let pool = need!(Pool::new());
    let mapped = Mapped::new(&pool.0.full("c1")).unwrap();
    let error = assert_status(&pool.rebuild(&["--json", "--empty"]), 3);
    assert_eq!(error["kind"], "busy", "{error}");
    assert!(error["message"].as_str().unwrap().contains(mapped.device().to_str().unwrap()), "{error}");
    drop(mapped);
    assert_status(&pool.rebuild(&["--json", "--empty", "--wait", "10"]), 0);
    pool.expect_only(&["c1"]);
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
    assert_eq!(list[0]["clones"], json!([pool.0.full("c1")]), "{list}");
    assert_eq!(assert_status(&pool.bases(&["--verify", "--json"]), 0)[0]["verdict"], "intact");
    // The same, with the pool's name.
    assert_status(&pool.rebuild(&["--dry-run", "--base", "--pool", &pool.spec(""), SAMPLE]), 0);
    // Several at once.
    let volumes = ["c1", "c2", "c3"].map(|name| pool.spec(name));
    let report = assert_status(&example("rolling").args(["--json", SAMPLE]).args(&volumes).output().unwrap(), 0);
    assert_eq!(report["rebuilt"], 3, "{report}");
    for name in ["c1", "c2", "c3"] {
        assert_status(&example("rebuild").args(["--empty", "--quiet", &pool.spec(name)]).output().unwrap(), 0);
    }
    assert_status(&pool.bases(&["--remove", name]), 0);
    assert_eq!(assert_status(&pool.bases(&["--json"]), 0), json!([]));
    pool.expect_only(&["c1", "c2", "c3"]);
}

#[test]
fn what_is_no_image_is_a_mistake() {
    let pool = need!(Pool::new());
    for volume in [
        "ceph:",
        "ceph:rbd",
        "ceph:rbd/",
        "ceph:/c1",
        "ceph:rbd/a/b/c",
        "ceph:rbd/-c1",
        "ceph:rbd/c1@snap",
        "ceph:rbd/c1.reroot-staged",
    ] {
        assert_status(&example("rebuild").args(["--empty", volume]).output().unwrap(), 2);
    }
    let error = assert_status(&example("rebuild").args(["--empty", "--json", "ceph:no-such-pool/c1"]).output().unwrap(), 1);
    assert!(error["remedy"].as_str().unwrap().contains("ceph osd pool ls"), "{error}");
    assert_status(&pool.rebuild(&["--base", "--pool", "ceph:no-such-pool", SAMPLE]), 1);
    assert_status(&pool.rebuild(&["--empty", "--size", "1GiB", "--quiet"]), 0);
    assert_eq!(ceph(&format!("rbd ls {}", pool.0.name)).unwrap().trim(), "c1");
    pool.expect_only(&["c1"]);
}
