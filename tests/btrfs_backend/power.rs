//! What a rebuild said it did is there after a loss of power: the device is copied as it is when the call returns, and the copy mounted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use reroot::base::BaseOptions;
use reroot::btrfs::BtrfsBases;
use reroot::volume::Commit;
use reroot::{Bases, Dispose, Rebuild};

use super::{Pool, file_image, image, need, new, rebuild, run};

/// Mounts the copy of a device, and unmounts it.
struct Copy<'a>(&'a Path);

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        if let Err(why) = run(Command::new("umount").arg(self.0)) {
            eprintln!("cannot unmount {}: {why}", self.0.display());
        }
    }
}

/// Rebuilds as `how` says, cuts the power as soon as that returns, and looks at what is there.
fn survives(how: impl FnOnce(&Pool, &Path)) -> Result<(), String> {
    let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (copy, mnt) = (scratch.path().join("copy"), scratch.path().join("mnt"));
    fs::create_dir(&mnt).unwrap();
    let pool = Pool::with_old(256)?;
    // Nothing is written out by itself meanwhile.
    run(Command::new("mount").args(["-o", "remount,commit=300"]).arg(pool.fs.path())).unwrap();
    std::os::unix::fs::chown(pool.root(), Some(1234), Some(77)).unwrap();
    pool.btrfs(&["filesystem", "sync"], &["."]);
    how(&pool, scratch.path());
    let device = pool.fs.path().with_file_name("image");
    run(Command::new("cp").arg("--sparse=always").args([&device, &copy])).unwrap();
    drop(pool);
    run(Command::new("mount").args(["-t", "btrfs", "-o", "loop"]).args([&copy, &mnt])).unwrap();
    let mounted = Copy(&mnt);
    let root = mnt.join("containers/c1");
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "new");
    assert!(!root.join("old").exists());
    let metadata = fs::metadata(&root).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 77));
    let record =
        run(Command::new("getfattr").args(["--absolute-names", "--only-values", "-n", "trusted.reroot.image"]).arg(&root)).unwrap();
    assert!(record.starts_with("reroot 1\n"), "{record}");
    drop(mounted);
    Ok(())
}

#[test]
fn a_rebuild_that_returned_survives_a_loss_of_power() {
    need!(survives(|pool, _| _ = rebuild(&mut pool.volume(), &new()).unwrap()));
    need!(survives(|pool, _| _ = rebuild(&mut pool.volume().with_commit(Commit::TwoRenames), &new()).unwrap()));
    need!(survives(|pool, _| {
        let rebuild = Rebuild::new(image(&new())).dispose(Dispose::Detach);
        rebuild.run(&mut pool.volume()).unwrap();
    }));
}

#[test]
fn so_does_one_from_a_base() {
    for commit in [Commit::Exchange, Commit::TwoRenames] {
        for dispose in [Dispose::Wait, Dispose::Detach] {
            need!(survives(|pool, scratch| {
                let bases = Bases::new(BtrfsBases::open(pool.fs.path()).unwrap());
                let base = bases.ensure(file_image(scratch, &new()), &BaseOptions::default()).unwrap();
                Rebuild::from_base(&base).dispose(dispose).run(&mut pool.volume().with_commit(commit)).unwrap();
            }));
        }
    }
}

#[test]
fn and_so_does_one_whose_base_is_gone() {
    need!(survives(|pool, scratch| {
        let bases = Bases::new(BtrfsBases::open(pool.fs.path()).unwrap());
        let base = bases.ensure(file_image(scratch, &new()), &BaseOptions::default()).unwrap();
        Rebuild::from_base(&base).run(&mut pool.volume()).unwrap();
        assert_eq!(bases.verify(base.name(), &reroot::CancelToken::new()).unwrap(), reroot::base::Verdict::Intact);
        drop(base);
        assert!(bases.list().unwrap().iter().all(|base| bases.remove(&base.name, &super::soon()).unwrap()));
    }));
}
