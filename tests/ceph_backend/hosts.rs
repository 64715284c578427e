//! Several hosts and processes at once: one at a time rebuilds a volume or makes a base, and whoever dies holds nobody up for ever.

use super::*;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::cluster::LOCKS;
use crate::examples::{assert_status, example};
use reroot::base::BaseOptions;
use reroot::ceph::CephBases;
use reroot::{Bases, CancelToken, Wait};
use serde_json::Value;

/// Within which a cluster misses a client that died, and the next one has the lock: its watch lasts 30 seconds.
const MISSED: Duration = Duration::from_secs(40);

/// The program of an example, as a word for a shell.
fn program(name: &str) -> String {
    example(name).get_program().to_str().unwrap().to_owned()
}

/// Runs a command in the background, as a group of processes, for five minutes at most.
fn begin(program: &str, text: &str) -> Child {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "300", program]);
    if program == "bash" {
        command.arg("-c");
    }
    command.arg(text).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Ends what was begun, with all it has started.
fn end(child: &mut Child) {
    nix::sys::signal::killpg(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGKILL).unwrap();
    child.wait().unwrap();
}

#[track_caller]
fn ended(child: Child) -> Value {
    assert_status(&child.wait_with_output().unwrap(), 0)
}

/// A command that rebuilds `c1` and stays in the middle of it: of its image only the beginning comes. That goes along as text, for the hosts share no folder that
/// could be written to.
fn slow_rebuild(pool: &Pool) -> String {
    let mut tree = new();
    tree.file("more", "more".repeat(10_000));
    let path = pool.folder.path().join("slow.tar");
    fs::write(&path, tree.to_tar().unwrap()).unwrap();
    let text = run(Command::new("base64").arg("--wrap=0").arg(path)).unwrap();
    let (rebuild, name) = (program("rebuild"), pool.name("c1"));
    format!("{{ printf %s {} | base64 -d; sleep 120; }} | {rebuild} --json - ceph:{name}", &text[..8192])
}

