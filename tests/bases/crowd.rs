//! Several who want the same base at once, in threads and in processes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use reroot::base::{BaseOptions, BaseState, CollectPolicy, Kept};
use reroot::conformance::Tree;
use reroot::{CancelToken, ErrorKind, Image, Outcome, Wait};

use super::{Scheme, Stand, anew, digest_of, ensure_and_watch, failed, open_bases, shown, soon, tree, until};

/// `ROLE SCHEME POOL IMAGE`, a line each, tells this program to be a part of a test.
const MARKER: &str = "REROOT_TEST_BASES_CHILD";

/// Another process, which ends with this value.
pub(crate) struct Other(Child, BufReader<std::process::ChildStdout>);

impl Other {
    pub(crate) fn start(role: &str, stand: &Stand, image: &Path) -> Self {
        let scheme = if stand.scheme == Scheme::Dir { "dir" } else { "btrfs" };
        let told = [role, scheme, stand.pool().to_str().unwrap(), image.to_str().unwrap()].join("\n");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crowd::child", "--nocapture", "--quiet"])
            .env(MARKER, told)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Other(child, answers)
    }

    /// What it says next, of what it means to say.
    pub(crate) fn says(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.1.read_line(&mut line).unwrap() > 0, "it ended and said nothing");
            if let Some(said) = line.trim_end().rsplit_once("SAYS ") {
                return said.1.to_owned();
            }
        }
    }

    pub(crate) fn goes_on(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn child() {
    let Ok(told) = std::env::var(MARKER) else { return };
    let [role, scheme, pool, image] = told.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let scheme = if scheme == "dir" { Scheme::Dir } else { Scheme::Btrfs };
    let bases = shown(open_bases(scheme, Path::new(pool)));
    let wait = || std::io::stdin().read_line(&mut String::new()).unwrap();
    match role {
        "ensure" => {
            println!("SAYS ready");
            wait();
            let (base, work) = shown(ensure_and_watch(&bases, shown(Image::open(image)), &BaseOptions::default()));
            println!("SAYS {} {}", base.name(), if work.made { "made" } else { "found" });
            wait();
        }
        "hold" => {
            let base = shown(bases.ensure(shown(Image::open(image)), &BaseOptions::default()));
            println!("SAYS {}", base.name());
            wait();
        }
        // Reads an image that comes to no end.
        "make" => {
            let digest = digest_of(Path::new(image));
            let slow = Slow(fs::read(image).unwrap(), 0);
            println!("SAYS {}", std::process::id());
            shown(bases.ensure(Image::from_reader(slow, "slow").with_sha256(digest), &BaseOptions::default()));
        }
        other => panic!("{other}"),
    }
}

/// A reader that has read half of it, and waits.
struct Slow(Vec<u8>, usize);

impl std::io::Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.1 > self.0.len() / 2 {
            std::thread::sleep(Duration::from_secs(60));
        }
        let length = buffer.len().min(1024).min(self.0.len() - self.1);
        buffer[..length].copy_from_slice(&self.0[self.1..self.1 + length]);
        self.1 += length;
        Ok(length)
    }
}

/// A tree that takes a moment.
pub(crate) fn broad() -> Tree {
    let mut broad = tree("broad");
    for number in 0..600 {
        broad.file(format!("many/{}/{number}", number % 7), format!("{number}").repeat(900));
    }
    broad
}

#[test]
fn of_threads_that_ask_at_once_one_makes_it() {
    let stand = Stand::new();
    let path = stand.image("broad.tar", &broad());
    let start = Barrier::new(6);
    let made: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let (bases, image) = (stand.bases(), Image::open(&path).unwrap());
                    start.wait();
                    let (base, work) = shown(ensure_and_watch(&bases, image, &BaseOptions::default()));
                    assert_eq!(base.name().image(), digest_of(&path));
                    assert!(fs::metadata(stand.path_of(&base).join("many/0/0")).is_ok());
                    // All of them hold it: who comes late must not wait for who came first.
                    start.wait();
                    usize::from(work.made)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(made, 1);
    assert_eq!(stand.kept(), [digest_of(&path).to_string()]);
}

#[test]
fn of_processes_that_ask_at_once_one_makes_it() {
    let stand = Stand::new();
    let path = stand.image("broad.tar", &broad());
    let mut others: Vec<_> = (0..3).map(|_| Other::start("ensure", &stand, &path)).collect();
    others.iter_mut().for_each(|other| assert_eq!(other.says(), "ready"));
    others.iter_mut().for_each(Other::goes_on);
    let mut said: Vec<_> = others.iter_mut().map(Other::says).collect();
    said.sort();
    let name = digest_of(&path);
    assert_eq!(said, [format!("{name} found"), format!("{name} found"), format!("{name} made")]);
    assert_eq!(stand.bases().verify(&name.to_string().parse().unwrap(), &CancelToken::new()).unwrap().to_string(), "intact");
    // While they hold it no one removes it; that someone holds it is told, and by whom.
    let error = failed(stand.bases().remove(&name.to_string().parse().unwrap(), &super::no_wait()));
    assert_eq!(error.kind(), ErrorKind::Locked, "{}", error.report());
    others.iter_mut().for_each(Other::goes_on);
    drop(others);
    shown(stand.bases().remove(&name.to_string().parse().unwrap(), &soon()));
    assert_eq!(stand.kept(), [""; 0]);
}

