//! How the inside of an image is laid out.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// How the inside of an image is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Layout {
    /// The image itself tells.
    ///
    /// A directory is an OCI image layout. A tarball that begins with `blobs/`, `oci-layout`, `index.json` or what a docker archive begins
    /// with is one of layers; if it is not a whole one, that is an error, and the layout has to be named if it is a root filesystem. A tarball
    /// whose first entry besides its top directory is `metadata.yaml`, or is or lies below `templates` or `rootfs`, is an LXD image; if it then
    /// holds other things at its top or lacks `metadata.yaml` or `rootfs`, that is an error, and the layout has to be named. So it has for one that
    /// begins otherwise, but holds both of these at its top. A squashfs is told like a tarball, by its names in order. All else is a root filesystem.
    #[default]
    Detect,
    /// Its top is the root.
    Root,
    /// An LXD or Incus image in one piece: `metadata.yaml`, perhaps `templates/`, and `rootfs/`, which becomes the root. What else it holds is left out.
    Lxd,
    /// An OCI image layout, or a docker archive: layers, one over the other. Takes the feature `oci`.
    Oci,
}

impl Layout {
    const ALL: [(Layout, &str); 4] =
        [(Layout::Detect, "detect"), (Layout::Root, "root"), (Layout::Lxd, "lxd"), (Layout::Oci, "oci")];
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Layout::ALL.iter().find(|(layout, _)| layout == self);
        f.write_str(named.map_or("unknown", |(_, name)| name))
    }
}

impl FromStr for Layout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = Layout::ALL.iter().find(|(_, name)| *name == text);
        named.map(|(layout, _)| *layout).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read a layout", format!("there is no layout {text:?}"))
                .with_remedy("write detect, root, lxd or oci")
        })
    }
}