/// Waits until a rebuild is in the middle.
fn await_staged(pool: &Pool, child: &mut Child) {
    for _ in 0..600 {
        if pool.list().iter().any(|name| name == "c1.reroot-staged") {
            return;
        }
        assert!(child.try_wait().unwrap().is_none(), "it has ended: {:?}", child.stderr.take().map(std::io::read_to_string));
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("no staged root is made");
}

#[test]
fn two_hosts_rebuild_one_volume_one_after_the_other() {
    let pool = need!(Pool::with_old());
    let command = format!(
        "for i in 1 2 3; do {} --empty --wait 120 --quiet ceph:{} || exit; done; echo '\"done\"'",
        program("rebuild"),
        pool.name("c1")
    );
    run(Command::new("lab-other").arg("true")).unwrap();
    let other = begin("lab-other", &command);
    for _ in 0..3 {
        let rebuild = Rebuild::new(image(&new())).lock_wait(Duration::from_secs(120)).busy_wait(Duration::from_secs(20));
        let report = rebuild.run(&mut pool.volume()).unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(report.warnings.is_empty(), "{report}");
    }
    ended(other);
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect("new", &["c1"]);
}

#[test]
fn two_hosts_that_want_one_base_make_it_once() {
    let pool = need!(Pool::new());
    // The same image on both.
    let (image, name) = (examples::SAMPLE, pool.name("c2"));
    let command = format!("{} --json --base {image} ceph:{name}", program("rebuild"));
    run(Command::new("lab-other").arg("true")).unwrap();
    let other = begin("lab-other", &command);
    let mut volume = CephVolume::open(&pool.name("c1")).unwrap();
    let bases = Bases::new(CephBases::for_volume(&volume).unwrap());
    let options = BaseOptions::new().with_wait(Duration::from_secs(120));
    let base = bases.ensure(Image::open(image).unwrap(), &options).unwrap_or_else(|error| panic!("{}", error.report()));
    Rebuild::from_base(&base).run(&mut volume).unwrap();
    let report = ended(other);
    assert_eq!(report["made"], "cloned", "{report}");
    let list = pool.list();
    assert!(list.len() == 3 && list[..2] == ["c1", "c2"] && list[2].starts_with("reroot-base-"), "{list:?}");
    assert_eq!(pool.facts("c1").parent, pool.facts("c2").parent);
}

#[test]
fn a_process_that_dies_here_holds_nobody_up() {
    let pool = need!(Pool::with_old());
    let mut slow = begin("bash", &slow_rebuild(&pool));
    await_staged(&pool, &mut slow);
    let said = refused(rebuild(&mut pool.volume(), &new()), ErrorKind::Locked);
    assert!(said.contains("process ") && said.contains("host lab"), "{said}");
    end(&mut slow);
    let begun = Instant::now();
    let report = rebuild(&mut pool.volume(), &new()).unwrap_or_else(|error| panic!("{}", error.report()));
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect("new", &["c1"]);
}

#[test]
fn the_lock_of_a_host_that_died_is_taken_when_the_cluster_misses_it() {
    let pool = need!(Pool::with_old());
    let mut slow = begin("lab-other", &slow_rebuild(&pool));
    await_staged(&pool, &mut slow);
    // While it lives it is named, and nobody gets past it.
    let said = refused(rebuild(&mut pool.volume(), &new()), ErrorKind::Locked);
    assert!(said.contains("192.0.2.3"), "{said}");
    run(Command::new("lab-other").arg("--kill")).unwrap();
    slow.wait().unwrap();
    let begun = Instant::now();
    // Whether it died the cluster cannot know so soon.
    refused(rebuild(&mut pool.volume(), &new()), ErrorKind::Locked);
    let rebuild = Rebuild::new(image(&new())).lock_wait(MISSED).busy_wait(MISSED);
    let report = rebuild.run(&mut pool.volume()).unwrap_or_else(|error| panic!("{:?}: {}", begun.elapsed(), error.report()));
    assert!(begun.elapsed() < MISSED + Duration::from_secs(10), "it took {:?}", begun.elapsed());
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect("new", &["c1"]);
}

/// The host lives, and its kernel has the image mapped that nobody fills any more: it is shut out, and what it still writes is not written.
#[test]
fn a_process_that_dies_on_another_host_holds_nobody_up() {
    let pool = need!(Pool::with_old());
    let rebuild = program("rebuild");
    let words = slow_rebuild(&pool).replace(&rebuild, &format!("timeout --signal=KILL 15 {rebuild}"));
    let mut slow = begin("lab-other", &words);
    await_staged(&pool, &mut slow);
    let rebuild = Rebuild::new(image(&new())).lock_wait(MISSED * 2).busy_wait(MISSED);
    let report = rebuild.run(&mut pool.volume()).unwrap_or_else(|error| panic!("{}", error.report()));
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect("new", &["c1"]);
    end(&mut slow);
    run(Command::new("lab-other").arg("--kill")).unwrap();
    run_words("ceph osd blocklist clear");
}

/// Whom the cluster has shut out it does not hear again: what it began is undone by the next.
#[test]
fn a_client_that_is_shut_out_changes_nothing() {
    let pool = need!(Pool::with_old());
    let space = pool.space.name.clone();
    let reader = Meddling::new(large(24), move || shut_out(&space)).after(8 << 20);
    let mut volume = pool.volume();
    let begun = Instant::now();
    let error = Rebuild::new(Image::from_reader(reader, "test")).run(&mut volume).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(90), "it took {:?}", begun.elapsed());
    assert!(matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack), "{}", error.report());
    assert!(error.report().to_string().contains("blocklist"), "{}", error.report());
    drop(volume);
    // Opened anew it is another client. The lock of the one that was shut out is its own process's.
    let wait = Wait::new(MISSED, CancelToken::new());
    reroot::recover(&mut pool.volume(), &wait).unwrap_or_else(|error| panic!("{}", error.report()));
    run_words("ceph osd blocklist clear");
    pool.expect("old", &["c1"]);
    pool.expect_sound();
}

/// Shuts out whoever has the lock of `c1`.
fn shut_out(space: &str) {
    let (pool, namespace) = space.split_once('/').unwrap();
    let lock = run_words(&format!("rados --pool {pool} --namespace {namespace} lock info {LOCKS} c1 --format json"));
    let lock: Value = serde_json::from_str(&lock).unwrap();
    let address = lock["lockers"][0]["addr"].as_str().unwrap_or_else(|| panic!("{lock}"));
    // As the command wants it: without the kind.
    let address = address.trim_start_matches("v1:").trim_start_matches("v2:");
    run_words(&format!("ceph osd blocklist add {address}"));
}

/// The kernel's client is another one than the library's.
#[test]
fn a_kernel_that_is_shut_out_is_told() {
    let pool = need!(Pool::with_old());
    let reader = Meddling::new(large(24), || {
        for entry in fs::read_dir("/sys/bus/rbd/devices").unwrap().flatten() {
            let address = fs::read_to_string(entry.path().join("client_addr")).unwrap();
            run_words(&format!("ceph osd blocklist add {}", address.trim()));
        }
    });
    let error = Rebuild::new(Image::from_reader(reader.after(8 << 20), "test")).run(&mut pool.volume()).unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack, "{}", error.report());
    run_words("ceph osd blocklist clear");
    reroot::recover(&mut pool.volume(), &soon()).unwrap_or_else(|error| panic!("{}", error.report()));
    pool.expect("old", &["c1"]);
    pool.expect_sound();
}
