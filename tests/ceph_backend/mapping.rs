//! How images become devices: by the kernel, by rbd-nbd where that does not know a feature, and without udev.

use super::*;
use crate::cluster::{mappings, nbd_devices};
use crate::without::{Stopped, answers};
use reroot::ceph::Mapping;

/// Which devices there are while an image is read.
fn while_filled(volume: &mut CephVolume) -> reroot::Result<(usize, usize)> {
    let seen = std::sync::Arc::new(std::sync::Mutex::new((0, 0)));
    let tar = std::io::Cursor::new(new().to_tar().unwrap());
    let reader = Meddling::new(tar, {
        let seen = std::sync::Arc::clone(&seen);
        move || *seen.lock().unwrap() = (mappings().len(), nbd_devices().len())
    });
    Rebuild::new(Image::from_reader(reader, "test")).run(volume)?;
    let seen = *seen.lock().unwrap();
    Ok(seen)
}

#[test]
fn the_kernel_is_asked_first() {
    let pool = need!(Pool::alone().map(Pool::and_old));
    let (kernel, nbd) = while_filled(&mut pool.volume()).unwrap();
    assert!(kernel > 0 && nbd == 0, "{kernel} and {nbd}");
    pool.expect("new", &["c1"]);
}

#[test]
fn what_the_kernel_does_not_know_is_mapped_by_rbd_nbd() {
    let pool = need!(Pool::alone());
    pool.make("c1", "--image-feature layering,exclusive-lock,journaling");
    let device = run_words(&format!("rbd-nbd map {}", pool.name("c1"))).trim().to_owned();
    run_words(&format!("mkfs.ext4 -q {device}"));
    // One that a stranger has mapped so is busy, and named.
    let said = refused(rebuild(&mut pool.volume(), &new()), ErrorKind::Busy);
    assert!(said.contains(&device), "{said}");
    run_words(&format!("rbd-nbd unmap {device}"));
    let features = pool.facts("c1").features;
    for _ in 0..2 {
        let (kernel, nbd) = while_filled(&mut pool.volume()).unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(kernel == 0 && nbd > 0, "{kernel} and {nbd}");
        assert_eq!(pool.facts("c1").features, features);
    }
    // Where the kernel is wanted it is said that it cannot.
    let error = rebuild(&mut pool.volume().with_mapping(Mapping::Kernel), &old()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("rbd-nbd")), "{}", error.report());
    pool.expect_only(&["c1"]);
    let device = run_words(&format!("rbd-nbd map {}", pool.name("c1"))).trim().to_owned();
    let root = visit::Mounted::device(Path::new(&device), pool.folder.path()).unwrap();
    assert!(root.path().join("new").exists());
    drop(root);
    run_words(&format!("rbd-nbd unmap {device}"));
}

#[test]
fn rbd_nbd_does_what_the_kernel_does() {
    let pool = need!(Pool::alone().map(Pool::and_old));
    let open = || pool.volume().with_mapping(Mapping::Nbd);
    let (kernel, nbd) = while_filled(&mut open()).unwrap_or_else(|error| panic!("{}", error.report()));
    assert!(kernel == 0 && nbd > 0, "{kernel} and {nbd}");
    pool.expect("new", &["c1"]);
    // It grows below the file system too.
    let report = Rebuild::new(large(100).stream()).max_size(ByteSize::mib(256)).run(&mut open()).unwrap();
    assert!(report.grown.is_some(), "{report}");
    pool.expect("large", &["c1"]);
    // What breaks off leaves nothing mapped.
    Rebuild::new(broken()).run(&mut open()).unwrap_err();
    pool.expect("large", &["c1"]);
}

#[test]
fn nothing_waits_for_an_udev_that_does_not_run() {
    let pool = need!(Pool::alone().map(Pool::and_old));
    for how in [Mapping::Kernel, Mapping::Nbd] {
        let stopped = Stopped::new();
        let begun = std::time::Instant::now();
        let result = rebuild(&mut pool.volume().with_mapping(how), &new());
        let again = rebuild(&mut pool.volume().with_mapping(how), &old()).map(|_| rebuild(&mut pool.volume(), &new()));
        let took = begun.elapsed();
        drop(stopped);
        for result in [result, again.and_then(|last| last)] {
            let report = result.unwrap_or_else(|error| panic!("{how:?}: {}", error.report()));
            assert!(report.warnings.is_empty(), "{how:?}: {report}");
        }
        assert!(took < Duration::from_secs(60), "{how:?}: it took {took:?}");
        pool.expect("new", &["c1"]);
    }
}

/// Udev looks into every device that appears: what is unmapped right after is still open.
#[test]
fn udev_that_is_late_is_waited_for() {
    let pool = need!(Pool::alone().map(Pool::and_old));
    run(Command::new("udevadm").args(["control", "--stop-exec-queue"])).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(4));
            run(Command::new("udevadm").args(["control", "--start-exec-queue"])).unwrap();
        });
        rebuild(&mut pool.volume(), &new()).unwrap();
    });
    answers();
    pool.expect("new", &["c1"]);
}
