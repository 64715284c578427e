//! What we put on disk is what GNU tar puts there, whoever made the archive.

#![cfg(feature = "conformance")]

#[path = "unpack/support.rs"]
mod support;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use reroot::conformance::manifest::{DirectoryTimes, Manifest, ManifestOptions};
use reroot::unpack::{DevicePolicy, Hooks, LossKind, LossPolicy, NoHooks, Tally, UnpackOptions, scan, unpack};
use reroot::volume::RootMetadata;
use reroot::{Error, ErrorKind, Space};

use support::{Parts, Place, again, assert_manifests, assert_same, extract, is_root, root_for, run};

const ATTRIBUTES: [&str; 3] = ["--xattrs", "--xattrs-include=*", "--acls"];

#[test]
fn every_format_of_gnu_tar() {
    for (format, parts) in
        [("v7", Parts::V7), ("ustar", Parts::Ustar), ("oldgnu", Parts::Gnu), ("gnu", Parts::Gnu), ("posix", Parts::Gnu)]
    {
        let place = Place::new();
        place.source(parts);
        let archive = place.archive(format, "tar", &[&format!("--format={format}"), "--numeric-owner"]);
        let unpacked = place.compare(&archive);
        assert!(unpacked.losses.is_empty(), "{format}: {}", unpacked.losses);
    }
}

#[test]
fn attributes_acls_and_nanoseconds() {
    let place = Place::new();
    let source = place.source(Parts::Pax);
    let expected = Manifest::of(&source).unwrap();
    let mut flags = vec!["--format=posix", "--numeric-owner"];
    flags.extend(ATTRIBUTES);
    for (name, more) in [("plain", &[][..]), ("sparse", &["--sparse"]), ("sorted", &["--sort=name"])] {
        let archive = place.archive(name, "tar", &[&flags[..], more].concat());
        place.compare(&archive);
        assert_manifests(name, &expected, &Manifest::of(&place.path(&format!("{name}.ours"))).unwrap());
    }
}

#[test]
fn holes_stay_holes_in_every_format() {
    let formats: [(&str, &[&str]); 5] = [
        ("oldgnu", &["--format=oldgnu"]),
        ("gnu", &["--format=gnu"]),
        ("pax-0.0", &["--format=posix", "--sparse-version=0.0"]),
        ("pax-0.1", &["--format=posix", "--sparse-version=0.1"]),
        ("pax-1.0", &["--format=posix", "--sparse-version=1.0"]),
    ];
    let place = Place::new();
    place.source(Parts::Gnu);
    for (name, flags) in formats {
        let archive = place.archive(name, "tar", &[flags, &["--sparse", "--numeric-owner"]].concat());
        assert!(fs::metadata(&archive).unwrap().len() < 3 << 20, "{name} stores holes");
        place.compare(&archive);
        for file in ["all-hole", "middle", "start", "end", "many"] {
            let blocks = |side: &str| fs::metadata(place.path(&format!("{name}.{side}/sparse/{file}"))).unwrap().blocks();
            // In blocks of 512 bytes; file systems round up to their own.
            assert!(blocks("ours") <= blocks("gnu") + 16, "{name} {file}: {} for {}", blocks("ours"), blocks("gnu"));
        }
    }
}

