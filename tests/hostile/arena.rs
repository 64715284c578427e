//! A root to unpack into, and around it what no archive may touch: compared before and after, and watched meanwhile.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use reroot::unpack::{NoHooks, UnpackOptions, Unpacked, unpack};
use reroot::{Error, ErrorKind, Result};

use crate::forge::Forge;

thread_local! {
    /// Watches all arenas of the thread. One for all: it takes the kernel long to end one.
    static WATCH: Inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
}

/// A root to unpack into, beside what no archive may touch.
pub(crate) struct Arena {
    folder: tempfile::TempDir,
    /// First that on the folder itself, in which the root is.
    watches: Vec<WatchDescriptor>,
}

/// Content, times, link count and mode.
type Facts = (String, i64, i64, u64, u32);

impl Arena {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("reroot-hostile-").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("root")).unwrap();
        fs::create_dir(at("canaries")).unwrap();
        fs::create_dir(at("canaries/cage")).unwrap();
        fs::write(at("shadow"), "secret").unwrap();
        fs::write(at("canaries/x"), "alive").unwrap();
        fs::write(at("canaries/cage/x"), "alive").unwrap();
        symlink("canaries", at("link")).unwrap();
        // Also the files by themselves: a further name of one shows nowhere else.
        let watched = ["", "canaries", "canaries/cage", "shadow", "canaries/x", "canaries/cage/x"];
        let watch = |name| WATCH.with(|watch| watch.add_watch(&at(name), AddWatchFlags::IN_ALL_EVENTS).unwrap());
        let watches = watched.into_iter().map(watch).collect();
        Arena { folder: dir, watches }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// Everything but the root.
    pub(crate) fn outside(&self) -> BTreeMap<PathBuf, Facts> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path == self.root() {
                    continue;
                }
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_dir() {
                    folders.push(path.clone());
                }
                let content = if metadata.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
                let facts = (content, metadata.mtime(), metadata.mtime_nsec(), metadata.nlink(), metadata.mode());
                found.insert(path, facts);
            }
        }
        found
    }

    /// Unpacks, and sees to it that nothing outside, or in another arena of this thread, has been changed, opened or read, and that nothing
    /// that is to be shown can reach a terminal raw.
    #[track_caller]
    pub(crate) fn unpack(&self, stream: impl Read + Send, options: &UnpackOptions) -> Result<Unpacked> {
        let before = self.outside();
        let root = File::open(self.root()).unwrap();
        events();
        let result = unpack(stream, root.as_fd(), options, &mut NoHooks);
        self.assert_quiet();
        assert_eq!(self.outside(), before, "something outside the root was touched");
        match &result {
            Ok(unpacked) => assert_harmless(&unpacked.losses.to_string()),
            Err(error) => assert_error_harmless(error),
        }
        result
    }

    /// Asserts that nothing has happened but to the root directory itself, which may be opened, read, and given its metadata.
    #[track_caller]
    fn assert_quiet(&self) {
        use AddWatchFlags as Flags;
        let of_the_root =
            Flags::IN_OPEN | Flags::IN_ACCESS | Flags::IN_CLOSE_NOWRITE | Flags::IN_ATTRIB | Flags::IN_MODIFY | Flags::IN_ISDIR;
        // What is only closed was opened before: a child of another test may have held a copy for a while.
        let only_closed = Flags::IN_CLOSE_NOWRITE | Flags::IN_CLOSE_WRITE | Flags::IN_ISDIR;
        for event in events().into_iter().filter(|event| !only_closed.contains(event.mask)) {
            let is_root = Some(&event.wd) == self.watches.first() && event.name.as_deref() == Some("root".as_ref());
            assert!(is_root && of_the_root.contains(event.mask), "outside the root: {event:?}");
        }
    }
}

impl Drop for Arena {
    /// What is removed here may end later: a child of another test may hold it for a while. An ordinary user cannot remove what lies in a
    /// directory that forbids it.
    fn drop(&mut self) {
        WATCH.with(|watch| self.watches.iter().for_each(|&watched| _ = watch.rm_watch(watched)));
        if fs::remove_dir_all(self.path()).is_err() {
            let _ = Command::new("chmod").args(["-R", "u+rwx", "--"]).arg(self.path()).status();
        }
    }
}

/// What has happened in the arenas of this thread since they were last asked.
fn events() -> Vec<InotifyEvent> {
    let mut all = Vec::new();
    WATCH.with(|watch| {
        loop {
            match watch.read_events() {
                Ok(events) => all.extend(events),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(error) => panic!("the watch is lost: {error}"),
            }
        }
    });
    all
}

#[test]
fn the_watch_sees_what_happens_outside_and_only_that() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let (arena, other) = (Arena::new(), Arena::new());
    let outside: [fn(&Path); 6] = [
        |path| drop(fs::read(path.join("canaries/x"))),
        |path| fs::write(path.join("canaries/cage/new"), "").unwrap(),
        |path| fs::remove_file(path.join("shadow")).unwrap(),
        |path| fs::hard_link(path.join("canaries/x"), path.join("root/l")).unwrap(),
        |path| fs::rename(path.join("root"), path.join("gone")).unwrap(),
        |path| fs::set_permissions(path.join("link/x"), fs::Permissions::from_mode(0o600)).unwrap(),
    ];
    for act in outside {
        events();
        act(other.path());
        let seen = catch_unwind(AssertUnwindSafe(|| arena.assert_quiet()));
        assert!(seen.is_err());
    }
    events();
    fs::write(arena.root().join("f"), "x").unwrap();
    fs::read_dir(arena.root()).unwrap().count();
    arena.assert_quiet();
}

/// Asserts that a text holds nothing that moves a cursor, ends a line or reorders what is shown, line ends of ours excepted.
#[track_caller]
pub(crate) fn assert_harmless(text: &str) {
    let reorders = |c| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    assert!(text.chars().all(|c| c == '\n' || !c.is_control() && !reorders(c)), "{text:?}");
}

/// The same for all that an error shows: a line, and a report.
#[track_caller]
pub(crate) fn assert_error_harmless(error: &Error) {
    assert_harmless(&error.report().to_string());
    let line = error.to_string();
    assert_harmless(&line);
    assert!(!line.contains('\n'), "{line:?}");
}

#[track_caller]
pub(crate) fn take(archive: Forge) -> (Arena, Unpacked) {
    let arena = Arena::new();
    match arena.unpack(&archive.end()[..], &UnpackOptions::default()) {
        Ok(unpacked) => (arena, unpacked),
        Err(error) => panic!("{}", error.report()),
    }
}

#[track_caller]
pub(crate) fn refuse_with(archive: Forge, options: &UnpackOptions) -> (Arena, Error) {
    let arena = Arena::new();
    let archive = archive.end();
    let error = arena.unpack(&archive[..], options).unwrap_err();
    (arena, error)
}

#[track_caller]
pub(crate) fn refuse(archive: Forge, kind: ErrorKind) -> Error {
    let (_arena, error) = refuse_with(archive, &UnpackOptions::default());
    assert_eq!(error.kind(), kind, "{}", error.report());
    error
}

pub(crate) fn context<'a>(error: &'a Error, key: &str) -> &'a str {
    error.context().find(|(found, _)| *found == key).map_or("", |(_, value)| value)
}
