//! A pool that is full by its quota: an error in time that says so, and an old root that is none the wiser.

use super::*;
use reroot::{Space as Room, Strategy};
use std::time::Instant;

use crate::cluster::Confined;

/// In which it is noticed, beside the time that a rebuild takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A volume in a pool of its own, and the pool.
fn confined() -> Result<(Pool, Confined), String> {
    let confined = Confined::new()?;
    let mut pool = Pool::in_space(Space::alone_in(confined.pool)?)?;
    pool.size = ByteSize::mib(256);
    Ok((pool.and_old(), confined))
}

#[test]
fn what_does_not_fit_is_told_and_undone() {
    let (pool, confined) = need!(confined());
    let mut ledger = Ledger::new("pool quota, too large an image", "ceph");
    // A stream that does not say how much is to come, and a file that does.
    for image in [large(150).stream(), large(150).file(pool.folder.path())] {
        let limit = confined.limit(ByteSize::mib(60)).unwrap();
        let begun = Instant::now();
        let error = Rebuild::new(image).run(&mut pool.volume()).unwrap_err();
        let took = begun.elapsed();
        // Nobody could look meanwhile: the kernel's client maps nothing in a pool that is full, but waits.
        drop(limit);
        assert!(matches!(error.kind(), ErrorKind::NoSpace(Room::Pool | Room::Quota)), "{}", error.report());
        assert!(matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack), "{}", error.report());
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("quota") || remedy.contains("ceph ")), "{}", error.report());
        assert!(took < PATIENCE, "it took {took:?}: {}", error.report());
        reroot::recover(&mut pool.volume(), &soon()).unwrap();
        pool.expect("old", &["c1"]);
        rebuild(&mut pool.volume(), &old()).unwrap_or_else(|error| panic!("the next rebuild: {}", error.report()));
        pool.expect("old", &["c1"]);
        ledger.enter(Ledger::told(&error), "old");
    }
    // What fits still works.
    let limit = confined.limit(ByteSize::mib(60)).unwrap();
    let result = Rebuild::new(large(20).stream()).run(&mut pool.volume());
    drop(limit);
    result.unwrap_or_else(|error| panic!("{}", error.report()));
    pool.expect("large", &["c1"]);
    Rebuild::new(large(150).stream()).run(&mut pool.volume()).unwrap();
    pool.expect("large", &["c1"]);
}

/// Someone else takes what was left while a root is filled: what is written then would wait for ever, or fails.
#[test]
fn what_others_take_is_told_in_time() {
    let (pool, confined) = need!(confined());
    let limit = confined.limit(ByteSize::mib(90)).unwrap();
    pool.make("other", "");
    let other = pool.name("other");
    let reader = Meddling::new(large(100), move || {
        let sizes = "--io-size 4M --io-total 104857600 --io-threads 4";
        run_words(&format!("rbd bench --io-type write {sizes} {other}"));
        // What was written the cluster counts by and by.
        std::thread::sleep(Duration::from_secs(4));
    });
    let begun = Instant::now();
    let result = Rebuild::new(Image::from_reader(reader.after(8 << 20), "test")).run(&mut pool.volume());
    let error = result.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NoSpace(Room::Pool | Room::Quota)), "{}", error.report());
    assert_eq!(error.outcome(), Outcome::RolledBack, "{}", error.report());
    assert!(begun.elapsed() < PATIENCE * 2, "it took {:?}: {}", begun.elapsed(), error.report());
    drop(limit);
    pool.space.ask::<serde_json::Value>("remove", &["other".into()]).unwrap();
    // What could not be removed from a pool that was full goes now.
    reroot::recover(&mut pool.volume(), &soon()).unwrap();
    pool.expect("old", &["c1"]);
    Rebuild::new(large(20).stream()).run(&mut pool.volume()).unwrap_or_else(|error| panic!("{}", error.report()));
    pool.expect("large", &["c1"]);
    Ledger::new("pool quota, taken by others amid the image", "ceph").enter(Ledger::told(&error), "old");
}

/// A pool that is full before: nothing can be made in it, and what is there can still be removed.
#[test]
fn a_full_pool_is_seen_before() {
    let (pool, confined) = need!(confined());
    Rebuild::new(large(30).stream()).dispose(reroot::Dispose::Detach).run(&mut pool.volume()).unwrap();
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let limit = confined.limit(ByteSize::ZERO).unwrap();
        // Until every OSD knows.
        std::thread::sleep(Duration::from_secs(5));
        let begun = Instant::now();
        let error = Rebuild::new(seekable(pool.folder.path(), &new())).strategy(strategy).run(&mut pool.volume()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NoSpace(Room::Pool | Room::Quota) | ErrorKind::TooSmall), "{}", error.report());
        assert_ne!(error.outcome(), Outcome::NoRoot, "{}", error.report());
        assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
        reroot::recover(&mut pool.volume(), &soon()).unwrap_or_else(|error| panic!("{}", error.report()));
        // Nobody could look: the kernel's client waits until the pool is not full before it maps anything.
        drop(limit);
        pool.expect("large", &["c1"]);
        let again = Rebuild::new(large(30).stream()).run(&mut pool.volume());
        again.unwrap_or_else(|error| panic!("the next rebuild: {}", error.report()));
        pool.expect("large", &["c1"]);
        Ledger::new("pool quota, used up before", "ceph").enter(Ledger::told(&error), "old");
    }
    pool.expect_sound();
}
