//! Old roots that go to the trash: what is there can be brought back, until its time has come.

use super::*;
use reroot::ceph::RemovalPolicy;
use serde_json::Value;

const HOUR: Duration = Duration::from_secs(3600);

fn rebuild_to_trash(pool: &Pool, keep: Duration, tree: &Tree) {
    let report = rebuild(&mut pool.volume().with_removal(RemovalPolicy::Trash(keep)), tree).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
}

impl Pool {
    fn trashed(&self) -> Vec<String> {
        let list: Vec<Value> = self.space.ask("trash", &[]).unwrap();
        list.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Has `rbd trash` do something with an entry.
    fn rbd_trash(&self, action: &str, id: &str) -> Result<String, String> {
        ceph(&format!("rbd trash {action} {}", self.name(id)))
    }

    /// Demands that nothing but so much is in the trash, and that all else is as [`Pool::expect`] demands it.
    fn expect_with_trash(&self, file: &str, trashed: usize) {
        assert!(self.visit("c1", |root| root.join(file).exists()), "{file} is not in the root");
        assert_eq!(self.list(), ["c1"]);
        let mut beside = self.space.beside().unwrap();
        beside.retain(|what| !what.contains("in the trash") && !what.contains("note trash/"));
        assert!(beside.is_empty() && self.trashed().len() == trashed, "{beside:?}, {:?}", self.trashed());
    }
}

#[test]
fn what_is_there_comes_back() {
    let pool = need!(Pool::with_old());
    let id = pool.facts("c1").id;
    rebuild_to_trash(&pool, HOUR, &new());
    pool.expect_with_trash("new", 1);
    assert_eq!(pool.trashed(), [id.as_str()]);
    // The cluster itself keeps it for so long.
    let why = pool.rbd_trash("rm --no-progress", &id).unwrap_err();
    assert!(why.contains("Deferment") || why.contains("deferment"), "{why}");
    // The next rebuild does too.
    rebuild_to_trash(&pool, HOUR, &new());
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect_with_trash("new", 2);
    // The undo: the new root makes way, and the old one has its name again.
    pool.space.ask::<Value>("remove", &["c1".into()]).unwrap();
    pool.rbd_trash("restore --image c1", &id).unwrap();
    assert_eq!(pool.facts("c1").id, id);
    pool.expect_with_trash("old", 1);
    // It is a volume like any other.
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect_with_trash("new", 1);
}

#[test]
fn one_that_came_back_under_another_name_stays() {
    let pool = need!(Pool::with_old());
    let id = pool.facts("c1").id;
    rebuild_to_trash(&pool, Duration::from_secs(1), &new());
    pool.rbd_trash("restore --image mine", &id).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    rebuild(&mut pool.volume(), &new()).unwrap();
    reroot::recover(&mut pool.volume(), &soon()).unwrap();
    assert!(pool.visit("mine", |root| root.join("old").exists()));
    pool.expect("new", &["c1", "mine"]);
}

#[test]
fn what_has_expired_goes_with_the_next_run() {
    let pool = need!(Pool::with_old());
    // Somebody else's, which is none of the volume's old roots.
    pool.make("stranger", "");
    pool.space.ask::<Value>("discard", &["stranger".into(), 0.into()]).unwrap();
    rebuild_to_trash(&pool, Duration::from_secs(3), &new());
    rebuild_to_trash(&pool, HOUR, &old());
    pool.expect_with_trash("old", 3);
    std::thread::sleep(Duration::from_secs(4));
    // Another volume leaves it alone.
    rebuild(&mut pool.open("c2"), &old()).unwrap();
    pool.space.ask::<Value>("remove", &["c2".into()]).unwrap();
    pool.expect_with_trash("old", 3);
    reroot::recover(&mut pool.volume(), &soon()).unwrap();
    pool.expect_with_trash("old", 2);
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect_with_trash("new", 2);
}

#[test]
fn snapshots_go_and_do_not_hold_it_up() {
    let pool = need!(Pool::with_old());
    pool.snapshot("c1", "snapshot_a");
    let volume = pool.volume().with_removal(RemovalPolicy::Trash(HOUR));
    let purging = Rebuild::new(image(&new())).snapshots(reroot::SnapshotPolicy::Purge);
    let report = purging.run(&mut { volume }).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect_with_trash("new", 1);
}

#[test]
fn what_a_person_purged_is_not_missed() {
    let pool = need!(Pool::with_old());
    rebuild_to_trash(&pool, HOUR, &new());
    let id = pool.trashed().remove(0);
    pool.rbd_trash("rm --force --no-progress", &id).unwrap();
    let report = rebuild(&mut pool.volume(), &old()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect_with_trash("old", 0);
    reroot::recover(&mut pool.volume(), &soon()).unwrap();
    pool.expect_only(&["c1"]);
}
