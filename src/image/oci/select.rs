//! Which of the images in a store, and what it consists of.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

use super::document::{Archive, Config, Descriptor, Documents, Index, LARGEST, Machine, Manifest, Marker, Saved};
use super::document::{check_digest, find_blob, parse_digest, read_blob, read_file};
use super::platform::Platform;
use super::store::Store;
use super::{blob_path, invalid};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Need;
use crate::progress::CancelToken;
use crate::size::ByteSize;
use crate::text::Escaped;

/// How deep indexes may be nested. Real ones are twice at the most.
const DEPTH_MAX: usize = 8;
/// How many indexes are read, and how many images they may list together.
const INDEXES_MAX: usize = 64;
const IMAGES_MAX: usize = 256;
/// How many images an error lists.
const LISTED: usize = 12;

/// Which image of a store is wanted.
#[derive(Debug, Clone, Default)]
pub(in crate::image) struct Selector {
    pub(in crate::image) tag: Option<String>,
    /// `None`: that of this machine.
    pub(in crate::image) platform: Option<Platform>,
}

/// An image and its layers, the lowest first.
#[derive(Debug, Clone)]
pub(in crate::image) struct Selected {
    /// Of its manifest; of its configuration, in a docker archive.
    pub(in crate::image) digest: Sha256,
    pub(super) layers: Vec<Layer>,
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Its file in the store.
    pub(super) file: String,
    /// What its file's digest has to be, if a manifest says so.
    pub(super) digest: Option<Sha256>,
    /// What the digest of its tar stream has to be.
    pub(super) diff_id: Sha256,
    /// The length of its file, in bytes.
    pub(super) length: u64,
    packing: Packing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Compressed,
}

impl Selected {
    /// The length of all layers together, as they are stored.
    pub(in crate::image) fn length(&self) -> ByteSize {
        ByteSize::from_bytes(self.layers.iter().map(|layer| layer.length).fold(0, u64::saturating_add))
    }

    /// What is known of the space it needs: layers may replace what others made, but each of them is unpacked whole.
    pub(in crate::image) fn need(&self) -> Need {
        let compressed = self.layers.iter().filter(|layer| layer.packing == Packing::Compressed);
        let largest = compressed.map(|layer| layer.length).max();
        Need {
            at_least: ByteSize::from_bytes(largest.unwrap_or(0)),
            expected: largest.is_none().then(|| self.length()),
            ..Need::default()
        }
    }
}

/// Finds the image that `selector` and the expected digest name, reads its documents and checks them; its layers are there, and of the right
/// length.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is no such image, [`ErrorKind::InvalidInput`] if there are several, both with a list of those there are;
/// [`ErrorKind::DigestMismatch`] if none has the expected digest; [`ErrorKind::InvalidImage`], [`ErrorKind::DigestMismatch`],
/// [`ErrorKind::LimitExceeded`] and [`ErrorKind::Unsupported`] for documents that cannot be; [`ErrorKind::Cancelled`].
pub(in crate::image) fn select(
    store: &Store,
    selector: &Selector,
    expected: Option<Sha256>,
    cancel: &CancelToken,
) -> Result<Selected> {
    let documents = &Documents::new(store, cancel);
    let all = match read_file::<Marker>(documents, "oci-layout", "oci-layout")? {
        Some((marker, _)) => images_of_layout(documents, &marker)?,
        None => images_of_archive(documents)?,
    };
    choose(documents, all, selector, expected)?.read(documents)
}

/// One image of those in a store.
#[derive(Debug)]
struct Candidate {
    names: Arc<[String]>,
    platform: Option<Platform>,
    digest: Sha256,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Manifest(Descriptor),
    /// In a docker archive: its configuration's file, and those of its layers.
    Saved(Saved),
}

fn images_of_layout(documents: &Documents<'_>, marker: &Marker) -> Result<Vec<Candidate>> {
    if !marker.image_layout_version.starts_with("1.") {
        let version = Escaped(marker.image_layout_version.as_bytes()).to_string();
        return Err(Error::new(ErrorKind::Unsupported, "read the image", format!("its layout is of version \"{version}\""))
            .with_remedy("make the image again in version 1 of the layout"));
    }
    let index = read_file::<Index>(documents, "index.json", "index.json")?;
    let (index, _) = index.ok_or_else(|| invalid("it has no index.json").with_remedy("copy the image again"))?;
    let mut survey = Survey::default();
    survey.index(index, &Arc::default(), 0)?;
    // One after the other, so that no two are in memory at a time.
    while let Some(Nested { descriptor, names, depth }) = survey.nested.pop_front() {
        survey.index(read_blob(documents, &descriptor, "an index")?, &names, depth)?;
    }
    Ok(survey.found)
}

