//! Removing bases.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use reroot::base::{CollectPolicy, Collected, Kept, References};
use reroot::{BaseName, CancelToken, ErrorKind, Image};

use super::common::loopfs::{Kind, Mounted, run};
use super::crowd::Other;
use super::{Scheme, Stand, anew, btrfs, failed, is_root, list, need, no_wait, shown, soon, tree};

const NOW: Duration = Duration::ZERO;
const DAY: Duration = Duration::from_secs(86_400);

fn collect(stand: &Stand, policy: CollectPolicy) -> Collected {
    shown(stand.bases().collect(&policy, &CancelToken::new()))
}

fn used(stand: &Stand, name: &BaseName, ago: Duration) {
    let path = stand.folder_of_bases().join(format!("{name}.reroot-used"));
    fs::File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - ago).unwrap();
}

/// Makes a base and lets it go.
fn made(stand: &Stand, name: &str) -> BaseName {
    stand.ensure(&stand.image(&format!("{name}.tar"), &tree(name))).name().clone()
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that sits in a directory.
fn sits_in(path: &Path) -> Reaped {
    let child = Command::new("sleep").arg("60").current_dir(path).stdin(Stdio::null()).spawn().unwrap();
    Reaped(child)
}

#[test]
fn what_was_not_used_for_a_time_goes() {
    let stand = Stand::new();
    let (old, new, older) = (made(&stand, "old"), made(&stand, "new"), made(&stand, "older"));
    used(&stand, &old, DAY * 8);
    used(&stand, &new, DAY * 6);
    // Of which it is not known when it was used, but when it was made.
    fs::remove_file(stand.folder_of_bases().join(format!("{older}.reroot-used"))).unwrap();
    let listed = stand.bases().list().unwrap();
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().any(|base| base.to_string().contains("last used 8 days ago")), "{listed:?}");
    let collected = collect(&stand, CollectPolicy::unused_for(DAY * 7));
    assert_eq!(collected.removed, std::slice::from_ref(&old));
    assert!(collected.kept.len() == 2 && collected.kept.iter().all(|kept| matches!(kept.why, Kept::Recent)), "{collected}");
    assert!(collected.to_string().starts_with("1 removed, 2 kept"), "{collected}");
    assert!(!list(&stand.folder_of_bases()).iter().any(|name| name.starts_with(&old.to_string())));
    let collected = collect(&stand, CollectPolicy::unused_for(NOW));
    assert_eq!((collected.removed.len(), collected.kept.len()), (2, 0), "{collected}");
    assert_eq!(list(&stand.folder_of_bases()), [""; 0]);
    // To remove what is not there is no error, here or where there never was one.
    shown(stand.bases().remove(&new, &super::soon()));
    assert_eq!(list(&stand.folder_of_bases()), [""; 0]);
    let fresh = Stand::new();
    shown(fresh.bases().remove(&new, &no_wait()));
    assert!(collect(&fresh, CollectPolicy::unused_for(NOW)).removed.is_empty());
    assert_eq!(fresh.bases().list().unwrap(), []);
}

#[test]
fn what_is_foreign_or_unfinished() {
    let stand = Stand::new();
    let whole = made(&stand, "whole");
    let folder = stand.folder_of_bases();
    let name = |first: char| format!("{first}{}", &whole.to_string()[1..]);
    let first = if whole.to_string().starts_with('0') { '1' } else { '0' };
    fs::create_dir_all(folder.join(format!("{}.reroot-staged/etc", name(first)))).unwrap();
    fs::create_dir_all(folder.join(format!("{}-0123456789abcdef.reroot-retired/etc", name(first)))).unwrap();
    fs::write(folder.join(format!("{}-0000000000000000.reroot-used", name(first))), "").unwrap();
    fs::write(folder.join(format!("{}-0000000000000001.reroot-lock", name(first))), "").unwrap();
    let foreign = ["lost+found", "README", "abc.reroot-staged", &format!("{whole}.bak"), &format!("{whole}-x"), "memo"];
    for foreign in foreign {
        fs::create_dir(folder.join(foreign)).unwrap();
        fs::write(folder.join(foreign).join("kept"), "").unwrap();
    }
    symlink("/", folder.join("link")).unwrap();
    assert_eq!(stand.bases().list().unwrap().len(), 5);
    let collected = collect(&stand, CollectPolicy::unused_for(DAY));
    assert_eq!((collected.removed.len(), collected.kept.len()), (4, 1), "{collected}");
    assert!(stand.path_of(&stand.ensure(&stand.path("images/whole.tar"))).exists());
    shown(stand.bases().remove(&whole, &super::soon()));
    let mut expected: Vec<_> = foreign.iter().map(ToString::to_string).chain(["link".into()]).collect();
    expected.sort();
    assert_eq!(list(&folder), expected);
    assert!(foreign.iter().all(|foreign| folder.join(foreign).join("kept").exists()));

    // What has the name of a base and cannot be one is told of, and stays; it keeps no other from being listed and collected.
    let other = made(&stand, "other");
    fs::write(folder.join(name(first)), "a file").unwrap();
    symlink("/etc", folder.join(format!("{}-0123456789abcdef", name(first)))).unwrap();
    let collected = collect(&stand, CollectPolicy::unused_for(NOW));
    assert_eq!(collected.removed, [other], "{collected}");
    assert!(collected.kept.len() == 2 && collected.kept.iter().all(|kept| matches!(kept.why, Kept::Failed(_))), "{collected}");
    assert!(folder.join(name(first)).exists());
}

