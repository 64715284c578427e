//! What scripts rely on where bases are: `rebuild --base`, `bases` and `rolling`, their exit statuses, their JSON, and what they leave.

#![cfg(all(feature = "dir", feature = "tar", feature = "gzip", feature = "zstd"))]

#[path = "common/examples.rs"]
mod examples;
#[cfg(feature = "btrfs")]
#[path = "common/loopfs.rs"]
mod loopfs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use examples::{SAMPLE, assert_status, example};

/// A pool of directories, or of subvolumes on a file system of its own.
struct Pool {
    scheme: &'static str,
    path: PathBuf,
    _place: Place,
}

/// Goes when the pool does.
#[allow(dead_code, reason = "held, not read")]
enum Place {
    Folder(tempfile::TempDir),
    #[cfg(feature = "btrfs")]
    FileSystem(loopfs::LoopFs),
}

impl Pool {
    fn dir() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Pool::at("dir", folder.path().join("a pool"), Place::Folder(folder))
    }

    fn at(scheme: &'static str, path: PathBuf, place: Place) -> Self {
        fs::create_dir_all(path.join("containers")).unwrap();
        Pool { scheme, path, _place: place }
    }

    /// One of each kind that can be had here.
    fn all() -> Vec<Self> {
        #[allow(unused_mut, reason = "without btrfs there is one")]
        let mut pools = vec![Pool::dir()];
        #[cfg(feature = "btrfs")]
        match loopfs::LoopFs::new(loopfs::Kind::Btrfs, 256) {
            Ok(made) => pools.push(Pool::at("btrfs", made.path().join("a pool"), Place::FileSystem(made))),
            Err(why) => {
                assert!(std::env::var_os("REROOT_REQUIRE").is_none(), "cannot run on btrfs: {why}");
                eprintln!("skipped on btrfs: {why}");
            }
        }
        pools
    }

    fn spec(&self) -> String {
        format!("{}:{}", self.scheme, self.path.display())
    }

    /// Where its bases lie.
    fn folder(&self) -> PathBuf {
        self.path.join(format!("reroot-bases-{}", self.scheme))
    }

    fn root(&self, name: &str) -> PathBuf {
        self.path.join("containers").join(name)
    }

    fn volume(&self, name: &str) -> String {
        format!("{}:{}", self.scheme, self.root(name).display())
    }

    fn rebuild(&self, arguments: &[&str]) -> Output {
        example("rebuild").args(arguments).arg(self.volume("c1")).output().unwrap()
    }

    fn bases(&self, arguments: &[&str]) -> Output {
        example("bases").arg(self.spec()).args(arguments).output().unwrap()
    }

    fn rolling(&self, arguments: &[&str], names: &[&str]) -> Output {
        let volumes = names.iter().map(|name| self.volume(name));
        example("rolling").args(arguments).arg(SAMPLE).args(volumes).output().unwrap()
    }

    /// The names of all bases, as the program lists them.
    #[track_caller]
    fn names(&self) -> Vec<String> {
        let list = assert_status(&self.bases(&["--json"]), 0);
        list.as_array().unwrap().iter().map(|base| base["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What lies in the folder, sorted.
    fn list(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path.join(folder)).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The old root that a failure must leave.
    fn with_old_root(self) -> Self {
        assert_status(&self.rebuild(&["--empty", "--quiet"]), 0);
        fs::write(self.root("c1").join("old"), "old").unwrap();
        self
    }

    #[track_caller]
    fn assert_new(&self, name: &str) {
        assert!(self.root(name).join("etc/os-release").exists() && !self.root(name).join("old").exists(), "{name}");
    }

    #[track_caller]
    fn assert_old(&self) {
        assert_eq!(fs::read_to_string(self.root("c1").join("old")).unwrap(), "old");
        assert_eq!(self.list("containers"), ["c1"]);
    }

    /// Makes a read-only base writable for as long as something is done to it.
    fn change(&self, name: &str, change: impl FnOnce(&Path)) {
        let base = self.folder().join(name);
        let set = |value: &str| {
            let done = self.scheme == "dir"
                || Command::new("btrfs").args(["property", "set"]).arg(&base).args(["ro", value]).status().unwrap().success();
            assert!(done);
        };
        set("false");
        change(&base);
        set("true");
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_rebuild_through_a_base() {
    for pool in Pool::all().into_iter().map(Pool::with_old_root) {
        // Only to look makes nothing.
        let plan = assert_status(&pool.rebuild(&["--base", "--dry-run", "--json", SAMPLE]), 0);
        assert_eq!(plan["base"], Value::Null, "there is none yet");
        pool.assert_old();
        assert_eq!(pool.list("."), ["containers"], "{}", pool.scheme);

        let made = if pool.scheme == "dir" { "copied" } else { "cloned" };
        let report = assert_status(&pool.rebuild(&["--base", "--json", SAMPLE]), 0);
        assert_eq!((&report["made"], &report["old_root"]), (&made.into(), &"removed".into()), "{report}");
        pool.assert_new("c1");
        assert_eq!(pool.list("containers"), ["c1"]);
        let names = pool.names();
        assert_eq!(names, [report["image"]["sha256"].as_str().unwrap()]);
        assert_eq!(report["image"]["base"], names[0]);

        // A second time nothing is made, and it is said what would be done.
        let base = pool.folder().join(&names[0]);
        let before = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&base).unwrap());
        let plan = assert_status(&pool.rebuild(&["--base", "--dry-run", "--json", SAMPLE]), 0);
        assert_eq!(plan["base"], format!("{}:{}", pool.scheme, base.display()));
        let shown = pool.rebuild(&["--base", SAMPLE]);
        assert_status(&shown, 0);
        assert!(stdout(&shown).contains("the base of the image"), "{}", stdout(&shown));
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&base).unwrap()), before);

        // Without an image it is that of the record, from its base or not.
        let report = assert_status(&pool.rebuild(&["--base", "--json"]), 0);
        assert_eq!(report["made"], made);
        let report = assert_status(&pool.rebuild(&["--json"]), 0);
        assert_eq!((&report["made"], &report["image"]["base"]), (&"unpacked".into(), &Value::Null));
        assert_eq!(pool.names(), names);

        // Options of the volume still hold.
        let report = assert_status(&pool.rebuild(&["--base", "--detach", "--json", SAMPLE]), 0);
        assert_eq!(report["old_root"], "left");
        let report = assert_status(&pool.rebuild(&["--base", "--strategy", "in-place", "--json", SAMPLE]), 0);
        assert_eq!(report["made"], made);
        pool.assert_new("c1");
        assert_eq!(pool.list("containers"), ["c1"]);
    }
}