/// What the indexes read so far list.
#[derive(Default)]
struct Survey {
    found: Vec<Candidate>,
    /// The indexes that are still to be read.
    nested: VecDeque<Nested>,
    indexes: usize,
}

struct Nested {
    descriptor: Descriptor,
    names: Arc<[String]>,
    depth: usize,
}

impl Survey {
    fn index(&mut self, index: Index, names: &Arc<[String]>, depth: usize) -> Result<()> {
        for mut descriptor in index.manifests.0 {
            let own = descriptor.take_names();
            let names = if own.is_empty() { Arc::clone(names) } else { own.into() };
            match &*descriptor.media_type {
                "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json" => {
                    self.indexes += 1;
                    if depth >= DEPTH_MAX || self.indexes >= INDEXES_MAX {
                        return Err(too_many("indexes"));
                    }
                    self.nested.push_back(Nested { descriptor, names, depth: depth + 1 });
                }
                "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json" => {
                    if self.found.len() >= IMAGES_MAX {
                        return Err(too_many("images"));
                    }
                    let platform = descriptor.platform.take().as_ref().and_then(Machine::platform);
                    let digest = descriptor.sha256()?;
                    self.found.push(Candidate { names, platform, digest, source: Source::Manifest(descriptor) });
                }
                // A reader passes over what it does not know.
                _ => {}
            }
        }
        Ok(())
    }
}

fn images_of_archive(documents: &Documents<'_>) -> Result<Vec<Candidate>> {
    let saved = read_file::<Archive>(documents, "manifest.json", "manifest.json")?;
    let (saved, _) = saved.ok_or_else(|| invalid("it is neither an OCI image layout nor a docker archive"))?;
    // Several may have the same configuration.
    let mut configs: HashMap<String, (Option<Platform>, Sha256)> = HashMap::new();
    let mut found = Vec::new();
    for mut saved in saved.0 {
        let (platform, digest) = match configs.get(&saved.config) {
            Some(known) => known.clone(),
            None => {
                let (config, digest) = read_saved_config(documents, &saved)?;
                let known = (config.platform(), digest);
                configs.insert(saved.config.clone(), known.clone());
                known
            }
        };
        let names = std::mem::take(&mut saved.repo_tags).0.into();
        found.push(Candidate { names, platform, digest, source: Source::Saved(saved) });
    }
    Ok(found)
}

/// The configuration in a docker archive. Its file's name is its digest, wherever docker made it.
fn read_saved_config(documents: &Documents<'_>, saved: &Saved) -> Result<(Config, Sha256)> {
    let what = "the image's configuration";
    let found = read_file::<Config>(documents, &saved.config, what)?;
    let (config, digest) = found.ok_or_else(|| missing(&saved.config))?;
    let stem = saved.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    if let Ok(named) = parse_digest(&format!("sha256:{stem}")) {
        check_digest(digest, named, what)?;
    }
    Ok((config, digest))
}

fn choose(documents: &Documents<'_>, all: Vec<Candidate>, selector: &Selector, expected: Option<Sha256>) -> Result<Candidate> {
    let list = list(&all);
    if all.is_empty() {
        return Err(invalid("it holds no image"));
    }
    let mut left = all;
    if let Some(tag) = &selector.tag {
        left.retain(|image| image.names.iter().any(|name| is_named(name, tag)));
        if left.is_empty() {
            return Err(absent(format!("no image in it is named \"{}\"", Escaped(tag.as_bytes())), &list));
        }
    }
    if let Some(expected) = expected {
        left.retain(|image| image.digest == expected);
        if left.is_empty() {
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                "verify the image",
                format!("it is not the one asked for; there is {list}"),
            )
            .with_context("expected", expected)
            .with_remedy("fetch the image again, or give the digest of its manifest"));
        }
    }
    // Whoever names a digest has chosen the platform with it.
    if expected.is_none() || selector.platform.is_some() {
        let wanted = selector.platform.clone().unwrap_or_else(Platform::current);
        let mut known = HashMap::new();
        for image in &mut left {
            // An index may name the same image again and again.
            match known.get(&image.digest) {
                Some(platform) => image.platform.clone_from(platform),
                None => image.complete(documents)?,
            }
            known.insert(image.digest, image.platform.clone());
        }
        let alone = left.len() == 1 && selector.platform.is_none();
        left.retain(|image| image.platform.as_ref().map_or(alone, |platform| wanted.accepts(platform)));
        if left.is_empty() {
            return Err(absent(format!("no image in it is for {wanted}"), &list));
        }
    }
    let digest = left.first().map(|image| image.digest);
    if left.iter().any(|image| Some(image.digest) != digest) {
        let message = format!("it holds several images: {}", self::list(&left));
        return Err(
            Error::new(ErrorKind::InvalidInput, "choose an image", message).with_remedy("name its tag, its platform or its digest")
        );
    }
    left.into_iter().next().ok_or_else(|| invalid("it holds no image"))
}

