//! Trees, archives made of them by other people's programs, and what GNU tar makes of these archives.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use reroot::conformance::manifest::{DirectoryTimes, Manifest, ManifestOptions};
use reroot::unpack::{NoHooks, UnpackOptions, Unpacked, unpack};

/// Everything that an ordinary user can make and that every format can hold.
const PLAIN: &str = r#"
umask 022
mkdir -p bin usr/lib usr/share/doc etc/empty var/tmp locked/inner
printf 'hello\n' > etc/motd
: > etc/nothing
head -c 300000 /dev/urandom > usr/lib/libx.so.1
head -c 512 /dev/zero > usr/lib/one-block
head -c 513 /dev/zero > usr/lib/two-blocks
ln -s libx.so.1 usr/lib/libx.so
ln -s usr/lib lib
ln -s /nowhere/at/all etc/dangling
ln etc/motd etc/motd.again
ln etc/motd usr/share/doc/motd
printf '#!/bin/sh\n' > bin/run
chmod 0755 bin/run
chmod 1777 var/tmp
printf x > locked/inner/file
printf x > "$(printf 'etc/caf\351 \\ \n new')"
touch -d '1985-01-02 03:04:05' etc/motd
touch -h -d '2001-02-03 04:05:06' usr/lib/libx.so
touch -d '1999-12-31 23:59:59' etc/empty usr/share/doc usr/share
chmod 0400 locked/inner/file
chmod 0555 locked/inner locked
chmod 0700 var
"#;

/// What v7 cannot hold: a fifo, long names.
const LONG: &str = r#"
mkfifo -m 0620 etc/fifo
d=$(printf 'd%.0s' $(seq 120))
mkdir -p "$d/$d/$d"
printf long > "$d/$d/$d/$(printf 'n%.0s' $(seq 240))"
ln -s "$d/$d/$d/$(printf 'n%.0s' $(seq 240))" long-link
ln "$d/$d/$d/$(printf 'n%.0s' $(seq 240))" "$d/hard"
touch -d '2010-01-01' "$d/$d" "$d"
"#;

/// What only ustar's limits allow: names of up to 255 bytes that break at a slash.
const USTAR: &str = r#"
mkfifo -m 0620 etc/fifo
d=$(printf 'd%.0s' $(seq 90))
mkdir -p "$d"
printf long > "$d/$(printf 'n%.0s' $(seq 99))"
touch -d '2010-01-01' "$d"
"#;

/// Owners, setuid bits and nodes, which take root.
const ROOT_ONLY: &str = r#"
chown 12345:54321 etc/motd
chown -h 7:8 usr/lib/libx.so lib
chown 33:33 var/tmp etc/empty
chmod 4755 bin/run
printf x > bin/setgid; chown 0:42 bin/setgid; chmod 2755 bin/setgid
mkdir setgid-dir; chown 0:42 setgid-dir; chmod 2775 setgid-dir; printf x > setgid-dir/f
mkdir dev
mknod -m 0666 dev/null c 1 3
mknod -m 0660 dev/loop9 b 7 9
mknod -m 0600 dev/far c 300 70000
touch -d '2011-01-01' setgid-dir dev
"#;

/// Times, attributes and ACLs, which only PAX holds.
const PAX: &str = r#"
touch -d '1969-12-31 23:59:58.25 UTC' etc/nothing
touch -h -d '2020-02-03 04:05:06.123456789' lib
touch -d '2030-02-03 04:05:06.000000001' bin
setfattr -n user.comment -v 0x00ff0a3d usr/lib/one-block
setfattr -n user.empty usr/lib/one-block
setfattr -n user.dir -v value etc/empty
setfacl -m u:4242:rw,g:4277:x,m::rx bin/run
mkdir acl; setfacl -m u:4243:rwx acl; setfacl -d -m u:4244:rwx,g:4245:r acl
printf x > acl/inherits; mkdir acl/sub
setfacl -b acl/sub; printf x > acl/sub/plain; setfacl -b acl/inherits
touch -d '2012-01-01 00:00:00.5' acl/sub acl
"#;

const PAX_ROOT_ONLY: &str = r#"
chown 4321:4321 usr/lib/two-blocks
chmod 4755 usr/lib/two-blocks
setcap cap_net_raw=ep usr/lib/two-blocks
setfattr -n trusted.thing -v 0x010203 etc/empty
setfattr -h -n trusted.link -v onlink lib
setfattr -n security.thing -v dev dev/null
touch -d '2013-01-01 00:00:00.7' etc usr/lib usr bin
"#;

const SPARSE: &str = r#"
mkdir sparse
truncate -s 1M sparse/all-hole
truncate -s 0 sparse/nothing
truncate -s 2M sparse/middle; printf begin | dd of=sparse/middle conv=notrunc status=none
printf end | dd of=sparse/middle bs=1 seek=2097149 conv=notrunc status=none
truncate -s 600K sparse/start; printf x | dd of=sparse/start bs=1K seek=400 conv=notrunc status=none
printf data > sparse/end; truncate -s 500001 sparse/end
truncate -s 4M sparse/many
for n in $(seq 1 60); do printf "$n" | dd of=sparse/many bs=64K seek=$n conv=notrunc status=none; done
"#;