#[test]
fn a_base_in_another_pool() {
    for pool in Pool::all().into_iter().map(Pool::with_old_root) {
        let other = Pool::at(pool.scheme, pool.path.with_file_name("another pool"), Place::Folder(tempfile::tempdir().unwrap()));
        let report = assert_status(&pool.rebuild(&["--base", "--pool", &other.spec(), "--json", SAMPLE]), 0);
        assert_eq!(pool.list("."), ["containers"]);
        assert_eq!(other.names(), [report["image"]["base"].as_str().unwrap()]);
        pool.assert_new("c1");
        assert_status(&pool.rebuild(&["--base", "--pool", "/no/scheme", SAMPLE]), 2);
        assert_status(&pool.rebuild(&["--base", "--pool", "nfs:/srv", SAMPLE]), 2);
        assert_status(&pool.rebuild(&["--pool", &other.spec(), SAMPLE]), 2);
        assert_status(&pool.rebuild(&["--base", "--empty"]), 2);
        let missing = format!("{}:{}", pool.scheme, pool.path.join("no such pool").display());
        let error = assert_status(&pool.rebuild(&["--base", "--json", "--pool", &missing, SAMPLE]), 1);
        assert_eq!((&error["kind"], &error["outcome"]), (&"not-found".into(), &"untouched".into()));
        pool.assert_new("c1");
    }
}

/// A base that cannot be cloned where the volume lies is refused before the old root goes, also in place.
#[test]
#[cfg(feature = "btrfs")]
fn a_base_on_another_file_system() {
    let [pool, other] = [Pool::all(), Pool::all()].map(|pools| pools.into_iter().find(|pool| pool.scheme == "btrfs"));
    // Said above.
    let (Some(pool), Some(other)) = (pool, other) else { return };
    let (pool, dir) = (pool.with_old_root(), Pool::dir());
    for strategy in ["swap", "in-place"] {
        for other in [&other, &dir] {
            let arguments = ["--base", "--json", "--strategy", strategy, "--pool", &other.spec(), SAMPLE];
            let error = assert_status(&pool.rebuild(&arguments), 3);
            assert_eq!((&error["kind"], &error["outcome"]), (&"unsupported".into(), &"untouched".into()), "{error}");
            assert!(error["remedy"].as_str().unwrap().contains("in the volume's pool"), "{error}");
            pool.assert_old();
        }
    }
}

