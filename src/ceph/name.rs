//! The names of pools, namespaces and images.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::text::Escaped;
use crate::volume::Slot;

const STAGED: &str = ".reroot-staged";
const RETIRED: &str = ".reroot-retired";
/// Ceph takes no longer name for an image.
const LONGEST_IMAGE: usize = 96;
/// What reaches the kernel in one line has to fit a page.
const LONGEST_POOL: usize = 128;

/// A pool, and a namespace in it, which is empty for the default one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) pool: String,
    pub(super) namespace: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pool)?;
        if self.namespace.is_empty() { Ok(()) } else { write!(f, "/{}", self.namespace) }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (pool, namespace) = text.split_once('/').unwrap_or((text, ""));
        let checked = check(pool, LONGEST_POOL).and_then(|()| match text.contains('/') {
            true => check(namespace, LONGEST_POOL),
            false => Ok(()),
        });
        checked.map_err(|why| {
            Error::new(ErrorKind::InvalidInput, "read the name of a pool", why)
                .with_remedy("write it as POOL or POOL/NAMESPACE: rbd")
        })?;
        Ok(Place { pool: pool.to_owned(), namespace: namespace.to_owned() })
    }
}

/// The name of an RBD image: `POOL/IMAGE` or `POOL/NAMESPACE/IMAGE`.
///
/// What the kernel takes between two blanks: no control characters, blanks, slashes, commas or `@` in any of the three, and no hyphen at the beginning. An image's name
/// has at most 81 bytes, so that 96, which is what Ceph takes, are enough for the names beside it, and none of their endings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    place: Place,
    image: String,
}

impl ImageName {
    /// Its pool.
    pub fn pool(&self) -> &str {
        &self.place.pool
    }

    /// Its RADOS namespace; empty for the pool's own.
    pub fn namespace(&self) -> &str {
        &self.place.namespace
    }

    /// The image's own name.
    pub fn image(&self) -> &str {
        &self.image
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// An image of this name in a place, whose name is known to be one.
    pub(super) fn at(place: &Place, image: &str) -> Result<ImageName> {
        format!("{place}/{image}").parse()
    }

    /// The image that holds the root of a slot.
    pub(super) fn slot(&self, slot: Slot) -> String {
        let suffix = match slot {
            Slot::Live => "",
            Slot::Staged => STAGED,
            Slot::Retired => RETIRED,
        };
        format!("{}{suffix}", self.image)
    }

    /// As the `rbd` command takes it.
    pub(super) fn spec(&self, slot: Slot) -> String {
        format!("{}/{}", self.place, self.slot(slot))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.place, self.image)
    }
}

impl FromStr for ImageName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: String| {
            Error::new(ErrorKind::InvalidInput, "read the name of an image", why)
                .with_remedy("write it as POOL/IMAGE or POOL/NAMESPACE/IMAGE: rbd/c1")
        };
        let (place, image) =
            text.rsplit_once('/').ok_or_else(|| invalid(format!("{:?} does not say which pool it is in", shown(text))))?;
        let place: Place = place.parse()?;
        check(image, LONGEST_IMAGE - RETIRED.len()).map_err(invalid)?;
        if let Some(suffix) = [STAGED, RETIRED].into_iter().find(|suffix| image.ends_with(suffix)) {
            return Err(invalid(format!("names that end in {suffix} are reserved")));
        }
        Ok(ImageName { place, image: image.to_owned() })
    }
}

fn shown(text: &str) -> String {
    Escaped(text.as_bytes()).to_string()
}

fn check(name: &str, longest: usize) -> Result<(), String> {
    let shown = shown(name);
    if matches!(name, "" | "." | "..") || name.starts_with('-') {
        return Err(format!("{shown:?} is no name that can be used here"));
    }
    if name.len() > longest {
        return Err(format!("{shown:?} has {} bytes, and {longest} are the most", name.len()));
    }
    match name.chars().find(|c| c.is_whitespace() || c.is_control() || "/@,".contains(*c)) {
        Some(other) => Err(format!("{shown:?} holds {other:?}, which the kernel does not take in names")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_ceph_and_the_kernel_take() {
        let name: ImageName = "rbd/container_c1".parse().unwrap();
        assert_eq!((name.pool(), name.namespace(), name.image()), ("rbd", "", "container_c1"));
        assert_eq!(name.spec(Slot::Staged), "rbd/container_c1.reroot-staged");
        let name: ImageName = "rbd/x.y/größe".parse().unwrap();
        assert_eq!((name.namespace(), name.to_string().as_str()), ("x.y", "rbd/x.y/größe"));
        assert!(format!("rbd/{}", "x".repeat(81)).parse::<ImageName>().is_ok());
        let long = format!("rbd/{}", "x".repeat(82));
        for bad in [
            "",
            "c1",
            "/c1",
            "rbd/",
            "rbd//c1",
            "a/b/c/d",
            "rbd/.",
            "rbd/..",
            "-p/c1",
            "rbd/-c1",
            "rbd/a b",
            "rbd/a\nb",
            "rbd/a@b",
            "rbd/a,b",
            "rbd/n,s/a",
            "rbd/c1.reroot-staged",
            "rbd/c1.reroot-retired",
            "rbd/a\u{a0}b",
            &long,
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
        assert_eq!("rbd/ns".parse::<Place>().unwrap().to_string(), "rbd/ns");
        assert!("rbd/".parse::<Place>().is_err());
    }
}