#[test]
fn a_held_base_stays_whoever_holds_it() {
    let stand = Stand::new();
    let path = stand.image("a.tar", &tree("a"));
    let mut other = Other::start("hold", &stand, &path);
    let name: BaseName = other.says().parse().unwrap();
    used(&stand, &name, DAY * 9);
    let collected = collect(&stand, CollectPolicy::unused_for(DAY).with_references(References::Ignore));
    let [kept] = &collected.kept[..] else { panic!("{collected}") };
    assert!(matches!(&kept.why, Kept::Busy(error) if error.kind() == ErrorKind::Locked), "{collected}");
    assert!(collected.to_string().contains(&format!("process {}", other.id())), "{collected}");
    // Its holder may share it.
    drop(stand.ensure(&path));
    used(&stand, &name, DAY * 9);
    let bases = stand.bases();
    let removal = {
        let name = name.clone();
        std::thread::spawn(move || bases.remove(&name, &soon()))
    };
    std::thread::sleep(Duration::from_millis(100));
    assert!(!removal.is_finished());
    // A kill lets it go.
    other.kill();
    shown(removal.join().unwrap());
    assert_eq!(stand.kept(), [""; 0]);
}

#[test]
fn a_base_that_someone_is_in_stays_and_is_named() {
    need!(is_root());
    for scheme in [Scheme::Dir, Scheme::Btrfs] {
        let stand = need!(Stand::on(Kind::Btrfs, scheme, 128));
        let name = made(&stand, "a");
        let root = stand.folder_of_bases().join(name.to_string());
        let expect_busy = |what: &str| {
            let collected = collect(&stand, CollectPolicy::unused_for(NOW));
            let [kept] = &collected.kept[..] else { panic!("{collected}") };
            assert!(matches!(&kept.why, Kept::Busy(error) if error.kind() == ErrorKind::Busy), "{collected}");
            assert!(collected.to_string().contains(what), "{collected}");
            let error = failed(stand.bases().remove(&name, &no_wait()));
            assert!(error.kind() == ErrorKind::Busy && error.remedy().is_some(), "{}", error.report());
            assert!(root.join("etc/hostname").exists(), "{scheme:?}");
        };
        let sitter = sits_in(&root.join("etc"));
        expect_busy(&sitter.0.id().to_string());
        let bases = stand.bases();
        let removal = {
            let name = name.clone();
            std::thread::spawn(move || bases.remove(&name, &soon()))
        };
        std::thread::sleep(Duration::from_millis(300));
        assert!(!removal.is_finished());
        drop(sitter);
        shown(removal.join().unwrap());

        assert_eq!(made(&stand, "a"), name);
        let at = stand.path("mounted");
        fs::create_dir_all(&at).unwrap();
        let mounted = Mounted::bind(&root, &at).unwrap();
        expect_busy("mounted");
        drop(mounted);
        shown(stand.bases().remove(&name, &super::soon()));
        assert_eq!(stand.kept(), [""; 0]);
    }
}