/// Whether `name` is what a person calls `tag`: the whole of it, its end from a slash on, or what follows its last colon.
fn is_named(name: &str, tag: &str) -> bool {
    let end = name.rsplit('/').next().unwrap_or(name);
    name == tag
        || name.strip_suffix(tag).is_some_and(|rest| rest.ends_with('/'))
        || end.split_once(':').is_some_and(|(_, version)| version == tag)
}

/// The images there are, for a person.
fn list(images: &[Candidate]) -> String {
    let mut list = String::new();
    for (number, image) in images.iter().take(LISTED).enumerate() {
        list.push_str(if number == 0 { "" } else { ", " });
        let short = |name: &str| Escaped(name.get(..100).unwrap_or(name).as_bytes()).to_string();
        let names: Vec<_> = image.names.iter().take(3).map(|name| short(name)).collect();
        list.push_str(if names.is_empty() { "untagged" } else { "" });
        list.push_str(&names.join(" or "));
        if let Some(platform) = &image.platform {
            let _ = write!(list, " for {}", short(&platform.to_string()));
        }
        let _ = write!(list, " (sha256:{})", image.digest);
    }
    if images.len() > LISTED {
        let _ = write!(list, ", and {} more", images.len() - LISTED);
    }
    list
}

impl Candidate {
    /// Finds out its platform, where the index does not say.
    fn complete(&mut self, documents: &Documents<'_>) -> Result<()> {
        if let (None, Source::Manifest(descriptor)) = (&self.platform, &self.source) {
            let manifest = read_manifest(documents, descriptor)?;
            // What is no image has no platform, and is not the one.
            if is_config(&manifest.config) {
                let config: Config = read_blob(documents, &manifest.config, "the image's configuration")?;
                self.platform = config.platform();
            }
        }
        Ok(())
    }

    /// Reads its documents and finds its layers.
    fn read(self, documents: &Documents<'_>) -> Result<Selected> {
        let layers = match &self.source {
            Source::Manifest(descriptor) => layers_of_manifest(documents, descriptor)?,
            Source::Saved(saved) => layers_of_saved(documents, saved)?,
        };
        Ok(Selected { digest: self.digest, layers })
    }
}

fn read_manifest(documents: &Documents<'_>, descriptor: &Descriptor) -> Result<Manifest> {
    read_blob(documents, descriptor, "the image's manifest")
}

fn is_config(descriptor: &Descriptor) -> bool {
    matches!(&*descriptor.media_type, "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json")
}

fn layers_of_manifest(documents: &Documents<'_>, descriptor: &Descriptor) -> Result<Vec<Layer>> {
    let manifest = read_manifest(documents, descriptor)?;
    if !is_config(&manifest.config) {
        let media_type = Escaped(manifest.config.media_type.as_bytes()).to_string();
        return Err(Error::new(
            ErrorKind::Unsupported,
            "read the image",
            "it is an artifact of another kind, not a container image",
        )
        .with_context("media type", media_type));
    }
    let config: Config = read_blob(documents, &manifest.config, "the image's configuration")?;
    let layers = manifest.layers.0;
    let diff_ids = diff_ids(config, layers.len())?;
    let layer = |(descriptor, diff_id): (Descriptor, Sha256)| {
        let packing = packing(&descriptor.media_type)?;
        let (section, digest) = find_blob(documents.store, &descriptor)?;
        Ok(Layer { file: blob_path(digest), digest: Some(digest), diff_id, length: section.length(), packing })
    };
    layers.into_iter().zip(diff_ids).map(layer).collect()
}

