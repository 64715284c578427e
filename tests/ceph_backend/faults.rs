//! A cluster that stops answering, or goes away, in the middle: an error within the deadline, the old root intact, and the rest when it is back.

use super::*;
use reroot::ceph::CephCluster;
use reroot::conformance::fault::{FaultPoint, Faulty, Primitive, When};
use reroot::volume::Names;
use reroot::{CancelToken, Wait};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

/// For each answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// A rebuild that fails asks several times, and gives each thing it has begun its time to end: far from for ever.
const PATIENCE: Duration = Duration::from_secs(120);

fn lab_cluster(words: &str) {
    run(Command::new("lab-cluster").args(words.split(' '))).unwrap();
}

/// Brings everything back when it is dropped, or when that takes too long: what waits without end would not come to it.
struct Mended {
    ended: Option<mpsc::Sender<()>>,
    watch: Option<JoinHandle<()>>,
}

impl Mended {
    fn later() -> Mended {
        let (ended, wait) = mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                mend();
            }
        });
        Mended { ended: Some(ended), watch: Some(watch) }
    }
}

fn mend() {
    for daemon in ["mon", "osd"] {
        let state = run(Command::new("lab-cluster").arg("status")).unwrap();
        if state.contains(&format!("{daemon} hangs")) {
            lab_cluster(&format!("wake {daemon}"));
        }
        lab_cluster(&format!("start {daemon}"));
    }
}

impl Drop for Mended {
    fn drop(&mut self) {
        drop(self.ended.take());
        let watched = self.watch.take().map(JoinHandle::join);
        mend();
        assert!(watched.is_none_or(|watched| watched.is_ok()) || std::thread::panicking(), "it could not be mended");
    }
}

impl Pool {
    /// With the volume `c1` as managers make it.
    fn usual() -> Result<Pool, String> {
        let pool = Pool::alone()?;
        pool.make("c1", "");
        pool.format("c1", "");
        Ok(pool)
    }

    fn impatient(&self) -> CephVolume {
        CephVolume::open_in(&CephCluster::new().with_deadline(DEADLINE), &self.name("c1")).unwrap().with_size(self.size)
    }

    /// Demands that recovery finds one root, whole, and that the next rebuild works, which brings the old root back. Returns which it found.
    fn expect_recovered(&self, either: &[&str]) -> &'static str {
        // A lock that could not be given back goes with its watch, which the cluster misses within half a minute.
        let wait = Wait::new(Duration::from_secs(60), CancelToken::new());
        reroot::recover(&mut self.volume(), &wait).unwrap_or_else(|error| panic!("{}", error.report()));
        let found = self
            .visit("c1", |root| ["old", "new", "large"].into_iter().filter(|file| root.join(file).exists()).collect::<Vec<_>>());
        assert!(found.len() == 1 && either.contains(&found[0]), "in the root is {found:?}");
        self.expect_only(&["c1"]);
        self.expect_sound();
        rebuild(&mut self.volume(), &old()).unwrap_or_else(|error| panic!("the next rebuild: {}", error.report()));
        self.expect("old", &["c1"]);
        if found == ["old"] { "old" } else { "new" }
    }
}

/// What is done to the cluster, as the table of faults names it.
fn fault(words: &str, when: impl std::fmt::Display) -> String {
    let (verb, daemon) = words.split_once(' ').unwrap();
    let daemon = if daemon == "osd" { "OSD" } else { "monitor" };
    let verb = match verb {
        "hang" => "hangs",
        "kill" => "is killed",
        _ => "is stopped",
    };
    format!("the {daemon} {verb}, {when}")
}

#[track_caller]
fn in_time(begun: Instant, error: &reroot::Error) {
    assert!(begun.elapsed() < PATIENCE, "it took {:?}: {}", begun.elapsed(), error.report());
}

#[test]
fn what_cannot_be_reached_at_all_is_told_in_time() {
    let pool = need!(Pool::usual());
    let mended = Mended::later();
    for words in ["hang osd", "stop osd", "hang mon", "stop mon"] {
        lab_cluster(words);
        let begun = Instant::now();
        let result = CephVolume::open_in(&CephCluster::new().with_deadline(DEADLINE), &pool.name("c1"))
            .and_then(|mut volume| rebuild(&mut volume, &new()));
        // Without a monitor that answers the OSD still does.
        let error = result.unwrap_err();
        in_time(begun, &error);
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::TimedOut, Outcome::Untouched), "{words}: {}", error.report());
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("ceph -s")), "{}", error.report());
        mend();
        assert_eq!(pool.list(), ["c1"]);
        let found = pool.expect_recovered(&["old"]);
        Ledger::new(&fault(words, "before all"), "ceph").enter(Ledger::told(&error), found);
    }
    drop(mended);
}