#[test]
fn bsdtar_and_python() {
    let place = Place::new();
    let source = place.source(Parts::Pax);
    // It writes a time of -1.75 as -2.25, and so we read it.
    place.build("source", "touch -d 1960-01-01 etc/nothing; touch -d 2001-01-01 etc");
    let archive = place.archive("bsdtar-pax", "bsdtar", &["--format=pax", "--numeric-owner", "--acls", "--xattrs"]);
    let (ours, unpacked) = place.ours(&archive, "bsdtar-pax.ours");
    assert!(unpacked.losses.is_empty(), "{}", unpacked.losses);
    // It takes ordinary users' attributes for what they are, but leaves out those of root.
    let manifest = |path: &Path| {
        let options = ManifestOptions::new();
        options.with_ignored_xattrs("trusted.").with_ignored_xattrs("security.thing").read(path).unwrap()
    };
    assert_manifests("bsdtar", &manifest(&source), &manifest(&ours));

    // These formats, and Python, have no nanoseconds to spare. GNU tar is no judge of bsdtar's order of entries: it loses the times of the
    // directories that an archive comes back to.
    let whole_seconds = "find . -exec touch -h -d '2001-02-03 04:05:06' {} +";
    for (format, parts) in [("ustar", Parts::Ustar), ("gnutar", Parts::Gnu)] {
        let place = Place::new();
        place.source(parts);
        let source = place.build("source", whole_seconds);
        let archive = place.archive(format, "bsdtar", &[&format!("--format={format}"), "--numeric-owner"]);
        assert_same(format, &source, &place.ours(&archive, "ours").0);
    }
    for (format, parts) in [("USTAR", Parts::Ustar), ("GNU", Parts::Gnu), ("PAX", Parts::Gnu)] {
        let place = Place::new();
        place.source(parts);
        let source = place.build("source", whole_seconds);
        let archive = place.path(format);
        let script = format!(
            "import sys, tarfile\nwith tarfile.open(sys.argv[1], 'w', format=tarfile.{format}_FORMAT) as t: t.add(sys.argv[2], '.')"
        );
        run(Command::new("python3").args(["-c", &script]).args([&archive, &source]));
        place.compare(&archive);
        assert_same(format, &source, &place.path(&format!("{format}.ours")));
    }
}

/// Names in any order: children before their parents, parents never, directories that the archive comes back to.
#[test]
fn entries_in_any_order() {
    let place = Place::new();
    place.source(Parts::Pax);
    let names = "./locked/inner/file ./etc/motd ./locked/inner ./etc ./usr/lib/libx.so ./locked ./usr/lib/one-block ./usr/lib ./acl/sub/plain \
                 ./acl ./acl/inherits ./acl/sub ./etc/empty ./bin/run . ./etc/motd.again ./usr/share/doc";
    let archive = place.path("unordered");
    let mut tar = Command::new("tar");
    tar.args(["--format=posix", "--numeric-owner", "--no-recursion"]).args(ATTRIBUTES);
    run(tar.arg("-cf").arg(&archive).arg("-C").arg(place.path("source")).args(names.split_whitespace()));
    let gnu = place.gnu_tar(&archive, "gnu");
    let (ours, _) = place.ours(&archive, "ours");
    let all_but_times = ManifestOptions::new().with_directory_times(DirectoryTimes::Ignored);
    assert_manifests("unordered", &all_but_times.read(&gnu).unwrap(), &all_but_times.read(&ours).unwrap());
    // GNU tar loses the times of directories that the archive comes back to.
    for described in ["locked", "locked/inner", "etc", "etc/empty", "usr/lib", "usr/share/doc", "acl", "acl/sub", ""] {
        let time = |dir: &Path| {
            let metadata = fs::metadata(dir.join(described)).unwrap();
            (metadata.mtime(), metadata.mtime_nsec())
        };
        assert_eq!(time(&ours), time(&place.path("source")), "{described}");
    }
}

#[test]
fn the_last_of_several_entries_wins() {
    let place = Place::new();
    let source = place.build("source", "mkdir d; printf one > f; printf two > d/f; ln -s d l; touch -d 2001-01-01 f d/f d");
    let archive = place.path("twice");
    let tar = |mode: &str, names: &[&str]| {
        run(Command::new("tar").arg("-C").arg(&source).args(["--format=posix", mode]).arg(&archive).args(names))
    };
    tar("-cf", &["f", "d", "l"]);
    place.build("source", "printf three > f; rm l; ln f hard; ln -s f l; printf four > d/g; touch -d 2002-02-02 f d/g d");
    tar("-rf", &["f", "hard", "d", "l"]);
    tar("-rf", &["f", "hard"]);
    place.compare(&archive);
    assert_eq!(fs::read(place.path("twice.ours/f")).unwrap(), b"three");

    // From here on GNU tar gives up; the last entry wins with us all the same.
    let source = place.build(
        "source",
        "rm -rf f d l hard; mkdir f; printf in > f/x; printf file > d; mkdir l; printf real > l/x; touch -d 2003-03-03 f l d",
    );
    tar("-rf", &["f", "d", "l"]);
    let (ours, _) = place.ours(&archive, "ours");
    fs::remove_file(ours.join("hard")).unwrap();
    File::open(&source).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    File::open(&ours).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::set_permissions(&ours, fs::metadata(&source).unwrap().permissions()).unwrap();
    assert_same("replaced", &source, &ours);
}

