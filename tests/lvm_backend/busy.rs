//! Who keeps a volume busy is named, wherever that is; and a device that does not answer keeps no one waiting.

use super::*;
use crate::shell::Shell;
use std::time::Instant;

use reroot::RebuildableVolume;

fn busy(pool: &Pool) -> String {
    refused(Rebuild::new(image(&new())).run(&mut pool.volume()), ErrorKind::Busy)
}

/// Activates the volume, and returns its device.
fn active(pool: &Pool) -> String {
    pool.change("c1", "--activate y --ignoreactivationskip");
    group::device(&pool.name("c1")).unwrap().display().to_string()
}

#[test]
fn mounts_are_named() {
    let pool = need!(Pool::with_old());
    let at = pool.folder.path().join("at");
    fs::create_dir(&at).unwrap();
    run(Command::new("mount").arg(active(&pool)).arg(&at)).unwrap();
    let said = busy(&pool);
    assert!(said.contains(&format!("mount {}", at.display())), "{said}");
    let mut shell = Shell::new(&["env"]);
    shell.run(&format!("cd {}", at.display()));
    let said = busy(&pool);
    assert!(said.contains(&format!("process {} (sh): working directory", shell.0.id())), "{said}");
    drop(shell);
    run(Command::new("umount").arg(&at)).unwrap();
    assert!(pool.volume().holders().unwrap().is_empty());
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect("new", &["c1"]);
}

#[test]
fn a_mount_in_another_namespace_is_named() {
    let pool = need!(Pool::with_old());
    let device = active(&pool);
    let mut shell = Shell::new(&["unshare", "--mount", "--propagation", "private"]);
    shell.run(&format!("mount {device} {}", pool.folder.path().display()));
    let said = busy(&pool);
    let expected = format!("mount {} in the mount namespace of process {}", pool.folder.path().display(), shell.0.id());
    assert!(said.contains(&expected), "{said}");
    // The mount goes with the last process of the namespace.
    drop(shell);
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect("new", &["c1"]);
}

#[test]
fn a_file_that_is_open_on_what_was_unmounted_is_named() {
    let pool = need!(Pool::with_old());
    let at = pool.folder.path().join("at");
    fs::create_dir(&at).unwrap();
    run(Command::new("mount").arg(active(&pool)).arg(&at)).unwrap();
    let mut shell = Shell::new(&["env"]);
    shell.run(&format!("exec 9< {}/old", at.display()));
    run(Command::new("umount").arg("--lazy").arg(&at)).unwrap();
    let said = busy(&pool);
    assert!(said.contains(&format!("process {}", shell.0.id())), "{said}");
    shell.run("exec 9<&-");
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect("new", &["c1"]);
}

#[test]
fn who_has_the_device_open_is_named() {
    let pool = need!(Pool::with_old());
    let mut shell = Shell::new(&["env"]);
    shell.run(&format!("exec 9< {}", active(&pool)));
    let said = busy(&pool);
    assert!(said.contains(&format!("process {}", shell.0.id())), "{said}");
    // Who lets go in time is waited for.
    let patient = Rebuild::new(image(&new())).busy_wait(Duration::from_secs(20));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            shell.run("exec 9<&-");
        });
        patient.run(&mut pool.volume()).unwrap();
    });
    pool.expect("new", &["c1"]);
}

#[test]
fn a_device_on_top_is_named() {
    let pool = need!(Pool::with_old());
    let device = active(&pool);
    let top = format!("{}top", pool.prefix.0);
    run(Command::new("dmsetup").args(["create", &top, "--table", &format!("0 1024 linear {device} 0")])).unwrap();
    let said = busy(&pool);
    run(Command::new("dmsetup").args(["remove", "--retry", &top])).unwrap();
    assert!(said.contains(&top) || said.contains("dm-"), "{said}");
    // A loop device is one too.
    let top = run(Command::new("losetup").args(["--find", "--show", &device])).unwrap().trim().to_owned();
    let said = busy(&pool);
    run(Command::new("losetup").args(["--detach", &top])).unwrap();
    assert!(said.contains(&top), "{said}");
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect("new", &["c1"]);
}

/// Resumes a device when it is dropped.
struct Suspended(String);

impl Suspended {
    fn new(device: &str) -> Suspended {
        run(Command::new("dmsetup").args(["suspend", device])).unwrap();
        Suspended(device.to_owned())
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        run(Command::new("dmsetup").args(["resume", &self.0])).unwrap();
    }
}

#[test]
fn a_suspended_device_is_told_in_time() {
    let pool = need!(Pool::with_own_thin("--size 200M --poolmetadatasize 4M"));
    rebuild(&mut pool.volume(), &old()).unwrap();
    active(&pool);
    let live = group::device_name(&pool.name("c1"));
    for device in [live.clone(), format!("{}-tpool", group::device_name(&pool.name("thin")))] {
        let suspended = Suspended::new(&device);
        for _ in 0..2 {
            let begun = Instant::now();
            let said = refused(rebuild(&mut pool.volume(), &new()), ErrorKind::Busy);
            assert!(said.contains(&device) && said.contains("dmsetup resume"), "{said}");
            assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}: {said}", begun.elapsed());
        }
        drop(suspended);
        pool.expect("old", &["c1", "thin"]);
    }
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect("new", &["c1", "thin"]);
}

/// Whoever changes the same group holds LVM's own lock.
#[test]
fn the_lock_of_lvm_is_waited_for() {
    let pool = need!(Pool::with_old());
    let lock = format!("/run/lock/lvm/V_{GROUP}");
    let mut holder = Command::new("flock").args(["--exclusive", &lock, "sleep", "4"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    rebuild(&mut pool.volume(), &new()).unwrap();
    assert!(begun.elapsed() > Duration::from_secs(2), "it did not wait: {:?}", begun.elapsed());
    holder.wait().unwrap();
    pool.expect("new", &["c1"]);
}