#[test]
fn a_base_that_another_process_makes_is_waited_for_and_no_longer_than_asked() {
    let stand = Stand::new();
    let path = stand.image("broad.tar", &broad());
    let mut maker = Other::start("make", &stand, &path);
    maker.says();
    let name: reroot::BaseName = digest_of(&path).to_string().parse().unwrap();
    until(|| stand.folder_of_bases().join(format!("{name}.reroot-staged/many")).exists());
    let image = || Image::open(&path).unwrap().with_sha256(name.image());
    let short = BaseOptions::new().with_wait(Duration::from_millis(50));
    let error = failed(stand.bases().ensure(image(), &short));
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Locked, Outcome::Untouched), "{}", error.report());
    assert!(error.remedy().is_some() && error.message().contains(&maker.id().to_string()), "{}", error.report());
    let error = failed(stand.bases().find(&name, &super::no_wait()));
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert_eq!(failed(stand.bases().verify(&name, &CancelToken::new())).kind(), ErrorKind::Locked);
    // It is there for the list, and for a collection it is in use.
    assert_eq!(stand.bases().list().unwrap()[0].state, BaseState::Unfinished);
    let collected = stand.bases().collect(&CollectPolicy::unused_for(Duration::ZERO), &CancelToken::new()).unwrap();
    assert!(collected.removed.is_empty() && matches!(collected.kept[0].why, Kept::Busy(_)), "{collected}");

    let cancel = CancelToken::new();
    std::thread::scope(|scope| {
        let options = BaseOptions::new().with_cancel(cancel.clone());
        let (bases, image) = (stand.bases(), image());
        let waiting = scope.spawn(move || failed(bases.ensure(image, &options)));
        std::thread::sleep(Duration::from_millis(100));
        let begun = Instant::now();
        cancel.cancel();
        let error = waiting.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", error.report());
        assert!(begun.elapsed() < Duration::from_secs(5));
    });
    // A kill ends the wait of all others; the next one makes it.
    maker.kill();
    assert!(stand.folder_of_bases().join(format!("{name}.reroot-staged")).exists());
    let (base, work) = shown(ensure_and_watch(&stand.bases(), image(), &BaseOptions::default()));
    assert!(work.made && *base.name() == name);
    drop(base);
    assert_eq!(stand.kept(), [name.to_string()]);
}

#[test]
fn a_digest_that_is_being_taken_can_be_cancelled() {
    let stand = Stand::new();
    // Long, and no more than a hole.
    let path = stand.path("images/long.tar");
    let file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
    file.set_len(64 << 30).unwrap();
    let cancel = CancelToken::new();
    std::thread::scope(|scope| {
        let options = BaseOptions::new().with_cancel(cancel.clone());
        let (stand, path) = (&stand, &path);
        let working = scope.spawn(move || failed(stand.bases().ensure(Image::open(path).unwrap(), &options)));
        std::thread::sleep(Duration::from_millis(200));
        let begun = Instant::now();
        cancel.cancel();
        let error = working.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", error.report());
        assert!(begun.elapsed() < Duration::from_secs(5));
    });
    assert!(stand.bases().list().unwrap().is_empty());
    let cancelled = CancelToken::new();
    cancelled.cancel();
    let path = stand.image("a.tar", &tree("a"));
    let base = stand.ensure(&path);
    assert_eq!(failed(stand.bases().verify(base.name(), &cancelled)).kind(), ErrorKind::Cancelled);
    let error = failed(stand.bases().collect(&CollectPolicy::unused_for(Duration::ZERO), &cancelled));
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let wait = Wait::new(Duration::from_secs(60), cancelled);
    assert_eq!(failed(stand.bases().remove(base.name(), &wait)).kind(), ErrorKind::Cancelled);
}

#[test]
fn one_that_is_held_in_this_process_is_held_too() {
    let stand = Stand::new();
    let path = stand.image("a.tar", &tree("a"));
    let base = stand.ensure(&path);
    let (clone, name) = (base.clone(), base.name().clone());
    let image = base.image();
    drop(base);
    assert_eq!(failed(stand.bases().remove(&name, &super::no_wait())).kind(), ErrorKind::Locked);
    drop(clone);
    assert_eq!(failed(stand.bases().remove(&name, &super::no_wait())).kind(), ErrorKind::Locked);
    // So it is by a rebuild that has not run yet.
    let rebuild = anew(image);
    let collected = stand.bases().collect(&CollectPolicy::unused_for(Duration::ZERO), &CancelToken::new()).unwrap();
    assert!(collected.removed.is_empty() && matches!(collected.kept[0].why, Kept::Busy(_)), "{collected}");
    shown(rebuild.run(&mut *stand.volume("c1")));
    shown(stand.bases().remove(&name, &super::soon()));
    assert!(stand.root("c1").join("a").exists());
}
