//! Thin pools that fill: an error within seconds, which says which space it was, and an old root that is none the wiser.

use super::*;
use reroot::Space;
use std::time::Instant;

/// What a pool does with writes that find no room: let them fail, or let them wait for a minute.
const MANNERS: [&str; 2] = ["y", "n"];
/// In which it is noticed, beside the time that a rebuild takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Demands a rebuild that failed for want of this space, in time, and left the old root alone.
fn expect_full(pool: &Pool, space: Space, begun: Instant, result: reroot::Result<Report>, all: &[&str]) {
    let took = begun.elapsed();
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace(space), "{}", error.report());
    assert!(matches!(error.outcome(), Outcome::Untouched | Outcome::RolledBack), "{}", error.report());
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("lvextend")), "{}", error.report());
    assert!(took < PATIENCE, "it took {took:?}: {}", error.report());
    pool.expect("old", all);
}

/// With a volume in a pool of its own, made with these options, of this manner.
fn with_own(options: &str, manner: &str) -> Result<Pool, String> {
    let mut pool = Pool::with_own_thin(options)?;
    // What it is already LVM does not take.
    if manner == "y" {
        pool.change("thin", "--errorwhenfull y");
    }
    pool.size = ByteSize::mib(256);
    rebuild(&mut pool.volume(), &old()).unwrap();
    Ok(pool)
}

#[test]
fn data_that_fills_is_told_in_time() {
    for manner in MANNERS {
        let pool = need!(with_own("--size 96M --poolmetadatasize 4M", manner));
        let all = ["c1", "thin"];
        // A stream that does not say how much is to come, and a file that does.
        let begun = Instant::now();
        expect_full(&pool, Space::ThinData, begun, Rebuild::new(large(150).stream()).run(&mut pool.volume()), &all);
        let from_file = Rebuild::new(large(150).file(pool.folder.path()));
        let begun = Instant::now();
        expect_full(&pool, Space::ThinData, begun, from_file.run(&mut pool.volume()), &all);
        // What fits still works.
        Rebuild::new(large(20).stream()).run(&mut pool.volume()).unwrap();
        pool.expect("large", &all);
        rebuild(&mut pool.volume(), &old()).unwrap();
    }
}

/// Someone else takes what was left, at once: what the rebuild has written meanwhile waits, or fails.
#[test]
fn data_that_others_take_is_told_in_time() {
    for manner in MANNERS {
        let pool = need!(with_own("--size 160M --poolmetadatasize 4M", manner));
        pool.make("other", "");
        let device = group::device(&pool.name("other")).unwrap();
        let reader = Meddling::new(large(60), move || {
            // As much as there is; the last write of it waits with the rebuild's, or fails.
            let mut words = Command::new("timeout");
            words.args(["-s", "KILL", "20", "dd", "if=/dev/zero", "bs=1M", "count=150", "oflag=direct"]);
            drop(run(words.arg(format!("of={}", device.display()))));
        })
        .after(20 << 20);
        let begun = Instant::now();
        let result = Rebuild::new(Image::from_reader(reader, "test")).run(&mut pool.volume());
        // The other one waits too.
        let took = begun.elapsed();
        let error = result.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::NoSpace(Space::ThinData), Outcome::RolledBack),
            "{}",
            error.report()
        );
        assert!(took < PATIENCE * 2, "it took {took:?}: {}", error.report());
        // With room again the pool works on, and nothing has to be repaired.
        lvm(&format!("lvremove --yes {}", pool.name("other"))).unwrap();
        // What could not be unmounted as long as it waited is found now.
        reroot::recover(&mut pool.volume(), &soon()).unwrap();
        pool.expect("old", &["c1", "thin"]);
        Rebuild::new(large(20).stream()).run(&mut pool.volume()).unwrap();
        pool.expect("large", &["c1", "thin"]);
    }
}

/// Fills the metadata until so many blocks of 4 KiB are left: with thin devices that LVM does not know of, each of which takes one.
fn fill_metadata(pool: &str, left: u64) {
    let device = format!("{}-tpool", group::device_name(pool));
    let now = || group::left(pool).unwrap().1.bytes() / 4096;
    for number in 5000.. {
        if now() <= left {
            return;
        }
        let some = format!(
            "for i in 0 1 2 3 4 5 6 7; do dmsetup message {device} 0 \"create_thin $(({number} * 8 + i))\" || exit 1; done"
        );
        if run(Command::new("sh").args(["-c", &some])).is_err() {
            return;
        }
    }
}

#[test]
fn metadata_that_is_full_is_told_before() {
    for manner in MANNERS {
        let pool = need!(with_own("--size 96M --poolmetadatasize 2M", manner));
        // A pool shows how full it is while something in it is active.
        pool.change("c1", "--activate y");
        fill_metadata(&pool.name("thin"), 12);
        let begun = Instant::now();
        expect_full(&pool, Space::ThinMetadata, begun, Rebuild::new(large(20).stream()).run(&mut pool.volume()), &["c1", "thin"]);
    }
}

#[test]
fn metadata_that_fills_meanwhile_is_told_in_time() {
    let pool = need!(with_own("--size 160M --poolmetadatasize 2M", "n"));
    let thin = pool.name("thin");
    let reader = Meddling::new(large(60), move || fill_metadata(&thin, 0)).after(20 << 20);
    let begun = Instant::now();
    let result = Rebuild::new(Image::from_reader(reader, "test")).run(&mut pool.volume());
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::NoSpace(Space::ThinMetadata), Outcome::RolledBack),
        "{}",
        error.report()
    );
    assert!(begun.elapsed() < PATIENCE * 2, "it took {:?}: {}", begun.elapsed(), error.report());
    assert!(pool.visit("c1", |root| root.join("old").exists()));
}
