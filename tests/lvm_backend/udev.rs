//! Without udev, or with one that is late: the nodes are found all the same, or an error says what is waited for.

use super::*;
use crate::without::Stopped;

#[test]
fn nothing_waits_for_an_udev_that_does_not_run() {
    let pool = need!(Pool::with_old());
    let stopped = Stopped::new();
    // LVM itself would wait for ever, so what is looked at has to be so without its commands' help.
    let begun = std::time::Instant::now();
    let result = rebuild(&mut pool.volume(), &new());
    let again = rebuild(&mut pool.volume(), &old()).map(|_| rebuild(&mut pool.volume(), &new()));
    let took = begun.elapsed();
    drop(stopped);
    for result in [result, again.and_then(|last| last)] {
        let report = result.unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(report.warnings.is_empty(), "{report}");
    }
    assert!(took < Duration::from_secs(60), "it took {took:?}");
    pool.expect("new", &["c1"]);
}

/// Makes udev put off what it is to do, until it is dropped.
struct Halted;

impl Halted {
    fn new() -> Halted {
        run(Command::new("udevadm").args(["control", "--stop-exec-queue"])).unwrap();
        Halted
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        run(Command::new("udevadm").args(["control", "--start-exec-queue"])).unwrap();
    }
}

#[test]
fn an_udev_that_is_late_is_waited_for() {
    let pool = need!(Pool::with_old());
    let halted = Halted::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(4));
            drop(halted);
        });
        rebuild(&mut pool.volume(), &new()).unwrap();
    });
    pool.expect("new", &["c1"]);
}
