//! What was cloned from a volume's snapshots, and from bases: nothing breaks, and nothing is left over in whatever order they go.

use super::*;
use reroot::SnapshotPolicy;
use reroot::ceph::ChildrenPolicy;
use serde_json::{Value, json};

/// Both formats: the first needs a snapshot that is protected, the second keeps one that is removed for as long as it has children.
const FORMATS: [u32; 2] = [1, 2];

impl Pool {
    /// Gives the volume a snapshot with a clone of it, as a manager copies an instance.
    fn copy(&self, of: &str, snapshot: &str, to: &str, format: u32) {
        self.space.ask::<Value>("snapshot", &[json!(of), json!(snapshot), json!(format == 1)]).unwrap();
        self.space.ask::<Value>("clone", &[json!(of), json!(snapshot), json!(to), json!(format)]).unwrap();
    }

    /// Removes a volume as a manager that knows of no snapshots in the trash.
    fn remove(&self, rest: &str) {
        let facts = self.facts(rest);
        for snapshot in facts.snapshots {
            self.space.ask::<Value>("remove_snapshot", &[json!(rest), json!(snapshot)]).unwrap();
        }
        self.space.ask::<Value>("remove", &[json!(rest)]).unwrap();
    }

    fn holds(&self, rest: &str, file: &str) -> bool {
        self.visit(rest, |root| root.join(file).exists())
    }
}

fn purging(policy: ChildrenPolicy, pool: &Pool, rest: &str, tree: &Tree) -> reroot::Result<Report> {
    Rebuild::new(image(tree)).snapshots(SnapshotPolicy::Purge).run(&mut pool.open(rest).with_children(policy))
}

#[test]
fn they_are_named_and_nothing_is_done() {
    for format in FORMATS {
        let pool = need!(Pool::with_old());
        pool.copy("c1", "snapshot_a", "c2", format);
        let said = refused(purging(ChildrenPolicy::Refuse, &pool, "c1", &new()), ErrorKind::HasDependents);
        assert!(said.contains("c2") && said.contains("snapshot_a"), "{said}");
        assert_eq!(
            (pool.facts("c1").snapshots, pool.facts("c2").parent),
            (vec!["snapshot_a".to_owned()], "c1/snapshot_a".to_owned())
        );
        pool.expect("old", &["c1", "c2"]);
        pool.remove("c2");
        purging(ChildrenPolicy::Refuse, &pool, "c1", &new()).unwrap();
        pool.expect("new", &["c1"]);
    }
}

/// A snapshot that was removed while it had children is out of sight, and still there.
#[test]
fn those_of_a_snapshot_in_the_trash_are_seen() {
    for policy in [ChildrenPolicy::Refuse, ChildrenPolicy::Flatten] {
        let pool = need!(Pool::with_old());
        pool.copy("c1", "snapshot_a", "c2", 2);
        pool.space.ask::<Value>("remove_snapshot", &[json!("c1"), json!("snapshot_a")]).unwrap();
        assert!(pool.facts("c1").snapshots.is_empty());
        if policy == ChildrenPolicy::Refuse {
            let said = refused(purging(policy, &pool, "c1", &new()), ErrorKind::HasDependents);
            assert!(said.contains("c2"), "{said}");
            pool.expect("old", &["c1", "c2"]);
        } else {
            purging(policy, &pool, "c1", &new()).unwrap();
            assert!(pool.facts("c2").parent.is_empty() && pool.holds("c2", "old"));
            pool.expect("new", &["c1", "c2"]);
        }
    }
}

#[test]
fn they_are_given_what_they_share_where_that_is_wanted() {
    for format in FORMATS {
        let pool = need!(Pool::with_old());
        pool.copy("c1", "snapshot_a", "c2", format);
        pool.copy("c1", "snapshot_b", "c3", format);
        let report = purging(ChildrenPolicy::Flatten, &pool, "c1", &new()).unwrap();
        assert!(report.warnings.is_empty(), "{report}");
        assert!(["c2", "c3"].iter().all(|name| pool.facts(name).parent.is_empty() && pool.holds(name, "old")));
        pool.expect("new", &["c1", "c2", "c3"]);
    }
}