/// What a tree is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    V7,
    Ustar,
    Gnu,
    Pax,
}

/// A folder for one test: `source`, archives of it, and what comes out of these.
#[derive(Debug)]
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Place(tempfile::Builder::new().prefix("reroot-unpack-").tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a script in the folder `name`, which is made.
    pub(crate) fn build(&self, name: &str, script: &str) -> PathBuf {
        let dir = self.path(name);
        fs::create_dir_all(&dir).unwrap();
        let script = format!("set -eu; export LC_ALL=C; {script}");
        run(Command::new("bash").current_dir(&dir).args(["-c", &script]));
        dir
    }

    /// Makes the folder `source` with all that `parts` and the caller's privileges allow.
    pub(crate) fn source(&self, parts: Parts) -> PathBuf {
        let root = is_root();
        let long = match parts {
            Parts::V7 => "",
            Parts::Ustar => USTAR,
            Parts::Gnu | Parts::Pax => LONG,
        };
        // v7 has no device nodes.
        let nodes = if root && parts != Parts::V7 { ROOT_ONLY } else { "" };
        let nodes = if parts == Parts::Ustar { nodes.replace("mknod -m 0600 dev/far c 300 70000", "") } else { nodes.to_owned() };
        let pax = if parts == Parts::Pax { PAX } else { "" };
        let pax_root = if parts == Parts::Pax && root { PAX_ROOT_ONLY } else { "" };
        let sparse = if parts == Parts::V7 || parts == Parts::Ustar { "" } else { SPARSE };
        let end = "touch -d '2005-05-05 05:05:05' .; chmod 0751 .";
        self.build("source", &[PLAIN, long, &nodes, sparse, pax, pax_root, end].join("\n"))
    }

    /// An archive of `source` made by `program`, an argument a word.
    pub(crate) fn archive(&self, name: &str, program: &str, arguments: &[&str]) -> PathBuf {
        let archive = self.path(name);
        run(Command::new(program)
            .env("LC_ALL", "C")
            .args(arguments)
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(self.path("source"))
            .arg("."));
        archive
    }

    /// What GNU tar makes of an archive.
    pub(crate) fn gnu_tar(&self, archive: &Path, into: &str) -> PathBuf {
        let dir = self.path(into);
        fs::create_dir(&dir).unwrap();
        let flags = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-xpf"];
        run(Command::new("tar").env("LC_ALL", "C").arg("-C").arg(&dir).args(flags).arg(archive));
        dir
    }

    /// What we make of it.
    pub(crate) fn ours(&self, archive: &Path, into: &str) -> (PathBuf, Unpacked) {
        let dir = self.path(into);
        fs::create_dir(&dir).unwrap();
        let unpacked = extract(archive, &dir, &UnpackOptions::default()).unwrap_or_else(|error| panic!("{}", error.report()));
        (dir, unpacked)
    }

    /// Both, compared in full.
    pub(crate) fn compare(&self, archive: &Path) -> Unpacked {
        let name = archive.file_name().unwrap().to_str().unwrap();
        let gnu = self.gnu_tar(archive, &format!("{name}.gnu"));
        let (ours, unpacked) = self.ours(archive, &format!("{name}.ours"));
        // Where the archive says nothing of its top, that has the time at which it was filled.
        let read = |path: &Path| ManifestOptions::new().with_directory_times(DirectoryTimes::IgnoredOfRoot).read(path).unwrap();
        assert_manifests(name, &read(&gnu), &read(&ours));
        unpacked
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !is_root() {
            let _ = Command::new("chmod").args(["-R", "u+rwx", "--"]).arg(self.0.path()).status();
        }
    }
}

pub(crate) fn extract(archive: &Path, into: &Path, options: &UnpackOptions) -> reroot::Result<Unpacked> {
    unpack(File::open(archive).unwrap(), File::open(into).unwrap().as_fd(), options, &mut NoHooks)
}

#[track_caller]
pub(crate) fn assert_same(what: &str, expected: &Path, found: &Path) {
    let read = |path| ManifestOptions::new().read(path).unwrap();
    assert_manifests(what, &read(expected), &read(found));
}

#[track_caller]
pub(crate) fn assert_manifests(what: &str, expected: &Manifest, found: &Manifest) {
    let differences = expected.diff(found);
    assert!(differences.is_empty(), "{what}: {differences}");
}

#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says why a test cannot run, which is a failure where everything is to be there.
pub(crate) fn not_tested(what: &str, why: &str) {
    assert!(std::env::var_os("REROOT_REQUIRE").is_none_or(|value| value != "1"), "cannot test {what}: {why}");
    eprintln!("not tested, {what}: {why}");
}

/// Whether the caller is root, which `what` needs.
pub(crate) fn root_for(what: &str) -> bool {
    if !is_root() {
        not_tested(what, "it needs root");
    }
    is_root()
}

/// Runs one test of this program again, in a child that `wrapper` starts, with `variable` set.
#[track_caller]
pub(crate) fn again(wrapper: &[&str], exe: &Path, test: &str, variable: &str, value: &Path) {
    let mut command = Command::new("timeout");
    command.arg("120").args(wrapper).arg(exe).args(["--exact", test, "--nocapture"]).env(variable, value);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
