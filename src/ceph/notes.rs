//! What this library notes down in the cluster besides images, on the object of the locks.
//!
//! - `made/IMAGE`: a staged or retired image of this name is ours, if it has the id that is noted. A staged one is noted before it is there, so that none is ever without, and
//!   its id as soon as it has one.
//! - `mapped/IMAGE`: the address of the kernel's client that has a staged image mapped to fill it. Whoever takes it over from a host that died shuts that client out first.
//! - `trash/IMAGE/ID`: an old root of this image is in the trash, and goes when its time has come.
//! - `base/IMAGE`: the whole name of a base, for which an image's has no room; `used/IMAGE`: when it was used last.
//!
//! What is noted of an image that is not there any more is removed by the next that meets it.

use std::collections::BTreeMap;

use super::lock::OBJECT;
use crate::sys::ceph::{Failed, Pool};

pub(super) fn made(image: &str) -> String {
    format!("made/{image}")
}

pub(super) fn mapped(image: &str) -> String {
    format!("mapped/{image}")
}

/// Whether what is noted under [`made`] is of the image with this id.
pub(super) fn is_of(noted: &[u8], id: &str) -> bool {
    noted.is_empty() || noted == id.as_bytes()
}

pub(super) fn trash(image: &str, id: &str) -> String {
    format!("trash/{image}/{id}")
}

pub(super) fn base(image: &str) -> String {
    format!("base/{image}")
}

pub(super) fn used(image: &str) -> String {
    format!("used/{image}")
}

pub(super) fn read(pool: &Pool, keys: &[String]) -> Result<BTreeMap<String, Vec<u8>>, Failed> {
    pool.omap(OBJECT, keys)
}

/// What is noted under keys that begin so, without that beginning.
pub(super) fn below(pool: &Pool, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Failed> {
    let found = pool.omap_with_prefix(OBJECT, prefix)?;
    Ok(found.into_iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value))).collect())
}

pub(super) fn write(pool: &Pool, notes: &[(String, Vec<u8>)]) -> Result<(), Failed> {
    pool.set_omap(OBJECT, notes)
}

pub(super) fn remove(pool: &Pool, keys: &[String]) -> Result<(), Failed> {
    pool.remove_omap(OBJECT, keys)
}
