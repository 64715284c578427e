use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("etc")).unwrap();
    fs::create_dir(at("etc.d")).unwrap();
    fs::write(at("etc/hosts"), "hosts").unwrap();
    fs::hard_link(at("etc/hosts"), at("hosts")).unwrap();
    symlink("/nowhere\n", at("link")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    fs::set_permissions(at("fifo"), fs::Permissions::from_mode(0o640)).unwrap();
    dir
}

fn changed(change: impl FnOnce(&Path)) -> String {
    let dir = tree();
    let options = ManifestOptions::new().with_directory_times(DirectoryTimes::Ignored).with_owners(Owners::Ignored);
    let before = options.read(dir.path()).unwrap();
    change(dir.path());
    let after = options.read(dir.path()).unwrap();
    let differences = before.diff(&after);
    assert_eq!(differences.is_empty(), before == after);
    differences.iter().map(|difference| difference.to_string() + "\n").collect()
}

#[test]
fn an_entry_a_line_in_preorder() {
    let dir = tree();
    let manifest = Manifest::of(dir.path()).unwrap();
    let paths: Vec<_> = manifest.entries().map(|entry| entry.path().display().to_string()).collect();
    assert_eq!(paths, ["", "etc", "etc/hosts", "etc.d", "fifo", "hosts", "link"]);
    let text = manifest.to_string();
    assert!(text.contains(" etc/hosts 5 4f8a2cc398d8664277a96a7843ab4958ab1d0a347cbe7c071fde0fcb58230793\n"), "{text}");
    assert!(text.contains(" link -> /nowhere\\n\n"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("p 0640 ") && line.ends_with(" fifo")), "{text}");
    assert!(text.lines().any(|line| line.contains(" hosts ") && line.ends_with(" linked to etc/hosts")), "{text}");
    assert_eq!(Manifest::of_fd(std::os::fd::AsFd::as_fd(&fs::File::open(dir.path()).unwrap())).unwrap(), manifest);
}

#[test]
fn every_change_shows() {
    assert_eq!(changed(|_| ()), "");
    let shown = changed(|dir| fs::write(dir.join("etc/hosts"), "HOSTS").unwrap());
    assert!(shown.starts_with("etc/hosts: type f 5 ") && shown.contains("\nhosts: type f 5 "), "{shown}");
    let shown = changed(|dir| fs::set_permissions(dir.join("etc.d"), fs::Permissions::from_mode(0o1700)).unwrap());
    assert_eq!(shown, "etc.d: mode 1700, not 0755\n");
    let shown = changed(|dir| {
        let file = fs::File::options().write(true).open(dir.join("hosts")).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::new(7, 1)).unwrap();
    });
    assert!(shown.contains("hosts: mtime 7.000000001, not "), "{shown}");
    let shown = changed(|dir| {
        fs::remove_file(dir.join("hosts")).unwrap();
        fs::copy(dir.join("etc/hosts"), dir.join("hosts")).unwrap();
    });
    assert!(shown.contains("hosts: ") && shown.contains("the first of its links, not linked to etc/hosts"), "{shown}");
    let shown = changed(|dir| fs::remove_dir_all(dir.join("etc")).unwrap());
    assert!(shown.starts_with("missing: d 0755 etc\nmissing: f 0644 "), "{shown}");
    assert!(shown.contains("hosts: the first of its links, not linked to etc/hosts"), "{shown}");
    let shown = changed(|dir| {
        fs::remove_file(dir.join("link")).unwrap();
        symlink("/elsewhere", dir.join("link")).unwrap();
        fs::create_dir_all(dir.join("etc.d/a/b")).unwrap();
        fs::create_dir(dir.join("zz")).unwrap();
    });
    assert!(shown.contains("unexpected: d 0755 etc.d/a\nunexpected: d 0755 etc.d/a/b\nlink: "), "{shown}");
    assert!(shown.contains("type l -> /elsewhere, not l -> /nowhere\\n"), "{shown}");
    assert!(shown.ends_with("unexpected: d 0755 zz\n"), "{shown}");
    let set = |dir: &Path, name: &std::ffi::CStr| {
        let dir = fs::File::open(dir).unwrap();
        crate::sys::xattr::set(crate::sys::xattr::Target::Fd(std::os::fd::AsFd::as_fd(&dir)), name, b"\x01z").unwrap();
    };
    assert_eq!(changed(|dir| set(&dir.join("etc.d"), c"user.x")), "etc.d: unexpected user.x 017a\n");
    assert_eq!(changed(|dir| set(dir, c"user.x")), ".: unexpected user.x 017a\n");
    assert_eq!(changed(|dir| set(dir, c"user.reroot.image")), "");
    assert_eq!(changed(|dir| set(&dir.join("etc"), c"user.reroot.image")), "etc: unexpected user.reroot.image 017a\n");
}

#[test]
fn many_differences_are_cut_short() {
    let dir = tree();
    let before = Manifest::of(dir.path()).unwrap();
    for n in 0..30 {
        fs::write(dir.path().join(format!("new{n:02}")), "").unwrap();
    }
    let after = Manifest::of(dir.path()).unwrap();
    let text = before.diff(&after).to_string();
    assert_eq!(text.lines().count(), 21, "{text}");
    assert!(text.ends_with("\nand 11 more"), "{text}");
    assert_eq!(after.diff(&after).to_string(), "the same");
}

#[test]
fn a_symbolic_link_is_no_tree() {
    let dir = tree();
    symlink("etc", dir.path().join("alias")).unwrap();
    assert!(Manifest::of(&dir.path().join("alias")).is_err());
    assert!(Manifest::of(&dir.path().join("none")).is_err());
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run says why")]
fn a_mount_is_not_entered() {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("REROOT_REQUIRE").as_deref(), Ok("1"), "a mount needs root");
        eprintln!("not tested: a mount needs root");
        return;
    }
    let dir = tree();
    // In a mount namespace of its own, which ends with the shell: nothing is left mounted whatever happens here.
    let script = "mount --bind etc etc.d && mount --bind fifo hosts && echo ready && read -r end";
    let mut shell = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-ec", script])
        .current_dir(dir.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let inside = format!("/proc/{}/root{}", shell.id(), dir.path().display());
    let manifest = Manifest::of(Path::new(&inside));
    drop(shell.stdin.take());
    shell.wait().unwrap();
    let text = manifest.unwrap().to_string();
    assert!(text.contains("\nm 0000 etc.d\n") && text.contains("\nm 0000 hosts\n"), "{text}");
    assert_eq!(text.lines().count(), 7, "{text}");
}

#[test]
fn ten_thousand_levels() {
    use nix::fcntl::{AT_FDCWD, OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    const LEVELS: usize = 10_000;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let dir = tempfile::tempdir().unwrap();
    let mut below = openat(AT_FDCWD, dir.path(), flags, Mode::empty()).unwrap();
    for _ in 0..LEVELS {
        mkdirat(&below, "d", Mode::S_IRWXU).unwrap();
        below = openat(&below, "d", flags, Mode::empty()).unwrap();
    }
    let manifest = Manifest::of(dir.path()).unwrap();
    assert_eq!(manifest.len(), LEVELS + 1);
    assert!(manifest.diff(&manifest).is_empty());
    assert_eq!(manifest.path(LEVELS).as_os_str().len(), 2 * LEVELS - 1);
    // Taken apart here, for the path is too long for everyone else.
    for _ in 0..LEVELS {
        below = openat(&below, "..", flags, Mode::empty()).unwrap();
        nix::unistd::unlinkat(&below, "d", nix::unistd::UnlinkatFlags::RemoveDir).unwrap();
    }
}