#[test]
fn a_directory_takes_the_metadata_of_its_last_entry() {
    let place = Place::new();
    let source = place.build(
        "source",
        "mkdir d other; printf x > d/f; printf x > other/f
         setfacl -m u:4243:rwx d; setfacl -d -m u:4244:rwx d; setfattr -n user.first -v 1 d; chmod 0750 d",
    );
    let archive = place.path("again");
    let tar = |mode: &str, names: &[&str]| {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&source).args(["--format=posix", "--no-recursion"]).args(ATTRIBUTES);
        run(tar.arg(mode).arg(&archive).args(names))
    };
    tar("-cf", &["d", "d/f", "other", "other/f"]);
    place.build("source", "setfacl -b d; setfattr -x user.first d; setfattr -n user.second -v 2 d; chmod 0711 d; printf y > d/g; touch -d 2001-01-01 d");
    tar("-rf", &["d", "other/f", "d/g"]);
    let (ours, _) = place.ours(&archive, "ours");
    // Attributes that the last entry does not speak of stay, as with GNU tar.
    place.build("source", "setfattr -n user.first -v 1 d; touch -d 2001-01-01 d");
    assert_same("again", &source.join("d"), &ours.join("d"));
}

#[test]
fn an_acl_of_names_is_a_loss_that_opens_nothing() {
    let place = Place::new();
    // GNU tar writes the name of user 2, up to 1.34 also when it is told to write numbers; number 70000 has none.
    place.build(
        "source",
        "printf x > named; chmod 0640 named; setfacl -m u:2:rwx,g::r-- named; printf x > numbered; setfacl -m u:70000:rwx numbered",
    );
    let name = run(Command::new("getent").args(["passwd", "2"]));
    assert!(!name.starts_with('2'), "user 2 has no name here");
    let archive = place.archive("names", "tar", &["--format=posix", "--acls"]);
    let (ours, unpacked) = place.ours(&archive, "ours");
    let lost: Vec<_> = unpacked.losses.iter().map(|loss| (&loss.kind, loss.examples.join(" "))).collect();
    assert_eq!(lost, [(&LossKind::Acl, "named".to_owned())]);
    // The archive has 0670, whose group bits are the ACL's mask; its group had no more than reading.
    assert_eq!(fs::metadata(ours.join("named")).unwrap().mode() & 0o7777, 0o640);
    let acl = |path: &Path| run(Command::new("getfacl").args(["--omit-header", "--numeric", "--absolute-names"]).arg(path));
    assert_eq!(acl(&ours.join("numbered")), acl(&place.path("source/numbered")));
    let strict = UnpackOptions::default().with_losses(LossPolicy::Refuse);
    let again = place.build("again", "");
    assert_eq!(extract(&archive, &again, &strict).unwrap_err().kind(), ErrorKind::Lossy);
}

