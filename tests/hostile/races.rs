//! What an entry leads through is taken away by another: the archive races against itself, and against the threads that write.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use reroot::ErrorKind;
use reroot::unpack::{Threads, UnpackOptions};

use crate::arena::{Arena, refuse, take};
use crate::forge::{Forge, header};

/// Where a link may try to lead: out of the root, or to its top.
const OUT: [&str; 5] = ["../canaries", "../../canaries", "/canaries", "..", "/"];

#[test]
fn a_directory_that_becomes_a_link_takes_nothing_with_it() {
    let outside = Arena::new();
    let absolute = outside.path().join("canaries");
    for target in OUT.into_iter().chain([absolute.to_str().unwrap()]) {
        // Its metadata is set last, when its name is a link's.
        let mode = header("d", b'5', 0).number(100..108, 0o2777).number(136..148, 77);
        let records: [(&str, &[u8]); 3] =
            [("SCHILY.xattr.user.evil", b"1"), ("SCHILY.acl.default", b"u::rwx,u:4242:rwx,g::rwx,m:rwx,o:rwx"), ("uid", b"4242")];
        let archive = Forge::new().pax(&records).raw(mode).file("d/inside", b"x").symlink("d", target).file("other/x", b"x");
        let (arena, _) = take(archive);
        assert!(fs::symlink_metadata(arena.root().join("d")).unwrap().is_symlink());
        assert_ne!(fs::metadata(arena.root()).unwrap().mode() & 0o7777, 0o2777);
    }
    let canary = fs::metadata(absolute).unwrap();
    assert_ne!((canary.mode() & 0o7777, canary.mtime()), (0o2777, 77));
}

#[test]
fn a_link_that_becomes_a_directory_is_no_link_any_more() {
    for target in OUT {
        let (arena, _) = take(
            Forge::new().symlink("d", target).dir("d").file("d/x", b"x").symlink("e", target).dir("e/").file("e/canaries/x", b"x"),
        );
        assert!(fs::symlink_metadata(arena.root().join("d")).unwrap().is_dir());
        assert!(arena.root().join("d/x").is_file() && arena.root().join("e/canaries/x").is_file());
    }
}

#[test]
fn the_last_component_is_never_followed_by_anyone() {
    let outside = Arena::new();
    let victim = outside.path().join("canaries/x");
    let target = victim.to_str().unwrap();
    let records: [(&str, &[u8]); 4] =
        [("SCHILY.xattr.trusted.evil", b"1"), ("uid", b"4242"), ("mtime", b"77.5"), ("SCHILY.acl.access", b"u::rwx,g::rwx,o:rwx")];
    for archive in [
        // The link's own metadata is the link's.
        Forge::new().pax(&records).symlink("l", target),
        Forge::new().pax(&records).symlink("l", target).hardlink("h", "l").pax(&records).hardlink("i", "h"),
        // A file, and then a link under its name, while the file may still be on its way to the disk.
        Forge::new().pax(&records).file("l", &[b'x'; 100_000]).symlink("l", target).file("m", b"x"),
        Forge::new().symlink("l", target).pax(&records).file("l", &[b'x'; 100_000]),
        Forge::new().file("f", b"x").symlink("l", target).hardlink("l", "f").pax(&records).file("l", b"y"),
        Forge::new().symlink("l", target).hardlink("m", "l").pax(&records).dir("m"),
        Forge::new().symlink("l", target).raw(header("l", b'6', 0).number(100..108, 0o6777)),
    ] {
        let (_arena, _) = take(archive);
        let found = fs::metadata(&victim).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"alive");
        assert_ne!(found.mtime(), 77);
        assert_eq!(found.nlink(), 1);
    }
}

#[test]
fn a_hard_link_reaches_no_further_than_a_path() {
    let outside = Arena::new();
    let canaries = outside.path().join("canaries");
    let path = canaries.to_str().unwrap();
    for target in OUT.into_iter().chain([path]) {
        // Through a link, through a link to a link, and through a directory that has become one.
        if !matches!(target, ".." | "/") {
            refuse(Forge::new().symlink("out", target).hardlink("l", "out/x"), ErrorKind::InvalidImage);
            refuse(Forge::new().symlink("a", target).symlink("b", "a").hardlink("l", "b/x"), ErrorKind::InvalidImage);
            refuse(Forge::new().dir("d").file("d/x", b"x").symlink("d", target).hardlink("l", "d/x"), ErrorKind::InvalidImage);
        }
        refuse(Forge::new().symlink("out", target).hardlink("l", "out/shadow"), ErrorKind::InvalidImage);
        refuse(Forge::new().symlink("out", target).hardlink("l", "out/root/out"), ErrorKind::InvalidImage);
    }
    // Out and back in again: the way out ends at the root.
    let name = outside.root();
    refuse(
        Forge::new().symlink("out", "..").file("f", b"x").hardlink("l", &format!("out{}/f", name.display())),
        ErrorKind::InvalidImage,
    );
}

/// Type, content or target, and modification time of everything in a root.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_dir() {
                folders.push(path.clone());
                "directory".to_owned()
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                format!("{} times {}", metadata.nlink(), String::from_utf8_lossy(&fs::read(&path).unwrap()))
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), content);
        }
    }
    found
}

#[test]
fn names_that_swap_all_the_time_end_as_the_last_entry_says() {
    let mut forge = Forge::new().dir("d").dir("e").file("d/x", b"first").symlink("out", "../canaries");
    for turn in 0..150 {
        let content = format!("turn {turn}");
        forge = forge
            .file("d/x", content.as_bytes())
            .file("name", content.as_bytes())
            .symlink("name", "../canaries/x")
            .file("name", &vec![b'0' + (turn % 10) as u8; 3000])
            .hardlink("again", "name")
            .symlink("swap", if turn % 2 == 0 { "d" } else { "e" })
            .file("swap/y", content.as_bytes())
            .file("swap", b"a file")
            .dir("swap")
            .file("swap/z", content.as_bytes())
            .symlink("again", "../shadow")
            .hardlink("out-again", "out")
            .file("out-again", content.as_bytes());
    }
    let archive = forge.end();
    let [own, caller] = [Threads::Own, Threads::Caller].map(|threads| {
        let arena = Arena::new();
        arena
            .unpack(&archive[..], &UnpackOptions::default().with_threads(threads))
            .unwrap_or_else(|error| panic!("{}", error.report()));
        listing(&arena.root())
    });
    assert_eq!(own, caller);
    assert_eq!(own[Path::new("name")], format!("1 times {}", "9".repeat(3000)));
    assert_eq!(own[Path::new("out")], "../canaries");
    assert_eq!(own[Path::new("d/y")], "1 times turn 148");
}
