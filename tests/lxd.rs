//! LXD and Incus images, in one file and in two, made by tar and mksquashfs.

#![cfg(all(feature = "conformance", feature = "dir", feature = "gzip", feature = "zstd"))]

#[path = "common/mod.rs"]
mod common;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use reroot::conformance::Manifest;
use reroot::dir::DirVolume;
use reroot::image::Layout;
use reroot::{Error, ErrorKind, Image, Origin, Rebuild, Report, Sha256, Strategy};

/// The source of an image, and a pool with a volume whose old root holds one file, `old`.
struct Stand {
    folder: tempfile::TempDir,
    expected: Manifest,
}

impl Stand {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        for directory in ["rootfs/etc", "rootfs/bin", "templates"] {
            fs::create_dir_all(source.join(directory)).unwrap();
        }
        fs::write(source.join("metadata.yaml"), "architecture: x86_64\n").unwrap();
        fs::write(source.join("templates/hosts.tpl"), "127.0.0.1 localhost\n").unwrap();
        fs::write(source.join("rootfs/etc/hostname"), "c1\n").unwrap();
        std::os::unix::fs::symlink("hostname", source.join("rootfs/etc/link")).unwrap();
        fs::hard_link(source.join("rootfs/etc/hostname"), source.join("rootfs/bin/same")).unwrap();
        // A squashfs keeps whole seconds.
        run(Command::new("find").arg(&source).args(["-exec", "touch", "-h", "-d", "@1000000000", "{}", "+"]));
        let expected = Manifest::of(&source.join("rootfs")).unwrap();
        let stand = Stand { folder, expected };
        stand.reset();
        stand
    }

    fn reset(&self) {
        let _ = fs::remove_dir_all(self.path("pool"));
        fs::create_dir_all(self.root()).unwrap();
        fs::write(self.root().join("old"), "old").unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("pool/c1")
    }

    /// Packs these of the source by GNU tar, in this order.
    fn pack(&self, name: &str, members: &[&str]) -> PathBuf {
        let path = self.path(name);
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(self.path("source")).args(["--numeric-owner", "--format=posix", "--auto-compress", "-cf"]).arg(&path);
        run(tar.args(members));
        path
    }

    fn run(&self, rebuild: Rebuild) -> Result<Report, Error> {
        // Between its fork and its exec a process that another test starts holds copies of our descriptors.
        rebuild.busy_wait(Duration::from_secs(20)).run(&mut DirVolume::open(self.root()).unwrap())
    }

    /// The image becomes what is in `rootfs`; in the root of a new volume also the top directory's own metadata.
    #[track_caller]
    fn takes(&self, image: Image) -> Report {
        fs::remove_dir_all(self.root()).unwrap();
        let report = self.run(Rebuild::new(image)).unwrap_or_else(|error| panic!("{}", error.report()));
        let found = Manifest::of(&self.root()).unwrap();
        let differences = self.expected.diff(&found);
        assert!(differences.is_empty(), "{differences}");
        self.reset();
        report
    }

    #[track_caller]
    fn refuses(&self, image: Result<Image, Error>) -> Error {
        let error = image.and_then(|image| self.run(Rebuild::new(image))).expect_err("it was taken");
        let left: Vec<_> = fs::read_dir(self.path("pool")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["c1"], "{}", error.report());
        assert!(self.root().join("old").exists(), "{}", error.report());
        error
    }
}