fn layers_of_saved(documents: &Documents<'_>, saved: &Saved) -> Result<Vec<Layer>> {
    let (config, _) = read_saved_config(documents, saved)?;
    let files = &saved.layers.0;
    let diff_ids = diff_ids(config, files.len())?;
    let layer = |file: &str, diff_id: Sha256| {
        let section = documents.store.find(file)?.ok_or_else(|| missing(file))?;
        Ok(Layer { file: file.to_string(), digest: None, diff_id, length: section.length(), packing: Packing::Plain })
    };
    files.iter().zip(diff_ids).map(|(file, diff_id)| layer(file, diff_id)).collect()
}

fn diff_ids(config: Config, layers: usize) -> Result<Vec<Sha256>> {
    let diff_ids = config.rootfs.diff_ids.0;
    if diff_ids.len() != layers {
        let message = format!("it has {layers} layers, and its configuration tells of {}", diff_ids.len());
        return Err(invalid(message));
    }
    if layers == 0 {
        return Err(invalid("it has no layers").with_remedy("ask for an empty root, if that is wanted"));
    }
    diff_ids.iter().map(|digest| parse_digest(digest)).collect()
}

/// What a layer's media type says of its form. What it really is, its first bytes tell.
fn packing(media_type: &str) -> Result<Packing> {
    let unsupported = |message: String| Error::new(ErrorKind::Unsupported, "read the image", message);
    let end = ["application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar"]
        .iter()
        .chain(&["application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar"])
        .find_map(|start| media_type.strip_prefix(start));
    let (compressor, is_here) = match end {
        Some("") => return Ok(Packing::Plain),
        Some("+gzip" | ".gzip") => ("gzip", cfg!(feature = "gzip")),
        Some("+zstd" | ".zstd") => ("zstd", cfg!(feature = "zstd")),
        _ => {
            let media_type = Escaped(media_type.get(..100).unwrap_or(media_type).as_bytes()).to_string();
            return Err(unsupported("a layer is of an unknown kind".into()).with_context("media type", media_type));
        }
    };
    if !is_here {
        return Err(unsupported(format!("a layer is compressed by {compressor}"))
            .with_remedy(format!("build with the feature {compressor}, or copy the image with its layers uncompressed")));
    }
    Ok(Packing::Compressed)
}

fn missing(file: &str) -> Error {
    invalid("a file of it is missing").with_context("file", Escaped(file.as_bytes())).with_remedy("copy the image again")
}

fn too_many(what: &str) -> Error {
    Error::new(ErrorKind::LimitExceeded, "read the image", format!("it holds too many {what}"))
        .with_context("limit of documents", LARGEST)
}

fn absent(message: String, list: &str) -> Error {
    Error::new(ErrorKind::NotFound, "choose an image", format!("{message}; there is {list}"))
        .with_remedy("name another tag or platform")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_as_people_write_them() {
        for tag in ["docker.io/library/alpine:3.20", "library/alpine:3.20", "alpine:3.20", "3.20"] {
            assert!(is_named("docker.io/library/alpine:3.20", tag), "{tag}");
        }
        for tag in ["", "alpine", "20", "pine:3.20", "5000/alpine:3.20"] {
            assert!(!is_named("docker.io:5000/library/alpine:3.20", tag), "{tag}");
        }
        assert!(is_named("latest", "latest"));
    }

    #[test]
    fn layers_of_every_media_type() {
        assert_eq!(packing("application/vnd.oci.image.layer.v1.tar").unwrap(), Packing::Plain);
        assert_eq!(packing("application/vnd.docker.image.rootfs.foreign.diff.tar").unwrap(), Packing::Plain);
        #[cfg(feature = "gzip")]
        assert_eq!(packing("application/vnd.docker.image.rootfs.diff.tar.gzip").unwrap(), Packing::Compressed);
        #[cfg(not(feature = "zstd"))]
        assert!(packing("application/vnd.oci.image.layer.v1.tar+zstd").unwrap_err().remedy().unwrap().contains("feature zstd"));
        for other in ["", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "text/plain"] {
            assert_eq!(packing(other).unwrap_err().kind(), ErrorKind::Unsupported, "{other}");
        }
    }
}