#[test]
fn links_on_the_way_lead_to_where_they_lead_in_the_root() {
    let place = Place::new();
    place.build("source", "mkdir -p usr/lib; ln -s usr/lib lib; ln -s /usr/lib lib64; printf x > usr/lib/a; printf y > usr/lib/b; touch -d 2001-01-01 usr/lib");
    let archive = place.path("merged");
    let mut tar = Command::new("tar");
    // The same files again, under the links.
    tar.args(["--no-recursion", "--transform=s,^\\./first/,./lib/,S", "--transform=s,^\\./second/,./lib64/,S"]);
    place.build("source", "mkdir first second; printf x > first/x.so; printf y > second/y.so");
    tar.arg("-cf").arg(&archive).arg("-C").arg(place.path("source"));
    run(tar.args(["./usr", "./usr/lib", "./lib", "./lib64", "./usr/lib/a", "./first/x.so", "./second/y.so", "./usr/lib/b"]));
    let (ours, _) = place.ours(&archive, "ours");
    let names = |path: &str| {
        let mut names: Vec<_> = fs::read_dir(ours.join(path)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("usr/lib"), ["a", "b", "x.so", "y.so"]);
    assert_eq!(names(""), ["lib", "lib64", "usr"]);
    // The directory was left, and entered again through the links; its time is that of its entry.
    assert_eq!(fs::metadata(ours.join("usr/lib")).unwrap().mtime(), fs::metadata(place.path("source/usr/lib")).unwrap().mtime());
}

#[test]
fn the_root_is_the_images_or_the_callers() {
    let place = Place::new();
    place.build("source", "printf x > f; mkdir sub; printf y > sub/g; chmod 0710 .; touch -d 2001-01-01 sub .; setfattr -n user.reroot.image -v x .; setfattr -n user.other -v y .");
    let mut flags = vec!["--format=posix"];
    flags.extend(ATTRIBUTES);
    let archive = place.archive("root", "tar", &flags);
    let (taken, kept, stripped) = (place.path("taken"), place.path("kept"), place.path("stripped"));
    for dir in [&taken, &kept, &stripped] {
        fs::create_dir(dir).unwrap();
        run(Command::new("setfacl").args(["-d", "-m", "u:6:rwx"]).arg(dir));
        fs::set_permissions(dir, fs::Permissions::from_mode(0o750)).unwrap();
    }
    let xattrs = |path: &Path| -> Vec<String> {
        let manifest = Manifest::of(path).unwrap();
        manifest.root().xattrs.iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    };
    let options = UnpackOptions::default();
    extract(&archive, &taken, &options).unwrap();
    assert_eq!(fs::metadata(&taken).unwrap().mode() & 0o7777, 0o710);
    // The record of another root is not ours, and the manifest leaves it out: ask for the attribute itself.
    let record = Command::new("getfattr").args(["--absolute-names", "-n", "user.reroot.image"]).arg(&taken).output().unwrap();
    assert!(!record.status.success());
    assert_eq!(xattrs(&taken), ["user.other"]);
    assert_eq!(fs::metadata(&taken).unwrap().mtime(), fs::metadata(place.path("source")).unwrap().mtime());

    extract(&archive, &kept, &options.clone().with_root(RootMetadata::Keep)).unwrap();
    assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(xattrs(&kept), ["system.posix_acl_default"]);
    // Nothing inherited the ACL that the directory has for what is made in it.
    for inside in ["f", "sub", "sub/g"] {
        assert_eq!(xattrs_of(&kept.join(inside)), "", "{inside}");
    }

    extract(&archive, &stripped, &options.with_strip("sub".parse().unwrap())).unwrap();
    assert_eq!(fs::read(stripped.join("g")).unwrap(), b"y");
    assert!(!stripped.join("f").exists());
    assert_eq!(fs::metadata(&stripped).unwrap().mtime(), fs::metadata(place.path("source/sub")).unwrap().mtime());
}

fn xattrs_of(path: &Path) -> String {
    run(Command::new("getfattr").args(["--absolute-names", "-h", "-m", "-", "-d"]).arg(path))
}

#[test]
fn devices_are_made_skipped_or_refused() {
    if !root_for("policies on devices") {
        return;
    }
    let place = Place::new();
    // Container tools make a hard link of the second name of a node, other than the three programs above.
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name) in [(tar::EntryType::Char, "null"), (tar::EntryType::Regular, "f"), (tar::EntryType::Link, "again")] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        for set in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_size, tar::Header::set_mtime] {
            set(&mut header, 0);
        }
        if kind == tar::EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        if kind == tar::EntryType::Link {
            header.set_link_name("null").unwrap();
        }
        header.set_path(name).unwrap();
        header.set_cksum();
        builder.append(&header, std::io::empty()).unwrap();
    }
    let archive = place.path("devices");
    fs::write(&archive, builder.into_inner().unwrap()).unwrap();
    let into = |name: &str, policy| {
        let dir = place.path(name);
        fs::create_dir(&dir).unwrap();
        let options = UnpackOptions::default().with_devices(policy);
        let scanned = scan(File::open(&archive).unwrap(), &options, &mut NoHooks);
        let result = extract(&archive, &dir, &options);
        assert_eq!(scanned.as_ref().map(|tally| *tally).ok(), result.as_ref().map(|done| done.tally).ok());
        (dir, result)
    };
    let (dir, result) = into("created", DevicePolicy::Create);
    assert_eq!(result.unwrap().tally.entries, 3);
    assert_eq!(fs::metadata(dir.join("again")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(dir.join("null")).unwrap().rdev(), nix::libc::makedev(1, 3));
    let (dir, result) = into("skipped", DevicePolicy::Skip);
    assert!(result.unwrap().losses.is_empty());
    assert!(dir.join("f").exists() && !dir.join("null").exists() && !dir.join("again").exists());
    let (_, result) = into("refused", DevicePolicy::Refuse);
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage);
    assert!(error.context().any(|(key, value)| key == "entry" && value == "null"), "{error}");
}

