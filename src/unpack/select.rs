//! Which entries of an archive make the root: all of them, those below a folder, or those below the `rootfs` of an LXD image.
//!
//! An LXD image tells itself by its first entry besides the top directory, which is `metadata.yaml`, or is or lies below `templates` or `rootfs`. A
//! root filesystem may begin so too, if hardly ever. So whatever else such an archive holds at its top is an error that asks which of the two it
//! is, and so is its end without `metadata.yaml`, and so are both `metadata.yaml` and `rootfs` at the top of one that begins otherwise: no guess
//! can turn out wrong unnoticed.

use std::os::unix::ffi::OsStrExt;

use super::entry::{Entry, Kind};
use super::options::{StripPrefix, Unified, UnpackOptions};
use super::path;
use crate::error::{Error, ErrorKind, Result};

/// Chooses entries, in the order of the archive.
pub(super) struct Selection {
    layout: Layout,
    /// Whether anything was chosen.
    found: bool,
}

enum Layout {
    /// Everything, or what lies below a folder.
    Whole(Option<StripPrefix>),
    /// Not known yet; the top directory's entry waits for it.
    Unknown(Option<Box<Entry>>),
    /// Everything, unless it turns out to be an LXD image after all.
    Plain(Plain),
    Unified(Box<Seen>),
}

/// What of an LXD image has come by in an archive that should be none.
struct Plain {
    has_metadata: bool,
    has_root: bool,
    /// What to say if it is one.
    found_out: fn() -> Error,
}

impl Plain {
    fn new(found_out: fn() -> Error) -> Self {
        Plain { has_metadata: false, has_root: false, found_out }
    }

    fn check(&mut self, entry: &Entry) -> Result<()> {
        let is_directory = entry.kind == Kind::Directory;
        match entry.path.as_bytes() {
            b"metadata.yaml" => self.has_metadata = matches!(entry.kind, Kind::File(_)),
            b"rootfs" => self.has_root = is_directory,
            path => self.has_root |= path.starts_with(b"rootfs/"),
        }
        if self.has_metadata && self.has_root { Err((self.found_out)()) } else { Ok(()) }
    }
}

/// What of an LXD image has come by.
struct Seen {
    /// Whether it was told by its first entry, and not by the caller.
    detected: bool,
    rootfs: StripPrefix,
    has_metadata: bool,
    has_root: bool,
    has_content: bool,
}

impl Seen {
    fn new(detected: bool) -> Box<Self> {
        Box::new(Seen { detected, rootfs: StripPrefix::rootfs(), has_metadata: false, has_root: false, has_content: false })
    }
}

impl Selection {
    pub(super) fn new(options: &UnpackOptions) -> Self {
        let layout = match (&options.strip, options.unified) {
            (Some(folder), _) => Layout::Whole(Some(folder.clone())),
            (None, Unified::No) => Layout::Whole(None),
            (None, Unified::Refuse) => Layout::Plain(Plain::new(one_in_two)),
            (None, Unified::Detect) => Layout::Unknown(None),
            (None, Unified::Yes) => Layout::Unified(Seen::new(false)),
        };
        Selection { layout, found: false }
    }

    /// What is to be unpacked now that `entry` has come, in its place below the root: nothing, it, or the top directory and it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidImage`] if the folder is no directory, holds a hard link that leads out of it, or the layout is not clear.
    pub(super) fn select(&mut self, entry: Entry) -> Result<[Option<Entry>; 2]> {
        let mut top = None;
        if let Layout::Unknown(held) = &mut self.layout {
            let name = entry.path.components().next().map(OsStrExt::as_bytes);
            match name {
                None => {
                    *held = Some(Box::new(entry));
                    return Ok([None, None]);
                }
                Some(b"metadata.yaml" | b"templates" | b"rootfs") => self.layout = Layout::Unified(Seen::new(true)),
                Some(_) => {
                    top = held.take().map(|top| *top);
                    self.layout = Layout::Plain(Plain::new(late));
                }
            }
        }
        let selected = match &mut self.layout {
            Layout::Whole(folder) => path::select(entry, folder.as_ref())?,
            Layout::Unknown(_) => None,
            Layout::Plain(plain) => {
                plain.check(&entry)?;
                Some(entry)
            }
            Layout::Unified(seen) => seen.select(entry)?,
        };
        self.found |= selected.is_some() || top.is_some();
        Ok([top, selected])
    }