/// What a child's own snapshots share stays shared, unless the child was made with the feature deep-flatten.
#[test]
fn a_child_with_snapshots_is_seen_before_anything_is_done() {
    for format in FORMATS {
        let pool = need!(Pool::with_old());
        pool.copy("c1", "snapshot_a", "c2", format);
        pool.copy("c2", "snapshot_of_c2", "c3", format);
        let said = refused(purging(ChildrenPolicy::Flatten, &pool, "c1", &new()), ErrorKind::HasDependents);
        assert!(said.contains("c2"), "{said}");
        let parents = ["c2", "c3"].map(|name| pool.facts(name).parent);
        assert_eq!(parents, ["c1/snapshot_a", "c2/snapshot_of_c2"]);
        pool.expect("old", &["c1", "c2", "c3"]);
    }
}

#[test]
fn they_are_found_in_other_places() {
    let pool = need!(Pool::with_old());
    let name = pool.name("c1");
    pool.snapshot("c1", "snapshot_a");
    let elsewhere = format!("{DATA_POOL}/t-{}-child", std::process::id());
    run_words(&format!("rbd clone --rbd-default-clone-format 2 {name}@snapshot_a {elsewhere}"));
    let said = refused(purging(ChildrenPolicy::Refuse, &pool, "c1", &new()), ErrorKind::HasDependents);
    assert!(said.contains(&elsewhere), "{said}");
    purging(ChildrenPolicy::Flatten, &pool, "c1", &new()).unwrap();
    let root = Visited::new(&elsewhere, pool.folder.path()).unwrap().unwrap();
    assert!(root.path().join("old").exists());
    drop(root);
    run_words(&format!("rbd rm --no-progress {elsewhere}"));
    pool.expect("new", &["c1"]);
}

#[test]
fn one_in_the_trash_is_seen() {
    let pool = need!(Pool::with_old());
    pool.copy("c1", "snapshot_a", "c2", 2);
    pool.space.ask::<Value>("discard", &[json!("c2"), json!(0)]).unwrap();
    let said = refused(purging(ChildrenPolicy::Refuse, &pool, "c1", &new()), ErrorKind::HasDependents);
    assert!(said.contains("c2") && said.contains("trash"), "{said}");
    // Nobody works with it: it can wait, and whoever brings it back finds it whole.
    let result = purging(ChildrenPolicy::Flatten, &pool, "c1", &new());
    let trash: Vec<Value> = pool.space.ask("trash", &[]).unwrap();
    pool.space.ask::<Vec<Value>>("trash", &[]).unwrap();
    run_words(&format!(
        "rbd trash restore --pool {POOL} --namespace {} {}",
        pool.space.name.trim_start_matches("rbd/"),
        trash[0]["id"].as_str().unwrap()
    ));
    assert!(pool.holds("c2", "old"));
    match result {
        Ok(_) => pool.expect("new", &["c1", "c2"]),
        Err(error) => {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::HasDependents, Outcome::Untouched), "{}", error.report());
            pool.expect("old", &["c1", "c2"]);
        }
    }
}

#[test]
fn a_child_that_is_in_use_stays_whole() {
    for format in FORMATS {
        let pool = need!(Pool::with_old());
        pool.copy("c1", "snapshot_a", "c2", format);
        // A running instance: flattening happens below it.
        let root = Visited::new(&pool.name("c2"), pool.folder.path()).unwrap().unwrap();
        let result = purging(ChildrenPolicy::Flatten, &pool, "c1", &new());
        assert!(root.path().join("old").exists());
        fs::write(root.path().join("written"), "meanwhile").unwrap();
        drop(root);
        let report = result.unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(pool.facts("c2").parent.is_empty(), "{report}");
        assert!(pool.holds("c2", "old") && pool.holds("c2", "written"));
        pool.expect("new", &["c1", "c2"]);
    }
}

/// As LXD tests its copies: a; b from a; a goes; a again; c from it; all go. No image is left, and none in the trash.
#[test]
fn nothing_is_left_in_whatever_order_they_go() {
    for format in FORMATS {
        for order in [["c1", "c2", "c3"], ["c3", "c2", "c1"], ["c2", "c1", "c3"], ["c3", "c1", "c2"]] {
            let pool = need!(Pool::with_old());
            pool.copy("c1", "snapshot_a", "c2", format);
            purging(ChildrenPolicy::Flatten, &pool, "c1", &new()).unwrap();
            pool.copy("c1", "snapshot_b", "c3", format);
            purging(ChildrenPolicy::Flatten, &pool, "c1", &old()).unwrap();
            assert!(pool.holds("c2", "old") && pool.holds("c3", "new") && pool.holds("c1", "old"));
            pool.expect_only(&["c1", "c2", "c3"]);
            order.iter().for_each(|name| pool.remove(name));
            pool.expect_only(&[]);
        }
    }
}
