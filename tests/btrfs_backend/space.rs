//! The old root is not waited for longer than the caller asks, and its space comes back.

use std::fs;
use std::os::unix::fs::FileExt;

use nix::sys::statvfs::statvfs;
use reroot::rebuild::Disposal;
use reroot::{CancelToken, Dispose, Image, Rebuild, Wait, recover};

use super::{Pool, need, soon};

const LARGE: u64 = 64 << 20;

/// What is free on the pool, once it is known.
fn free(pool: &Pool) -> u64 {
    pool.btrfs(&["filesystem", "sync"], &["."]);
    let stat = statvfs(&pool.fs.path()).unwrap();
    stat.blocks_available() as u64 * stat.fragment_size() as u64
}

#[test]
fn what_is_left_to_recover_and_what_the_kernel_gives_back_by_and_by_comes_back() {
    let pool = need!(Pool::with_old(512));
    let before = free(&pool);
    for dispose in [Dispose::Wait, Dispose::Detach] {
        let file = fs::File::create(pool.root().join("large")).unwrap();
        let noise: Vec<u8> = (0..1u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for at in (0..LARGE).step_by(noise.len()) {
            file.write_all_at(&noise, at).unwrap();
        }
        drop(file);
        assert!(free(&pool) + LARGE <= before + (8 << 20), "a file of 64 MiB takes less than that");

        let mut volume = pool.volume();
        let report = Rebuild::new(Image::empty()).dispose(dispose).run(&mut volume).unwrap();
        if dispose == Dispose::Detach {
            assert_eq!(report.old_root, Disposal::Left, "{report}");
            assert!(pool.path("containers/c1.reroot-staged/large").exists());
            assert!(free(&pool) + LARGE / 2 < before, "the old root is there and takes no space");
            recover(&mut volume, &Wait::new(std::time::Duration::ZERO, CancelToken::new())).unwrap();
        } else {
            assert_eq!(report.old_root, Disposal::Removed, "{report}");
            assert!(report.reclaiming.is_some_and(|reclaiming| reclaiming.objects > 0), "{report}");
        }
        assert!(!pool.path("containers/c1.reroot-staged").exists());
        assert_eq!(volume.wait_reclaimed(&soon()).unwrap().objects, 0);
        let after = free(&pool);
        println!("{dispose:?}: {before} bytes were free before, {after} after");
        assert!(after + (8 << 20) >= before, "{} MiB did not come back", (before - after) >> 20);
    }
}
