//! Images in layers: those that other people's tools make become the trees that these tools make of them, and hostile ones become errors
//! that leave the old root whole.

#![cfg(all(feature = "conformance", feature = "dir", feature = "oci", feature = "gzip", feature = "zstd"))]

#[path = "../common/mod.rs"]
mod common;
mod costs;
mod forge;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use forge::{CONFIG, Forge, INDEX, LAYER, MANIFEST, gzip, layer, machine, pack, sha256, tagged};
use reroot::conformance::Manifest;
use reroot::dir::DirVolume;
use reroot::image::{Layout, Platform};
use reroot::{Error, ErrorKind, Image, Limits, Rebuild, Report, Strategy};
use serde_json::json;

/// A pool with a volume whose old root holds one file, `old`.
struct Stand(tempfile::TempDir);

impl Stand {
    fn new() -> Self {
        let stand = Stand(tempfile::tempdir().unwrap());
        stand.reset();
        stand
    }

    fn reset(&self) {
        let _ = fs::remove_dir_all(self.pool());
        fs::create_dir_all(self.root()).unwrap();
        fs::write(self.root().join("old"), "old").unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn pool(&self) -> PathBuf {
        self.path("pool")
    }

    fn root(&self) -> PathBuf {
        self.path("pool/c1")
    }

    fn run(&self, rebuild: Rebuild) -> Result<Report, Error> {
        // Between its fork and its exec a process that another test starts holds copies of our descriptors.
        rebuild.busy_wait(Duration::from_secs(20)).run(&mut DirVolume::open(self.root()).unwrap())
    }

    #[track_caller]
    fn rebuild(&self, image: Image) -> Report {
        let report = self.run(Rebuild::new(image)).unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(!self.root().join("old").exists());
        self.assert_nothing_beside();
        report
    }

    /// An image that is refused leaves the old root, and nothing else.
    #[track_caller]
    fn refuses(&self, image: Result<Image, Error>) -> Error {
        let error = image.and_then(|image| self.run(Rebuild::new(image))).expect_err("it was taken");
        assert_eq!(self.paths(), ["old"], "{}", error.report());
        self.assert_nothing_beside();
        error
    }

    #[track_caller]
    fn assert_nothing_beside(&self) {
        let names: Vec<_> = fs::read_dir(self.pool()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["c1"]);
    }

    /// All paths of the root, in order.
    fn paths(&self) -> Vec<String> {
        let manifest = Manifest::of(&self.root()).unwrap();
        let mut paths: Vec<_> = manifest.entries().map(|entry| entry.path().to_string_lossy().into_owned()).collect();
        paths.retain(|path| !path.is_empty() && path != ".");
        paths.sort();
        paths
    }
}

/// What a root is made of from these layers.
#[track_caller]
fn layers(layers: &[&[&str]]) -> Vec<String> {
    let stand = Stand::new();
    let layers: Vec<_> = layers.iter().map(|entries| layer(entries)).collect();
    let forge = Forge::of(stand.path("layout"), &layers);
    stand.rebuild(Image::open(&forge.path).unwrap());
    stand.paths()
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_beside_them() {
    let below = &["a/", "a/x", "a/y", "a/d/", "a/d/deep", "b/", "b/x"][..];
    assert_eq!(layers(&[below, &["a/.wh.x", ".wh.b"]]), ["a", "a/d", "a/d/deep", "a/y"]);
    // Before or after what the layer itself makes, it is the same.
    for opaque in
        [&["a/", "a/.wh..wh..opq", "a/new", "a/d/", "a/d/mine"][..], &["a/", "a/new", "a/d/", "a/d/mine", "a/.wh..wh..opq"]]
    {
        assert_eq!(layers(&[below, opaque]), ["a", "a/d", "a/d/mine", "a/new", "b", "b/x"]);
    }
    for both in [&["a/.wh.x", "a/x"][..], &["a/x", "a/.wh.x"]] {
        assert_eq!(layers(&[below, both]), ["a", "a/d", "a/d/deep", "a/x", "a/y", "b", "b/x"]);
    }
    // A directory that is hidden and made anew holds what is new.
    for both in [&[".wh.a", "a/", "a/z"][..], &["a/", "a/z", ".wh.a"], &["a/z", ".wh.a"]] {
        assert_eq!(layers(&[below, both]), ["a", "a/z", "b", "b/x"]);
    }
    // An implied directory counts as made by the layer, and one layer's marks say nothing of the next one's.
    assert_eq!(layers(&[below, &["a/d/new", ".wh..wh..opq"]]), ["a", "a/d", "a/d/new"]);
    assert_eq!(layers(&[below, &[".wh..wh..opq", "a/"], &["a/q"], &[".wh..wh..opq"]]), [""; 0]);
    assert_eq!(layers(&[below, &["a/.wh.x"], &["a/x"], &["a/.wh.y"]]), ["a", "a/d", "a/d/deep", "a/x", "b", "b/x"]);
}

#[test]
fn whiteouts_of_nothing_make_nothing() {
    assert_eq!(layers(&[&["a"], &["no/such/.wh.x", ".wh.y", "none/.wh..wh..opq", "a/.wh.z"]]), ["a"]);
    assert_eq!(layers(&[&["a", ".wh.a", ".wh..wh..opq", "b"]]), ["a", "b"]);
    assert_eq!(layers(&[&["a"], &[".wh..wh.aufs", ".wh..wh.plnk/", ".wh..wh.plnk/1.2", ".wh..wh.orph/"]]), ["a"]);
}

#[test]
fn whiteouts_that_make_no_sense_are_errors() {
    for bad in [".wh.", "a/.wh..", "a/.wh...", ".wh..wh.", ".wh.a/b"] {
        let stand = Stand::new();
        let forge = Forge::of(stand.path("layout"), &[layer(&["a/", "a/b"]), layer(&[bad])]);
        let error = stand.refuses(Image::open(&forge.path));
        assert_eq!(error.kind(), ErrorKind::InvalidImage, "{bad}: {}", error.report());
        assert!(error.context().any(|(key, _)| key == "layer"), "{error}");
    }
}

#[test]
fn later_layers_replace_and_link_and_keep() {
    assert_eq!(layers(&[&["a/", "a/x"], &["a"]]), ["a"]);
    assert_eq!(layers(&[&["a"], &["a/", "a/x"]]), ["a", "a/x"]);
    let stand = Stand::new();
    let forge = Forge::of(stand.path("layout"), &[layer(&["a/", "a/x"]), layer(&["b = a/x"]), layer(&["a/", "c = b", ".wh.b"])]);
    let report = stand.rebuild(Image::open(&forge.path).unwrap());
    assert_eq!(stand.paths(), ["a", "a/x", "c"]);
    let inode = |name| fs::metadata(stand.root().join(name)).unwrap().ino();
    assert_eq!(inode("a/x"), inode("c"));
    assert!(report.losses.is_empty(), "{report}");
}

#[test]
fn a_directory_below_keeps_its_time_when_something_in_it_goes() {
    let stand = Stand::new();
    let forge = Forge::of(stand.path("layout"), &[layer(&["a/", "a/x", "a/y"]), layer(&["a/.wh.x"])]);
    stand.rebuild(Image::open(&forge.path).unwrap());
    assert_eq!(fs::metadata(stand.root().join("a")).unwrap().mtime(), 1_000_000_000);
}

#[test]
fn no_layer_reaches_outside_by_links_of_another() {
    let stand = Stand::new();
    let outside = stand.path("outside");
    fs::create_dir_all(outside.join("sub")).unwrap();
    for name in ["x", "y", "sub/z"] {
        fs::write(outside.join(name), name).unwrap();
    }
    let before = Manifest::of(&outside).unwrap();
    let absolute = format!("abs -> {}", outside.display());
    // In the root, where these links end if nothing goes wrong, is a directory of each name too.
    let inside = outside.strip_prefix("/").unwrap().display().to_string();
    let (inside, file) = (format!("{inside}/"), format!("{inside}/x"));
    let links = ["up -> ../../../outside", "far -> real/../../../../outside"];
    let below =
        layer(&[&inside, &file, "outside/", "outside/x", "outside/sub/", "outside/sub/z", "real/", &absolute, links[0], links[1]]);
    for above in [
        &["abs/x", "abs/new"][..],
        &["up/x", "up/sub/z"],
        &["abs/.wh.x", "up/.wh.y", "far/.wh.sub"],
        &["abs/.wh..wh..opq"],
        &["up/.wh..wh..opq", "far/.wh..wh..opq"],
        &["up/sub/.wh.z", "h = abs/x"],
        &[".wh.abs", "abs/", "abs/x"],
    ] {
        let forge = Forge::of(stand.path("layout"), &[below.clone(), layer(above)]);
        stand.rebuild(Image::open(&forge.path).unwrap());
        let after = Manifest::of(&outside).unwrap();
        let differences = before.diff(&after);
        assert!(differences.is_empty(), "{above:?}: {differences}");
        fs::remove_dir_all(&forge.path).unwrap();
        stand.reset();
    }
}

#[test]
fn a_link_in_the_root_is_followed_in_the_root() {
    assert_eq!(
        layers(&[&["usr/", "usr/bin/", "usr/bin/a", "bin -> usr/bin"], &["bin/.wh.a", "bin/b"]]),
        ["bin", "usr", "usr/bin", "usr/bin/b"]
    );
}

#[test]
fn a_whiteout_leaves_what_its_layer_made_under_another_path() {
    let below = &["usr/", "usr/lib/", "usr/lib/foo", "usr/lib/old", "lib -> usr/lib"][..];
    for (above, old) in [
        (&["usr/lib/foo", "lib/.wh.foo"][..], true),
        (&["usr/lib/foo", "lib/.wh..wh..opq"], false),
        (&["lib/foo", "usr/lib/.wh..wh..opq"], false),
        (&["lib/foo", "usr/lib/.wh.foo"], true),
    ] {
        let mut expected = vec!["lib", "usr", "usr/lib", "usr/lib/foo"];
        expected.extend(old.then_some("usr/lib/old"));
        assert_eq!(layers(&[below, above]), expected, "{above:?}");
    }
    // What lies behind a link lies in the directories that the link leads through; the link itself is of the layer below.
    assert_eq!(layers(&[below, &["lib/foo", ".wh..wh..opq"]]), ["usr", "usr/lib", "usr/lib/foo"]);
    assert_eq!(layers(&[below, &["lib/new/x", ".wh.usr"]]), ["lib", "usr", "usr/lib", "usr/lib/new", "usr/lib/new/x"]);
    // One layer's directories are lower ones to the next.
    assert_eq!(layers(&[&["a/"], &["b/", "b/x"], &["b/y", ".wh..wh..opq"]]), ["b", "b/y"]);
    // Inodes are used again.
    let again = &["d/x/", "d/x", "e/y/", "e/y/z", ".wh.e", ".wh.d"][..];
    assert_eq!(layers(&[&["d/", "d/old", "e/", "e/old"], again]), ["d", "d/x", "e", "e/y", "e/y/z"]);
    // What is emptied may hold the link that led to it.
    assert_eq!(layers(&[&["a/", "a/l -> ..", "b/", "b/x"], &["b/y", "a/l/.wh..wh..opq"]]), ["b", "b/y"]);
}

#[test]
fn limits_are_for_all_layers_together() {
    let stand = Stand::new();
    let forge = Forge::of(stand.path("layout"), &[layer(&["a", "b"]), layer(&["c", ".wh.a"])]);
    let image = || Image::open(&forge.path).unwrap();
    let error = stand.run(Rebuild::new(image()).limits(Limits::default().with_entries(3))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{}", error.report());
    let bytes = |bytes| Rebuild::new(image()).limits(Limits::default().with_bytes(reroot::ByteSize::from_bytes(bytes)));
    // A whiteout's own data counts too: each file here holds its name.
    assert_eq!(stand.run(bytes(7)).unwrap_err().kind(), ErrorKind::LimitExceeded);
    stand.run(bytes(8)).unwrap();
    assert_eq!(stand.paths(), ["b", "c"]);
}

#[test]
fn every_container_of_layers_gives_the_same_root() {
    let stand = Stand::new();
    let forge = Forge::of(stand.path("layout"), &[layer(&["a/", "a/x", "b"]), layer(&["a/.wh.x", "a/y"]), layer(&["c"])]);
    let digest: reroot::Sha256 = manifest_digest(&forge.path).parse().unwrap();
    let tarball = stand.path("image.tar");
    pack(&forge.path, &tarball);
    let bytes = fs::read(&tarball).unwrap();
    let packed = stand.path("image.tar.gz");
    fs::write(&packed, gzip(&bytes)).unwrap();
    let piped = |bytes: Vec<u8>| Image::from_reader(std::io::Cursor::new(bytes), "a test");
    for image in [
        Image::open(&forge.path).unwrap(),
        Image::open(&tarball).unwrap(),
        Image::open(&packed).unwrap(),
        piped(bytes.clone()),
        piped(gzip(&bytes)),
        piped(bytes.clone()).with_layout(Layout::Oci).unwrap(),
    ] {
        let shown = format!("{image:?}");
        let report = stand.rebuild(image.with_sha256(digest));
        assert_eq!(stand.paths(), ["a", "a/y", "b", "c"], "{shown}");
        assert_eq!(report.image.digest, Some(digest));
        assert_eq!(report.entries, 6);
        stand.reset();
    }
    // From its record; and in place, where it can be read twice.
    let report = stand.rebuild(Image::open(&tarball).unwrap());
    stand.rebuild(Image::from_record(&report.image).unwrap());
    for again in [&forge.path, &tarball] {
        stand.reset();
        stand.run(Rebuild::new(Image::open(again).unwrap()).strategy(Strategy::InPlace)).unwrap();
        assert_eq!(stand.paths(), ["a", "a/y", "b", "c"]);
    }
    stand.reset();
    let error = stand.run(Rebuild::new(Image::open(&packed).unwrap()).strategy(Strategy::InPlace)).unwrap_err();
    assert_eq!((error.kind(), stand.paths()), (ErrorKind::Unsupported, vec!["old".to_owned()]));
}

fn manifest_digest(layout: &Path) -> String {
    let index: serde_json::Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn what_begins_like_layers_and_is_a_root_is_asked_for() {
    let stand = Stand::new();
    let id = "0123456789abcdef".repeat(4);
    for first in ["blobs/", "index.json", "oci-layout", "manifest.json", "repositories", &format!("{id}/"), &format!("{id}.json")] {
        let bytes = layer(&[first, "bin/", "bin/sh"]);
        for image in ways(&stand, &bytes) {
            let shown = format!("{first}: {image:?}");
            let error = stand.refuses(Ok(image));
            assert_eq!(error.kind(), ErrorKind::InvalidImage, "{shown}");
            assert!(error.remedy().unwrap().contains("layout is root"), "{shown}: {}", error.report());
        }
        for image in ways(&stand, &bytes) {
            stand.rebuild(image.with_layout(Layout::Root).unwrap());
            assert_eq!(stand.paths().len(), 3, "{first}");
            stand.reset();
        }
    }
    // In place, it is found out before anything is touched.
    let tarball = stand.path("way.tar");
    let error = stand.run(Rebuild::new(Image::open(&tarball).unwrap()).strategy(Strategy::InPlace)).unwrap_err();
    assert!(error.remedy().unwrap().contains("layout is root") && stand.paths() == ["old"], "{}", error.report());
    assert_eq!(Image::open(&tarball).unwrap().with_layout(Layout::Oci).unwrap_err().kind(), ErrorKind::InvalidImage);
    // One that is told to be of layers is not said to begin like it.
    let bytes = layer(&["bin/", "bin/sh"]);
    for image in ways(&stand, &bytes) {
        let error = stand.refuses(image.with_layout(Layout::Oci));
        assert!(error.message().contains("neither"), "{}", error.report());
    }
    stand.reset();
    // And a real one can be had as the files that it consists of.
    let forge = Forge::of(stand.path("layout"), &[layer(&["a"])]);
    let packed = stand.path("image.tar");
    pack(&forge.path, &packed);
    stand.reset();
    stand.rebuild(Image::open(&packed).unwrap().with_layout(Layout::Root).unwrap());
    assert!(stand.root().join("index.json").exists());
    assert_eq!(Image::open(&forge.path).unwrap().with_layout(Layout::Root).unwrap_err().kind(), ErrorKind::InvalidImage);
}

/// The image in these bytes from a file, a compressed file, a pipe and a compressed pipe.
fn ways(stand: &Stand, bytes: &[u8]) -> [Image; 4] {
    let (plain, packed) = (stand.path("way.tar"), stand.path("way.tar.gz"));
    fs::write(&plain, bytes).unwrap();
    fs::write(&packed, gzip(bytes)).unwrap();
    let piped = |path: &Path| Image::from_fd(fs::File::open(path).unwrap(), "a test");
    [Image::open(&plain).unwrap(), Image::open(&packed).unwrap(), piped(&plain), piped(&packed)]
}

/// A tarball of layers that is not whole is never taken for the root that it is not, nor is a whole one for less because of what else it holds.
#[test]
fn a_damaged_tarball_of_layers_is_no_root() {
    let stand = Stand::new();
    let forge = Forge::of(stand.path("layout"), &[layer(&["a"])]);
    let archive = |with: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_dir_all("blobs", forge.path.join("blobs")).unwrap();
        with(&mut builder);
        builder.into_inner().unwrap()
    };
    let index = |builder: &mut tar::Builder<Vec<u8>>| {
        for name in ["index.json", "oci-layout"] {
            builder.append_path_with_name(forge.path.join(name), name).unwrap();
        }
    };
    let whole = archive(&index);
    let add = |builder: &mut tar::Builder<Vec<u8>>, name: &str, link: Option<&str>| {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        match link {
            None => builder.append_data(&mut header, name, &b""[..]).unwrap(),
            Some(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, name, target).unwrap();
            }
        }
    };
    for (what, bytes, kind) in [
        ("no index", archive(&|_| {}), ErrorKind::InvalidImage),
        ("too many", archive(&|builder| (0..66_000).for_each(|n| add(builder, &format!("e{n}"), None))), ErrorKind::LimitExceeded),
        (
            "a loop",
            archive(&|builder| ["index.json", "oci-layout"].iter().for_each(|name| add(builder, name, Some(name)))),
            ErrorKind::InvalidImage,
        ),
        ("truncated", whole[..whole.len() - 3000].to_vec(), ErrorKind::InvalidImage),
    ] {
        for image in ways(&stand, &bytes) {
            let shown = format!("{what}: {image:?}");
            let error = stand.refuses(Ok(image));
            assert_eq!(error.kind(), kind, "{shown}: {}", error.report());
            assert!(error.remedy().unwrap().contains("layout is root"), "{shown}: {}", error.report());
        }
    }
    // A sparse file of the old GNU format goes on behind its header.
    let sparse = archive(&|builder| {
        let mut header = tar::Header::new_gnu();
        header.set_path("sparse").unwrap();
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_size(512);
        header.as_gnu_mut().unwrap().set_is_extended(true);
        header.set_cksum();
        let mut more = [tar::GnuExtSparseHeader::new(), tar::GnuExtSparseHeader::new()];
        more[0].set_is_extended(true);
        let data = [*header.as_bytes(), *more[0].as_bytes(), *more[1].as_bytes(), [b'x'; 512]].concat();
        builder.get_mut().extend(data);
        index(builder);
    });
    for image in ways(&stand, &sparse) {
        stand.rebuild(image);
        assert_eq!(stand.paths(), ["a"]);
        stand.reset();
    }
}

#[test]
fn a_directory_with_a_part_of_an_image_says_what_is_missing() {
    let stand = Stand::new();
    let forge = Forge::of(stand.path("layout"), &[layer(&["a"])]);
    for name in ["index.json", "oci-layout"] {
        let kept = fs::read(forge.path.join(name)).unwrap();
        fs::remove_file(forge.path.join(name)).unwrap();
        let error = Image::open(&forge.path).unwrap_err();
        assert!(error.message().contains(&format!("{name} is missing")), "{}", error.report());
        // A link that leads nowhere in it is what is wrong then.
        symlink("/etc/passwd", forge.path.join(name)).unwrap();
        let error = Image::open(&forge.path).unwrap_err();
        assert!(error.message().contains("leads out"), "{}", error.report());
        fs::remove_file(forge.path.join(name)).unwrap();
        fs::write(forge.path.join(name), kept).unwrap();
    }
    for name in ["index.json", "oci-layout"] {
        fs::remove_file(forge.path.join(name)).unwrap();
    }
    let error = Image::open(&forge.path).unwrap_err();
    assert!(error.message().contains("index.json is missing"), "{}", error.report());
    fs::remove_dir_all(forge.path.join("blobs")).unwrap();
    assert_eq!(Image::open(&forge.path).unwrap_err().message(), "it is a directory");
}

#[test]
fn the_image_asked_for_is_taken_and_doubt_is_an_error_that_lists_what_there_is() {
    let stand = Stand::new();
    let forge = Forge::new(stand.path("layout"));
    let other = if machine() == "s390x" { "amd64" } else { "s390x" };
    let ours = forge.image(&[layer(&["ours"])]);
    let theirs = forge.image_for(&format!("linux/{other}"), &[layer(&["theirs"])]);
    let second = forge.image(&[layer(&["second"])]);
    let mut listed = [ours.clone(), theirs.clone()];
    listed[0]["platform"] = json!({"os": "linux", "architecture": machine()});
    listed[1]["platform"] = json!({"os": "linux", "architecture": other});
    let attestation = json!({"mediaType": MANIFEST, "digest": ours["digest"], "size": ours["size"],
        "platform": {"os": "unknown", "architecture": "unknown"}});
    let nested = json!({"schemaVersion": 2, "manifests": [listed[0], listed[1], attestation]});
    let nested = forge.document("application/vnd.docker.distribution.manifest.list.v2+json", &nested);
    forge.index(&[tagged(nested, "docker.io/library/multi:1"), tagged(second.clone(), "second")]);
    let open = || Image::open(&forge.path).unwrap();
    let platform = |text: &str| text.parse::<Platform>().unwrap();
    for (image, file) in [
        (open().with_tag("multi:1"), "ours"),
        (open().with_tag("1").with_platform(platform(&format!("linux/{other}"))), "theirs"),
        (open().with_tag("second"), "second"),
        (open().with_platform(platform(&format!("linux/{other}"))), "theirs"),
        (open().with_sha256(theirs["digest"].as_str().unwrap().parse().unwrap()), "theirs"),
    ] {
        stand.rebuild(image);
        assert_eq!(stand.paths(), [file]);
        stand.reset();
    }
    let error = stand.refuses(Ok(open()));
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}", error.report());
    for (image, kind) in [
        (open().with_tag("none"), ErrorKind::NotFound),
        (open().with_tag("multi:1").with_platform(platform("plan9/amd64")), ErrorKind::NotFound),
        (open().with_sha256("00".repeat(32).parse().unwrap()), ErrorKind::DigestMismatch),
        (open().with_tag("second").with_sha256(ours["digest"].as_str().unwrap().parse().unwrap()), ErrorKind::DigestMismatch),
    ] {
        let error = stand.refuses(Ok(image));
        assert_eq!(error.kind(), kind, "{}", error.report());
        assert!(error.message().contains("multi:1"), "{error}");
    }
    // The only one there is, for another machine, is not what a rebuild wants unless it says so.
    forge.index(&[theirs]);
    assert_eq!(stand.refuses(Ok(open())).kind(), ErrorKind::NotFound);
    stand.rebuild(open().with_platform(platform(&format!("linux/{other}"))));
}

/// Lies in the documents and blobs of an image, and what comes of them.
#[test]
fn lies_are_found_out_before_anything_is_committed() {
    type Lie = fn(&Forge);
    let lies: &[(&str, ErrorKind, Lie)] = &[
        ("a layer that was changed", ErrorKind::DigestMismatch, |forge| {
            let path = forge.blob_path(&sha256(&layer(&["a"])));
            let mut bytes = fs::read(&path).unwrap();
            bytes[512] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("a layer that was cut", ErrorKind::InvalidImage, |forge| {
            let path = forge.blob_path(&sha256(&layer(&["a"])));
            fs::File::options().write(true).open(path).unwrap().set_len(600).unwrap();
        }),
        ("a layer that is missing", ErrorKind::InvalidImage, |forge| {
            fs::remove_file(forge.blob_path(&sha256(&layer(&["a"])))).unwrap();
        }),
        ("a layer that is a pipe", ErrorKind::InvalidImage, |forge| {
            let path = forge.blob_path(&sha256(&layer(&["a"])));
            fs::remove_file(&path).unwrap();
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        }),
        ("a layer that lies elsewhere", ErrorKind::InvalidImage, |forge| {
            let path = forge.blob_path(&sha256(&layer(&["a"])));
            let elsewhere = forge.path.with_extension("elsewhere");
            fs::rename(&path, &elsewhere).unwrap();
            symlink(&elsewhere, &path).unwrap();
        }),
        ("a wrong size", ErrorKind::InvalidImage, |forge| {
            let mut layer_blob = forge.blob(LAYER, &layer(&["a"]));
            layer_blob["size"] = json!(layer(&["a"]).len() + 1);
            forge.index(&[forge.manifest(&format!("linux/{}", machine()), &[layer_blob], &[sha256(&layer(&["a"]))])]);
        }),
        ("a wrong diff id", ErrorKind::DigestMismatch, |forge| {
            let layer_blob = forge.blob(&format!("{LAYER}+gzip"), &gzip(&layer(&["a"])));
            forge.index(&[forge.manifest(&format!("linux/{}", machine()), &[layer_blob], &[sha256(b"other")])]);
        }),
        ("a wrong diff id of a plain layer", ErrorKind::DigestMismatch, |forge| {
            let layer_blob = forge.blob(LAYER, &layer(&["a"]));
            forge.index(&[forge.manifest(&format!("linux/{}", machine()), &[layer_blob], &[sha256(b"other")])]);
        }),
        ("fewer diff ids than layers", ErrorKind::InvalidImage, |forge| {
            let layer_blob = forge.blob(LAYER, &layer(&["a"]));
            forge.index(&[forge.manifest(&format!("linux/{}", machine()), &[layer_blob], &[])]);
        }),
        ("no layers", ErrorKind::InvalidImage, |forge| forge.index(&[forge.manifest(&format!("linux/{}", machine()), &[], &[])])),
        ("no images", ErrorKind::InvalidImage, |forge| forge.index(&[])),
        ("null for every list", ErrorKind::InvalidImage, |forge| {
            fs::write(forge.path.join("index.json"), br#"{"schemaVersion":2,"manifests":null,"annotations":null}"#).unwrap();
        }),
        ("a digest that is a path", ErrorKind::InvalidImage, |forge| {
            forge.index(&[json!({"mediaType": MANIFEST, "digest": "sha256:../../../../etc/passwd", "size": 1})]);
        }),
        ("a digest of another kind", ErrorKind::Unsupported, |forge| {
            forge.index(&[json!({"mediaType": MANIFEST, "digest": format!("sha512:{}", "0".repeat(128)), "size": 1})]);
        }),
        ("a negative size", ErrorKind::InvalidImage, |forge| {
            forge.index(&[json!({"mediaType": MANIFEST, "digest": sha256(b""), "size": -1})]);
        }),
        ("a huge size", ErrorKind::InvalidImage, |forge| {
            forge.index(&[json!({"mediaType": MANIFEST, "digest": sha256(b"x"), "size": u64::MAX})]);
        }),
        ("a manifest that was changed", ErrorKind::DigestMismatch, |forge| {
            let manifest = forge.image(&[layer(&["a"])]);
            let path = forge.blob_path(manifest["digest"].as_str().unwrap());
            let text = fs::read_to_string(&path).unwrap().replace("\"schemaVersion\":2", "\"schemaVersion\":3");
            fs::write(path, text).unwrap();
        }),
        ("an index that names itself", ErrorKind::DigestMismatch, |forge| {
            let own = format!("sha256:{}", "11".repeat(32));
            let document = json!({"manifests": [{"mediaType": INDEX, "digest": own, "size": 0}]}).to_string();
            let document = document.replace("\"size\":0", &format!("\"size\":{}", document.len() + 2));
            fs::write(forge.blob_path(&own), &document).unwrap();
            forge.index(&[json!({"mediaType": INDEX, "digest": own, "size": document.len()})]);
        }),
        ("indexes without end", ErrorKind::LimitExceeded, |forge| {
            let mut descriptor = forge.image(&[layer(&["a"])]);
            for _ in 0..30 {
                descriptor = forge.document(INDEX, &json!({"schemaVersion": 2, "manifests": [descriptor]}));
            }
            forge.index(&[descriptor]);
        }),
        ("indexes that multiply", ErrorKind::LimitExceeded, |forge| {
            let mut descriptor = forge.image(&[layer(&["a"])]);
            for _ in 0..7 {
                let many = vec![descriptor; 20];
                descriptor = forge.document(INDEX, &json!({"schemaVersion": 2, "manifests": many}));
            }
            forge.index(&[descriptor]);
        }),
        ("a giant index", ErrorKind::LimitExceeded, |forge| {
            fs::write(forge.path.join("index.json"), vec![b' '; (4 << 20) + 1]).unwrap();
        }),
        ("a giant manifest", ErrorKind::LimitExceeded, |forge| {
            forge.index(&[forge.blob(MANIFEST, &vec![b' '; (4 << 20) + 1])]);
        }),
        ("a deep document", ErrorKind::InvalidImage, |forge| {
            fs::write(forge.path.join("index.json"), format!("{{\"x\":{}", "[".repeat(1 << 20))).unwrap();
        }),
        ("a document that is none", ErrorKind::InvalidImage, |forge| {
            fs::write(forge.path.join("index.json"), b"\x1b[2J\xff").unwrap();
        }),
        ("a layout of the future", ErrorKind::Unsupported, |forge| {
            fs::write(forge.path.join("oci-layout"), br#"{"imageLayoutVersion": "2.0.0"}"#).unwrap();
        }),
        ("an artifact", ErrorKind::Unsupported, |forge| {
            let config = forge.document("application/vnd.oci.empty.v1+json", &json!({}));
            forge.index(&[forge.document(MANIFEST, &json!({"config": config, "layers": []}))]);
        }),
        ("an encrypted layer", ErrorKind::Unsupported, |forge| {
            let layer_blob = forge.blob(&format!("{LAYER}+gzip+encrypted"), b"x");
            forge.index(&[forge.manifest(&format!("linux/{}", machine()), &[layer_blob], &[sha256(b"x")])]);
        }),
        ("a layer that is no archive", ErrorKind::InvalidImage, |forge| {
            let layer_blob = forge.blob(LAYER, &[b'x'; 1024]);
            forge.index(&[forge.manifest(&format!("linux/{}", machine()), &[layer_blob], &[sha256(&[b'x'; 1024])])]);
        }),
        ("a layer that leads upward", ErrorKind::UnsafePath, |forge| {
            let mut bad = layer(&["aa/b"]);
            bad[..4].copy_from_slice(b"../b");
            let sum: u32 =
                bad[..512].iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) }).sum();
            bad[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            forge.index(&[forge.image(&[layer(&["a"]), bad])]);
        }),
        ("a config that is a list", ErrorKind::InvalidImage, |forge| {
            let config = forge.document(CONFIG, &json!([]));
            forge.index(&[forge.document(MANIFEST, &json!({"config": config, "layers": null}))]);
        }),
    ];
    for (what, kind, lie) in lies {
        let stand = Stand::new();
        let forge = Forge::of(stand.path("layout"), &[layer(&["a"])]);
        lie(&forge);
        let begun = std::time::Instant::now();
        let error = stand.refuses(Image::open(&forge.path));
        assert_eq!(error.kind(), *kind, "{what}: {}", error.report());
        assert!(!error.to_string().contains('\u{1b}'), "{what}");
        assert!(begun.elapsed().as_secs() < 20, "{what} took {:?}", begun.elapsed());
    }
}

#[test]
fn a_docker_archive_is_checked_by_its_diff_ids() {
    let stand = Stand::new();
    let tarball = stand.path("saved.tar");
    let (below, above) = (layer(&["a", "b"]), layer(&[".wh.a", "c"]));
    let save = |diff_ids: [String; 2], config_name: Option<&str>| {
        let config =
            json!({"os": "linux", "architecture": machine(), "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
        let digest = sha256(config.as_bytes());
        let name = config_name.map_or_else(|| format!("{}.json", &digest[7..]), str::to_owned);
        let manifest = json!([{"Config": name, "RepoTags": ["x/y:1"], "Layers": ["1/layer.tar", "2/layer.tar"]}]).to_string();
        let mut builder = tar::Builder::new(fs::File::create(&tarball).unwrap());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add(&name, config.as_bytes());
        add("1/layer.tar", &below);
        add("real", &above);
        add("manifest.json", manifest.as_bytes());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "2/layer.tar", "../real").unwrap();
        builder.finish().unwrap();
        digest
    };
    let digest = save([sha256(&below), sha256(&above)], None);
    let report = stand.rebuild(Image::open(&tarball).unwrap().with_tag("y:1"));
    assert_eq!(report.image.digest.unwrap().to_string(), digest[7..]);
    assert_eq!(stand.paths(), ["b", "c"]);
    stand.reset();
    save([sha256(&below), sha256(&below)], None);
    assert_eq!(stand.refuses(Image::open(&tarball)).kind(), ErrorKind::DigestMismatch);
    save([sha256(&below), sha256(&above)], Some(&format!("{}.json", "00".repeat(32))));
    assert_eq!(stand.refuses(Image::open(&tarball)).kind(), ErrorKind::DigestMismatch);
}

fn tool(name: &str, arguments: &[&str]) {
    let output = Command::new(name).args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether skopeo and umoci can be tried; says why not.
fn has_tools() -> bool {
    let has = |name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    let why = match (nix::unistd::geteuid().is_root(), has("umoci"), has("skopeo")) {
        (true, true, true) => return true,
        (false, ..) => "umoci needs root to keep owners",
        _ => "umoci and skopeo are not both installed",
    };
    assert!(!common::required(), "cannot test real images: {why}");
    eprintln!("not tested, images that umoci and skopeo make: {why}");
    false
}

const FIRST: &str = r#"
mkdir -p usr/bin usr/lib/deep/er etc var/cache home opt/old
printf one > usr/bin/tool; chmod 4755 usr/bin/tool
printf lib > usr/lib/deep/er/file; ln usr/lib/deep/er/file usr/lib/hard
ln -s usr/bin bin; printf conf > etc/conf; chown 12:34 etc/conf
printf c > var/cache/a; printf c > var/cache/b
setfattr -n user.note -v first usr/lib/deep
mkfifo opt/old/fifo; printf x > opt/old/x; chmod 0700 opt
touch -d 2001-02-03T04:05:06.5 etc usr/lib/deep/er usr/lib/deep usr/lib opt/old
"#;
const SECOND: &str = r#"
rm -r opt/old usr/lib/deep/er; rm var/cache/a; printf two > usr/bin/tool
mkdir opt/old; printf new > opt/old/new; rm bin; mkdir bin; printf b > bin/b
rm etc/conf; mkdir etc/conf; printf inner > etc/conf/inner; chmod 1777 home
"#;
const THIRD: &str = r#"
rm -r bin etc/conf; printf file > etc/conf; ln -s ../var/cache home/link; rm usr/lib/hard
mkdir -p usr/lib/deep/er; printf again > usr/lib/deep/er/file
"#;

#[test]
fn what_umoci_and_skopeo_make_becomes_what_umoci_makes_of_it() {
    if !has_tools() {
        return;
    }
    let stand = Stand::new();
    let path = |name: &str| stand.path(name).to_str().unwrap().to_owned();
    let (layout, image) = (path("layout"), path("layout:t"));
    tool("umoci", &["init", "--layout", &layout]);
    tool("umoci", &["new", "--image", &image]);
    for (number, script) in [FIRST, SECOND, THIRD].iter().enumerate() {
        let bundle = path(&format!("bundle{number}"));
        tool("umoci", &["unpack", "--image", &image, &bundle]);
        tool("sh", &["-ec", &format!("cd {bundle}/rootfs\n{script}")]);
        tool("umoci", &["repack", "--image", &image, &bundle]);
    }
    let bundle = path("result");
    tool("umoci", &["unpack", "--image", &image, &bundle]);
    let expected = Manifest::of(&Path::new(&bundle).join("rootfs")).unwrap();
    assert!(expected.len() > 15);

    tool("skopeo", &["copy", "-q", &format!("oci:{image}"), &format!("oci-archive:{}", path("oci.tar"))]);
    tool("skopeo", &["copy", "-q", &format!("oci:{image}"), &format!("docker-archive:{}:a/b:t", path("docker.tar"))]);
    tool("skopeo", &["copy", "-q", "--dest-compress-format", "zstd", &format!("oci:{image}"), &format!("oci:{}:z", path("zstd"))]);
    tool("zstd", &["-q", &path("oci.tar")]);
    tool("gzip", &["-k", &path("docker.tar")]);
    let piped = |name: &str| Image::from_fd(fs::File::open(stand.path(name)).unwrap(), name);
    for name in ["layout", "oci.tar", "docker.tar", "oci.tar.zst", "docker.tar.gz", "zstd"] {
        let mut images = vec![Image::open(stand.path(name)).unwrap()];
        if name.contains(".tar") {
            images.push(piped(name));
        }
        for image in images {
            let from = format!("{} as {:?}", name, image.origin());
            fs::remove_dir_all(stand.root()).unwrap();
            let report = stand.rebuild(image);
            assert!(report.losses.is_empty(), "{from}: {report}");
            let found = Manifest::of(&stand.root()).unwrap();
            let differences = expected.diff(&found);
            assert!(differences.is_empty(), "{from}: {differences}");
        }
    }
}