#[test]
fn images_without_a_base() {
    let pool = Pool::dir().with_old_root();
    let image = pool.path.join("an image");
    let sample = fs::read(SAMPLE).unwrap();
    for (bytes, status) in [(&b""[..], 1), (b"no image at all", 1), (&sample[..sample.len() / 2], 1), (b"QFI\xfb", 3)] {
        fs::write(&image, bytes).unwrap();
        let error = assert_status(&pool.rebuild(&["--base", "--json", image.to_str().unwrap()]), status);
        assert_ne!(error["outcome"], "no-root", "{error}");
        pool.assert_old();
        assert_eq!(pool.names(), Vec::<String>::new());
    }
    assert_status(&pool.rebuild(&["--base", "/no/such/image"]), 1);
    // A stream says no digest; with one it is a name like any other.
    let pipe = |digest: &[&str]| {
        let mut cat = Command::new("cat").arg(SAMPLE).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut command = example("rebuild");
        command.args(["--base", "--json", "-", &pool.volume("c1")]).args(digest).stdin(cat.stdout.take().unwrap());
        let output = command.output().unwrap();
        // Which holds the end that is read from.
        drop(command);
        cat.wait().unwrap();
        output
    };
    let error = assert_status(&pipe(&[]), 3);
    assert!(error["remedy"].as_str().unwrap().contains("digest"), "{error}");
    pool.assert_old();
    let error = assert_status(&pipe(&["--sha256", &"0".repeat(64)]), 1);
    assert_eq!(error["kind"], "digest-mismatch");
    pool.assert_old();
    let digest = error["context"]["found"].as_str().unwrap().to_owned();
    let report = assert_status(&pipe(&["--sha256", &digest]), 0);
    assert_eq!(report["image"]["base"], digest);
    assert_eq!(pool.names(), [digest]);
    pool.assert_new("c1");
}

#[test]
fn shifted_owners_are_another_base() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root: cannot give files to others");
        return;
    }
    let Some(user) =
        fs::read_to_string("/etc/subuid").ok().and_then(|text| Some(text.lines().next()?.split_once(':')?.0.to_owned()))
    else {
        eprintln!("skipped: /etc/subuid gives no one any ids");
        return;
    };
    for pool in Pool::all() {
        assert_status(&pool.rebuild(&["--base", "--quiet", SAMPLE]), 0);
        let plan = assert_status(&pool.rebuild(&["--base", "--dry-run", "--json", "--subids", &user, SAMPLE]), 0);
        assert_eq!(plan["base"], Value::Null, "that base is another, and not made");
        assert!(plan["makes_base"].is_string(), "{plan}");
        assert_status(&pool.rebuild(&["--base", "--quiet", "--subids", &user, SAMPLE]), 0);
        assert_eq!(pool.names().len(), 2);
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::symlink_metadata(pool.root("c1").join("etc/os-release")).unwrap());
        assert_ne!(owner, 0, "the owner was not shifted");
        assert_status(&pool.rebuild(&["--base", "--subids", "no such user", SAMPLE]), 1);
    }
}

