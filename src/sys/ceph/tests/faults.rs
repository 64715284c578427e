use std::time::Instant;

use super::*;

const SHORT: Duration = Duration::from_secs(3);

/// Goes on when dropped.
struct Hung(&'static str);

impl Hung {
    fn new(daemon: &'static str) -> Self {
        shell(&format!("lab-cluster hang {daemon}"));
        Hung(daemon)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        shell(&format!("lab-cluster wake {}", self.0));
    }
}

/// How long it takes until a call fails that has nobody to answer it.
fn timed<T: fmt::Debug>(what: &str, expected: Errno, call: impl FnOnce() -> Result<T, Failed>) -> Duration {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    eprintln!("{what}: {result:?} after {took:.1?}");
    assert_eq!(errno(result), expected, "{what}");
    took
}

#[test]
fn an_osd_that_hangs_is_not_waited_for() {
    let Some(_cluster) = whole_cluster() else { return };
    let pool = Pool::connect(&Settings { timeout: SHORT, ..settings() }, "rbd", "").unwrap();
    let image = image(&pool, "hung");
    let object = "test-hung";
    pool.set_omap(object, &[]).unwrap();
    let watch = pool.watch(object).unwrap();
    {
        let _hung = Hung::new("osd");
        let most = SHORT + Duration::from_secs(2);
        let timed_out = Errno::ETIMEDOUT;
        assert!(timed("read", timed_out, || pool.read(object, 10)) < most);
        assert!(timed("omap", timed_out, || pool.omap(object, &["a".to_owned()])) < most);
        assert!(timed("set omap", timed_out, || pool.set_omap(object, &[])) < most);
        assert!(timed("lock", timed_out, || pool.lock(object, "a", "b", "", Mode::Exclusive)) < most);
        assert!(timed("lockers", timed_out, || pool.lockers(object, "a")) < most);
        assert!(timed("watch", timed_out, || pool.watch(object)) < most);
        assert!(timed("notify", timed_out, || pool.notify(object, Duration::from_secs(1))) < most + SHORT);
        eprintln!("age of a watch: {:?}", watch.check());
        assert!(timed("create", timed_out, || pool.create("hung-2", ByteSize::mib(1), &layout())) < most);
        assert!(timed("open", timed_out, || pool.open(&Which::Name("hung"), Access::Write)) < 2 * most);
        assert!(timed("rename", timed_out, || pool.rename("hung", "hung-3")) < 2 * most);
        assert!(timed("trash", timed_out, || pool.trash("hung", Duration::ZERO)) < 2 * most);
        assert!(timed("remove", timed_out, || pool.remove("hung", &wait())) < 2 * most);
        // It cannot have the image's lock, and says only that.
        assert!(timed("set metadata", Errno::EROFS, || image.set_metadata("a", b"b")) < 2 * most);
        assert!(timed("snapshot", Errno::EROFS, || image.create_snapshot("a")) < 2 * most);
        assert!(timed("resize", Errno::EROFS, || image.resize(ByteSize::mib(128), Shrink::Refuse, &wait())) < 2 * most);
        let start = Instant::now();
        drop(watch);
        eprintln!("end of a watch after {:.1?}", start.elapsed());
        assert!(start.elapsed() < 2 * most);
        let start = Instant::now();
        drop(image);
        eprintln!("close of an image after {:.1?}", start.elapsed());
        assert!(start.elapsed() < 4 * most);
        // The monitors answer.
        pool.mon_command(r#"{"prefix": "health"}"#).unwrap();
        let start = Instant::now();
        drop(pool);
        eprintln!("end of the connection after {:.1?}", start.elapsed());
        assert!(start.elapsed() < most);
    }
    let pool = self::pool();
    eprintln!("images after it: {:?}, id objects: {:?}", pool.image_names("hung").unwrap(), pool.id_object("hung-2").unwrap());
    for name in pool.image_names("hung").unwrap() {
        let start = Instant::now();
        while let Err(failed) = pool.remove(&name, &wait()) {
            assert!(start.elapsed() < Duration::from_secs(60), "{failed}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    pool.remove_object(object).unwrap();
}

#[test]
fn a_notification_that_the_osd_has_begun_and_forgets_is_not_waited_for() {
    let Some(_cluster) = whole_cluster() else { return };
    let pool = Pool::connect(&Settings { timeout: SHORT, ..settings() }, "rbd", "").unwrap();
    let object = "test-forgotten";
    pool.set_omap(object, &[]).unwrap();
    // Somebody who does not answer, so that the OSD waits.
    let mut silent = Command::new("rados");
    silent.args(["-p", "rbd", "watch", object]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut silent = silent.spawn().unwrap();
    let start = Instant::now();
    while pool.notify(object, Duration::from_secs(5)).unwrap().answered.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(silent.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let notifying = {
        let pool = pool.clone();
        std::thread::spawn(move || {
            timed("a forgotten notification", Errno::ETIMEDOUT, || pool.notify(object, Duration::from_secs(4)))
        })
    };
    std::thread::sleep(Duration::from_secs(1));
    {
        let _hung = Hung::new("osd");
        let took = notifying.join().unwrap();
        assert!(took < Duration::from_secs(4) + SHORT + Duration::from_secs(2), "{took:?}");
    }
    // The answer comes when nobody waits for it any more, or when the connection is gone.
    drop(pool);
    silent.kill().unwrap();
    silent.wait().unwrap();
    self::pool().remove_object(object).unwrap();
}

#[test]
fn a_monitor_that_hangs_is_not_waited_for() {
    let Some(_cluster) = whole_cluster() else { return };
    let settings = Settings { timeout: SHORT, ..settings() };
    let pool = Pool::connect(&settings, "rbd", "").unwrap();
    let _hung = Hung::new("mon");
    timed("command", Errno::ETIMEDOUT, || pool.mon_command(r#"{"prefix": "health"}"#));
    timed("blocklist", Errno::ETIMEDOUT, || pool.blocklist("192.0.2.77:0/77", Duration::from_secs(1)));
    let start = Instant::now();
    match Pool::connect(&settings, "rbd", "") {
        Err(Unavailable::Refused(failed)) => eprintln!("connect: {failed} after {:.1?}", start.elapsed()),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < 2 * SHORT + Duration::from_secs(3));
    // The OSDs answer.
    pool.set_omap("test-mon", &[]).unwrap();
    pool.create("mon-hung", ByteSize::mib(1), &layout()).unwrap();
    pool.remove("mon-hung", &wait()).unwrap();
    pool.remove_object("test-mon").unwrap();
}

#[test]
fn a_full_pool_says_so_and_things_can_be_removed() {
    let Some(_cluster) = whole_cluster() else { return };
    let pool = pool();
    pool.create("full", ByteSize::mib(64), &layout()).unwrap();
    shell("rbd bench --io-type write --io-size 4M --io-total 64M --io-threads 4 full");
    shell("ceph osd pool set-quota rbd max_bytes 16777216");
    shell("for i in {1..300}; do ceph osd pool ls detail | grep \"'rbd'\" | grep -q full_quota && exit; sleep .1; done; exit 1");
    pool.mon_command(r#"{"prefix": "osd blocklist", "blocklistop": "add", "addr": "192.0.2.77:0/78"}"#).unwrap();
    // SAFETY: it is alive. It makes sure that we know of the full pool.
    check("", unsafe { (pool.rados().rados_wait_for_latest_osdmap)(pool.cluster()) }).unwrap();
    let full = Errno::EDQUOT;
    assert_eq!(errno(pool.set_omap("test-full", &[("a".to_owned(), vec![0; 100])])), full);
    assert_eq!(errno(pool.lock("test-full", "a", "b", "", Mode::Exclusive)), full);
    assert_eq!(errno(pool.create("full-2", ByteSize::mib(1), &layout())), full);
    assert_eq!(errno(pool.rename("full", "full-3")), full);
    // None of it is half done, and what makes room goes on.
    assert_eq!(pool.image_names("full").unwrap(), ["full"]);
    assert_eq!(pool.id_object("full-3").unwrap(), None);
    {
        let image = pool.open(&Which::Name("full"), Access::Write).unwrap();
        image.set_metadata("a", b"b").unwrap();
        image.create_snapshot("a").unwrap();
        image.remove_snapshot("a").unwrap();
    }
    pool.remove("full", &wait()).unwrap();
    shell("ceph osd pool set-quota rbd max_bytes 0");
    shell("for i in {1..300}; do ceph osd pool ls detail | grep \"'rbd'\" | grep -q full_quota || exit 0; sleep .1; done; exit 1");
    pool.remove_object("test-full").unwrap();
}
