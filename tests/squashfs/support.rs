//! Trees, images that mksquashfs makes of them, and these unpacked.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use reroot::Result;
use reroot::conformance::manifest::Manifest;
use reroot::unpack::{NoHooks, UnpackOptions, Unpacked, unpack_squashfs};

/// Whole seconds, as squashfs has no others.
const TIMES: &str =
    "find . -exec touch -h -d '2001-02-03 04:05:06' {} +; touch -d '1985-01-02 03:04:05' etc/motd etc; touch -d '2100-01-01' usr";

/// What an ordinary user could pack too, and what only root can. Hard links to symbolic links are not among it: mksquashfs takes them for two
/// when reading the first has changed its access time.
const TREE: &str = r#"
umask 022
mkdir -p bin usr/lib usr/share/doc etc/empty var/tmp locked/inner dev sizes many deep
printf 'hello\n' > etc/motd
ln etc/motd etc/motd.again; ln etc/motd usr/share/doc/motd
ln -s motd etc/link; ln -s /nowhere/at/all etc/dangling
ln -s "$(printf 'l%.0s' $(seq 4000))" etc/long-link
printf x > "$(printf 'etc/caf\351 \\ \n new')"
printf x > "etc/$(printf 'n%.0s' $(seq 255))"
mkfifo -m 0620 etc/fifo
mknod -m 0666 dev/null c 1 3; mknod -m 0660 dev/loop9 b 7 9; mknod -m 0600 dev/far c 300 70000
ln dev/null dev/null.again; ln etc/fifo etc/fifo.again
printf x > locked/inner/file; chmod 0 locked/inner/file locked/inner; chmod 0555 locked; chmod 1777 var/tmp
printf '#!/bin/sh\n' > bin/run; chown 12345:54321 bin/run; chmod 4755 bin/run
chown -h 4000000000:7 etc/link
for size in 0 1 4095 4096 4097 8191 8192 65535 65536 131071 131072 131073 262144 300001 1048575 1048576 1048577 2500000; do
  head -c $size /dev/urandom > sizes/random-$size
  yes "line $size" | head -c $size > sizes/text-$size
done
cp sizes/random-300001 sizes/copy-of-random
cp /bin/bash bin/bash
for n in $(seq 1 3000); do printf "$n" > many/file-$n; done
d=deep; for n in $(seq 1 60); do d=$d/level-$n; done; mkdir -p $d; printf deep > $d/file
setfattr -n user.comment -v 0x00ff0a3d etc/motd; setfattr -n user.empty etc/motd
setfattr -n trusted.thing -v 0x010203 etc/empty; setfattr -h -n trusted.link -v onlink etc/dangling
setfattr -n trusted.node -v x dev/null; setfattr -n trusted.fifo -v x etc/fifo; setfattr -n security.thing -v x dev/loop9
cp /bin/true bin/ping; setcap cap_net_raw=ep bin/ping
for n in $(seq 1 20); do printf x > etc/shared-$n; setfattr -n user.same -v "$(head -c 300 /dev/zero | tr '\0' s)" etc/shared-$n; done
printf x > etc/big; setfattr -n user.big -v "0x$(head -c 12000 /dev/urandom | od -An -v -tx1 | tr -d ' \n')" etc/big || printf 'no big attributes here\n' >&2
"#;

/// Holes at the start, in the middle and at the end, as far as squashfs knows them: whole blocks.
pub(crate) const SPARSE: &str = r#"
mkdir sparse
truncate -s 1M sparse/all-hole; truncate -s 300 sparse/small-hole
truncate -s 2M sparse/middle; printf begin | dd of=sparse/middle conv=notrunc status=none
printf end | dd of=sparse/middle bs=1 seek=2097149 conv=notrunc status=none
truncate -s 600K sparse/start; printf x | dd of=sparse/start bs=1K seek=400 conv=notrunc status=none
printf data > sparse/end; truncate -s 500001 sparse/end
truncate -s 4M sparse/many
for n in $(seq 1 2 60); do printf "$n" | dd of=sparse/many bs=64K seek=$n conv=notrunc status=none; done
truncate -s 3G sparse/huge; printf x | dd of=sparse/huge bs=1M seek=2000 conv=notrunc status=none
find . -exec touch -h -d '2001-02-03 04:05:06' {} +
"#;

