//! The mount tables at one moment, for many directories.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use super::namespaces::Namespaces;
use super::place::Place;
use super::{Found, OPERATION};
use crate::error::{Error, Result};
use crate::sys::mounts::{self, join};
use crate::volume::Holder;

/// The mount tables of all namespaces that the caller may see, as they were at one moment.
#[derive(Debug)]
pub(crate) struct Tables(Namespaces);

impl Tables {
    pub(crate) fn read() -> Result<Self> {
        Namespaces::read().map(Tables)
    }

    /// What is mounted on or in the directory `name` of `parent`, and where it or a part of it is mounted elsewhere.
    pub(crate) fn of(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<Holder>> {
        let folder = mounts::path_of(parent).map_err(|error| Error::io(OPERATION, "cannot read /proc", error))?;
        let path = join(&folder, name.as_bytes());
        let place = Place::of(parent, &folder, name.as_bytes(), self.0.own());
        Ok(self.found(&place, place.own_mounts_on(self.0.own(), &path)))
    }

    /// The same for a path from the top of the file system that `fd` is on, whether a mount shows it or not.
    pub(crate) fn of_path(&self, fd: BorrowedFd<'_>, path: &[u8]) -> Vec<Holder> {
        let id = mounts::of_descriptor(fd).ok();
        let Some(mount) = self.0.own().iter().find(|mount| Some(mount.id) == id) else { return Vec::new() };
        let place = Place { device: mount.device.clone(), path: path.to_owned() };
        self.found(&place, place.mounts_on(self.0.own()))
    }

    fn found(&self, place: &Place, own: BTreeSet<Vec<u8>>) -> Vec<Holder> {
        let mut found = Found::default();
        found.add_mounts(own, None);
        for other in self.0.all.iter().skip(1) {
            found.add_mounts(place.mounts_on(&other.mounts), other.of);
        }
        found.finish()
    }
}
