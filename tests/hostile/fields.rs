//! Every field of a header and every record that holds a path or a number, with every value that leads outside or overflows.

use std::fs;
use std::ops::Range;

use reroot::ErrorKind;
use reroot::unpack::UnpackOptions;

use crate::arena::{Arena, refuse, take};
use crate::forge::{Forge, Header, header};

/// A file of one byte whose path stands in one field.
type Named = fn(Forge, &str) -> Forge;

/// Where an archive may keep the path of an entry.
const PATHS: [(&str, Named); 9] = [
    ("name", |forge, path| forge.file(path, b"x")),
    ("name of an old header", |forge, path| forge.raw(header(path, 0, 1).bytes(257..265, &[0; 8])).data(b"x")),
    ("prefix", |forge, path| match path.rsplit_once('/') {
        Some((folder, name)) if (1..=155).contains(&folder.len()) => forge.prefixed(folder, name, b"x"),
        _ => forge.file(path, b"x"),
    }),
    ("GNU long name", |forge, path| forge.gnu_long(b'L', path).file("short", b"x")),
    ("path", |forge, path| forge.pax(&[("path", path.as_bytes())]).file("short", b"x")),
    ("path of the second of two headers", |forge, path| {
        forge.pax(&[("path", b"first")]).pax(&[("path", path.as_bytes())]).file("short", b"x")
    }),
    ("path over a long name", |forge, path| forge.gnu_long(b'L', "long").pax(&[("path", path.as_bytes())]).file("short", b"x")),
    ("GNU.sparse.name", |forge, path| {
        let records: [(&str, &[u8]); 3] =
            [("GNU.sparse.name", path.as_bytes()), ("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"0,1")];
        forge.pax(&records).file("short", b"x")
    }),
    ("path of all", |forge, path| forge.global(&[("path", path.as_bytes())]).file("short", b"x")),
];

/// Where an archive may keep the target of a hard link.
const TARGETS: [(&str, Named); 4] = [
    ("linkname", |forge, path| forge.hardlink("l", path)),
    ("GNU long link", |forge, path| forge.gnu_long(b'K', path).hardlink("l", "short")),
    ("linkpath", |forge, path| forge.pax(&[("linkpath", path.as_bytes())]).hardlink("l", "short")),
    ("linkpath of all", |forge, path| forge.global(&[("linkpath", path.as_bytes())]).hardlink("l", "short")),
];

#[test]
fn paths_upward_are_refused_wherever_they_stand() {
    for path in [
        "..",
        "../shadow",
        "../canaries/x",
        "a/../../shadow",
        "/../shadow",
        "./../shadow",
        "a/..",
        "a/b/../../../shadow",
        "..//shadow",
    ] {
        for (_, named) in PATHS {
            refuse(named(Forge::new(), path), ErrorKind::UnsafePath);
        }
        for (_, linked) in TARGETS {
            refuse(linked(Forge::new().file("short", b"x"), path), ErrorKind::UnsafePath);
        }
    }
}

#[test]
fn absolute_paths_are_the_roots_own_wherever_they_stand() {
    for (field, named) in PATHS {
        let (arena, _) = take(named(Forge::new(), "/canaries/x"));
        assert_eq!(fs::read(arena.root().join("canaries/x")).unwrap(), b"x", "{field}");
        let outside = Arena::new();
        let path = outside.path().join("canaries/x");
        let (arena, _) = take(named(Forge::new(), path.to_str().unwrap()));
        assert!(arena.root().join(path.strip_prefix("/").unwrap()).is_file(), "{field}");
        assert_eq!(fs::read(path).unwrap(), b"alive", "{field}");
    }
    for (_, linked) in TARGETS {
        for target in ["/etc/passwd", "/proc/self/exe", "/dev/null"] {
            refuse(linked(Forge::new().file("short", b"x"), target), ErrorKind::InvalidImage);
        }
    }
}

#[test]
fn symbolic_links_on_the_way_lead_nowhere_else_wherever_the_path_stands() {
    let outside = Arena::new();
    let canaries = outside.path().join("canaries");
    for target in
        [canaries.to_str().unwrap(), "../canaries", "../../canaries", "/proc/self/cwd/../canaries", "/proc/1/root/tmp", "/dev/fd"]
    {
        let planted = || Forge::new().file("short", b"x").symlink("out", target);
        for (_, named) in PATHS {
            refuse(named(planted(), "out/x"), ErrorKind::InvalidImage);
            // The link itself is replaced.
            let (arena, _) = take(named(planted(), "out"));
            assert!(fs::symlink_metadata(arena.root().join("out")).unwrap().is_file());
        }
        for (_, linked) in TARGETS {
            refuse(linked(planted(), "out/x"), ErrorKind::InvalidImage);
            // Of the link itself another name is made, which is as dangling as it is.
            let (arena, _) = take(linked(planted(), "out"));
            assert!(fs::symlink_metadata(arena.root().join("l")).unwrap().is_symlink());
        }
        // Folders on the way are not made behind the link either.
        for (_, named) in PATHS {
            refuse(named(planted(), "out/new/x"), ErrorKind::InvalidImage);
        }
    }
    assert_eq!(fs::read(canaries.join("x")).unwrap(), b"alive");
    assert_eq!(fs::read_dir(canaries).unwrap().count(), 2);
}

#[test]
fn odd_paths_are_a_file_or_an_error() {
    let long = "x".repeat(5000);
    let deep = "d/".repeat(3000);
    for path in [
        "",
        "/",
        ".",
        "./",
        "//",
        "a/",
        "a//",
        " ",
        "\n",
        "\t",
        "\\",
        "a\\b",
        "~",
        "$HOME",
        "%00",
        "-rf",
        "a\u{1b}[2J",
        "\u{202e}x",
        &long,
        &deep,
    ] {
        for (field, named) in PATHS {
            let arena = Arena::new();
            if let Err(error) = arena.unpack(&named(Forge::new(), path).end()[..], &UnpackOptions::default()) {
                let expected = matches!(error.kind(), ErrorKind::InvalidImage | ErrorKind::UnsafePath | ErrorKind::LimitExceeded);
                assert!(expected, "{field}, {path:?}: {}", error.report());
            }
        }
    }
}

/// Bytes for a numeric field of any width that are no number, or a large one.
fn numbers(width: usize) -> Vec<Vec<u8>> {
    let filled = |first: u8, rest: u8| [&[first][..], &vec![rest; width - 1]].concat();
    let binary = |number: i128| {
        let mut bytes = number.to_be_bytes()[16 - width..].to_vec();
        if number >= 0 {
            bytes[0] |= 0x80
        } else {
            bytes[0] |= 0xc0
        }
        bytes
    };
    let mut all = vec![
        vec![0; width],
        vec![b' '; width],
        vec![0xff; width],
        filled(0x80, 0xff),
        filled(0x80, 0),
        filled(0xff, 0),
        filled(0xc0, 0),
        filled(0xbf, 0xff),
        vec![b'7'; width],
        vec![b'8'; width],
        vec![b'z'; width],
        filled(b'-', b'1'),
        filled(b'+', b'1'),
        filled(b' ', b'7'),
        filled(b'0', b'x'),
        [&b"7 7"[..], &vec![0; width - 3]].concat(),
    ];
    // Of twelve bytes: what does not fit 64 bits, and what is at their edges.
    for number in [
        u32::MAX as i128,
        u32::MAX as i128 + 1,
        i64::MAX as i128,
        i64::MAX as i128 + 1,
        u64::MAX as i128,
        -1,
        i64::MIN as i128,
        i64::MIN as i128 - 1,
    ] {
        if width == 12 || number.unsigned_abs() < 1 << 55 {
            all.push(binary(number));
        }
    }
    all
}

#[test]
fn every_numeric_field_may_hold_anything() {
    const FIELDS: [(&str, Range<usize>); 7] = [
        ("mode", 100..108),
        ("uid", 108..116),
        ("gid", 116..124),
        ("size", 124..136),
        ("mtime", 136..148),
        ("devmajor", 329..337),
        ("devminor", 337..345),
    ];
    let kinds: [fn() -> Header; 5] = [
        || header("n", b'0', 0),
        || header("n", b'5', 0),
        || header("n", b'2', 0).bytes(157..158, b"t"),
        || header("n", b'3', 0).number(329..337, 1).number(337..345, 3),
        || header("n", b'6', 0),
    ];
    for (field, range) in FIELDS {
        for value in numbers(range.len()) {
            for kind in kinds {
                let arena = Arena::new();
                let archive = Forge::new().raw(kind().bytes(range.clone(), &value)).file("after", b"x").end();
                if let Err(error) = arena.unpack(&archive[..], &UnpackOptions::default()) {
                    let expected = matches!(error.kind(), ErrorKind::InvalidImage | ErrorKind::LimitExceeded);
                    assert!(expected, "{field} {value:02x?}: {}", error.report());
                }
            }
        }
    }
}

#[test]
fn every_numeric_record_may_hold_anything() {
    const KEYS: [&str; 10] = [
        "size",
        "uid",
        "gid",
        "mtime",
        "atime",
        "GNU.sparse.size",
        "GNU.sparse.realsize",
        "GNU.sparse.major",
        "GNU.sparse.numblocks",
        "GNU.sparse.map",
    ];
    const VALUES: [&str; 31] = [
        "",
        "0",
        "-0",
        "-1",
        "+1",
        " 1",
        "1 ",
        "0x10",
        "1e3",
        "1.",
        ".5",
        "1.5",
        "-1.5",
        "1,1",
        "nan",
        "inf",
        "00000000000000000000000000000000000000001",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
        "9223372036854775807.999999999999",
        "-9223372036854775808.5",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "\u{661}",
        "1\n2",
        "1\u{0}2",
    ];
    for key in KEYS {
        for value in VALUES {
            for folder in [false, true] {
                let arena = Arena::new();
                let record = Forge::new().pax(&[(key, value.as_bytes())]);
                let forge = if folder { record.dir("n") } else { record.file("n", b"x") };
                if let Err(error) = arena.unpack(&forge.file("after", b"x").end()[..], &UnpackOptions::default()) {
                    let expected = matches!(error.kind(), ErrorKind::InvalidImage | ErrorKind::LimitExceeded);
                    assert!(expected, "{key}={value:?}: {}", error.report());
                }
            }
        }
    }
}

#[test]
fn a_size_that_lies_hides_no_entry() {
    let sized = |size: &str| Forge::new().pax(&[("size", size.as_bytes())]);
    // Too small: what is left of the data is no header.
    refuse(sized("0").file("f", &[b'x'; 600]).file("g", b"y"), ErrorKind::InvalidImage);
    refuse(sized("1").file("f", &[b'x'; 1030]).file("g", b"y"), ErrorKind::InvalidImage);
    // Too large: the header that follows is data, as whoever reads the archive by the record says too.
    let (arena, _) = take(sized("1024").file("f", b"").file("hidden", b"y"));
    assert_eq!(fs::metadata(arena.root().join("f")).unwrap().len(), 1024);
    assert!(!arena.root().join("hidden").exists());
    // Beyond the end.
    refuse(sized("1000000").file("f", b"x"), ErrorKind::InvalidImage);
    // The last of several holds.
    let (arena, _) = take(sized("99999").pax(&[("size", b"1")]).file("f", b"x").file("g", b"y"));
    assert!(arena.root().join("f").is_file() && arena.root().join("g").is_file());
    // What has no data has none, whatever is said of its size.
    for kind in [b'2', b'6'] {
        let (arena, _) = take(sized("512").raw(header("n", kind, 512).bytes(157..158, b"t")).file("g", b"y"));
        assert!(arena.root().join("g").is_file());
    }
    let (arena, _) = take(Forge::new().file("f", b"x").pax(&[("size", b"512")]).hardlink("l", "f").file("g", b"y"));
    assert!(arena.root().join("g").is_file());
}

#[test]
fn a_path_that_is_overridden_is_checked_as_it_comes_out() {
    // What is overridden does not count, and what overrides it does.
    let (arena, _) = take(Forge::new().pax(&[("path", b"fine")]).file("../shadow", b"x"));
    assert!(arena.root().join("fine").is_file());
    let (arena, _) = take(Forge::new().file("f", b"x").pax(&[("linkpath", b"f")]).hardlink("l", "../shadow"));
    assert!(arena.root().join("l").is_file());
    // An empty one takes back what an earlier record said.
    refuse(Forge::new().pax(&[("path", b"fine"), ("path", b"")]).file("../shadow", b"x"), ErrorKind::UnsafePath);
    // A sparse name holds over a path.
    let sparse: [(&str, &[u8]); 4] =
        [("GNU.sparse.name", b"fine"), ("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"0,1"), ("path", b"../shadow")];
    let arena = Arena::new();
    if arena.unpack(&Forge::new().pax(&sparse).file("short", b"x").end()[..], &UnpackOptions::default()).is_ok() {
        assert!(arena.root().join("fine").is_file());
    }
}

#[test]
fn attributes_with_values_that_the_kernel_does_not_take_are_the_images_fault() {
    let long = [b'v'; 24];
    for key in [
        "security.capability",
        "system.posix_acl_access",
        "system.posix_acl_default",
        "user.",
        "trusted.",
        "system.none",
        "security.ima",
    ] {
        for value in [&b""[..], b"x", b"\x02\0\0\0", b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff", &long] {
            for folder in [false, true] {
                let arena = Arena::new();
                let records = Forge::new().pax(&[(&format!("SCHILY.xattr.{key}"), value)]);
                let forge = if folder { records.dir("n") } else { records.file("n", b"x") };
                if let Err(error) = arena.unpack(&forge.end()[..], &UnpackOptions::default()) {
                    assert_eq!(error.kind(), ErrorKind::InvalidImage, "{key}: {}", error.report());
                }
            }
        }
    }
}