#[test]
fn an_ordinary_user_keeps_what_the_kernel_lets_them_keep() {
    const VARIABLE: &str = "REROOT_TEST_UNPACK_USER";
    if let Some(folder) = std::env::var_os(VARIABLE) {
        return as_ordinary_user(Path::new(&folder));
    }
    let place = Place::new();
    place.source(Parts::Pax);
    // GNU tar, which makes the file read-only first, cannot extract this as an ordinary user.
    place.build("source/locked/inner", "chmod u+w file; setfattr -n user.readonly -v yes file; chmod u-w file");
    let mut flags = vec!["--format=posix", "--numeric-owner", "--sort=name"];
    flags.extend(ATTRIBUTES);
    place.archive("all.tar", "tar", &flags);
    let less = [
        &flags[..],
        &["--exclude=./dev", "--exclude=./bin", "--exclude=./setgid-dir", "--exclude=two-blocks", "--exclude=./locked"],
    ]
    .concat();
    place.archive("less.tar", "tar", &less);
    let exe = std::env::current_exe().unwrap();
    let test = "an_ordinary_user_keeps_what_the_kernel_lets_them_keep";
    let folder = place.path("");
    if !is_root() {
        return again(&["env"], &exe, test, VARIABLE, &folder);
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    // An ordinary user may not be able to reach the build folder.
    let copy = place.path("exe");
    fs::copy(&exe, &copy).unwrap();
    fs::create_dir(place.path("user")).unwrap();
    std::os::unix::fs::chown(place.path("user"), Some(65534), Some(65534)).unwrap();
    again(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], &copy, test, VARIABLE, &folder);
}