#[test]
fn an_osd_that_fails_while_a_root_is_filled() {
    for words in ["hang osd", "kill osd"] {
        let pool = need!(Pool::usual());
        let mended = Mended::later();
        let reader = Meddling::new(large(40), || lab_cluster(words)).after(12 << 20);
        let mut volume = pool.impatient();
        let begun = Instant::now();
        let error = Rebuild::new(Image::from_reader(reader, "test")).run(&mut volume).unwrap_err();
        in_time(begun, &error);
        assert!(matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack), "{words}: {}", error.report());
        assert!(error.remedy().is_some(), "{words}: {}", error.report());
        drop(volume);
        assert!(begun.elapsed() < PATIENCE, "it took {:?} to give up", begun.elapsed());
        drop(mended);
        let found = pool.expect_recovered(&["old"]);
        Ledger::new(&fault(words, "while a root is filled"), "ceph").enter(Ledger::told(&error), found);
    }
}

/// One that only hesitates is waited for.
#[test]
fn an_osd_that_goes_on_in_time_costs_nothing() {
    let pool = need!(Pool::usual());
    let _mended = Mended::later();
    let reader = Meddling::new(large(40), || {
        lab_cluster("hang osd");
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            lab_cluster("wake osd");
        });
    });
    Rebuild::new(Image::from_reader(reader.after(12 << 20), "test")).run(&mut pool.impatient()).unwrap();
    pool.expect("large", &["c1"]);
}

/// Where a rebuild is when the OSD fails, what it may be told of the volume, and which roots recovery may find.
fn failing(primitive: Primitive, occurrence: u32, when: When, outcomes: &[Outcome], found: &[&str]) {
    for words in ["hang osd", "kill osd"] {
        fail(&need!(Pool::usual()), words, FaultPoint::new(primitive, occurrence, when), outcomes, found);
    }
}

fn fail(pool: &Pool, words: &'static str, point: FaultPoint, outcomes: &[Outcome], found: &[&str]) {
    let mended = Mended::later();
    let mut volume = Faulty::new(pool.impatient()).with_action(point, move || lab_cluster(words));
    let begun = Instant::now();
    let result = Rebuild::new(image(&new())).run(&mut volume);
    let took = begun.elapsed();
    drop(volume);
    let given_up = begun.elapsed();
    drop(mended);
    let told = result.as_ref().map_or_else(Ledger::told, |_| "done".into());
    match result {
        // What comes after the commit is a warning.
        Ok(report) => assert!(outcomes.is_empty() && !report.warnings.is_empty(), "{words} {point}: {report}"),
        Err(error) => assert!(outcomes.contains(&error.outcome()), "{words} {point}: {}", error.report()),
    }
    assert!(given_up < PATIENCE, "{words} {point}: it took {took:?}, and {given_up:?} to give up");
    let found = pool.expect_recovered(found);
    Ledger::new(&fault(words, point), "ceph").enter(told, found);
}

/// What the kernel has to tell others when it lets go of an image that only one may write to.
#[test]
fn an_osd_that_fails_with_an_exclusive_lock() {
    for words in ["hang osd", "kill osd"] {
        let pool = need!(Pool::alone().map(Pool::and_old));
        let point = FaultPoint::new(Primitive::Seal, 1, When::Before);
        fail(&pool, words, point, &[Outcome::RolledBack], &["old"]);
    }
}

#[test]
fn an_osd_that_fails_before_a_root_is_made() {
    failing(Primitive::Stage, 1, When::Before, &[Outcome::Untouched, Outcome::RolledBack], &["old"]);
}

#[test]
fn an_osd_that_fails_before_a_root_is_sealed() {
    failing(Primitive::Seal, 1, When::Before, &[Outcome::RolledBack], &["old"]);
}

#[test]
fn an_osd_that_fails_before_the_first_rename() {
    failing(Primitive::Rename, 1, When::Before, &[Outcome::RolledBack, Outcome::Interrupted], &["old", "new"]);
}

#[test]
fn an_osd_that_fails_between_the_renames() {
    failing(Primitive::Rename, 2, When::Before, &[Outcome::Interrupted, Outcome::RolledBack], &["old", "new"]);
}

#[test]
fn an_osd_that_fails_after_the_commit() {
    failing(Primitive::Discard, 1, When::Before, &[], &["new"]);
}

/// Without a manager and without a monitor an OSD goes on.
#[test]
fn what_is_not_needed_is_not_missed() {
    let pool = need!(Pool::usual());
    let _mended = Mended::later();
    lab_cluster("stop mgr");
    let done = rebuild(&mut pool.volume(), &new());
    lab_cluster("start mgr");
    done.unwrap();
    assert_eq!(pool.volume().names().unwrap(), Names { live: true, staged: false, retired: false });
    pool.expect("new", &["c1"]);
}
