//! Users, keys and clusters: what the least capabilities allow, and what is said of those that do not work. No message holds a key.

use super::*;
use reroot::ceph::{CephBases, CephCluster};
use reroot::{Bases, SnapshotPolicy};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// A user of the cluster who goes when it is dropped.
struct User {
    name: String,
    key: String,
    keyring: PathBuf,
}

impl User {
    fn new(pool: &Pool, name: &str, caps: &[&str]) -> User {
        let name = format!("{name}-{}", std::process::id());
        let entity = format!("client.{name}");
        let made = cluster::mon(json!({"prefix": "auth get-or-create", "entity": entity, "caps": caps})).unwrap();
        let key = made[0]["key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        let keyring = pool.folder.path().join(format!("{name}.keyring"));
        fs::write(&keyring, format!("[{entity}]\n\tkey = {key}\n")).unwrap();
        User { name, key, keyring }
    }

    fn cluster(&self) -> CephCluster {
        CephCluster::new().with_user(&self.name).with_keyring(&self.keyring)
    }

    fn open(&self, pool: &Pool) -> reroot::Result<CephVolume> {
        CephVolume::open_in(&self.cluster(), &pool.name("c1"))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let gone = cluster::mon(json!({"prefix": "auth del", "entity": format!("client.{}", self.name)}));
        assert!(gone.is_ok() || std::thread::panicking(), "{gone:?}");
    }
}

/// Demands that an error says what to do, and no secret.
#[track_caller]
fn told(error: reroot::Error, kinds: &[ErrorKind], keys: &[&str]) -> String {
    assert!(kinds.contains(&error.kind()) && error.outcome() == Outcome::Untouched, "{}", error.report());
    assert!(error.remedy().is_some(), "{}", error.report());
    let (said, debugged) = (error.report().to_string(), format!("{error:?}"));
    assert!(keys.iter().all(|key| !said.contains(key) && !debugged.contains(key)), "{said}");
    said
}

#[test]
fn the_least_capabilities_are_enough() {
    let pool = need!(Pool::new());
    let namespace = pool.space.name.trim_start_matches("rbd/");
    let osd = format!("profile rbd pool={POOL} namespace={namespace}");
    let user = User::new(&pool, "rebuilder", &["mon", "profile rbd", "osd", &osd]);
    let debugged = format!("{:?}", user.cluster());
    assert!(!debugged.contains(&user.key), "{debugged}");
    let open = || user.open(&pool).unwrap_or_else(|error| panic!("{}", error.report())).with_size(SIZE);
    for tree in [old(), new()] {
        let report = rebuild(&mut open(), &tree).unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(report.warnings.is_empty(), "{report}");
    }
    assert!(!format!("{:?}", open()).contains(&user.key));
    pool.expect("new", &["c1"]);
    pool.snapshot("c1", "snapshot_a");
    Rebuild::new(image(&old())).snapshots(SnapshotPolicy::Purge).run(&mut open()).unwrap();
    pool.expect("old", &["c1"]);
    // Its own bases too.
    let bases = Bases::new(CephBases::open_in(&user.cluster(), &pool.space.name).unwrap().with_size(SIZE));
    let base = bases.ensure(seekable(pool.folder.path(), &new()), &reroot::base::BaseOptions::new()).unwrap();
    Rebuild::from_base(&base).run(&mut open()).unwrap();
    let name = base.name().clone();
    drop(base);
    rebuild(&mut open(), &old()).unwrap();
    bases.remove(&name, &soon()).unwrap();
    pool.expect("old", &["c1"]);
    // And nothing elsewhere.
    let other = need!(Pool::new());
    let result = CephVolume::open_in(&user.cluster(), &other.name("c1")).and_then(|mut volume| rebuild(&mut volume, &new()));
    let said = told(result.unwrap_err(), &[ErrorKind::PermissionDenied, ErrorKind::NotFound], &[&user.key]);
    assert!(said.contains("profile rbd") || said.contains("namespace"), "{said}");
}

#[test]
fn a_user_who_may_not_write_is_told() {
    let pool = need!(Pool::with_old());
    for osd in ["profile rbd-read-only", "allow r pool=rbd"] {
        let user = User::new(&pool, "reader", &["mon", "profile rbd", "osd", osd]);
        let result = user.open(&pool).and_then(|mut volume| rebuild(&mut volume, &new()));
        let said = told(result.unwrap_err(), &[ErrorKind::PermissionDenied], &[&user.key]);
        assert!(said.contains("profile rbd") && said.contains(&user.name), "{said}");
        pool.expect("old", &["c1"]);
    }
    // Such a one does not even hear from an OSD.
    let user = User::new(&pool, "mute", &["mon", "profile rbd"]);
    let cluster = user.cluster().with_deadline(Duration::from_secs(5));
    let error = CephVolume::open_in(&cluster, &pool.name("c1")).unwrap_err();
    let said = told(error, &[ErrorKind::TimedOut, ErrorKind::PermissionDenied], &[&user.key]);
    assert!(said.contains("profile rbd"), "{said}");
}

#[test]
fn a_wrong_key_is_told() {
    let pool = need!(Pool::with_old());
    let (user, other) = (User::new(&pool, "a", &["mon", "profile rbd"]), User::new(&pool, "b", &["mon", "profile rbd"]));
    fs::write(&user.keyring, format!("[client.{}]\n\tkey = {}\n", user.name, other.key)).unwrap();
    let begun = Instant::now();
    let said = told(user.open(&pool).unwrap_err(), &[ErrorKind::PermissionDenied], &[&user.key, &other.key]);
    assert!(said.contains(&format!("client.{}", user.name)) && begun.elapsed() < Duration::from_secs(20), "{said}");
    // None at all, none of this user, and what is no key.
    for content in [
        "",
        "[client.somebody]\n\tkey = AQBSdFhcgDKVFRAAXRqYD1s7cRZzgWwSMuTf6w==\n",
        "[client.a]\n\tkey = nonsense\n",
        "\0\u{1}\n[[[\n",
    ] {
        let content = content.replace("client.a]", &format!("client.{}]", user.name));
        fs::write(&user.keyring, content).unwrap();
        let kinds = [ErrorKind::PermissionDenied, ErrorKind::NotFound, ErrorKind::InvalidInput, ErrorKind::Io];
        told(user.open(&pool).unwrap_err(), &kinds, &[&user.key, &other.key, "AQBSdFhcgDKVFRAAXRqYD1s7cRZzgWwSMuTf6w", "nonsense"]);
    }
    fs::remove_file(&user.keyring).unwrap();
    let said = told(user.open(&pool).unwrap_err(), &[ErrorKind::NotFound, ErrorKind::PermissionDenied], &[&user.key]);
    assert!(said.contains("keyring"), "{said}");
    pool.expect("old", &["c1"]);
}

#[test]
fn a_cluster_that_is_not_there_is_told_in_time() {
    let pool = need!(Pool::with_old());
    let name = pool.name("c1");
    let open = |cluster: CephCluster| CephVolume::open_in(&cluster.with_deadline(Duration::from_secs(3)), &name);
    let begun = Instant::now();
    let said = told(open(CephCluster::new().with_name("nowhere")).unwrap_err(), &[ErrorKind::NotFound, ErrorKind::TimedOut], &[]);
    assert!(said.contains("nowhere"), "{said}");
    let said = told(open(CephCluster::new().with_config("/no/such.conf")).unwrap_err(), &[ErrorKind::NotFound], &[]);
    assert!(said.contains("/no/such.conf"), "{said}");
    // Nobody has this address, and nobody listens at that one.
    for monitors in ["192.0.2.77", "127.0.0.1:1"] {
        let said = told(open(CephCluster::new().with_monitors(monitors)).unwrap_err(), &[ErrorKind::TimedOut], &[]);
        assert!(said.contains("monitors"), "{said}");
    }
    let kinds = [ErrorKind::NotFound, ErrorKind::PermissionDenied];
    let said = told(open(CephCluster::new().with_user("nobody")).unwrap_err(), &kinds, &[]);
    assert!(said.contains("client.nobody"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
    for hostile in ["no\nbody", "a,secret=x", "x y", "\u{1b}[2J"] {
        let said = told(
            open(CephCluster::new().with_user(hostile)).unwrap_err(),
            &[ErrorKind::NotFound, ErrorKind::PermissionDenied, ErrorKind::InvalidInput],
            &[],
        );
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
    pool.expect("old", &["c1"]);
}

#[test]
fn a_deadline_is_kept_by_the_cluster_value_itself() {
    let pool = need!(Pool::with_old());
    // Several volumes of one value share their login.
    let cluster = CephCluster::new().with_deadline(Duration::from_secs(20));
    let mut volumes = ["c1", "c2", "c3"].map(|name| CephVolume::open_in(&cluster, &pool.name(name)).unwrap().with_size(SIZE));
    for volume in &mut volumes {
        rebuild(volume, &new()).unwrap();
    }
    drop(volumes);
    pool.expect("new", &["c1", "c2", "c3"]);
}