#[test]
fn bases_are_listed_verified_and_removed() {
    for pool in Pool::all() {
        for (arguments, said) in [(&[][..], "no bases"), (&["--verify"], "no bases"), (&["--collect", "0"], "0 removed, 0 kept")] {
            let output = pool.bases(arguments);
            assert_status(&output, 0);
            assert_eq!(stdout(&output).trim(), said);
        }
        assert_eq!(pool.list("."), ["containers"], "looking has made something");
        assert_status(&pool.rebuild(&["--base", "--quiet", SAMPLE]), 0);
        let list = assert_status(&pool.bases(&["--json"]), 0);
        let base = &list[0];
        let name = base["name"].as_str().unwrap().to_owned();
        assert_eq!((&base["state"], &base["record"]["name"]), (&"complete".into(), &SAMPLE.into()), "{base}");
        let clones = base["clones"].as_array().unwrap().len();
        assert_eq!(clones, usize::from(pool.scheme == "btrfs"), "{base}");
        assert!(stdout(&pool.bases(&[])).contains("last used"));

        let verified = assert_status(&pool.bases(&["--verify", "--json"]), 0);
        assert_eq!((&verified[0]["name"], &verified[0]["verdict"]), (&name.as_str().into(), &"intact".into()));
        // An unfinished one beside it is no cause for alarm.
        let other = pool.folder().join("0".repeat(64));
        fs::create_dir(other.with_extension("reroot-staged")).unwrap();
        if pool.scheme == "dir" {
            let shown = pool.bases(&["--verify"]);
            assert_status(&shown, 0);
            assert!(stdout(&shown).contains("unfinished"), "{}", stdout(&shown));
        }
        fs::remove_dir(other.with_extension("reroot-staged")).unwrap();
        pool.change(&name, |root| fs::write(root.join("etc/os-release"), "changed").unwrap());
        let verified = assert_status(&pool.bases(&["--verify", "--json"]), 1);
        assert_eq!(verified[0]["verdict"], "changed");
        assert!(stdout(&pool.bases(&["--verify"])).contains("changed since it was made"));

        // What is used lately or shared stays, unless it is asked for.
        let collected = assert_status(&pool.bases(&["--collect", "1", "--json"]), 0);
        assert_eq!((collected["removed"].as_array().unwrap().len(), &collected["kept"][0]["why"]), (0, &"recent".into()));
        if pool.scheme == "btrfs" {
            let collected = assert_status(&pool.bases(&["--collect", "0", "--json"]), 0);
            assert_eq!(collected["kept"][0]["why"]["shared"], 1, "{collected}");
        }
        let collected = assert_status(&pool.bases(&["--collect", "0", "--shared", "--json"]), 0);
        assert_eq!(collected["removed"][0], name.as_str(), "{collected}");
        assert_eq!(pool.names(), Vec::<String>::new());
        pool.assert_new("c1");

        assert_status(&pool.rebuild(&["--base", "--quiet", SAMPLE]), 0);
        let removed = assert_status(&pool.bases(&["--remove", &name, "--json"]), 0);
        assert_eq!(removed["removed"], name.as_str());
        assert_eq!(pool.names(), Vec::<String>::new());
        pool.assert_new("c1");
        let left: Vec<_> = pool.list(&format!("reroot-bases-{}", pool.scheme)).into_iter().filter(|name| name != "memo").collect();
        assert_eq!(left, Vec::<String>::new());

        for mistake in [&["--remove", "no base's name"][..], &["--shared"], &["--verify", "--collect", "1"], &["--collect", "-1"]] {
            assert_status(&pool.bases(mistake), 2);
        }
    }
    for (pool, status) in [("dir:/no/such/pool", 1), ("/no/scheme", 2), ("nfs:/srv", 2)] {
        for arguments in [&["--json"][..], &["--verify", "--json"], &["--collect", "0", "--json"]] {
            let error = assert_status(&example("bases").arg(pool).args(arguments).output().unwrap(), status);
            assert!(error["message"].is_string(), "{pool}: {error}");
        }
    }
}

/// Someone who reads a base's name from its lock, as another process does that clones it.
#[test]
fn a_held_base_is_not_removed() {
    let pool = Pool::dir();
    assert_status(&pool.rebuild(&["--base", "--quiet", SAMPLE]), 0);
    let name = pool.names().remove(0);
    let lock = fs::File::create(pool.folder().join(format!("{name}.reroot-lock"))).unwrap();
    let held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockSharedNonblock).unwrap();
    let error = assert_status(&pool.bases(&["--remove", &name, "--json"]), 3);
    assert_eq!(error["kind"], "locked");
    let collected = assert_status(&pool.bases(&["--collect", "0", "--json"]), 0);
    assert!(collected["kept"][0]["why"]["busy"].is_object(), "{collected}");
    // It can be used and verified all the same.
    assert_status(&pool.rebuild(&["--base", "--quiet", SAMPLE]), 0);
    assert_status(&pool.bases(&["--verify"]), 0);
    let waiting =
        example("bases").args([&pool.spec(), "--remove", &name, "--wait", "20"]).stdout(std::process::Stdio::null()).spawn();
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(held);
    assert!(waiting.unwrap().wait().unwrap().success());
    assert_eq!(pool.names(), Vec::<String>::new());
}