#[test]
fn a_base_that_volumes_share_stays_if_asked_and_breaks_none_if_not() {
    need!(is_root());
    let stand = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 128));
    let name = made(&stand, "a");
    let base = stand.ensure(&stand.path("images/a.tar"));
    stand.rebuild("c1", &base);
    stand.rebuild("c 2", &base);
    drop(base);
    let info = &stand.bases().list().unwrap()[0];
    let top = stand.pool().strip_prefix(stand.fs.as_ref().unwrap().path()).unwrap().to_owned();
    let shared = |volume: &str| format!("/{}/containers/{volume}", top.display());
    assert_eq!(info.clones, [shared("c 2"), shared("c1")]);
    assert!(info.to_string().contains("shared by 2"), "{info}");
    let policy = CollectPolicy::unused_for(NOW);
    let collected = collect(&stand, policy);
    assert!(matches!(collected.kept[..], [reroot::base::KeptBase { why: Kept::Shared(2), .. }]), "{collected}");
    // One that is rebuilt from another shares no longer, at once.
    let other = stand.ensure(&stand.image("b.tar", &tree("b")));
    stand.rebuild("c1", &other);
    drop(other);
    let collected = collect(&stand, policy);
    assert!(collected.kept.iter().all(|kept| matches!(kept.why, Kept::Shared(1))), "{collected}");
    let collected = collect(&stand, policy.with_references(References::Ignore));
    assert_eq!((collected.removed.len(), collected.kept.len()), (2, 0), "{collected}");
    stand.settle();
    assert_eq!(fs::read_to_string(stand.root("c 2").join("etc/hostname")).unwrap(), "a");
    assert_eq!(fs::read_to_string(stand.root("c1").join("etc/hostname")).unwrap(), "b");
    let listed = btrfs(&["subvolume", "list"], &stand.fs.as_ref().unwrap().path());
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert_eq!(made(&stand, "a"), name);
    // The record of a volume tells of a base that is another one now, and of an image that is the same.
    shown(anew(shown(Image::from_record(&stand.volume("c 2").record().unwrap().unwrap()))).run(&mut *stand.volume("c 2")));
}

#[test]
fn a_removal_that_a_kill_ended_is_gone_on_with_or_undone() {
    let stand = Stand::new();
    let name = made(&stand, "a");
    let at = |suffix: &str| stand.folder_of_bases().join(format!("{name}{suffix}"));
    // Renamed, and a part of it removed.
    fs::rename(at(""), at(".reroot-retired")).unwrap();
    fs::remove_file(at(".reroot-retired").join("a")).unwrap();
    assert!(shown(stand.bases().find(&name, &no_wait())).is_none());
    let base = stand.ensure(&stand.path("images/a.tar"));
    assert!(stand.path_of(&base).join("a").exists());
    drop(base);
    assert_eq!(stand.kept(), [name.to_string()]);
    fs::rename(at(""), at(".reroot-retired")).unwrap();
    let collected = collect(&stand, CollectPolicy::unused_for(DAY));
    assert_eq!(collected.removed, std::slice::from_ref(&name));
    assert_eq!(stand.kept(), [""; 0]);
    drop(stand);

    need!(is_root());
    let stand = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 128));
    let name = made(&stand, "a");
    let at = |suffix: &str| stand.folder_of_bases().join(format!("{name}{suffix}"));
    // A subvolume goes in one step: what is there is whole.
    fs::rename(at(""), at(".reroot-retired")).unwrap();
    let base = stand.ensure(&stand.path("images/a.tar"));
    assert!(stand.path_of(&base).join("a").exists() && !at(".reroot-retired").exists());
    drop(base);
    // A half-made one is a subvolume that can be written to.
    run(Command::new("btrfs").args(["subvolume", "snapshot"]).arg(at("")).arg(at(".reroot-staged"))).unwrap();
    fs::write(at(".reroot-staged").join("junk"), "").unwrap();
    shown(stand.bases().remove(&name, &super::soon()));
    assert_eq!(stand.kept(), [""; 0]);
    run(Command::new("btrfs").args(["subvolume", "create"]).arg(at(".reroot-staged"))).unwrap();
    fs::write(at(".reroot-staged").join("junk"), "").unwrap();
    fs::write(at(".reroot-lock"), "77").unwrap();
    let base = stand.ensure(&stand.path("images/a.tar"));
    assert_eq!(list(&stand.path_of(&base)), ["a", "etc"]);
    drop(base);
    assert_eq!(stand.kept(), [name.to_string()]);
    stand.settle();
    assert_eq!(btrfs(&["subvolume", "list"], &stand.fs.as_ref().unwrap().path()).lines().count(), 1);
    // What is left of one and is no subvolume is not ours.
    shown(stand.bases().remove(&name, &super::soon()));
    fs::create_dir(at(".reroot-staged")).unwrap();
    let error = failed(stand.bases().ensure(Image::open(stand.path("images/a.tar")).unwrap(), &Default::default()));
    assert!(error.kind() == ErrorKind::AlreadyExists && error.remedy().is_some(), "{}", error.report());
    let collected = collect(&stand, CollectPolicy::unused_for(NOW));
    assert!(matches!(collected.kept[0].why, Kept::Failed(_)), "{collected}");
    assert!(at(".reroot-staged").exists());
}
