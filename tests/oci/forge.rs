//! Images in layers, made by hand: every document can be made to lie.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A layer's tar stream: `name/` is a directory, `name` a file that holds its own name, `name -> target` a symbolic link and
/// `name = target` a hard link.
pub(crate) fn layer(entries: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        // So that also an ordinary user can keep them.
        header.set_uid(nix::unistd::geteuid().as_raw().into());
        header.set_gid(nix::unistd::getegid().as_raw().into());
        header.set_mtime(1_000_000_000);
        header.set_mode(0o755);
        header.set_size(0);
        if let Some((name, target)) = entry.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, name, target).unwrap();
        } else if let Some((name, target)) = entry.split_once(" = ") {
            header.set_entry_type(tar::EntryType::Link);
            builder.append_link(&mut header, name, target).unwrap();
        } else if let Some(name) = entry.strip_suffix('/') {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, name, &b""[..]).unwrap();
        } else {
            header.set_mode(0o644);
            header.set_size(entry.len() as u64);
            builder.append_data(&mut header, entry, entry.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layout in a directory.
pub(crate) struct Forge {
    pub(crate) path: PathBuf,
}

impl Forge {
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), br#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        Forge { path }
    }

    /// Stores a blob and describes it.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    pub(crate) fn document(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// An image for this machine, its layers plain and compressed by turns; describes its manifest.
    pub(crate) fn image(&self, layers: &[Vec<u8>]) -> Value {
        self.image_for(&format!("linux/{}", machine()), layers)
    }

    pub(crate) fn image_for(&self, platform: &str, layers: &[Vec<u8>]) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| sha256(layer)).collect();
        let layers: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(number, layer)| match number % 3 {
                0 => self.blob(LAYER, layer),
                1 => self.blob(&format!("{LAYER}+gzip"), &gzip(layer)),
                _ => self.blob("application/vnd.oci.image.layer.v1.tar+zstd", &zstd::encode_all(&layer[..], 3).unwrap()),
            })
            .collect();
        self.manifest(platform, &layers, &diff_ids)
    }

    pub(crate) fn manifest(&self, platform: &str, layers: &[Value], diff_ids: &[String]) -> Value {
        let (os, architecture) = platform.split_once('/').unwrap();
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        let config = self.document(CONFIG, &json!({"os": os, "architecture": architecture, "rootfs": rootfs}));
        self.document(MANIFEST, &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}))
    }

    pub(crate) fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.path.join("index.json"), index.to_string()).unwrap();
    }

    /// A whole layout of one image.
    pub(crate) fn of(path: PathBuf, layers: &[Vec<u8>]) -> Self {
        let forge = Forge::new(path);
        forge.index(&[forge.image(layers)]);
        forge
    }
}

pub(crate) fn tagged(mut descriptor: Value, tag: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    descriptor
}

pub(crate) fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Packs a layout as skopeo and podman do, blobs first.
pub(crate) fn pack(layout: &Path, into: &Path) {
    let mut builder = tar::Builder::new(fs::File::create(into).unwrap());
    builder.append_dir_all("blobs", layout.join("blobs")).unwrap();
    for name in ["index.json", "oci-layout"] {
        builder.append_path_with_name(layout.join(name), name).unwrap();
    }
    builder.finish().unwrap();
}
