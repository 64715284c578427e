//! Entries that are valid one by one, in orders that no honest writer has: links to above, names taken twice, directories that lose
//! themselves.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use proptest::prelude::*;
use reroot::ErrorKind;
use reroot::unpack::UnpackOptions;

use crate::arena::{Arena, refuse, take};
use crate::forge::{self, Forge, header};

/// One entry: a path, and what is there.
#[derive(Debug, Clone)]
enum Step {
    File(String),
    Dir(String, u64),
    Symlink(String, String),
    Hardlink(String, String),
    Fifo(String),
}

fn paths() -> impl Strategy<Value = String> {
    let component = prop::sample::select(vec!["a", "a", "b", "b", "c", ".", "up"]);
    prop::collection::vec(component, 1..5).prop_map(|components| components.join("/"))
}

fn steps() -> impl Strategy<Value = Step> {
    let above = ["..", "/", ".", "../..", "../canaries", "../../canaries", "../../../canaries", "../../../../..", "/canaries"];
    let target = prop_oneof![prop::sample::select(above.map(str::to_owned).to_vec()), paths()];
    let name = prop_oneof![Just("up".to_owned()), paths()];
    prop_oneof![
        3 => paths().prop_map(Step::File),
        3 => (paths(), prop::sample::select(vec![0o755, 0o555, 0o000, 0o2755])).prop_map(|(path, mode)| Step::Dir(path, mode)),
        4 => (name, target).prop_map(|(path, target)| Step::Symlink(path, target)),
        1 => (paths(), paths()).prop_map(|(path, target)| Step::Hardlink(path, target)),
        1 => paths().prop_map(Step::Fifo),
    ]
}

fn archive(steps: &[Step]) -> Forge {
    steps.iter().fold(Forge::new(), |forge, step| match step {
        Step::File(path) => forge.file(path, b"dead"),
        Step::Dir(path, mode) => forge.raw(header(path, b'5', 0).number(100..108, *mode)),
        Step::Symlink(path, target) => forge.symlink(path, target),
        Step::Hardlink(path, target) => forge.hardlink(path, target),
        Step::Fifo(path) => forge.fifo(path),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn entries_in_any_order_stay_inside(steps in prop::collection::vec(steps(), 1..14)) {
        let arena = Arena::new();
        let result = arena.unpack(&archive(&steps).end()[..], &UnpackOptions::default());
        forge::open_up(&arena.root());
        if let Err(error) = result {
            // What is wrong with the image is not the system's fault. But links lead no ordinary user through what its owner cannot enter.
            let expected = match error.kind() {
                ErrorKind::InvalidImage | ErrorKind::UnsafePath => true,
                ErrorKind::PermissionDenied => !nix::unistd::geteuid().is_root(),
                _ => false,
            };
            prop_assert!(expected, "{}", error.report());
        }
    }
}

#[test]
fn a_directory_may_lose_itself() {
    // `d/up` is the root, so the last entry removes the directory that it runs through.
    let lost = || Forge::new().dir("d").symlink("d/up", "..").file("d/up/d", b"x");
    let (arena, _) = take(lost());
    assert_eq!(fs::read(arena.root().join("d")).unwrap(), b"x");
    let error = refuse(lost().file("d/late", b"y"), ErrorKind::InvalidImage);
    assert!(error.to_string().contains("not a directory"), "{}", error.report());
    let error = refuse(lost().dir("d/late"), ErrorKind::InvalidImage);
    assert!(error.to_string().contains("not a directory"), "{}", error.report());
    // A new one of the name is another directory.
    let (arena, _) = take(lost().dir("d").file("d/late", b"y"));
    assert_eq!(fs::read(arena.root().join("d/late")).unwrap(), b"y");
    refuse(lost().dir("d/up/d"), ErrorKind::InvalidImage);
    // Also when so many lie between that the lost one is no longer open. Beyond a second link there is no way back to it.
    let (down, on) = (format!("d/{}/up", vec!["e"; 40].join("/")), vec!["g"; 40].join("/"));
    let far = || Forge::new().dir("d").symlink(&down, "/");
    let (arena, _) = take(far().file(&format!("{down}/d"), b"x"));
    assert_eq!(fs::read(arena.root().join("d")).unwrap(), b"x");
    let path = format!("{down}/{on}/up/d");
    let farther = far().symlink(&format!("{on}/up"), "/").pax(&[("path", path.as_bytes())]).file("cut", b"x");
    refuse(farther, ErrorKind::InvalidImage);
    // A link that loses itself leads nowhere.
    let (arena, _) = take(Forge::new().symlink("l", ".").file("l/l", b"x"));
    assert_eq!(fs::read(arena.root().join("l")).unwrap(), b"x");
    refuse(Forge::new().symlink("l", ".").file("l/l", b"x").file("l/late", b"y"), ErrorKind::InvalidImage);
    let (arena, _) = take(Forge::new().symlink("l", ".").dir("l/l").file("l/inner", b"x"));
    assert_eq!(fs::read(arena.root().join("l/inner")).unwrap(), b"x");
    assert!(!arena.root().join("inner").exists());
}

#[test]
fn long_chains_of_links_end() {
    let chain = |length: usize| {
        let first = Forge::new().dir("end").symlink("l0", "end");
        (1..length).fold(first, |forge, number| forge.symlink(&format!("l{number}"), &format!("l{}", number - 1)))
    };
    let (arena, _) = take(chain(30).file("l29/x", b"x"));
    assert_eq!(fs::read(arena.root().join("end/x")).unwrap(), b"x");
    // Longer than the kernel follows.
    refuse(chain(60).file("l59/x", b"x"), ErrorKind::InvalidImage);
    // Each link on the way is one to the same directory: the path is long, and nowhere.
    let (arena, _) = take(Forge::new().symlink("s", ".").file(&format!("{}/x", vec!["s"; 30].join("/")), b"x"));
    assert_eq!(fs::read(arena.root().join("x")).unwrap(), b"x");
    // A loop over directories.
    let looped = || Forge::new().symlink("a/l", "../b/l").symlink("b/l", "/a/l");
    refuse(looped().file("a/l/x", b"x"), ErrorKind::InvalidImage);
    refuse(looped().file("f", b"x").hardlink("h", "b/l/f"), ErrorKind::InvalidImage);
}

#[test]
fn a_sealed_directory_takes_what_comes_later() {
    let mode = |path: &str, mode| header(path, b'5', 0).number(100..108, mode).number(136..148, 512);
    for sealed in [0, 0o500, 0o100] {
        let archive = Forge::new().raw(mode("d", sealed)).raw(mode("d/e", 0o500)).file("other", b"x").file("d/e/f", b"y");
        let archive = if sealed == 0 { archive } else { archive.symlink("l", "d/e").file("l/g", b"z").hardlink("h", "d/e/f") };
        let (arena, _) = take(archive.file("last", b"x"));
        let found = fs::metadata(arena.root().join("d")).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (sealed as u32, 512));
        fs::set_permissions(arena.root().join("d"), fs::Permissions::from_mode(0o700)).unwrap();
        let found = fs::metadata(arena.root().join("d/e")).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (0o500, 512));
        assert_eq!(fs::read(arena.root().join("d/e/f")).unwrap(), b"y");
        assert_eq!(arena.root().join("d/e/g").exists(), sealed != 0);
        forge::open_up(&arena.root());
    }
}
