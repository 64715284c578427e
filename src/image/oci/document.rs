//! The JSON documents of images in layers: only what is read of them, and bounded.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::invalid;
use super::platform::Platform;
use super::store::{Section, Store};
use crate::digest::{Hasher, Sha256};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::CancelToken;
use crate::size::ByteSize;
use crate::text::Escaped;

/// The largest document that is read, as registries have it.
pub(super) const LARGEST: ByteSize = ByteSize::mib(4);

/// How many bytes of documents are read to choose an image, all together.
const LARGEST_SUM: ByteSize = ByteSize::mib(16);
/// What lists may hold: descriptors in an index, images in a docker archive, names of one image, layers.
const DESCRIPTORS_MAX: usize = 10_000;
const SAVED_MAX: usize = 256;
const NAMES_MAX: usize = 1000;
const LAYERS_MAX: usize = 4096;
/// How the error of a list that is too long begins.
const TOO_MANY: &str = "a list holds more than";

/// The documents in a store, read within a limit of bytes until they are cancelled.
#[derive(Debug)]
pub(super) struct Documents<'a> {
    pub(super) store: &'a Store,
    cancel: &'a CancelToken,
    left: Cell<u64>,
}

impl<'a> Documents<'a> {
    pub(super) fn new(store: &'a Store, cancel: &'a CancelToken) -> Self {
        Documents { store, cancel, left: Cell::new(LARGEST_SUM.bytes()) }
    }

    fn read(&self, section: Section, what: &'static str) -> Result<Vec<u8>> {
        self.cancel.check("read the image")?;
        let length = section.length();
        // One that is too large by itself is refused as such.
        if length <= LARGEST.bytes() {
            let left = self.left.get().checked_sub(length).ok_or_else(|| {
                Error::new(ErrorKind::LimitExceeded, "read the image", "its documents are too large together")
                    .with_context("limit", LARGEST_SUM)
                    .with_remedy("do not trust this image")
            })?;
            self.left.set(left);
        }
        section.read_document(what)
    }
}

/// A list of no more than `MAX` things; `null` and nothing are an empty one.
#[derive(Debug)]
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
        Ok(List(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> std::result::Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = sequence.next_element()? {
            if list.len() >= MAX {
                return Err(A::Error::custom(format!("{TOO_MANY} {MAX} things")));
            }
            list.push(item);
        }
        Ok(List(list))
    }
}

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
    #[serde(default)]
    pub(super) manifests: List<Descriptor, DESCRIPTORS_MAX>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    #[serde(default)]
    pub(super) layers: List<Descriptor, LAYERS_MAX>,
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
    annotations: Option<Annotations>,
}

/// The annotations that name an image.
#[derive(Debug, Deserialize)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    reference: Option<String>,
    #[serde(rename = "io.containerd.image.name")]
    containerd: Option<String>,
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
    pub(super) diff_ids: List<String, LAYERS_MAX>,
}

/// `manifest.json` of a docker archive.
pub(super) type Archive = List<Saved, SAVED_MAX>;

/// An image in a docker archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: List<String, NAMES_MAX>,
    #[serde(default)]
    pub(super) layers: List<Box<str>, LAYERS_MAX>,
}

impl Descriptor {
    /// The digest, checked for its form.
    pub(super) fn sha256(&self) -> Result<Sha256> {
        parse_digest(&self.digest)
    }

    /// The names it gives an image, taken out of it.
    pub(super) fn take_names(&mut self) -> Vec<String> {
        self.annotations
            .take()
            .map(|annotations| annotations.reference.into_iter().chain(annotations.containerd).collect())
            .unwrap_or_default()
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
pub(super) fn read_blob<T: DeserializeOwned>(documents: &Documents<'_>, descriptor: &Descriptor, what: &'static str) -> Result<T> {
    let (section, digest) = find_blob(documents.store, descriptor)?;
    let bytes = documents.read(section, what)?;
    check_digest(digest_of(&bytes), digest, what)?;
    parse(&bytes, what)
}

/// Reads a document that nothing vouches for; `None` if it is not there.
pub(super) fn read_file<T: DeserializeOwned>(
    documents: &Documents<'_>,
    name: &str,
    what: &'static str,
) -> Result<Option<(T, Sha256)>> {
    let Some(section) = documents.store.find(name)? else { return Ok(None) };
    let bytes = documents.read(section, what)?;
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
        if why.starts_with(TOO_MANY) {
            return Error::new(ErrorKind::LimitExceeded, "read the image", format!("{what}: {why}"))
                .with_remedy("do not trust this image");
        }
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
        assert!(parse::<Archive>(deep.as_bytes(), "it").is_err());
        let error = parse::<Index>(b"{\"manifests\": \"\\u001b[2J\"}", "it").unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
        assert!(parse::<Index>(b"{\"manifests\": null}", "it").unwrap().manifests.0.is_empty());
        let many = format!("[{}0]", "0,".repeat(10));
        assert_eq!(parse::<List<u8, 10>>(many.as_bytes(), "it").unwrap_err().kind(), ErrorKind::LimitExceeded);
    }
}
