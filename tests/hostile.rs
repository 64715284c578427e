//! Nothing ever lands outside the root, whatever the archive holds; what cannot be unpacked is a clear error; nothing costs more than it may.

#![cfg(feature = "tar")]

#[path = "hostile/again.rs"]
mod again;
#[path = "hostile/arena.rs"]
mod arena;
#[path = "hostile/bombs.rs"]
mod bombs;
#[path = "hostile/costs.rs"]
mod costs;
#[path = "hostile/fields.rs"]
mod fields;
#[path = "hostile/forge.rs"]
mod forge;
#[path = "common/loopfs.rs"]
mod loopfs;
#[path = "hostile/names.rs"]
mod names;
#[path = "hostile/orders.rs"]
mod orders;
#[path = "hostile/races.rs"]
mod races;
#[path = "hostile/sparse.rs"]
mod sparse;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;
#[cfg(feature = "conformance")]
use reroot::conformance::Manifest;
use reroot::unpack::{LossKind, NoHooks, Threads, UnpackOptions, scan, unpack};
use reroot::{ByteSize, DevicePolicy, ErrorKind, Limits};

use arena::{Arena, context, refuse, refuse_with, take};
use forge::{Endless, Forge, Names, header};

#[test]
fn upward_paths_are_refused_in_every_field() {
    for path in ["../x", "a/../../x", "..", "/../x", "./..", "a/.."] {
        let error = refuse(Forge::new().file(path, b"x"), ErrorKind::UnsafePath);
        assert_eq!(context(&error, "entry"), path);
        refuse(Forge::new().dir(path), ErrorKind::UnsafePath);
        refuse(Forge::new().symlink(path, "target"), ErrorKind::UnsafePath);
        refuse(Forge::new().file("f", b"x").hardlink(path, "f"), ErrorKind::UnsafePath);
        refuse(Forge::new().file("f", b"x").hardlink("l", path), ErrorKind::UnsafePath);
        refuse(Forge::new().gnu_long(b'L', path).file("short", b"x"), ErrorKind::UnsafePath);
        refuse(Forge::new().file("f", b"x").gnu_long(b'K', path).hardlink("l", "f"), ErrorKind::UnsafePath);
        refuse(Forge::new().pax(&[("path", path.as_bytes())]).file("short", b"x"), ErrorKind::UnsafePath);
        refuse(Forge::new().global(&[("path", path.as_bytes())]).file("short", b"x"), ErrorKind::UnsafePath);
        refuse(Forge::new().file("f", b"x").pax(&[("linkpath", path.as_bytes())]).hardlink("l", "f"), ErrorKind::UnsafePath);
        let sparse: [(&str, &[u8]); 3] =
            [("GNU.sparse.name", path.as_bytes()), ("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"0,1")];
        refuse(Forge::new().pax(&sparse).file("short", b"x"), ErrorKind::UnsafePath);
    }
    refuse(Forge::new().prefixed("..", "x", b"x"), ErrorKind::UnsafePath);
    refuse(Forge::new().pax(&[("path", b"a\0/../b")]).file("short", b"x"), ErrorKind::UnsafePath);
}

#[test]
fn absolute_names_are_the_roots_own() {
    let (arena, _) = take(Forge::new().file("/etc/x", b"x").file("//a///b", b"y").hardlink("/h", "/etc/x").symlink("/s", "/etc/x"));
    assert_eq!(fs::read(arena.root().join("etc/x")).unwrap(), b"x");
    assert_eq!(fs::read(arena.root().join("a/b")).unwrap(), b"y");
    assert_eq!(fs::metadata(arena.root().join("h")).unwrap().nlink(), 2);
    // A symbolic link says what it says; it is followed by nobody here.
    assert_eq!(fs::read_link(arena.root().join("s")).unwrap(), Path::new("/etc/x"));
}

#[test]
fn links_on_the_way_end_below_the_root() {
    let (arena, _) = take(Forge::new().symlink("slash", "/").file("slash/etc/x", b"x"));
    assert_eq!(fs::read(arena.root().join("etc/x")).unwrap(), b"x");
    let (arena, _) = take(Forge::new().symlink("up", "../../../..").file("up/y", b"y"));
    assert_eq!(fs::read(arena.root().join("y")).unwrap(), b"y");
    let (arena, _) = take(Forge::new().dir("d").symlink("d/up", "..").symlink("a", "d/up").symlink("b", "a").file("b/z", b"z"));
    assert_eq!(fs::read(arena.root().join("z")).unwrap(), b"z");
    // Where the link would lead outside, there is nothing in the root.
    let outside = Arena::new();
    let canaries = outside.path().join("canaries");
    let path = canaries.to_str().unwrap();
    refuse(Forge::new().symlink("out", path).file("out/x", b"dead"), ErrorKind::InvalidImage);
    assert_eq!(fs::read(canaries.join("x")).unwrap(), b"alive");
    refuse(Forge::new().symlink("a", "b").symlink("b", "a").file("a/x", b"x"), ErrorKind::InvalidImage);
    refuse(Forge::new().symlink("me", "me").file("me/x", b"x"), ErrorKind::InvalidImage);
    refuse(Forge::new().file("f", b"x").file("f/x", b"x"), ErrorKind::InvalidImage);
    refuse(Forge::new().symlink("magic", "/proc/self/cwd").file("magic/x", b"x"), ErrorKind::InvalidImage);
}

#[test]
fn a_final_link_is_replaced_and_not_followed() {
    let outside = Arena::new();
    let victim = outside.path().join("canaries/x");
    let path = victim.to_str().unwrap();
    for archive in [
        Forge::new().symlink("l", path).file("l", b"new"),
        Forge::new().symlink("l", path).dir("l"),
        Forge::new().symlink("l", path).fifo("l"),
        Forge::new().file("f", b"x").symlink("l", path).hardlink("l", "f"),
        Forge::new().symlink("l", "f").file("f", b"x").file("l", b"new"),
        // Through a hard link to a symbolic link.
        Forge::new().symlink("l", path).hardlink("h", "l").file("h", b"new"),
    ] {
        let (arena, _) = take(archive);
        assert_eq!(fs::read(&victim).unwrap(), b"alive");
        drop(arena);
    }
    // A later entry under a hard link's name leaves the other name's content alone.
    let (arena, _) = take(Forge::new().file("a", b"first").hardlink("b", "a").file("b", b"second"));
    assert_eq!(fs::read(arena.root().join("a")).unwrap(), b"first");
    assert_eq!(fs::read(arena.root().join("b")).unwrap(), b"second");
}

#[test]
fn hard_links_reach_nothing_outside() {
    for target in ["/etc/shadow", "etc/shadow", "missing", "d/missing"] {
        let error = refuse(Forge::new().dir("d").hardlink("l", target), ErrorKind::InvalidImage);
        assert_eq!(context(&error, "entry"), "l");
    }
    for target in ["../shadow", "../../etc/shadow", "/../shadow"] {
        refuse(Forge::new().hardlink("l", target), ErrorKind::UnsafePath);
    }
    refuse(Forge::new().symlink("up", "..").hardlink("l", "up/shadow"), ErrorKind::InvalidImage);
    refuse(Forge::new().symlink("etc", "/etc").hardlink("l", "etc/passwd"), ErrorKind::InvalidImage);
    refuse(Forge::new().dir("d").hardlink("l", "d"), ErrorKind::InvalidImage);
    refuse(Forge::new().hardlink("l", "/"), ErrorKind::InvalidImage);
    refuse(Forge::new().hardlink("l", "l"), ErrorKind::InvalidImage);
    // To itself it is nothing, and costs nothing.
    let (arena, _) = take(Forge::new().file("f", b"x").hardlink("f", "./f").hardlink("f", "f"));
    assert_eq!(fs::read(arena.root().join("f")).unwrap(), b"x");
    let (arena, _) = take(Forge::new().file("usr/lib/f", b"x").symlink("lib", "usr/lib").hardlink("l", "lib/f"));
    assert_eq!(fs::metadata(arena.root().join("l")).unwrap().nlink(), 2);
}

#[test]
fn the_root_itself_cannot_be_replaced() {
    for path in ["", ".", "./", "/", "//"] {
        let error = refuse_with(Forge::new().file("f", b"x").symlink(path, "/"), &UnpackOptions::default()).1;
        assert_eq!(error.kind(), ErrorKind::UnsafePath, "{error}");
        refuse(Forge::new().file(path.trim_end_matches('/'), b"x").file("f", b""), ErrorKind::UnsafePath);
        refuse(Forge::new().file("f", b"x").hardlink(path, "f"), ErrorKind::UnsafePath);
    }
    take(Forge::new().dir("./").file("f", b"x"));
}

#[test]
fn types_follow_each_other_under_one_name() {
    let (arena, _) = take(
        Forge::new()
            .file("n", b"x")
            .dir("n")
            .file("n/inner", b"y")
            .symlink("n", "elsewhere")
            .dir("n")
            .file("n", b"last")
            .fifo("m")
            .file("m", b"z"),
    );
    assert_eq!(fs::read(arena.root().join("n")).unwrap(), b"last");
    assert_eq!(fs::read(arena.root().join("m")).unwrap(), b"z");
}

#[test]
fn device_nodes_by_policy() {
    let archive = || Forge::new().device("dev/null", b'3', 1, 3).device("dev/disk", b'4', 8, 0).file("f", b"x");
    let with = |devices| UnpackOptions::default().with_devices(devices);
    let arena = Arena::new();
    let unpacked = arena.unpack(&archive().end()[..], &with(DevicePolicy::Create)).unwrap();
    let made = arena.root().join("dev/null").exists();
    let lost: u64 = unpacked.losses.iter().filter(|loss| loss.kind == LossKind::Device).map(|loss| loss.count).sum();
    assert_eq!(lost, if made { 0 } else { 2 });
    let arena = Arena::new();
    let unpacked = arena.unpack(&archive().end()[..], &with(DevicePolicy::Skip)).unwrap();
    assert!(!arena.root().join("dev/null").exists() && unpacked.losses.is_empty());
    let (_, error) = refuse_with(archive(), &with(DevicePolicy::Refuse));
    assert_eq!(context(&error, "entry"), "dev/null");
    assert_eq!(scan(&archive().end()[..], &with(DevicePolicy::Refuse), &mut NoHooks).unwrap_err().kind(), ErrorKind::InvalidImage);
    refuse(Forge::new().raw(header("d", b'3', 0).number(329..337, u64::MAX)), ErrorKind::InvalidImage);
}

#[test]
fn numbers_that_overflow_are_refused() {
    for size in ["18446744073709551615", "18446744073709551616", "-1", "9223372036854775808"] {
        let arena = Arena::new();
        let archive = Forge::new().pax(&[("size", size.as_bytes())]).file("f", b"x").end();
        let error = arena.unpack(&archive[..], &UnpackOptions::default()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidImage | ErrorKind::LimitExceeded), "{size}: {error:?}");
    }
    let field = |range: std::ops::Range<usize>, bytes: &'static [u8]| {
        refuse(Forge::new().raw(header("f", b'0', 0).bytes(range, bytes)), ErrorKind::InvalidImage)
    };
    field(124..136, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    field(124..136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    field(124..136, b"9999999\0\0\0\0\0");
    field(108..116, b"\x80\0\0\0\xff\xff\xff\xff");
    field(136..148, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    // A size that holds instead of the header's, which is too small for it.
    let header = header("f", b'0', 0);
    let (arena, _) =
        take(Forge::new().pax(&[("size", b"600"), ("path", b"long")]).raw(header.clone()).data(&[b'x'; 600]).file("g", b"y"));
    assert_eq!(fs::read(arena.root().join("long")).unwrap(), [b'x'; 600]);
    assert_eq!(fs::read(arena.root().join("g")).unwrap(), b"y");
    // A time before 1970, as GNU tar writes it.
    let (arena, _) = take(Forge::new().raw(header.bytes(136..148, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")));
    assert_eq!(fs::metadata(arena.root().join("f")).unwrap().mtime(), -1);
}

#[test]
fn headers_have_a_limit() {
    let long = vec![b'v'; 60_000];
    let one: Vec<(String, &[u8])> = (0..40).map(|number| (format!("SCHILY.xattr.user.{number}"), &long[..])).collect();
    let records: Vec<_> = one.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    refuse(Forge::new().pax(&records).file("f", b"x"), ErrorKind::LimitExceeded);
    // Many small ones in a row count together.
    let many = (0..30_000).fold(Forge::new(), |forge, _| forge.pax(&[("comment", &[b'c'; 100])]));
    refuse(many.file("f", b"x"), ErrorKind::LimitExceeded);
    refuse(Forge::new().raw(header("big", b'x', 8 << 30)), ErrorKind::LimitExceeded);
    refuse(Forge::new().raw(header("big", b'L', 8 << 30)), ErrorKind::LimitExceeded);
    refuse(Forge::new().gnu_long(b'L', &"x".repeat(5000)).file("f", b"x"), ErrorKind::LimitExceeded);
    refuse(Forge::new().gnu_long(b'L', &"x".repeat(300)).file("f", b"x"), ErrorKind::LimitExceeded);
    refuse(Forge::new().gnu_long(b'L', &"x/".repeat(3000)).dir("f"), ErrorKind::LimitExceeded);
}

#[test]
fn global_headers_have_a_limit_of_their_own() {
    let long = vec![b'c'; 60_000];
    // Each is within the limit for an entry, and an entry lies between any two.
    let many = (0..40).fold(Forge::new(), |forge, number| forge.global(&[("comment", &long)]).file(&format!("f{number}"), b""));
    refuse(many, ErrorKind::LimitExceeded);
    for record in [
        ("SCHILY.xattr.user.a", &b"x"[..]),
        ("SCHILY.acl.access", b"u::rwx,u:nobody:rwx,g::-,m:rwx,o:-"),
        ("GNU.sparse.size", b"9"),
    ] {
        refuse(Forge::new().global(&[record]).file("f", b"x"), ErrorKind::InvalidImage);
    }
}

#[test]
fn nested_directories_cannot_swell_the_memory() {
    let long = vec![b'v'; 60_000];
    let one: Vec<_> = (0..15).map(|number| format!("SCHILY.xattr.user.{number}")).collect();
    let records: Vec<_> = one.iter().map(|key| (key.as_str(), &long[..])).collect();
    let deeper = |forge: Forge, depth| forge.pax(&records).dir(&"d/".repeat(depth));
    refuse((1..20).fold(Forge::new(), deeper), ErrorKind::LimitExceeded);
}

#[test]
fn a_ustar_header_of_any_version_has_its_prefix() {
    let header = header("name", b'0', 0).bytes(345..349, b"some").bytes(263..265, b"  ");
    let (arena, _) = take(Forge::new().raw(header));
    assert!(arena.root().join("some/name").exists());
}

#[test]
fn what_is_passed_over_counts_too() {
    let options = UnpackOptions::default().with_limits(Limits::default().with_bytes(ByteSize::from_bytes(1000)));
    for kind in [b'V', b'D'] {
        let (_, error) = refuse_with(Forge::new().raw(header("d/", kind, 4096)).raw(header("f", b'0', 0)), &options);
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    }
    assert_eq!(refuse_with(Forge::new().raw(header("d/", b'0', 4096)), &options).1.kind(), ErrorKind::LimitExceeded);
}

#[test]
fn a_later_entry_takes_back_what_an_earlier_one_granted() {
    let acl = "u::rwx,u:4242:rwx,g::r-x,m:rwx,o:-";
    let d = || header("d/", b'5', 0).bytes(100..108, b"0000750\0");
    let archive = Forge::new().pax(&[("SCHILY.acl.access", acl.as_bytes())]).dir("d/").dir("e/").file("d/f", b"x").raw(d());
    let (arena, _) = take(archive);
    // Without an ACL the group's bits are the group's.
    let listed = std::process::Command::new("getfacl").arg("-ncp").arg(arena.root().join("d")).output();
    if let Ok(output) = listed {
        assert!(!String::from_utf8_lossy(&output.stdout).contains("4242"));
    }
    assert_eq!(fs::metadata(arena.root().join("d")).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn attributes_cannot_swell_the_report() {
    let one: Vec<_> = (0..1000).map(|number| format!("SCHILY.xattr.{number}.x")).collect();
    let records: Vec<_> = one.iter().map(|key| (key.as_str(), &b"x"[..])).collect();
    let deep = "\u{7f}".repeat(90) + "/";
    let (_arena, unpacked) = take(Forge::new().pax(&records).gnu_long(b'L', &deep.repeat(40)).file("f", b""));
    let kinds: Vec<_> = unpacked.losses.iter().collect();
    assert_eq!((kinds.len(), kinds[0].count), (1, 1000));
    assert!(kinds[0].examples.iter().all(|example| example.len() < 300));
    let many: Vec<_> = (0..2000).map(|number| format!("SCHILY.xattr.user.{number}")).collect();
    let records: Vec<_> = many.iter().map(|key| (key.as_str(), &b"x"[..])).collect();
    refuse(Forge::new().pax(&records).file("f", b""), ErrorKind::LimitExceeded);
}

#[test]
fn what_no_disk_takes_is_found_before_anything_is_written() {
    let file_for_root = || Forge::new().file("./", b"");
    let not_a_directory = || Forge::new().raw(header(".", b'0', 0));
    let capability = |value: &[u8]| Forge::new().pax(&[("SCHILY.xattr.security.capability", value)]).file("f", b"");
    assert!(scan(&file_for_root().end()[..], &UnpackOptions::default(), &mut NoHooks).is_ok());
    for (archive, kind) in [
        (not_a_directory(), ErrorKind::UnsafePath),
        (capability(b"junk"), ErrorKind::InvalidImage),
        (capability(&[0; 20]), ErrorKind::InvalidImage),
    ] {
        assert_eq!(scan(&archive.end()[..], &UnpackOptions::default(), &mut NoHooks).unwrap_err().kind(), kind);
    }
}

#[cfg(feature = "conformance")]
#[test]
fn attributes_of_an_earlier_entry_of_a_directory_stay_whatever_lies_between() {
    for between in [&["a/x"][..], &["a/x", "z"]] {
        let mut archive = Forge::new().pax(&[("SCHILY.xattr.user.t", b"1"), ("SCHILY.xattr.user.u", b"1")]).dir("a/");
        for path in between {
            archive = archive.file(path, b"");
        }
        let (arena, _) = take(archive.pax(&[("SCHILY.xattr.user.u", b"2")]).dir("a/"));
        let manifest = Manifest::of(&arena.root()).unwrap();
        let dir = manifest.entries().find(|entry| entry.path() == Path::new("a")).unwrap();
        let expected = [(c"user.t".to_owned(), b"1".to_vec()), (c"user.u".to_owned(), b"2".to_vec())];
        assert_eq!(dir.facts().xattrs, expected, "{between:?}");
    }
}

#[test]
fn entries_bytes_and_sizes_have_limits() {
    let limits = |limits| UnpackOptions::default().with_limits(limits);
    let three = || Forge::new().file("a", b"12345").file("b", b"12345").file("c", b"12345");
    let kind = |options: &UnpackOptions| refuse_with(three(), options).1.kind();
    assert_eq!(kind(&limits(Limits::default().with_entries(2))), ErrorKind::LimitExceeded);
    assert_eq!(kind(&limits(Limits::default().with_bytes(ByteSize::from_bytes(14)))), ErrorKind::LimitExceeded);
    assert_eq!(kind(&limits(Limits::default().with_file_size(ByteSize::from_bytes(4)))), ErrorKind::LimitExceeded);
    let enough = Limits::default().with_entries(3).with_bytes(ByteSize::from_bytes(15)).with_file_size(ByteSize::from_bytes(5));
    Arena::new().unpack(&three().end()[..], &limits(enough)).unwrap();
    // Ten million empty entries stop at the default limit, and reading that far takes no memory.
    let error = scan(Endless::empty_files(10_000_000, Names::Same), &UnpackOptions::default(), &mut NoHooks).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(error.to_string().contains("4000000"), "{error}");
    let arena = Arena::new();
    let error = arena
        .unpack(Endless::empty_files(10_000_000, Names::Different), &limits(Limits::default().with_entries(5_000)))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    // The last of them may have been on their way.
    assert!((4_000..=5_000).contains(&fs::read_dir(arena.root()).unwrap().count()));
}

#[test]
fn names_reach_no_terminal_raw() {
    let error = refuse(Forge::new().file("a\x1b[2J\nb\u{202e}c/../x", b""), ErrorKind::UnsafePath);
    assert!(context(&error, "entry").starts_with("a\\x1b[2J\\nb\\u{202e}c"), "{error}");
    // What was lost is shown too.
    let records: [(&str, &[u8]); 2] = [("path", b"f\x1b[31m\n\xff"), ("SCHILY.xattr.n\x1b[2J.x", b"1")];
    let (_, unpacked) = take(Forge::new().pax(&records).file("f", b""));
    let shown = unpacked.losses.to_string();
    assert_eq!(shown, "attribute in an unknown namespace of 1 (f\\x1b[31m\\n\\xff)");
    // A NUL byte ends a name in a header, and is refused where a length says how long the name is.
    let (arena, _) = take(Forge::new().file("a\0/../../x", b"x"));
    assert!(arena.root().join("a").is_file());
    refuse(Forge::new().pax(&[("linkpath", b"a\0b")]).symlink("l", "x"), ErrorKind::UnsafePath);
}

#[test]
fn a_default_acl_does_not_leak_into_what_comes_later() {
    let acl = "user::rwx,user:4242:rwx,group::r-x,mask::rwx,other::r-x";
    let archive = Forge::new().pax(&[("SCHILY.acl.default", acl.as_bytes())]).dir("d").file("d/first", b"x").file("other/x", b"x");
    let (arena, unpacked) = take(archive.file("d/late", b"x").dir("d/sub").file("d/sub/deep", b"x"));
    if unpacked.losses.iter().any(|loss| loss.kind == LossKind::Acl) {
        eprintln!("not tested, inheritance of ACLs: the temporary folder has none");
        return;
    }
    for name in ["first", "late", "sub/deep"] {
        let mode = fs::metadata(arena.root().join("d").join(name)).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o644, "{name} has the group's bits of an inherited mask");
    }
}

#[test]
fn a_finished_directory_is_put_back_as_it_was() {
    let mut first = header("d/", b'5', 0);
    first = first.bytes(100..108, b"0000555\0").bytes(136..148, b"00000001000\0");
    let archive =
        Forge::new().raw(first).file("d/a", b"x").file("e", b"x").file("d/b", b"x").file("f", b"x").file("d/c/deep", b"x");
    let (arena, _) = take(archive);
    let metadata = fs::metadata(arena.root().join("d")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec()), (0o555, 512, 0));
    assert!(arena.root().join("d/c/deep").exists());
    // So that the folder can be removed by who is not root.
    fs::set_permissions(arena.root().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn truncated_anywhere_is_an_error() {
    let archive = forge::everything().end();
    let end = archive.len() - 1024;
    let options = UnpackOptions::default();
    for cut in (0..end).step_by(512).chain([1, 511, 513, 700, end - 1, end]) {
        let error = scan(&archive[..cut], &options, &mut NoHooks).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidImage, "cut at {cut}: {error:?}");
        assert!(!context(&error, "offset").is_empty(), "{error:?}");
    }
    // The same when it is unpacked, at every block and anywhere between.
    let cuts = (0..end).step_by(512).chain((0..end).step_by(641));
    for cut in cuts {
        let arena = Arena::new();
        let error = arena.unpack(&archive[..cut], &options).unwrap_err();
        forge::open_up(&arena.root());
        assert_eq!(error.kind(), ErrorKind::InvalidImage, "cut at {cut}: {}", error.report());
    }
    // One block of zeros is an end; some writers leave the second out.
    scan(&archive[..end + 512], &options, &mut NoHooks).unwrap();
}

#[test]
fn what_is_no_tar_stream_is_said_to_be_none() {
    for bytes in [&b""[..], &[0; 512], &[0; 10240], &[b'x'; 512], b"short"] {
        let error = scan(bytes, &UnpackOptions::default(), &mut NoHooks).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidImage);
    }
}

#[test]
fn every_byte_of_the_headers_may_be_flipped() {
    let archive = forge::everything().end();
    let arena = Arena::new();
    let before = arena.outside();
    // Thousands of times: the mutations below are for the threads.
    let options = UnpackOptions::default().with_threads(Threads::Caller);
    for at in 0..2048.min(archive.len()) {
        for bit in [0x01, 0x80] {
            let mut flipped = archive.clone();
            flipped[at] ^= bit;
            forge::mend_checksum(&mut flipped, at / 512 * 512);
            let dir = tempfile::tempdir_in(arena.root()).unwrap();
            let _ = unpack(&flipped[..], File::open(dir.path()).unwrap().as_fd(), &options, &mut NoHooks);
            forge::open_up(dir.path());
        }
    }
    assert_eq!(arena.outside(), before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutations_neither_panic_nor_escape(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..12),
        mend in any::<bool>(),
    ) {
        let mut archive = forge::everything().end();
        for (index, byte, what) in &edits {
            let at = index.index(archive.len());
            match what {
                0 => archive[at] = *byte,
                1 => archive.truncate(at.max(512)),
                2 => archive.insert(at, *byte),
                _ => {
                    let (from, to) = (at / 512 * 512, usize::from(*byte) * 512 % archive.len() / 512 * 512);
                    if from + 512 <= archive.len() && to + 512 <= archive.len() {
                        archive.copy_within(from..from + 512, to);
                    }
                }
            }
        }
        if mend {
            for block in (0..archive.len() / 512).map(|block| block * 512) {
                forge::mend_checksum(&mut archive, block);
            }
        }
        let limits = Limits::default().with_bytes(ByteSize::mib(16)).with_entries(200);
        let arena = Arena::new();
        let _ = arena.unpack(&archive[..], &UnpackOptions::default().with_limits(limits));
        forge::open_up(&arena.root());
    }
}
