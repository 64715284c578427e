//! Images in layers: an [OCI image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md), as a directory or a tarball,
//! and docker archives.
//!
//! Nothing is believed that a digest can check: the index names manifests by digest and size, a manifest its configuration and its layers, and
//! the configuration what each layer is without compression. An image is named by its manifest's digest; a docker archive, which has no
//! manifest, by its configuration's.

mod document;
mod layers;
mod platform;
mod select;
mod store;
mod tarball;

pub(super) use self::layers::Stack;
pub use self::platform::Platform;
pub(super) use self::select::{Selected, Selector, select};
pub(super) use self::store::Store;
pub(super) use self::tarball::{PEEK, begins_like_layers};

use self::document::blob_path;
use crate::error::{Error, ErrorKind};

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidImage, "read the image", message)
}
