//! The main job on a real Debian root filesystem: what we put on disk is what GNU tar puts there, and it runs.

#![cfg(all(feature = "dir", feature = "gzip", feature = "zstd", feature = "conformance"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use reroot::conformance::{Manifest, ManifestOptions};
use reroot::dir::DirVolume;
use reroot::{Dispose, Image, Rebuild, Strategy};

const MANIFEST_DIR: &str = env!("CARGO_MANIFEST_DIR");
const FORMATS: [&str; 3] = ["rootfs.tar", "rootfs.tar.gz", "rootfs.tar.zst"];
/// What the library promises to stay below, whatever the image.
const PEAK_MEMORY_KIB: u64 = 64 << 10;

/// The folder with the images, or `None` where they cannot be made or unpacked, which is said.
fn images() -> Option<PathBuf> {
    let reason = if !nix::unistd::geteuid().is_root() {
        "owners and devices need root".to_owned()
    } else if let Some(folder) = std::env::var_os("REROOT_ROOTFS") {
        return Some(folder.into());
    } else {
        let output = Command::new(format!("{MANIFEST_DIR}/tests/rootfs")).output().unwrap();
        if output.status.success() {
            return Some(String::from_utf8(output.stdout).unwrap().trim_end().into());
        }
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(std::env::var_os("REROOT_REQUIRE").is_none(), "cannot test a Debian root filesystem: {reason}");
    eprintln!("not tested, a Debian root filesystem: {reason}");
    None
}

fn run(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn gnu_tar(image: &Path, into: &Path) -> Manifest {
    fs::create_dir(into).unwrap();
    let flags = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-xpf"];
    run(Command::new("tar").arg("-C").arg(into).args(flags).arg(image));
    Manifest::of(into).unwrap()
}

#[track_caller]
fn assert_same(expected: &Manifest, root: &Path) {
    let found = Manifest::of(root).unwrap();
    let differences = expected.diff(&found);
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn debian_is_what_gnu_tar_makes_of_it_and_runs() {
    let Some(images) = images() else { return };
    let pool = tempfile::tempdir().unwrap();
    let expected = gnu_tar(&images.join("rootfs.tar"), &pool.path().join("gnu"));
    assert!(expected.len() > 5_000, "that is no Debian: {} entries", expected.len());
    for format in FORMATS {
        let root = pool.path().join("c1");
        let mut volume = DirVolume::open(&root).unwrap();
        let report = Rebuild::new(Image::open(images.join(format)).unwrap()).run(&mut volume).unwrap();
        assert!(report.losses.is_empty() && report.warnings.is_empty(), "{report}");
        assert_same(&expected, &root);
        fs::remove_dir_all(&root).unwrap();
    }

    let root = pool.path().join("c1");
    let rebuild = |strategy| {
        let image = Image::open(images.join("rootfs.tar.zst")).unwrap();
        Rebuild::new(image).strategy(strategy).dispose(Dispose::Wait).run(&mut DirVolume::open(&root).unwrap()).unwrap()
    };
    rebuild(Strategy::Swap);
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        fs::write(root.join("etc/os-release"), "broken").unwrap();
        fs::remove_dir_all(root.join("usr/share")).unwrap();
        rebuild(strategy);
        // The root directory stays the volume's own; only its time follows what was made in it.
        let found = Manifest::of(&root).unwrap();
        let differences = expected.clone().with_root(found.root().clone());
        let differences = differences.diff(&found);
        assert!(differences.is_empty(), "{differences}");
    }
    let release = run(Command::new("chroot").arg(&root).args(["/bin/sh", "-c", "cat /etc/os-release"]));
    assert!(release.contains("ID=debian"), "{release}");
    assert_eq!(fs::read_dir(pool.path()).unwrap().count(), 2, "only c1 and what GNU tar made");
}

#[test]
fn memory_stays_below_what_is_promised() {
    let Some(images) = images() else { return };
    let examples = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    let pool = tempfile::tempdir().unwrap();
    for format in FORMATS {
        let mut command = Command::new("/usr/bin/time");
        command.args(["-f", "%M"]).arg(examples.join("rebuild")).arg("--quiet").arg(images.join(format));
        let output = command.arg(format!("dir:{}/c1", pool.path().display())).output().expect("/usr/bin/time (package time)");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let peak: u64 = stderr.trim().lines().last().unwrap().parse().unwrap();
        println!("{format}: peak memory {peak} KiB");
        assert!(peak < PEAK_MEMORY_KIB, "{format}: {peak} KiB");
    }
}

#[test]
fn as_an_ordinary_user_the_content_is_the_same() {
    let Some(images) = images() else { return };
    let pool = tempfile::tempdir().unwrap();
    let expected = gnu_tar(&images.join("rootfs.tar"), &pool.path().join("gnu"));
    let home = pool.path().join("home");
    fs::create_dir(&home).unwrap();
    // The image, too, lies where that user can read it.
    fs::copy(images.join("rootfs.tar.zst"), home.join("image")).unwrap();
    fs::set_permissions(pool.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let examples = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    fs::copy(examples.join("rebuild"), home.join("rebuild")).unwrap();
    run(Command::new("chown").args(["-R", "65534:65534"]).arg(&home));
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(home.join("rebuild"));
    let report = run(command.args(["--json"]).arg(home.join("image")).arg(format!("dir:{}/c1", home.display())));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(!report["losses"].is_null(), "owners cannot have been kept");
    let contents = |manifest: &Manifest| -> Vec<_> {
        let entries = manifest.entries().filter(|entry| entry.path().starts_with("usr/share"));
        entries.map(|entry| (entry.path(), format!("{:?}", entry.facts().kind))).collect()
    };
    let found = ManifestOptions::new().read(&home.join("c1")).unwrap();
    assert!(contents(&expected) == contents(&found));
}