/// A little of everything.
pub(crate) const SMALL: &str = r#"
mkdir -p a/b c
seq 1 9000 > a/numbers; printf x > a/b/x; ln a/b/x c/y; ln -s a/b/x c/link; mkfifo c/fifo
truncate -s 100000 c/hole; printf end >> c/hole
for n in $(seq 1 40); do printf "file $n" > a/file-$n; done
setfattr -n user.a -v one a/numbers; setfattr -n user.a -v one c/y; setfattr -n user.long -v "$(seq 1 100 | tr '\n' ' ')" a/b
"#;

/// Whether squashfs-tools are there, which is said if not.
pub(crate) fn is_available(what: &str) -> bool {
    if Command::new("mksquashfs").arg("-version").output().is_ok() {
        return true;
    }
    assert!(!required(), "cannot test {what}: mksquashfs is not installed (package squashfs-tools)");
    eprintln!("not tested, {what}: mksquashfs is not installed (package squashfs-tools)");
    false
}

/// A folder for one test that needs root; `None` where there is none, which is said.
pub(crate) fn place(what: &str) -> Option<Place> {
    if !is_available(what) {
        return None;
    }
    if nix::unistd::geteuid().is_root() {
        return Some(Place::new());
    }
    assert!(!required(), "cannot test {what}: owners and devices need root");
    eprintln!("not tested, {what}: owners and devices need root");
    None
}

fn required() -> bool {
    std::env::var_os("REROOT_REQUIRE").is_some_and(|value| value == "1")
}

/// A folder for one test.
#[derive(Debug)]
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Place(tempfile::Builder::new().prefix("reroot-squashfs-").tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a script in the folder `name`, which is made.
    pub(crate) fn build(&self, name: &str, script: &str) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        run(Command::new("bash").current_dir(&folder).args(["-euc", script]));
        folder
    }

    /// Everything that squashfs can hold, but holes of hundreds of megabytes.
    pub(crate) fn tree(&self) -> PathBuf {
        self.build("source", &[TREE, TIMES].join("\n"))
    }
}

#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Packs `source` into the image `name`.
#[track_caller]
pub(crate) fn pack(place: &Place, source: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let image = place.path(&format!("{name}.squashfs"));
    run(Command::new("mksquashfs").arg(source).arg(&image).args(["-noappend", "-no-progress", "-quiet"]).args(flags));
    image
}

pub(crate) fn try_unpack(image: &Path, into: &Path, options: &UnpackOptions) -> Result<Unpacked> {
    fs::create_dir(into).unwrap();
    let root = File::open(into).unwrap();
    unpack_squashfs(&File::open(image).unwrap(), root.as_fd(), options, &mut NoHooks)
}

#[track_caller]
pub(crate) fn unpack(image: &Path, into: &Path, options: &UnpackOptions) -> (PathBuf, Unpacked) {
    let unpacked = try_unpack(image, into, options).unwrap_or_else(|error| panic!("{}: {}", image.display(), error.report()));
    (into.to_owned(), unpacked)
}

#[track_caller]
pub(crate) fn assert_same(name: &str, expected: &Manifest, root: &Path) {
    let found = Manifest::of(root).unwrap();
    let differences = expected.diff(&found);
    assert!(differences.is_empty(), "{name}: {differences}");
}

/// A Debian root filesystem, unpacked with whole seconds and without ACLs, which squashfs does not hold; `None` where there is none, which is said.
pub(crate) fn debian(place: &Place) -> Option<PathBuf> {
    let script = format!("{}/tests/rootfs", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(script).output().unwrap();
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!required(), "cannot test a Debian root filesystem: {reason}");
        eprintln!("not tested, a Debian root filesystem: {reason}");
        return None;
    }
    let folder = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end());
    let source = place.path("debian");
    fs::create_dir(&source).unwrap();
    let flags = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"];
    run(Command::new("tar").arg("-C").arg(&source).args(flags).arg(folder.join("rootfs.tar")));
    run(Command::new("setfacl").args(["-R", "-P", "-b"]).arg(&source));
    run(Command::new("find").arg(&source).args(["-exec", "touch", "-h", "-d", "2001-02-03 04:05:06", "{}", "+"]));
    Some(source)
}