fn run(command: &mut Command) {
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The SHA-256 of these files one after the other, by the tool that LXD's users have.
fn fingerprint(files: &[&Path]) -> Sha256 {
    let bytes: Vec<u8> = files.iter().flat_map(|file| fs::read(file).unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let joined = folder.path().join("joined");
    fs::write(&joined, bytes).unwrap();
    let output = Command::new("sha256sum").arg(joined).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].parse().unwrap()
}

fn piped(path: &Path) -> Image {
    Image::from_fd(fs::File::open(path).unwrap(), "a test")
}

#[test]
fn an_image_in_one_file_is_known_in_whatever_order_it_was_packed() {
    let stand = Stand::new();
    for (name, members) in [
        ("first.tar", &["metadata.yaml", "templates", "rootfs"][..]),
        ("last.tar.gz", &["rootfs", "templates", "metadata.yaml"]),
        ("middle.tar.zst", &["templates", "metadata.yaml", "rootfs"]),
        ("plain.tar", &["metadata.yaml", "rootfs"]),
        ("dotted.tar", &["./metadata.yaml", "./rootfs"]),
    ] {
        let path = stand.pack(name, members);
        let report = stand.takes(Image::open(&path).unwrap());
        assert_eq!(report.image.digest, Some(fingerprint(&[&path])), "{name}");
        stand.takes(piped(&path));
        stand.takes(Image::from_reader(Cursor::new(fs::read(&path).unwrap()), "a test"));
        stand.takes(Image::open(&path).unwrap().with_layout(Layout::Lxd).unwrap());
        stand.takes(Image::open(&path).unwrap().with_strip("rootfs").unwrap());
        stand.takes(Image::from_record(&report.image).unwrap());
        stand.run(Rebuild::new(Image::open(&path).unwrap()).strategy(Strategy::InPlace)).unwrap();
        assert!(stand.root().join("etc/hostname").exists());
        stand.reset();
    }
}

#[test]
fn an_image_packed_by_its_top_directory_may_come_in_any_order() {
    let stand = Stand::new();
    // The directory's own order is the file system's, so it is told by whatever comes first.
    let path = stand.pack("top.tar", &["."]);
    stand.takes(Image::open(&path).unwrap());
    stand.takes(piped(&path));
    // And as what it is not, it is taken at its word.
    stand.run(Rebuild::new(Image::open(&path).unwrap().with_layout(Layout::Root).unwrap())).unwrap();
    assert!(stand.root().join("metadata.yaml").exists() && stand.root().join("rootfs/etc/hostname").exists());
}

#[test]
fn a_root_that_is_missing_empty_or_no_directory_is_refused_before_the_commit() {
    let stand = Stand::new();
    let source = stand.path("source");
    let refused = |name: &str, members: &[&str], message: &str| {
        let path = stand.pack(name, members);
        for layout in [Layout::Detect, Layout::Lxd] {
            for image in [Image::open(&path).unwrap(), piped(&path)] {
                let error = stand.refuses(image.with_layout(layout));
                assert_eq!(error.kind(), ErrorKind::InvalidImage, "{name}: {}", error.report());
                assert!(error.message().contains(message), "{name}: {}", error.report());
            }
        }
    };
    refused("missing.tar", &["metadata.yaml", "templates"], "missing its rootfs");
    refused("no-metadata.tar", &["rootfs", "templates"], "no metadata.yaml");
    fs::rename(source.join("rootfs"), source.join("real")).unwrap();
    fs::create_dir(source.join("rootfs")).unwrap();
    refused("empty.tar", &["metadata.yaml", "rootfs"], "is empty");
    fs::remove_dir(source.join("rootfs")).unwrap();
    std::os::unix::fs::symlink("real", source.join("rootfs")).unwrap();
    refused("link.tar", &["metadata.yaml", "rootfs"], "not a directory");
    fs::remove_file(source.join("rootfs")).unwrap();
    fs::write(source.join("rootfs"), "file").unwrap();
    refused("file.tar", &["metadata.yaml", "rootfs"], "not a directory");
}

#[test]
fn a_root_filesystem_that_looks_like_an_image_is_asked_about() {
    let stand = Stand::new();
    fs::create_dir(stand.path("source/usr")).unwrap();
    // Also when the doubt comes last: the two together are at the top of no root, and LXD's own images hold nothing else there.
    for members in [
        &["rootfs", "usr"][..],
        &["metadata.yaml", "usr", "rootfs"],
        &["templates", "usr"],
        &["metadata.yaml", "rootfs", "usr"],
        &["usr", "rootfs", "metadata.yaml"],
        &["usr", "metadata.yaml", "rootfs"],
    ] {
        let path = stand.pack("odd.tar", members);
        let error = stand.refuses(Image::open(&path));
        assert_eq!(error.kind(), ErrorKind::InvalidImage, "{}", error.report());
        assert!(error.remedy().unwrap().contains("layout"), "{}", error.report());
        stand.run(Rebuild::new(piped(&path).with_layout(Layout::Root).unwrap())).unwrap();
        assert!(stand.root().join("usr").exists());
        stand.reset();
    }
    // What else one holds that is told to be an image, is left out.
    for members in [["metadata.yaml", "rootfs", "usr"], ["usr", "rootfs", "metadata.yaml"]] {
        stand.takes(Image::open(stand.pack("extra.tar", &members)).unwrap().with_layout(Layout::Lxd).unwrap());
    }
    // And one of the two makes no image.
    let path = stand.pack("root.tar", &["usr", "rootfs"]);
    stand.run(Rebuild::new(Image::open(&path).unwrap())).unwrap();
    assert!(stand.root().join("rootfs/etc").exists());
}

#[test]
fn an_image_in_two_files_has_the_fingerprint_that_lxd_gives_it() {
    let stand = Stand::new();
    let metadata = stand.pack("meta.tar.gz", &["metadata.yaml", "templates"]);
    let rootfs = stand.path("rootfs.tar.zst");
    run(Command::new("tar")
        .arg("-C")
        .arg(stand.path("source/rootfs"))
        .args(["--zstd", "--format=posix", "-cf"])
        .arg(&rootfs)
        .arg("."));
    let digest = fingerprint(&[&metadata, &rootfs]);
    let report = stand.takes(Image::lxd_split(&metadata, &rootfs).unwrap().with_sha256(digest));
    assert_eq!(report.image.digest, Some(digest));
    assert_eq!(report.image.origin, Origin::Split { metadata: metadata.clone(), rootfs: rootfs.clone() });
    stand.takes(Image::from_record(&report.image).unwrap());
    stand.run(Rebuild::new(Image::lxd_split(&metadata, &rootfs).unwrap().with_sha256(digest)).strategy(Strategy::InPlace)).unwrap();
    stand.reset();

    let wrong = fingerprint(&[&rootfs]);
    let error = stand.refuses(Image::lxd_split(&metadata, &rootfs).map(|image| image.with_sha256(wrong)));
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    // The two in the wrong order, a root without metadata, and no tarball at all.
    assert_eq!(stand.refuses(Image::lxd_split(&rootfs, &metadata)).kind(), ErrorKind::InvalidImage);
    let templates = stand.pack("templates.tar", &["templates"]);
    assert_eq!(stand.refuses(Image::lxd_split(&templates, &rootfs)).kind(), ErrorKind::InvalidImage);
    assert_eq!(stand.refuses(Image::lxd_split(stand.path("source/metadata.yaml"), &rootfs)).kind(), ErrorKind::InvalidImage);
    assert_eq!(stand.refuses(Image::lxd_split(stand.path("none"), &rootfs)).kind(), ErrorKind::NotFound);
    assert_eq!(stand.refuses(Image::lxd_split(&metadata, stand.path("source"))).kind(), ErrorKind::InvalidImage);
    // A root that is a whole image itself.
    let unified = stand.pack("unified.tar", &["metadata.yaml", "rootfs"]);
    let error = stand.refuses(Image::lxd_split(&metadata, &unified));
    assert!(error.message().contains("itself an image"), "{}", error.report());
    stand.takes(Image::lxd_split(&metadata, &unified).unwrap().with_strip("rootfs").unwrap());
    // Changed after it was recorded.
    fs::write(&metadata, fs::read(stand.pack("other.tar.gz", &["metadata.yaml"])).unwrap()).unwrap();
    assert_eq!(stand.refuses(Image::from_record(&report.image)).kind(), ErrorKind::DigestMismatch);
}

#[cfg(feature = "squashfs")]
mod squashfs {
    use super::*;

    /// A squashfs of this folder, unless there is no tool for it, which is said.
    fn squash(stand: &Stand, folder: &str) -> Option<PathBuf> {
        let path = stand.path(&folder.replace('/', "-")).with_extension("squashfs");
        let mut mksquashfs = Command::new("mksquashfs");
        mksquashfs.arg(stand.path(folder)).arg(&path).args(["-quiet", "-no-progress", "-comp", "zstd"]);
        if mksquashfs.output().is_ok_and(|output| output.status.success()) {
            return Some(path);
        }
        assert!(!common::required(), "mksquashfs is not installed");
        eprintln!("not tested, a squashfs: mksquashfs is not installed");
        None
    }

    #[test]
    fn a_squashfs_comes_from_a_file_a_pipe_or_beside_its_metadata() {
        let stand = Stand::new();
        let Some(rootfs) = squash(&stand, "source/rootfs") else { return };
        let digest = fingerprint(&[&rootfs]);
        let report = stand.takes(Image::open(&rootfs).unwrap().with_sha256(digest));
        assert_eq!(report.image.digest, Some(digest));
        stand.takes(Image::from_record(&report.image).unwrap());
        let report = stand.takes(piped(&rootfs).with_sha256(digest));
        assert_eq!(report.image.digest, Some(digest));
        stand.takes(Image::from_reader(Cursor::new(fs::read(&rootfs).unwrap()), "a test"));
        stand.run(Rebuild::new(Image::open(&rootfs).unwrap()).strategy(Strategy::InPlace)).unwrap();
        stand.reset();

        let metadata = stand.pack("meta.tar.gz", &["metadata.yaml"]);
        let digest = fingerprint(&[&metadata, &rootfs]);
        let report = stand.takes(Image::lxd_split(&metadata, &rootfs).unwrap().with_sha256(digest));
        assert_eq!(report.image.digest, Some(digest));
        stand.takes(Image::from_record(&report.image).unwrap());
        for image in [Image::open(&rootfs).unwrap(), piped(&rootfs), Image::lxd_split(&metadata, &rootfs).unwrap()] {
            let error = stand.refuses(Ok(image.with_sha256(Sha256::from_bytes([0; 32]))));
            assert_eq!(error.kind(), ErrorKind::DigestMismatch);
        }
    }

    #[test]
    fn a_layout_that_no_squashfs_has_is_refused_whichever_way_it_comes() {
        let stand = Stand::new();
        let Some(rootfs) = squash(&stand, "source/rootfs") else { return };
        let Some(unified) = squash(&stand, "source") else { return };
        for open in [|path: &Path| Image::open(path).unwrap(), piped] {
            let error = stand.refuses(open(&rootfs).with_layout(Layout::Oci));
            assert_eq!(error.kind(), ErrorKind::InvalidImage);
            assert!(error.message().contains("holds no layers"), "{}", error.report());
            stand.takes(open(&unified).with_layout(Layout::Lxd).unwrap());
            let error = stand.refuses(open(&rootfs).with_layout(Layout::Lxd));
            assert!(error.message().contains("missing its rootfs"), "{}", error.report());
        }
    }

    #[test]
    fn an_image_in_one_squashfs_is_told_like_a_tarball() {
        let stand = Stand::new();
        let Some(unified) = squash(&stand, "source") else { return };
        let digest = fingerprint(&[&unified]);
        for open in [|path: &Path| Image::open(path).unwrap(), piped] {
            let report = stand.takes(open(&unified).with_sha256(digest));
            assert_eq!(report.image.digest, Some(digest));
            stand.run(Rebuild::new(open(&unified).with_layout(Layout::Root).unwrap())).unwrap();
            assert!(stand.root().join("rootfs/etc/hostname").exists() && stand.root().join("metadata.yaml").exists());
            stand.reset();
        }
        stand.run(Rebuild::new(Image::open(&unified).unwrap()).strategy(Strategy::InPlace)).unwrap();
        assert!(stand.root().join("etc/hostname").exists());
        stand.reset();
        let metadata = stand.pack("meta.tar.gz", &["metadata.yaml"]);
        let error = stand.refuses(Image::lxd_split(&metadata, &unified));
        assert!(error.message().contains("itself an image"), "{}", error.report());
        // With more at its top, the layout is asked for, in whatever order that comes.
        for more in ["aaa", "zzz"] {
            fs::write(stand.path("source").join(more), "more").unwrap();
            let error = stand.refuses(Image::open(squash(&stand, "source").unwrap()));
            assert!(error.remedy().unwrap().contains("layout"), "{}", error.report());
            fs::remove_file(stand.path("source").join(more)).unwrap();
            fs::remove_file(&unified).unwrap();
        }
    }

    #[test]
    fn a_squashfs_needs_what_it_uses_and_not_what_its_file_takes() {
        let stand = Stand::new();
        let Some(rootfs) = squash(&stand, "source/rootfs") else { return };
        let used = u64::from_le_bytes(fs::read(&rootfs).unwrap()[40..48].try_into().unwrap());
        fs::File::options().write(true).open(&rootfs).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(Image::open(&rootfs).unwrap().need().at_least.bytes(), used);
        fs::File::options().write(true).open(&rootfs).unwrap().set_len(used - 1).unwrap();
        assert_eq!(Image::open(&rootfs).unwrap().need().at_least.bytes(), used - 1);
    }

    #[test]
    fn a_squashfs_from_a_pipe_is_looked_at_before_it_is_kept() {
        let stand = Stand::new();
        let Some(rootfs) = squash(&stand, "source/rootfs") else { return };
        let mut start = fs::read(&rootfs).unwrap();
        start.resize(4096, 0);
        start[28] = 3;
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, &start).unwrap();
        // Nothing more comes and the pipe stays open: whoever waits for its end waits for ever.
        let begun = std::time::Instant::now();
        let error = stand.refuses(Ok(Image::from_fd(reader, "a test")));
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
        assert!(begun.elapsed().as_secs() < 20);
        drop(writer);
    }

    #[test]
    fn a_squashfs_that_is_cut_is_an_error_whichever_way_it_comes() {
        let stand = Stand::new();
        let Some(rootfs) = squash(&stand, "source/rootfs") else { return };
        fs::File::options().write(true).open(&rootfs).unwrap().set_len(300).unwrap();
        for image in [Image::open(&rootfs).unwrap(), piped(&rootfs)] {
            assert_eq!(stand.refuses(Ok(image)).kind(), ErrorKind::InvalidImage);
        }
    }
}