#[test]
fn what_is_no_base_hides_no_other() {
    for pool in Pool::all() {
        assert_status(&pool.rebuild(&["--base", "--quiet", SAMPLE]), 0);
        let name = pool.names().remove(0);
        let other = "0".repeat(64);
        let path = pool.folder().join(&other);
        for symlink in [false, true] {
            match symlink {
                true => std::os::unix::fs::symlink("elsewhere", &path).unwrap(),
                false => fs::write(&path, "").unwrap(),
            }
            let list = assert_status(&pool.bases(&["--json"]), 0);
            assert_eq!((&list[0]["state"], &list[1]["state"]), (&"unreadable".into(), &"complete".into()), "{list}");
            assert!(list[0]["error"].as_str().unwrap().contains("it is not a base"), "{list}");
            let verified = assert_status(&pool.bases(&["--verify", "--json"]), 1);
            assert_eq!(verified[1]["verdict"], "intact", "{verified}");
            let collected = assert_status(&pool.bases(&["--collect", "1", "--json"]), 1);
            assert!(collected["kept"][0]["why"]["failed"].is_object(), "{collected}");
            let error = assert_status(&pool.bases(&["--remove", &other, "--json"]), 3);
            assert!(error["remedy"].as_str().unwrap().contains("it is not a base"), "{error}");
            assert_status(&pool.rebuild(&["--base", "--quiet", SAMPLE]), 0);
            fs::remove_file(&path).unwrap();
        }
        // Two backends, two folders.
        let mut both = example("rebuild");
        both.args(["--base", "--quiet", SAMPLE]).arg(format!("dir:{}", pool.root("c2").display()));
        assert_status(&both.output().unwrap(), 0);
        assert_eq!(pool.names(), [name.as_str()]);
        assert_status(&pool.bases(&["--verify"]), 0);
        assert_status(&pool.bases(&["--remove", &name]), 0);
        let gone = pool.bases(&["--remove", &name]);
        assert_status(&gone, 0);
        assert_eq!(stdout(&gone).trim(), "there was none");
    }
}

/// Also what it says of a base that is missing, and into a disk that is full.
#[test]
fn a_dry_run_changes_nothing() {
    let pool = Pool::dir().with_old_root();
    let plan = assert_status(&pool.rebuild(&["--base", "--dry-run", "--json", SAMPLE]), 0);
    let missing = plan["makes_base"].as_str().unwrap().to_owned();
    assert!(stdout(&pool.rebuild(&["--base", "--dry-run", SAMPLE])).contains(&format!("make the base {missing}")));
    assert_eq!(pool.list("."), ["containers"]);
    pool.assert_old();
    assert_status(&pool.rebuild(&["--base", "--quiet", SAMPLE]), 0);
    let used = pool.folder().join(format!("{missing}.reroot-used"));
    fs::remove_file(&used).unwrap();
    let plan = assert_status(&pool.rebuild(&["--base", "--dry-run", "--json", SAMPLE]), 0);
    assert_eq!(plan["makes_base"], Value::Null);
    assert!(!used.exists(), "it was noted as used");
    let full = fs::File::create("/dev/full").unwrap();
    let mut group = example("rolling");
    let status = group.args([SAMPLE, &pool.volume("c1")]).stdout(full).stderr(std::process::Stdio::piped()).output().unwrap();
    assert_eq!((status.status.code(), stderr(&status)), (Some(0), String::new()));
}

