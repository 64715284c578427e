//! Images that a test is read from: large ones that nobody has memory for, those that break off, and those that do something meanwhile.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::fs;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use reroot::Image;
use reroot::conformance::Tree;

use super::small::new;

/// One that breaks off.
pub(crate) fn broken() -> Image {
    let mut tar = new().to_tar().unwrap();
    tar.truncate(700);
    Image::from_reader(Cursor::new(tar), "broken")
}

/// What the file `large` of an image holds, over and over.
pub(crate) fn pattern() -> Vec<u8> {
    (0..1u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// An image with one file of so many MiB, which comes as it is read: nobody has memory for it.
pub(crate) struct Large {
    head: Cursor<Vec<u8>>,
    pattern: Vec<u8>,
    at: u64,
    size: u64,
}

pub(crate) fn large(mib: u64) -> Large {
    let mut header = tar::Header::new_ustar();
    header.set_path("large").unwrap();
    header.set_size(mib << 20);
    header.set_mode(0o644);
    header.set_cksum();
    Large { head: Cursor::new(header.as_bytes().to_vec()), pattern: pattern(), at: 0, size: mib << 20 }
}

impl Large {
    /// As a stream, which does not say how much is to come.
    pub(crate) fn stream(self) -> Image {
        Image::from_reader(self, "test")
    }

    /// As a file, of which that is known.
    pub(crate) fn file(mut self, folder: &Path) -> Image {
        let path = folder.join("large.tar");
        io::copy(&mut self, &mut fs::File::create(&path).unwrap()).unwrap();
        Image::open(path).unwrap()
    }
}

impl Read for Large {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = self.head.read(buffer)?;
        if begun > 0 || buffer.is_empty() {
            return Ok(begun);
        }
        let place = (self.at % self.pattern.len() as u64) as usize;
        let left = (self.size + 1024).saturating_sub(self.at);
        let length = (self.pattern.len() - place).min(buffer.len()).min(left as usize);
        buffer[..length].copy_from_slice(&self.pattern[place..place + length]);
        // Then the end of an archive.
        let end = (self.size.saturating_sub(self.at) as usize).min(length);
        buffer[end..length].fill(0);
        self.at += length as u64;
        Ok(length)
    }
}

/// A tree with so many files, all empty.
pub(crate) fn many(files: usize) -> Tree {
    let mut tree = Tree::new();
    for number in 0..files {
        tree.file(format!("{:02}/{number}", number / 500), "");
    }
    tree.file("many", "");
    tree
}

/// As a file, which can be counted before.
pub(crate) fn seekable(folder: &Path, tree: &Tree) -> Image {
    let path: PathBuf = folder.join("image.tar");
    fs::write(&path, tree.to_tar().unwrap()).unwrap();
    Image::open(path).unwrap()
}

/// An image that does something while it is read, once.
pub(crate) struct Meddling<R, F> {
    tar: R,
    meddle: Option<F>,
    read: u64,
    at: u64,
}

impl<R, F: FnOnce()> Meddling<R, F> {
    pub(crate) fn new(tar: R, meddle: F) -> Self {
        Meddling { tar, meddle: Some(meddle), read: 0, at: 1 }
    }

    /// Not before so many bytes were read.
    pub(crate) fn after(self, at: u64) -> Self {
        Meddling { at, ..self }
    }
}

impl<R: Read, F: FnOnce()> Read for Meddling<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read >= self.at
            && let Some(meddle) = self.meddle.take()
        {
            meddle();
        }
        let few = buffer.len().min(if self.read == 0 { 512 } else { 64 << 10 });
        let length = self.tar.read(&mut buffer[..few])?;
        self.read += length as u64;
        Ok(length)
    }
}
