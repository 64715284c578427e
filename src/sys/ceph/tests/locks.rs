use std::process::Child as Process;
use std::time::Instant;

use super::*;

#[test]
fn a_lock_is_held_by_one_or_shared() {
    let Some(_cluster) = cluster() else { return };
    let (ours, theirs) = (pool(), pool());
    let (object, lock) = ("test-lock", "reroot");
    assert_eq!(ours.lockers(object, lock).unwrap().held, []);
    ours.lock(object, lock, "cookie 1", "a description", Mode::Exclusive).unwrap();
    assert_eq!(errno(ours.lock(object, lock, "cookie 1", "", Mode::Exclusive)), Errno::EEXIST);
    assert_eq!(errno(ours.lock(object, lock, "cookie 2", "", Mode::Exclusive)), Errno::EBUSY);
    assert_eq!(errno(theirs.lock(object, lock, "cookie 1", "", Mode::Exclusive)), Errno::EBUSY);
    assert_eq!(errno(theirs.lock(object, lock, "cookie 1", "", Mode::Shared)), Errno::EBUSY);
    assert_eq!(errno(theirs.unlock(object, lock, "cookie 1")), Errno::ENOENT);
    let lockers = theirs.lockers(object, lock).unwrap();
    let us =
        Locker { client: format!("client.{}", ours.instance()), cookie: "cookie 1".to_owned(), address: ours.addresses().unwrap() };
    assert_eq!(lockers, Lockers { mode: Mode::Exclusive, held: vec![us.clone()] });
    assert_eq!(errno(theirs.break_lock(object, lock, &us.client, "cookie 2")), Errno::ENOENT);
    assert_eq!(errno(theirs.break_lock(object, lock, "nobody", "cookie 1")), Errno::EINVAL);
    theirs.break_lock(object, lock, &us.client, "cookie 1").unwrap();
    assert_eq!(errno(ours.unlock(object, lock, "cookie 1")), Errno::ENOENT);
    assert_eq!(ours.lockers(object, lock).unwrap().held, []);
    for number in 0..60 {
        let pool = if number % 2 == 0 { &ours } else { &theirs };
        pool.lock(object, lock, &format!("{number}: {}", "long ".repeat(20)), "", Mode::Shared).unwrap();
    }
    let lockers = ours.lockers(object, lock).unwrap();
    assert_eq!((lockers.mode, lockers.held.len()), (Mode::Shared, 60));
    ours.remove_object(object).unwrap();
}

#[test]
fn who_is_blocklisted_writes_no_more() {
    let Some(_cluster) = cluster() else { return };
    let (ours, theirs) = (pool(), pool());
    let object = "test-blocklist";
    theirs.lock(object, "reroot", "cookie", "", Mode::Exclusive).unwrap();
    let watch = theirs.watch(object).unwrap();
    watch.check().unwrap();
    let locker = ours.lockers(object, "reroot").unwrap().held.remove(0);
    ours.blocklist(&locker.address, Duration::from_secs(60)).unwrap();
    // The OSD may not know yet, but does once it has answered us.
    assert_eq!(ours.lockers(object, "reroot").unwrap().held, std::slice::from_ref(&locker));
    assert_eq!(errno(theirs.set_omap(object, &[("key".to_owned(), Vec::new())])), Errno::ESHUTDOWN);
    assert_eq!(errno(theirs.unlock(object, "reroot", "cookie")), Errno::ESHUTDOWN);
    let start = Instant::now();
    let broken = loop {
        match watch.check() {
            Err(failed) => break failed,
            Ok(_) => assert!(start.elapsed() < Duration::from_secs(60), "the watch holds"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(broken.errno, Errno::ENOTCONN);
    drop(watch);
    assert_eq!(ours.notify(object, Duration::from_secs(2)).unwrap(), Answers::default());
    ours.break_lock(object, "reroot", &locker.client, &locker.cookie).unwrap();
    assert_eq!(errno(ours.blocklist("nonsense", Duration::from_secs(1))), Errno::EINVAL);
    ours.remove_object(object).unwrap();
}

#[test]
fn a_watch_answers_for_as_long_as_it_is_there() {
    let Some(_cluster) = cluster() else { return };
    let (ours, theirs) = (pool(), pool());
    let object = "test-watch";
    assert_eq!(errno(ours.watch(object)), Errno::ENOENT);
    assert_eq!(errno(ours.notify(object, Duration::from_secs(2))), Errno::ENOENT);
    ours.set_omap(object, &[]).unwrap();
    assert_eq!(ours.notify(object, Duration::from_secs(2)).unwrap(), Answers::default());
    let watches = [ours.watch(object).unwrap(), theirs.watch(object).unwrap(), theirs.watch(object).unwrap()];
    let mut answers = ours.notify(object, Duration::from_secs(5)).unwrap();
    answers.answered.sort_unstable();
    let mut all: Vec<_> = watches.iter().map(Watch::id).collect();
    all.sort_unstable();
    assert_eq!(answers, Answers { answered: all, silent: Vec::new() });
    for watch in &watches {
        assert!(watch.check().unwrap() < Duration::from_secs(20));
    }
    // Its watches keep a connection.
    drop(theirs);
    let [mine, one, other] = watches;
    drop((mine, one));
    let answers = ours.notify(object, Duration::from_secs(5)).unwrap();
    assert_eq!(answers, Answers { answered: vec![other.id()], silent: Vec::new() });
    drop(other);
    assert_eq!(ours.notify(object, Duration::from_secs(2)).unwrap(), Answers::default());
    ours.remove_object(object).unwrap();
}

struct Killed(Process);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Another process that watches an object.
fn watching(pool: &Pool, object: &str) -> Killed {
    let mut command = Command::new("rados");
    command.args(["-p", "rbd", "watch", object]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let process = Killed(command.spawn().unwrap());
    for _ in 0..300 {
        if pool.notify(object, Duration::from_secs(5)).unwrap().answered.len() == 1 {
            return process;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("it does not watch");
}

#[test]
fn a_watch_whose_owner_stands_still_is_silent_and_one_that_died_ends_in_time() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    let object = "test-silent";
    pool.set_omap(object, &[]).unwrap();
    let process = watching(&pool, object);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let start = Instant::now();
    let answers = pool.notify(object, Duration::from_millis(1500)).unwrap();
    assert_eq!((answers.answered.len(), answers.silent.len()), (0, 1));
    assert!(start.elapsed() >= Duration::from_secs(2) && start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let start = Instant::now();
    drop(process);
    let first = pool.notify(object, Duration::from_secs(1)).unwrap();
    while pool.notify(object, Duration::from_secs(1)).unwrap() != Answers::default() {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    // It is there for its time, whether its connection is gone or not.
    assert_eq!(first.silent.len(), 1);
    pool.remove_object(object).unwrap();
}