#[test]
fn a_group_is_rebuilt() {
    for pool in Pool::all() {
        let names: Vec<_> = (0..4).map(|number| format!("web {number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let summary = assert_status(&pool.rolling(&["--json", "-j", "3"], &names), 0);
        assert_eq!((&summary["rebuilt"], &summary["failed"], &summary["not_begun"]), (&4.into(), &0.into(), &0.into()));
        let volumes = summary["volumes"].as_array().unwrap();
        assert!(volumes.iter().all(|done| done["error"].is_null() && done["report"]["made"] != "unpacked"), "{summary}");
        names.iter().for_each(|name| pool.assert_new(name));
        assert_eq!(pool.list("containers"), names);
        assert_eq!(pool.names().len(), 1);

        let shown = pool.rolling(&[], &names);
        assert_status(&shown, 0);
        let text = stdout(&shown);
        assert_eq!(text.lines().filter(|line| line.contains(": rebuilt in ")).count(), 4, "{text}");
        assert!(
            text.contains("[1/4] ") && text.contains("[4/4] ") && text.contains("4 rebuilt, 0 failed, 0 not begun, in "),
            "{text}"
        );
        let quiet = pool.rolling(&["--quiet", "--detach"], &names);
        assert_eq!((stdout(&quiet), stderr(&quiet)), (String::new(), String::new()));
        assert_eq!(pool.list("containers").len(), 8, "the old roots were to stay");
        assert_status(&pool.rolling(&["--quiet"], &names), 0);
        assert_eq!(pool.list("containers"), names);
    }
}

#[test]
fn a_group_with_one_that_is_busy() {
    for pool in Pool::all() {
        let names = ["a", "b", "c", "d"];
        assert_status(&pool.rolling(&["--quiet"], &names), 0);
        names.iter().for_each(|name| fs::write(pool.root(name).join("old"), name).unwrap());
        let has_old = |name: &&&str| pool.root(name).join("old").exists();
        let mut sleeper = Command::new("sleep").arg("60").current_dir(pool.root("b")).spawn().unwrap();
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // The first is done, the second fails, the others are not begun.
            let summary = assert_status(&pool.rolling(&["--json", "-j", "1"], &names), 1);
            let counts = (&summary["rebuilt"], &summary["failed"], &summary["not_begun"]);
            assert_eq!(counts, (&1.into(), &1.into(), &2.into()), "{summary}");
            assert_eq!(summary["volumes"][1]["error"]["kind"], "busy", "{summary}");
            assert_eq!(names.iter().filter(has_old).collect::<Vec<_>>(), [&"b", &"c", &"d"]);

            let shown = pool.rolling(&["--keep-going", "-j", "2"], &names);
            assert_status(&shown, 1);
            let text = stdout(&shown);
            assert!(text.contains("/b: failed: ") && text.contains("3 rebuilt, 1 failed, 0 not begun"), "{text}");
            assert_eq!(names.iter().filter(has_old).collect::<Vec<_>>(), [&"b"]);
            let quiet = pool.rolling(&["--keep-going", "--quiet"], &names);
            assert_status(&quiet, 1);
            assert!(stdout(&quiet).is_empty() && stderr(&quiet).contains("/b: failed: "), "{}", stderr(&quiet));
        }));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        if let Err(panic) = ran {
            std::panic::resume_unwind(panic);
        }
        assert_status(&pool.rolling(&["--quiet", "--wait", "5"], &names), 0);
        assert_eq!(names.iter().filter(has_old).count(), 0);
        assert_eq!(pool.list("containers"), names);
    }
}

#[test]
fn groups_that_make_no_sense() {
    let pool = Pool::dir();
    assert_status(&example("rolling").arg(SAMPLE).output().unwrap(), 2);
    assert_status(&pool.rolling(&["-j", "0"], &["a"]), 2);
    let no_backend = example("rolling").args(["--json", SAMPLE, "/srv/c1"]).output().unwrap();
    let error = assert_status(&no_backend, 2);
    assert!(error["remedy"].as_str().unwrap().contains("dir:/srv/c1"), "{error}");
    let error = assert_status(&example("rolling").args(["--json", SAMPLE, "dir:/no/such/pool/c1"]).output().unwrap(), 1);
    assert_eq!(error["kind"], "not-found");
    let error = assert_status(&pool.rolling(&["--json", "--pool", "nfs:/srv"], &["a"]), 2);
    assert!(error["message"].is_string());
    let output = example("rolling").args(["--json", "/no/such/image", &pool.volume("a")]).output().unwrap();
    assert_eq!(assert_status(&output, 1)["kind"], "not-found");
    assert_eq!(pool.list("containers"), Vec::<String>::new());
    // One volume of another backend's, or that cannot be, does not spoil the others.
    let output = example("rolling")
        .args(["--json", "--keep-going", SAMPLE, &pool.volume("a"), "nfs:host/b", &pool.volume("c")])
        .output()
        .unwrap();
    let summary = assert_status(&output, 1);
    assert_eq!((&summary["rebuilt"], &summary["failed"]), (&2.into(), &1.into()), "{summary}");
    assert_eq!(pool.list("containers"), ["a", "c"]);
}
