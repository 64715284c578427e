//! What several threads unpack is what one unpacks, whatever order an archive chooses: second entries of a path, links over directories,
//! directories left and come back to, files in the way.
#![cfg(feature = "conformance")]

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use reroot::conformance::manifest::{Entry, Facts, Manifest};
use reroot::unpack::{NoHooks, Threads, UnpackOptions, unpack};
use reroot::{ErrorKind, Result};

#[derive(Debug, Clone)]
enum Kind {
    File(usize),
    Directory,
    Symlink(String),
    Hardlink(String),
    Fifo,
}

/// Paths of few names, so that they meet.
fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4).prop_map(|parts| parts.join("/"))
}

fn entry() -> impl Strategy<Value = (String, Kind, u32)> {
    let kind = prop_oneof![
        8 => (0usize..3000).prop_map(Kind::File),
        1 => (100_000usize..700_000).prop_map(Kind::File),
        4 => Just(Kind::Directory),
        1 => path().prop_map(Kind::Symlink),
        1 => Just(Kind::Symlink("..".into())),
        1 => path().prop_map(Kind::Hardlink),
        1 => Just(Kind::Fifo),
    ];
    // Many siblings that meet nobody keep the helper busy meanwhile.
    let path = prop_oneof![3 => path(), 5 => (0u32..100_000, prop_oneof![Just("x"), Just("a"), Just("y/z")]).prop_map(|(n, dir)| format!("{dir}/f{n}"))];
    (path, kind, 0u32..0o10000)
}

/// The archive, and where the header of each entry is.
fn archive(entries: &[(String, Kind, u32)]) -> (Vec<u8>, Vec<u64>) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut offsets = Vec::new();
    for (number, (path, kind, mode)) in entries.iter().enumerate() {
        offsets.push(builder.get_ref().len() as u64);
        let mut header = tar::Header::new_gnu();
        // The test reads what it made, also when it is not root.
        header.set_mode(*mode | if nix::unistd::geteuid().is_root() { 0 } else { 0o700 });
        header.set_uid(number as u64 % 3 * 1000);
        header.set_gid(number as u64 % 2);
        header.set_mtime(1_000_000 + number as u64);
        header.set_size(0);
        let content = match kind {
            Kind::File(size) => {
                header.set_size(*size as u64);
                vec![number as u8; *size]
            }
            Kind::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                Vec::new()
            }
            Kind::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name(target).unwrap();
                Vec::new()
            }
            Kind::Hardlink(target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_link_name(target).unwrap();
                Vec::new()
            }
            Kind::Fifo => {
                header.set_entry_type(tar::EntryType::Fifo);
                Vec::new()
            }
        };
        builder.append_data(&mut header, path, &content[..]).unwrap();
    }
    (builder.into_inner().unwrap(), offsets)
}

/// The tree without the times that no entry gave, which are those of the test.
fn extract(archive: &[u8], root: &Path, threads: Threads) -> Result<Vec<(PathBuf, Facts)>> {
    std::fs::create_dir(root).unwrap();
    unpack(archive, File::open(root).unwrap().as_fd(), &UnpackOptions::new().with_threads(threads), &mut NoHooks)?;
    let manifest = Manifest::of(root).unwrap();
    let facts = |entry: Entry<'_>| {
        let mut facts = entry.facts().clone();
        facts.mtime = facts.mtime.filter(|(seconds, _)| *seconds < 1_500_000_000);
        (entry.path(), facts)
    };
    Ok(manifest.entries().map(facts).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn several_threads_unpack_what_one_unpacks(mut entries in proptest::collection::vec(entry(), 1..150)) {
        // Entries that cannot be made end an archive; without them, what comes after has its turn.
        for _ in 0..25 {
            let place = tempfile::tempdir().unwrap();
            let (archive, offsets) = archive(&entries);
            let alone = extract(&archive, &place.path().join("alone"), Threads::Caller);
            let together = extract(&archive, &place.path().join("together"), Threads::Own);
            match (alone, together) {
                (Ok(alone), Ok(together)) => {
                    prop_assert_eq!(alone, together);
                    break;
                }
                (Err(alone), Err(together)) => {
                    prop_assert_eq!(alone.to_string(), together.to_string());
                    prop_assert_eq!(alone.kind(), ErrorKind::InvalidImage, "{}", alone);
                    let Some((_, offset)) = alone.context().find(|(key, _)| *key == "offset") else { break };
                    let number = offsets.iter().position(|at| at.to_string() == offset).unwrap();
                    entries.remove(number);
                }
                (alone, together) => prop_assert!(false, "alone: {:?}\ntogether: {:?}", alone.err(), together.err()),
            }
        }
    }
}
