//! Names that no terminal should see raw: in errors, in what was lost, in the progress and the report of a rebuild.

use reroot::ErrorKind;
use reroot::unpack::UnpackOptions;

use crate::arena::{Arena, refuse_with};
use crate::forge::{Forge, header};

/// Line ends, escape sequences, what reorders, what is no UTF-8, and C1 controls.
const EVIL: [&[u8]; 7] = [
    b"a\nb",
    b"\x1b[2J\x1b]0;t\x07",
    "\u{202e}gnp\u{2066}".as_bytes(),
    b"\xff\xfe\x9b2J",
    "\u{9b}2J\u{85}".as_bytes(),
    b"\r\x08\x7f",
    b"\\x41\\",
];

/// Archives that fail, or lose something, at an entry or an attribute of this name.
fn archives(evil: &[u8]) -> Vec<Forge> {
    let named = |rest: &[u8]| [evil, rest].concat();
    let path = |path: &[u8]| Forge::new().pax(&[("path", path)]);
    let key = |prefix: &str| format!("{prefix}{}", String::from_utf8_lossy(evil));
    vec![
        path(&named(b"/../x")).file("f", b"x"),
        path(&named(b"")).hardlink("l", "missing"),
        path(&named(b"")).file("f", b"x").pax(&[("path", &named(b"/below"))]).file("f", b"x"),
        Forge::new().pax(&[("linkpath", &named(b""))]).hardlink("l", "m"),
        Forge::new().pax(&[("linkpath", &named(b"/../x"))]).hardlink("l", "m"),
        Forge::new().pax(&[("linkpath", &named(b""))]).symlink("l", "m").pax(&[("path", b"l/x")]).file("f", b"x"),
        path(&named(b"")).raw(header("f", b'Z', 0)),
        path(&named(b"")).raw(header("f", b'\x1b', 0)),
        path(&named(b"")).device("f", b'3', 1 << 40, 1),
        path(&named(&[b'x'; 300])).file("f", b"x"),
        path(&named(b"")).file("f", b"x").raw(header("g", b'0', 1 << 40)),
        // Attributes: an unknown namespace is a loss; a broken value an error.
        Forge::new().pax(&[(&key("SCHILY.xattr."), b"1")]).file("f", b"x"),
        path(&named(b"")).pax(&[(&key("SCHILY.xattr.user."), &[b'v'; 70_000])]).file("f", b"x"),
        Forge::new().pax(&[(&key("LIBARCHIVE.xattr.%"), b"1")]).file("f", b"x"),
        path(&named(b"")).pax(&[("SCHILY.acl.access", evil)]).file("f", b"x"),
        path(&named(b"")).pax(&[("SCHILY.acl.access", &named(b":x:y"))]).file("f", b"x"),
        path(&named(b"")).pax(&[("uid", evil)]).file("f", b"x"),
        path(&named(b"")).pax(&[("mtime", evil)]).file("f", b"x"),
        path(&named(b"")).pax(&[("GNU.sparse.map", evil), ("GNU.sparse.size", b"9")]).file("f", b"x"),
    ]
}

#[test]
fn errors_and_losses_show_names_escaped() {
    let mut errors = 0;
    for evil in EVIL {
        for archive in archives(evil) {
            // The arena looks at all that is said.
            let arena = Arena::new();
            let result = arena.unpack(&archive.end()[..], &UnpackOptions::default());
            errors += usize::from(result.is_err());
            if let Err(error) = result {
                let expected = matches!(error.kind(), ErrorKind::InvalidImage | ErrorKind::UnsafePath | ErrorKind::LimitExceeded);
                assert!(expected, "{}", error.report());
            }
        }
    }
    assert!(errors > 80, "only {errors} of these archives are refused");
}

#[test]
fn what_follows_a_nul_byte_is_not_read_or_refused() {
    for (place, archive) in [
        ("path", Forge::new().pax(&[("path", b"a\0b")]).file("f", b"x")),
        ("linkpath", Forge::new().pax(&[("linkpath", b"a\0b")]).hardlink("l", "f")),
        ("sparse name", Forge::new().pax(&[("GNU.sparse.name", b"a\0b")]).file("f", b"x")),
        ("global path", Forge::new().global(&[("path", b"a\0b")]).file("f", b"x")),
    ] {
        let (_, error) = refuse_with(archive, &UnpackOptions::default());
        assert_eq!(error.kind(), ErrorKind::UnsafePath, "{place}: {}", error.report());
    }
    // In an attribute's name there can be none; in its value anything may be.
    let (_, error) = refuse_with(Forge::new().pax(&[("SCHILY.xattr.user.a\0b", b"x")]).file("f", b"x"), &UnpackOptions::default());
    assert_eq!(error.kind(), ErrorKind::InvalidImage);
}

#[cfg(feature = "dir")]
#[test]
fn a_rebuild_shows_names_escaped() {
    use std::sync::{Arc, Mutex};

    use reroot::dir::DirVolume;
    use reroot::{Event, Image, LossPolicy, Progress, Rebuild};

    use crate::arena::{assert_error_harmless, assert_harmless};

    /// All that a rebuild says on its way.
    #[derive(Default)]
    struct Said(Mutex<Vec<String>>);

    impl Progress for Said {
        fn event(&self, event: &Event<'_>) {
            if let Event::Warning(text) = event {
                self.0.lock().unwrap().push((*text).to_owned());
            }
        }
    }

    let mut warnings = 0;
    for evil in EVIL {
        for (number, archive) in archives(evil).into_iter().enumerate() {
            let policy = if number % 2 == 0 { LossPolicy::Report } else { LossPolicy::Refuse };
            let arena = Arena::new();
            let said = Arc::new(Said::default());
            let image = Image::from_reader(std::io::Cursor::new(archive.end()), String::from_utf8_lossy(evil));
            let rebuild = Rebuild::new(image).losses(policy).progress(said.clone());
            let mut volume = DirVolume::open(arena.path().join("c1")).unwrap();
            assert_harmless(&rebuild.plan(&volume).unwrap().to_string());
            match rebuild.run(&mut volume) {
                Ok(report) => assert_harmless(&report.to_string()),
                Err(error) => assert_error_harmless(&error),
            }
            let said = said.0.lock().unwrap();
            warnings += said.len();
            said.iter().for_each(|text| assert_harmless(text));
        }
    }
    println!("{warnings} warnings");
}
