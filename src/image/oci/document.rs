//! The JSON documents of images in layers: only what is read of them, and bounded.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::invalid;
use super::platform::Platform;
use super::store::{Section, Store};
use crate::digest::{Hasher, Sha256};
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;
use crate::text::Escaped;

/// The largest document that is read, as registries have it.
pub(super) const LARGEST: ByteSize = ByteSize::mib(4);

/// `oci-layout`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Marker {
    #[serde(default)]
    pub(super) image_layout_version: String,
}

/// An index: `index.json`, or a nested one. Docker calls it a manifest list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) manifests: Option<Vec<Descriptor>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Option<Vec<Descriptor>>,
}

/// What one document says of another, or of a layer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) platform: Option<Machine>,
    pub(super) annotations: Option<HashMap<String, Option<String>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Machine {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Machine {
    /// What it says; `None` if it does not.
    pub(super) fn platform(&self) -> Option<Platform> {
        Platform::from_fields(&self.os, &self.architecture, self.variant.as_deref().unwrap_or_default())
    }
}

/// The configuration of an image.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    pub(super) rootfs: Rootfs,
}

impl Config {
    /// Where the image runs; `None` if it does not say.
    pub(super) fn platform(&self) -> Option<Platform> {
        Platform::from_fields(&self.os, &self.architecture, self.variant.as_deref().unwrap_or_default())
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Rootfs {
    #[serde(default)]
    pub(super) diff_ids: Option<Vec<String>>,
}

/// An image in `manifest.json` of a docker archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Option<Vec<String>>,
}

impl Descriptor {
    /// The digest, checked for its form.
    pub(super) fn sha256(&self) -> Result<Sha256> {
        parse_digest(&self.digest)
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key)?.as_deref()
    }
}

/// Reads a digest as documents write it: the algorithm, and hexadecimal digits in lower case.
pub(super) fn parse_digest(text: &str) -> Result<Sha256> {
    let shown = || Escaped(text.get(..100).unwrap_or(text).as_bytes()).to_string();
    match text.split_once(':') {
        Some(("sha256", hex)) if hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) => {
            hex.parse().map_err(|_| invalid(format!("\"{}\" is not a digest", shown())))
        }
        Some(("sha512" | "sha384" | "blake3", _)) => {
            Err(Error::new(ErrorKind::Unsupported, "read the image", format!("the digest \"{}\" is not SHA-256", shown()))
                .with_remedy("make the image again with SHA-256 digests"))
        }
        _ => Err(invalid(format!("\"{}\" is not a digest", shown()))),
    }
}

/// The path of a blob in a layout.
pub(super) fn blob_path(digest: Sha256) -> String {
    format!("blobs/sha256/{digest}")
}

/// The blob that a descriptor names, of the size it says.
pub(super) fn find_blob(store: &Store, descriptor: &Descriptor) -> Result<(Section, Sha256)> {
    let digest = descriptor.sha256()?;
    let found = store.find(&blob_path(digest))?;
    let section = found.ok_or_else(|| {
        let missing = invalid("a blob is missing").with_context("blob", digest);
        if descriptor.media_type.contains("nondistributable") || descriptor.media_type.contains("foreign") {
            return missing.with_remedy("copy the image again with its nondistributable layers");
        }
        missing.with_remedy("copy the image again")
    })?;
    if section.length() != descriptor.size {
        let message = format!("a blob is {} bytes long and should be {}", section.length(), descriptor.size);
        return Err(invalid(message).with_context("blob", digest).with_remedy("copy the image again"));
    }
    Ok((section, digest))
}

/// Reads and checks the document that a descriptor names.
pub(super) fn read_blob<T: DeserializeOwned>(store: &Store, descriptor: &Descriptor, what: &'static str) -> Result<T> {
    let (section, digest) = find_blob(store, descriptor)?;
    let bytes = section.read_document(what)?;
    check_digest(digest_of(&bytes), digest, what)?;
    parse(&bytes, what)
}

/// Reads a document that nothing vouches for; `None` if it is not there.
pub(super) fn read_file<T: DeserializeOwned>(store: &Store, name: &str, what: &'static str) -> Result<Option<(T, Sha256)>> {
    let Some(section) = store.find(name)? else { return Ok(None) };
    let bytes = section.read_document(what)?;
    Ok(Some((parse(&bytes, what)?, digest_of(&bytes))))
}

/// # Errors
/// [`ErrorKind::DigestMismatch`] if the two differ.
pub(super) fn check_digest(found: Sha256, expected: Sha256, what: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DigestMismatch, "verify the image", format!("{what} is not what its digest says"))
        .with_context("expected", expected)
        .with_context("found", found)
        .with_remedy("copy the image again"))
}

fn digest_of(bytes: &[u8]) -> Sha256 {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    hasher.finish()
}

fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        let why = error.to_string();
        let why = why.char_indices().nth(300).and_then(|(end, _)| why.get(..end)).unwrap_or(&why);
        invalid(format!("{what} is malformed: {}", Escaped(why.as_bytes())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_of_one_form_only() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(parse_digest(&format!("sha256:{hex}")).unwrap().to_string(), hex);
        for bad in ["", hex, "sha256:", "sha256:../../etc/passwd", &format!("sha256:{}", hex.to_uppercase()), &format!("md5:{hex}")]
        {
            assert_eq!(parse_digest(bad).unwrap_err().kind(), ErrorKind::InvalidImage, "{bad}");
        }
        assert_eq!(parse_digest(&format!("sha512:{hex}{hex}")).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn documents_are_bounded_in_depth_and_never_shown_raw() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse::<Vec<Saved>>(deep.as_bytes(), "it").is_err());
        let error = parse::<Index>(b"{\"manifests\": \"\\u001b[2J\"}", "it").unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
        assert!(parse::<Index>(b"{\"manifests\": null}", "it").unwrap().manifests.is_none());
    }
}