    /// At the archive's end: the top directory's entry, if there was no other.
    pub(super) fn held(&mut self) -> Option<Entry> {
        let Layout::Unknown(held) = &mut self.layout else { return None };
        let top = held.take().map(|top| *top);
        self.found |= top.is_some();
        top
    }

    /// Whether there was a root in the archive.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidImage`] if there was none.
    pub(super) fn finish(&self) -> Result<()> {
        match &self.layout {
            Layout::Unified(seen) => seen.finish(),
            _ if self.found => Ok(()),
            Layout::Whole(Some(folder)) => Err(invalid(format!("the image holds nothing below {folder}"))),
            Layout::Whole(None) | Layout::Unknown(_) | Layout::Plain(_) => Err(invalid("the image holds no entries".into())),
        }
    }
}

impl Seen {
    fn select(&mut self, entry: Entry) -> Result<Option<Entry>> {
        let path = entry.path.as_bytes();
        let top = path.split(|&byte| byte == b'/').next().unwrap_or_default();
        match top {
            b"" | b"templates" => Ok(None),
            b"metadata.yaml" if path == top => {
                if !matches!(entry.kind, Kind::File(_)) {
                    return Err(invalid("metadata.yaml is not a regular file in the image".into()));
                }
                self.has_metadata = true;
                Ok(None)
            }
            b"rootfs" => {
                self.has_content |= path != top;
                self.has_root = true;
                path::select(entry, Some(&self.rootfs))
            }
            _ if self.detected => {
                Err(invalid("it begins like an LXD image, but holds other things at its top".into()).with_remedy(ASK))
            }
            _ => Ok(None),
        }
    }

    fn finish(&self) -> Result<()> {
        if !self.has_root {
            return Err(
                invalid("the image is missing its rootfs".into()).with_remedy("make the image again, with the folder rootfs")
            );
        }
        if !self.has_content {
            return Err(invalid("rootfs is empty in the image".into()).with_remedy("ask for an empty root, if that is wanted"));
        }
        if !self.has_metadata {
            return Err(invalid("the image has a rootfs, but no metadata.yaml".into())
                .with_remedy("if rootfs is the root all the same, say so: strip the prefix rootfs"));
        }
        Ok(())
    }
}

const ASK: &str = "say which layout it has: root, or lxd";

fn late() -> Error {
    invalid("it does not begin like an LXD image, but holds metadata.yaml and rootfs at its top".into()).with_remedy(ASK)
}

