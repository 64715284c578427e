//! What is on disk is what another reader finds in the archive, where both take it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use reroot::unpack::{NoHooks, unpack};
use tar::EntryType;

use super::arena::{self, Arena};

/// What the other reader says of an entry.
struct Theirs {
    kind: EntryType,
    /// Of a link.
    target: Vec<u8>,
    content: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    /// Whether records add to what the header says.
    has_records: bool,
}

/// A tar stream, by us and by the reader of the tar crate.
pub fn differential(data: &[u8]) {
    let data = &super::mended(data)[..];
    let Some(theirs) = read(data) else { return };
    let arena = Arena::new();
    if arena.run(|root| unpack(data, root, &super::options(data), &mut NoHooks)).is_err() {
        return;
    }
    for (path, entry) in &theirs {
        compare(&arena.root(), path, entry);
    }
    // Nothing else is there but the folders on the way.
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for found in fs::read_dir(arena.root().join(&folder)).into_iter().flatten().flatten() {
            let path = folder.join(found.file_name());
            let is_folder = found.file_type().is_ok_and(|kind| kind.is_dir());
            let on_the_way = || is_folder && theirs.keys().any(|named| named.starts_with(&path));
            assert!(theirs.contains_key(&path) || on_the_way(), "{path:?} is only with us");
            if is_folder {
                folders.push(path);
            }
        }
    }
}

/// The entries by their paths; `None` for what the other reader does not take, or what the two understand differently on purpose.
fn read(data: &[u8]) -> Option<BTreeMap<PathBuf, Theirs>> {
    let mut archive = tar::Archive::new(data);
    let mut all = BTreeMap::new();
    for entry in archive.entries().ok()? {
        let mut entry = entry.ok()?;
        let kind = entry.header().entry_type();
        // Defaults for all entries, which it does not heed; volumes; types that it makes files of.
        let common = matches!(
            kind,
            EntryType::Regular
                | EntryType::Continuous
                | EntryType::Directory
                | EntryType::Symlink
                | EntryType::Link
                | EntryType::Fifo
                | EntryType::GNUSparse
        ) || matches!(kind, EntryType::Char | EntryType::Block) && !arena::is_limited();
        if !common || all.len() > 100 {
            return None;
        }
        let mut records = 0;
        if let Some(extensions) = entry.pax_extensions().ok()? {
            for extension in extensions {
                // Sparse files of the three formats that it does not know; and what is empty it takes for what it is.
                let extension = extension.ok()?;
                if extension.key_bytes().starts_with(b"GNU.sparse") || extension.value_bytes().is_empty() {
                    return None;
                }
                records += 1;
            }
        }
        // It skips data that such a type has by its size, and none has by the standard.
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        if !is_file && entry.size() > 0 {
            return None;
        }
        let raw = entry.path_bytes().into_owned();
        let path = normal(&raw)?;
        let header = entry.header();
        // GNU tar and we heed the prefix whatever the version that stands before it.
        if header.as_bytes()[257..263] == *b"ustar\0" && header.as_ustar().is_none() {
            return None;
        }
        let theirs = Theirs {
            kind: if kind == EntryType::Regular && raw.ends_with(b"/") { EntryType::Directory } else { kind },
            target: entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default(),
            mode: header.mode().ok()?,
            owner: (header.uid().ok()?, header.gid().ok()?),
            // Times before 1970 it does not know.
            mtime: header.mtime().ok().filter(|&mtime| mtime < 1 << 40)?,
            has_records: records > 0,
            content: {
                let mut content = Vec::new();
                entry.by_ref().take(4 << 20).read_to_end(&mut content).ok()?;
                content
            },
        };
        // What comes twice, and what lies below something that is no directory, is ours to decide.
        if path.as_os_str().is_empty() || all.insert(path, theirs).is_some() {
            return None;
        }
    }
    let below_another = |path: &PathBuf| {
        path.ancestors().skip(1).any(|above| all.get(above).is_some_and(|entry: &Theirs| entry.kind != EntryType::Directory))
    };
    (!all.keys().any(below_another)).then_some(all)
}

/// A path below the root; `None` if it leads upward.
fn normal(raw: &[u8]) -> Option<PathBuf> {
    let parts: Vec<_> = raw.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return None;
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(parts.join(&b'/'))))
}

fn compare(root: &Path, path: &Path, theirs: &Theirs) {
    let ours = fs::symlink_metadata(root.join(path)).unwrap_or_else(|error| panic!("{path:?} is only with them: {error}"));
    match theirs.kind {
        EntryType::Directory => assert!(ours.is_dir(), "{path:?} is no directory"),
        EntryType::Symlink => {
            let target = fs::read_link(root.join(path)).expect("a symbolic link");
            assert_eq!(target.as_os_str().as_bytes(), theirs.target, "{path:?}");
        }
        EntryType::Link => {
            let Some(target) = normal(&theirs.target) else { panic!("{path:?} is linked upward") };
            let target = fs::symlink_metadata(root.join(target)).expect("what it is linked to");
            assert_eq!((ours.dev(), ours.ino()), (target.dev(), target.ino()), "{path:?}");
            return;
        }
        EntryType::Char => assert_eq!(ours.mode() & 0o170000, 0o020000, "{path:?}"),
        EntryType::Block => assert_eq!(ours.mode() & 0o170000, 0o060000, "{path:?}"),
        EntryType::Fifo => assert_eq!(ours.mode() & 0o170000, 0o010000, "{path:?}"),
        _ => {
            assert!(ours.is_file(), "{path:?} is no file");
            assert!(fs::read(root.join(path)).expect("a file") == theirs.content, "{path:?} holds something else");
        }
    }
    if theirs.has_records || arena::is_limited() {
        return;
    }
    assert_eq!((u64::from(ours.uid()), u64::from(ours.gid())), theirs.owner, "{path:?}");
    assert_eq!(ours.mtime(), theirs.mtime as i64, "{path:?}");
    if theirs.kind != EntryType::Symlink {
        assert_eq!(ours.mode() & 0o7777, theirs.mode & 0o7777, "{path:?}");
    }
}
