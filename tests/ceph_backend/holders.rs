//! Who keeps a volume busy is named, on this host and on others.

use super::*;
use crate::shell::Shell;

#[track_caller]
fn busy(pool: &Pool) -> String {
    refused(Rebuild::new(image(&new())).run(&mut pool.volume()), ErrorKind::Busy)
}

/// Maps an image as a manager does, not waiting for udev; returns its device.
fn map(pool: &Pool, options: &str) -> String {
    run_words(&format!("rbd map --options noudev {options} {}", pool.name("c1"))).trim().to_owned()
}

#[test]
fn a_mapping_that_nobody_uses_is_one() {
    let pool = need!(Pool::with_old());
    for options in ["", "--read-only"] {
        let device = map(&pool, options);
        let said = busy(&pool);
        assert!(said.contains(&device), "{said}");
        assert!(!pool.volume().holders().unwrap().is_empty());
        run_words(&format!("rbd unmap --options noudev {device}"));
        assert!(pool.volume().holders().unwrap().is_empty());
    }
    pool.expect_sound();
}

#[test]
fn what_uses_a_mapping_is_named() {
    let pool = need!(Pool::with_old());
    let device = map(&pool, "");
    let at = pool.folder.path().join("at");
    fs::create_dir(&at).unwrap();
    run(Command::new("mount").arg(&device).arg(&at)).unwrap();
    let mut shell = Shell::new(&["env"]);
    shell.run(&format!("cd {}", at.display()));
    let said = busy(&pool);
    assert!(said.contains(&format!("mount {}", at.display())), "{said}");
    assert!(said.contains(&format!("process {} (sh): working directory", shell.0.id())), "{said}");
    drop(shell);
    run(Command::new("umount").arg(&at)).unwrap();
    // In another namespace.
    let mut shell = Shell::new(&["unshare", "--mount", "--propagation", "private"]);
    shell.run(&format!("mount {device} {}", at.display()));
    let said = busy(&pool);
    assert!(said.contains(&format!("in the mount namespace of process {}", shell.0.id())), "{said}");
    drop(shell);
    // By its device, and by one on top.
    let mut shell = Shell::new(&["env"]);
    shell.run(&format!("exec 9< {device}"));
    let said = busy(&pool);
    assert!(said.contains(&format!("process {}", shell.0.id())), "{said}");
    drop(shell);
    let top = run(Command::new("losetup").args(["--find", "--show", &device])).unwrap().trim().to_owned();
    let said = busy(&pool);
    run(Command::new("losetup").args(["--detach", &top])).unwrap();
    assert!(said.contains(&top), "{said}");
    run_words(&format!("rbd unmap --options noudev {device}"));
    pool.expect_sound();
}

#[test]
fn one_that_lets_go_in_time_is_waited_for() {
    let pool = need!(Pool::with_old());
    let device = map(&pool, "");
    let patient = Rebuild::new(image(&new())).busy_wait(Duration::from_secs(30));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            run_words(&format!("rbd unmap --options noudev {device}"));
        });
        patient.run(&mut pool.volume()).unwrap();
    });
    pool.expect("new", &["c1"]);
}

#[test]
fn another_host_is_named_by_its_address() {
    let pool = need!(Pool::with_old());
    let name = pool.name("c1");
    let device = run(Command::new("lab-other").arg(format!("rbd map --options noudev {name}"))).unwrap().trim().to_owned();
    let said = busy(&pool);
    assert!(said.contains("192.0.2.3"), "{said}");
    // It is none that this host could look into.
    assert!(!said.contains(&format!("{device} ")), "{said}");
    run(Command::new("lab-other").arg(format!("rbd unmap --options noudev {device}"))).unwrap();
    pool.expect_sound();
}

#[test]
fn an_advisory_lock_is_one() {
    let pool = need!(Pool::with_old());
    let name = pool.name("c1");
    run_words(&format!("rbd lock add {name} backup-of-the-week"));
    let said = busy(&pool);
    assert!(said.contains("backup-of-the-week") && said.contains("client."), "{said}");
    let list = run_words(&format!("rbd lock ls --format json {name}"));
    let locks: serde_json::Value = serde_json::from_str(&list).unwrap();
    let locker = locks[0]["locker"].as_str().unwrap();
    run_words(&format!("rbd lock rm {name} backup-of-the-week {locker}"));
    pool.expect_sound();
}

#[test]
fn a_watcher_is_one() {
    let pool = need!(Pool::with_old());
    // What has it open through the library, as a virtual machine does: it shows in no device of any host.
    pool.space.ask::<serde_json::Value>("open", &["c1".into()]).unwrap();
    let watchers = pool.facts("c1").watchers;
    let said = busy(&pool);
    pool.space.ask::<serde_json::Value>("close", &[]).unwrap();
    assert!(watchers.len() == 1 && said.contains("192.0.2.2"), "{watchers:?}: {said}");
    pool.expect_sound();
}

/// One that exists beside the live root is ours, and is no holder of it: but nobody removes what is in use.
#[test]
fn a_holder_of_what_an_earlier_run_left_is_named() {
    let pool = need!(Pool::with_old());
    let report = Rebuild::new(image(&new())).dispose(reroot::Dispose::Detach).run(&mut pool.volume()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    assert_eq!(pool.list(), ["c1", "c1.reroot-retired"]);
    let root = Visited::new(&pool.name("c1.reroot-retired"), pool.folder.path()).unwrap().unwrap();
    let wait = reroot::Wait::new(Duration::from_secs(1), reroot::CancelToken::new());
    let error = reroot::recover(&mut pool.volume(), &wait).map(|recovery| recovery.actions).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.report());
    assert!(error.report().to_string().contains("/dev/rbd"), "{}", error.report());
    drop(root);
    reroot::recover(&mut pool.volume(), &soon()).unwrap();
    pool.expect("new", &["c1"]);
}

/// Whoever asks who holds a lock, just when that is given back, hears of nobody: that is no sign of a death.
#[test]
fn who_gives_a_lock_back_is_not_shut_out() {
    let pool = need!(Pool::with_old());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            // A connection each, as processes have.
            let volume = pool.volume();
            scope.spawn(move || {
                for round in 0..40 {
                    let wait = reroot::Wait::new(Duration::from_secs(120), reroot::CancelToken::new());
                    let held = volume.lock(&wait).unwrap_or_else(|error| panic!("round {round}: {}", error.report()));
                    volume.names().unwrap_or_else(|error| panic!("round {round}: {}", error.report()));
                    drop(held);
                }
            });
        }
    });
    pool.expect("old", &["c1"]);
}