fn as_ordinary_user(folder: &Path) {
    let user = if folder.join("user").exists() { folder.join("user") } else { folder.to_path_buf() };
    let into = |name: &str| {
        let dir = user.join(name);
        fs::create_dir(&dir).unwrap();
        dir
    };
    // Where nothing is set-user-id, a node, or read-only with attributes, GNU tar keeps as much.
    let (gnu, ours) = (into("gnu"), into("ours"));
    let flags = ["--numeric-owner", "--xattrs", "--xattrs-include=user.*", "--acls", "-xpf"];
    run(Command::new("tar").arg("-C").arg(&gnu).args(flags).arg(folder.join("less.tar")));
    extract(&folder.join("less.tar"), &ours, &UnpackOptions::default()).unwrap();
    assert_same("as an ordinary user", &gnu, &ours);

    let ours = into("all");
    let unpacked = extract(&folder.join("all.tar"), &ours, &UnpackOptions::default()).unwrap();
    let kinds: Vec<_> = unpacked.losses.iter().map(|loss| loss.kind.clone()).collect();
    if user != folder {
        for kind in [
            LossKind::Owner,
            LossKind::SetId,
            LossKind::Device,
            LossKind::Xattr("security".into()),
            LossKind::Xattr("trusted".into()),
        ] {
            assert!(kinds.contains(&kind), "{kind} is missing in {}", unpacked.losses);
        }
        assert_eq!(fs::metadata(ours.join("bin/run")).unwrap().mode() & 0o7000, 0);
        assert!(!ours.join("dev/null").exists());
        let refuse = UnpackOptions::default().with_losses(LossPolicy::Refuse);
        assert_eq!(extract(&folder.join("all.tar"), &into("refused"), &refuse).unwrap_err().kind(), ErrorKind::Lossy);
    }
    assert_eq!(fs::metadata(ours.join("bin/run")).unwrap().uid(), nix::unistd::geteuid().as_raw());
    assert!(!kinds.contains(&LossKind::Xattr("user".into())) && !kinds.contains(&LossKind::Acl), "{}", unpacked.losses);
    assert_eq!(fs::metadata(ours.join("locked")).unwrap().mode() & 0o7777, 0o555);
    let _ = Command::new("chmod").args(["-R", "u+rwx", "--"]).arg(&user).status();
}

/// Makes room by letting the file system grow.
struct Grow<'a> {
    mount: &'a Path,
    grown: Vec<Space>,
}

impl Hooks for Grow<'_> {
    fn entry(&mut self, _: &Tally) -> reroot::Result<()> {
        Ok(())
    }

    fn full(&mut self, space: Space, error: Error) -> reroot::Result<()> {
        if self.grown.len() >= 40 {
            return Err(error);
        }
        self.grown.push(space);
        let times = |wanted| self.grown.iter().filter(|&&space| space == wanted).count();
        let sizes = format!("remount,size={}k,nr_inodes={}", 512 + 512 * times(Space::Pool), 12 + 8 * times(Space::Inodes));
        run(Command::new("mount").args(["-o", &sizes]).arg(self.mount));
        Ok(())
    }
}

#[test]
fn a_full_disk_may_grow_and_nothing_is_lost() {
    const VARIABLE: &str = "REROOT_TEST_UNPACK_FULL";
    let test = "a_full_disk_may_grow_and_nothing_is_lost";
    if let Some(folder) = std::env::var_os(VARIABLE) {
        let (folder, mount) = (Path::new(&folder), Path::new(&folder).join("mount"));
        let mounted = |options: &str| {
            run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&mount));
            fs::create_dir(mount.join("root")).unwrap();
            File::open(mount.join("root")).unwrap()
        };
        let archive = || File::open(folder.join("image")).unwrap();
        let mut grow = Grow { mount: &mount, grown: Vec::new() };
        let root = mounted("size=512k,nr_inodes=12");
        unpack(archive(), root.as_fd(), &UnpackOptions::default(), &mut grow).unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(grow.grown.contains(&Space::Pool) && grow.grown.contains(&Space::Inodes), "{:?}", grow.grown);
        assert_same("grown", &folder.join("source"), &mount.join("root"));
        drop(root);
        run(Command::new("umount").arg(&mount));
        let root = mounted("size=512k");
        let error = unpack(archive(), root.as_fd(), &UnpackOptions::default(), &mut NoHooks).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace(Space::Pool));
        assert!(error.context().any(|(key, _)| key == "entry"), "{error}");
        return;
    }
    if !root_for("a full disk") {
        return;
    }
    let place = Place::new();
    place.build("source", "mkdir a b; for n in $(seq 40); do printf $n > a/$n; ln -s a/$n b/$n; done; head -c 4000000 /dev/urandom > big; printf x > z; touch -d 2001-01-01 a b .");
    place.archive("image", "tar", &["--format=posix", "--sort=name"]);
    fs::create_dir(place.path("mount")).unwrap();
    // What is mounted goes with the mount namespace, however the test ends.
    let exe = std::env::current_exe().unwrap();
    again(&["unshare", "--mount", "--propagation=private"], &exe, test, VARIABLE, &place.path(""));
}

