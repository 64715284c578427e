//! Who keeps a dataset busy is named, wherever that is.

use super::*;
use crate::shell::Shell;

use reroot::RebuildableVolume;

fn busy(pool: &Pool) -> String {
    refused(Rebuild::new(image(&new())).run(&mut pool.volume()), ErrorKind::Busy)
}

#[test]
fn mounts_are_named() {
    let pool = need!(Pool::with_old());
    let mounted = show(&pool.name("c1"));
    let said = busy(&pool);
    assert!(said.contains(&format!("mount {}", mounted.path().display())), "{said}");
    let mut shell = Shell::new(&["env"]);
    shell.run(&format!("cd {}", mounted.path().display()));
    let said = busy(&pool);
    assert!(said.contains(&format!("process {} (sh): working directory", shell.0.id())), "{said}");
    drop((shell, mounted));
    assert!(pool.volume().holders().unwrap().is_empty());
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect("new", &["c1"]);
}

#[test]
fn a_mount_in_another_namespace_is_named() {
    let pool = need!(Pool::with_old());
    let at = tempfile::tempdir().unwrap();
    let mut shell = Shell::new(&["unshare", "--mount", "--propagation", "private"]);
    shell.run(&format!("mount -t zfs {} {}", pool.name("c1"), at.path().display()));
    let said = busy(&pool);
    let expected = format!("mount {} in the mount namespace of process {}", at.path().display(), shell.0.id());
    assert!(said.contains(&expected), "{said}");
    // The mount goes with the last process of the namespace.
    drop(shell);
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect("new", &["c1"]);
}

#[test]
fn a_file_that_is_open_on_what_was_unmounted_is_named() {
    let pool = need!(Pool::with_old());
    let mut shell = Shell::new(&["env"]);
    {
        let mounted = show(&pool.name("c1"));
        shell.run(&format!("exec 9< {}/old", mounted.path().display()));
        run(Command::new("umount").arg("--lazy").arg(mounted.path())).unwrap();
        fs::remove_dir(mounted.path()).unwrap();
        std::mem::forget(mounted);
    }
    let said = busy(&pool);
    assert!(said.contains(&format!("process {}", shell.0.id())), "{said}");
    shell.run("exec 9<&-");
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect("new", &["c1"]);
}
