use std::time::Instant;

use super::*;

/// Mapped, while this lives, and written to, so that whoever maps it has its lock.
struct Mapped {
    options: String,
    device: String,
}

impl Mapped {
    fn new(options: &str, name: &str) -> Self {
        let device = shell(&format!("rbd device map {options} {name}")).trim().to_owned();
        shell(&format!("dd if=/dev/zero of={device} bs=1M count=8 oflag=direct 2>&1"));
        Mapped { options: options.to_owned(), device }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let options = self.options.trim_end_matches("--exclusive");
        shell(&format!("rbd device unmap {options} {}", self.device));
    }
}

#[test]
fn what_is_mapped_can_be_changed_and_renamed_but_not_removed() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    for options in ["-t krbd", "-t nbd"] {
        pool.create("mapped", ByteSize::mib(64), &layout()).unwrap();
        let mapped = Mapped::new(options, "mapped");
        let reader = pool.open(&Which::Name("mapped"), Access::ReadOnly).unwrap();
        let (watchers, lockers) = (reader.watchers().unwrap(), reader.lockers().unwrap());
        assert_eq!((watchers.len(), lockers.held.len()), (1, 1), "{options}");
        assert_eq!(watchers[0].address, lockers.held[0].address);
        assert_eq!(lockers.held[0].client, format!("client.{}", watchers[0].client));
        pool.rename("mapped", "mapped-2").unwrap();
        let writer = pool.open(&Which::Name("mapped-2"), Access::Write).unwrap();
        writer.set_metadata("a", b"b").unwrap();
        writer.create_snapshot("a").unwrap();
        writer.remove_snapshot("a").unwrap();
        writer.resize(ByteSize::mib(80), Shrink::Refuse, &wait()).unwrap();
        assert_eq!(writer.used(&wait()).unwrap(), ByteSize::mib(8));
        drop(writer);
        let start = Instant::now();
        assert_eq!(errno(pool.remove("mapped-2", &wait())), Errno::EBUSY);
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        // The trash takes it, and does not give it away.
        pool.trash("mapped-2", Duration::ZERO).unwrap();
        let id = reader.id().unwrap();
        assert_eq!(errno(pool.remove_trash(&id, Deferment::Ignore, &wait())), Errno::EBUSY);
        shell(&format!("dd if=/dev/zero of={} bs=1M count=8 oflag=direct 2>&1", mapped.device));
        pool.restore_trash(&id, "mapped").unwrap();
        drop(mapped);
        pool.remove("mapped", &wait()).unwrap();
    }
}

#[test]
fn who_maps_for_itself_alone_keeps_the_lock() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    pool.create("exclusive", ByteSize::mib(64), &layout()).unwrap();
    {
        let _mapped = Mapped::new("--exclusive", "exclusive");
        let start = Instant::now();
        assert_eq!(errno(pool.rename("exclusive", "exclusive-2")), Errno::EROFS);
        let writer = pool.open(&Which::Name("exclusive"), Access::Write).unwrap();
        assert_eq!(errno(writer.set_metadata("a", b"b")), Errno::EROFS);
        assert_eq!(errno(writer.create_snapshot("a")), Errno::EROFS);
        assert_eq!(errno(writer.resize(ByteSize::mib(80), Shrink::Refuse, &wait())), Errno::EROFS);
        drop(writer);
        assert_eq!(errno(pool.remove("exclusive", &wait())), Errno::EBUSY);
        assert_eq!(errno(pool.trash("exclusive", Duration::ZERO)), Errno::EBUSY);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
    pool.remove("exclusive", &wait()).unwrap();
}

/// An image that a process was writing to when it was killed.
fn killed(pool: &Pool, name: &str) {
    pool.create(name, ByteSize::mib(64), &layout()).unwrap();
    let mut writer = Command::new("rbd")
        .args(["bench", "--io-type", "write", "--io-size", "4M", "--io-total", "10G", name])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let reader = pool.open(&Which::Name(name), Access::ReadOnly).unwrap();
    let start = Instant::now();
    while reader.lockers().unwrap().held.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!((reader.watchers().unwrap().len(), reader.lockers().unwrap().held.len()), (1, 1));
}

#[test]
fn what_a_killed_process_held_is_waited_for_until_its_watch_lapses() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    killed(&pool, "killed");
    let start = Instant::now();
    pool.rename("killed", "killed-2").unwrap();
    let took = start.elapsed();
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(45), "{took:?}");
    pool.remove("killed-2", &wait()).unwrap();
}

#[test]
fn what_a_killed_process_held_is_free_at_once_when_it_is_blocklisted() {
    let Some(_cluster) = cluster() else { return };
    let pool = pool();
    killed(&pool, "shut-out");
    let reader = pool.open(&Which::Name("shut-out"), Access::ReadOnly).unwrap();
    let start = Instant::now();
    pool.blocklist(&reader.watchers().unwrap()[0].address, Duration::from_secs(60)).unwrap();
    pool.rename("shut-out", "shut-out-2").unwrap();
    pool.remove("shut-out-2", &wait()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    eprintln!("renamed and removed after {:.1?}", start.elapsed());
}