#[test]
fn a_deep_tree_takes_few_descriptors() {
    const VARIABLE: &str = "REROOT_TEST_UNPACK_DEEP";
    if let Some(folder) = std::env::var_os(VARIABLE) {
        let folder = Path::new(&folder);
        extract(&folder.join("deep"), &folder.join("ours"), &UnpackOptions::default())
            .unwrap_or_else(|error| panic!("{}", error.report()));
        return;
    }
    let place = Place::new();
    // Down to the ground, then back up with an entry on every floor.
    let script = r#"mkdir -p "$(printf 'd/%.0s' $(seq 1000))"; p=.; for n in $(seq 1000); do p=$p/d; printf $n > $p/z; touch -d 2001-01-01 $p; done; touch -d 2001-01-01 ."#;
    place.build("source", script);
    place.archive("deep", "tar", &["--format=posix", "--sort=name"]);
    fs::create_dir(place.path("ours")).unwrap();
    let exe = std::env::current_exe().unwrap();
    again(&["prlimit", "--nofile=64"], &exe, "a_deep_tree_takes_few_descriptors", VARIABLE, &place.path(""));
    assert_same("deep", &place.path("source"), &place.path("ours"));
}

/// Counts calls, and stops at one of them.
struct Stop {
    calls: u64,
    at: u64,
}

impl Hooks for Stop {
    fn entry(&mut self, _: &Tally) -> reroot::Result<()> {
        self.calls += 1;
        if self.calls == self.at {
            return Err(Error::new(ErrorKind::Cancelled, "unpack", "enough"));
        }
        Ok(())
    }
}

#[test]
fn the_caller_follows_and_stops_it() {
    let place = Place::new();
    place.build("source", "head -c 10000000 /dev/zero > big; printf x > z");
    let archive = place.archive("image", "tar", &["--sort=name"]);
    let root = place.build("root", "");
    let go = |at| {
        let mut hooks = Stop { calls: 0, at };
        let result =
            unpack(File::open(&archive).unwrap(), File::open(&root).unwrap().as_fd(), &UnpackOptions::default(), &mut hooks);
        (result, hooks.calls)
    };
    let (result, calls) = go(0);
    let tally = result.unwrap().tally;
    assert_eq!((tally.entries, tally.bytes.bytes()), (3, 10_000_001));
    assert!(calls >= 3 + 9, "{calls} calls in 10 MB");
    let (result, calls) = go(5);
    assert_eq!((result.unwrap_err().kind(), calls), (ErrorKind::Cancelled, 5));
}

#[test]
fn what_follows_the_end_marker_is_passed_over_within_a_limit() {
    use std::io::Read;
    let place = Place::new();
    place.build("source", "printf x > f");
    let archive = fs::read(place.archive("image", "tar", &[])).unwrap();
    let root = place.build("root", "");
    let take = |filler: u8, length: u64| {
        let mut stream = archive.chain(std::io::repeat(filler).take(length));
        let result = unpack(&mut stream, File::open(&root).unwrap().as_fd(), &UnpackOptions::default(), &mut NoHooks);
        let mut left = Vec::new();
        stream.read_to_end(&mut left).unwrap();
        result.map(|_| left.len())
    };
    assert_eq!(take(b'!', 1 << 20).unwrap(), 0);
    assert_eq!(take(0, 60 << 20).unwrap(), 0);
    assert_eq!(take(0, 1 << 30).unwrap_err().kind(), ErrorKind::LimitExceeded);
}