fn one_in_two() -> Error {
    invalid("the root of an image in two files is itself an image in one file: it holds metadata.yaml and rootfs at its top".into())
        .with_remedy("name it alone, without metadata; or name the file of the root")
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidImage, "unpack", message)
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Content, EntryPath, Timestamp};
    use super::*;

    fn entry(path: &str) -> Entry {
        let kind = match path.strip_suffix('/') {
            Some(_) => Kind::Directory,
            None => Kind::File(Content { size: 0, data: None }),
        };
        Entry {
            path: EntryPath::new_unchecked(path.trim_end_matches('/').as_bytes().to_vec()),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
            lost_acls: Vec::new(),
            offset: 0,
        }
    }

    fn choose(unified: Unified, paths: &[&str]) -> Result<Vec<String>> {
        let mut selection = Selection::new(&UnpackOptions { unified, ..UnpackOptions::default() });
        let mut chosen = Vec::new();
        for path in paths {
            let entries = selection.select(entry(path))?;
            chosen.extend(entries.into_iter().flatten().map(|entry| entry.path.to_string()));
        }
        chosen.extend(selection.held().map(|entry| entry.path.to_string()));
        selection.finish().map(|()| chosen)
    }

    #[test]
    fn a_root_filesystem_keeps_its_top_directory() {
        assert_eq!(choose(Unified::Detect, &["/", "bin/", "metadata.yaml"]).unwrap(), [".", "bin", "metadata.yaml"]);
        assert_eq!(choose(Unified::Detect, &["/"]).unwrap(), ["."]);
        assert_eq!(choose(Unified::No, &["/", "rootfs/", "rootfs/a"]).unwrap(), [".", "rootfs", "rootfs/a"]);
        assert!(choose(Unified::Detect, &[]).is_err());
        // One of the two is no image.
        assert_eq!(choose(Unified::Detect, &["bin/", "rootfs/", "rootfs/a"]).unwrap(), ["bin", "rootfs", "rootfs/a"]);
        assert_eq!(choose(Unified::Detect, &["bin/", "metadata.yaml", "rootfs"]).unwrap(), ["bin", "metadata.yaml", "rootfs"]);
        assert_eq!(choose(Unified::Detect, &["bin/", "a/metadata.yaml", "rootfs/"]).unwrap().len(), 3);
    }

    #[test]
    fn the_root_of_an_image_in_two_files_is_no_image() {
        let error = choose(Unified::Refuse, &["/", "metadata.yaml", "rootfs/", "rootfs/a"]).unwrap_err();
        assert!(error.message().contains("two files"), "{error}");
        assert_eq!(choose(Unified::Refuse, &["/", "rootfs/", "rootfs/a"]).unwrap(), [".", "rootfs", "rootfs/a"]);
        assert_eq!(choose(Unified::Refuse, &["metadata.yaml"]).unwrap(), ["metadata.yaml"]);
    }

    #[test]
    fn an_lxd_image_is_told_in_any_order() {
        let chosen = [".", "a"];
        for paths in [
            &["/", "metadata.yaml", "rootfs/", "rootfs/a"][..],
            &["rootfs/", "rootfs/a", "metadata.yaml"],
            &["templates/", "templates/t", "metadata.yaml", "rootfs/", "rootfs/a"],
            &["rootfs/", "rootfs/a", "templates/t", "metadata.yaml"],
        ] {
            assert_eq!(choose(Unified::Detect, paths).unwrap(), chosen, "{paths:?}");
        }
        assert_eq!(choose(Unified::Yes, &["more", "rootfs/", "rootfs/a", "metadata.yaml"]).unwrap(), chosen);
    }

    #[test]
    fn what_is_not_clear_is_asked_and_what_lacks_a_root_is_refused() {
        for (paths, message) in [
            (&["rootfs/", "usr/"][..], "other things"),
            (&["metadata.yaml", "usr/"], "other things"),
            (&["templates/", "usr/"], "other things"),
            (&["metadata.yaml", "rootfs/", "rootfs/a", "usr/", "usr/bin"], "other things"),
            (&["README", "metadata.yaml", "rootfs/", "rootfs/a"], "does not begin like"),
            (&["/", "README", "rootfs/a", "metadata.yaml"], "does not begin like"),
            (&["metadata.yaml"], "missing its rootfs"),
            (&["metadata.yaml", "rootfs/"], "is empty"),
            (&["metadata.yaml", "rootfs"], "not a directory"),
            (&["metadata.yaml/", "rootfs/", "rootfs/a"], "not a regular file"),
            (&["rootfs/", "rootfs/a"], "no metadata.yaml"),
        ] {
            let error = choose(Unified::Detect, paths).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidImage);
            assert!(error.message().contains(message), "{paths:?}: {error}");
        }
    }
}