#[test]
fn names_that_no_terminal_should_see_raw() {
    let place = Place::new();
    place.build("source", r#"printf x > "$(printf 'a\033[2Jb\n')"; mkdir d; printf y > d/f"#);
    let archive = place.archive("image", "tar", &["--sort=name"]);
    let bytes = fs::read(&archive).unwrap();
    let root = place.build("root", "");
    let cut = bytes.len().min(1024 + 100);
    let error = unpack(&bytes[..cut], File::open(&root).unwrap().as_fd(), &UnpackOptions::default(), &mut NoHooks).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage);
    assert!(!error.report().to_string().contains('\x1b'));
}

#[test]
fn wide_and_deep_trees_of_small_files_take_few_descriptors() {
    const VARIABLE: &str = "REROOT_TEST_UNPACK_NESTED";
    if let Some(folder) = std::env::var_os(VARIABLE) {
        let folder = Path::new(&folder);
        extract(&folder.join("nested"), &folder.join("ours"), &UnpackOptions::default())
            .unwrap_or_else(|error| panic!("{}", error.report()));
        return;
    }
    let place = Place::new();
    // Each directory has a file that may still be on its way when the next one is made.
    let script = r#"p=.; for n in $(seq 150); do p=$p/d$n; mkdir $p; printf $n > $p/a; printf $n > $p/b; done
        for n in $(seq 300); do mkdir w$n; printf $n > w$n/a; done; find . -depth -exec touch -h -d 2001-01-01 {} +"#;
    place.build("source", script);
    place.archive("nested", "tar", &["--format=posix", "--sort=name"]);
    fs::create_dir(place.path("ours")).unwrap();
    let exe = std::env::current_exe().unwrap();
    let test = "wide_and_deep_trees_of_small_files_take_few_descriptors";
    again(&["prlimit", "--nofile=64"], &exe, test, VARIABLE, &place.path(""));
    assert_same("nested", &place.path("source"), &place.path("ours"));
}

#[test]
fn ids_that_a_user_namespace_does_not_know_are_losses() {
    const VARIABLE: &str = "REROOT_TEST_UNPACK_NAMESPACE";
    let test = "ids_that_a_user_namespace_does_not_know_are_losses";
    if let Some(folder) = std::env::var_os(VARIABLE) {
        let folder = Path::new(&folder);
        let unpacked = extract(&folder.join("acl"), &folder.join("ours"), &UnpackOptions::default())
            .unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(unpacked.losses.iter().any(|loss| loss.kind == LossKind::Acl), "{}", unpacked.losses);
        assert_eq!(fs::read(folder.join("ours/f")).unwrap(), b"x");
        return;
    }
    if !std::process::Command::new("unshare").args(["--user", "--map-root-user", "true"]).status().unwrap().success() {
        assert!(std::env::var_os("REROOT_REQUIRE").is_none(), "no user namespace can be had");
        eprintln!("SKIPPED {test}: no user namespace can be had");
        return;
    }
    let place = Place::new();
    place.build("source", "printf x > f; setfacl -m u:70000:rwx f");
    place.archive("acl", "tar", &["--format=posix", "--acls"]);
    fs::create_dir(place.path("ours")).unwrap();
    let exe = std::env::current_exe().unwrap();
    again(&["unshare", "--user", "--map-root-user"], &exe, test, VARIABLE, &place.path(""));
}

/// Makes a file at its first call, as a log would be.
struct Log(std::path::PathBuf);

impl Hooks for Log {
    fn entry(&mut self, _: &Tally) -> reroot::Result<()> {
        if !self.0.exists() {
            fs::write(&self.0, "").unwrap();
        }
        Ok(())
    }
}

#[test]
fn what_a_hook_makes_has_the_mode_that_the_process_gives() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    place.build("source", "printf x > f");
    let archive = place.archive("image", "tar", &[]);
    let root = place.build("root", "");
    fs::write(place.path("here"), "").unwrap();
    let mut log = Log(place.path("there"));
    unpack(File::open(archive).unwrap(), File::open(root).unwrap().as_fd(), &UnpackOptions::default(), &mut log).unwrap();
    let mode = |name| fs::metadata(place.path(name)).unwrap().mode();
    assert_eq!(mode("there"), mode("here"));
}
