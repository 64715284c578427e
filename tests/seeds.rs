//! What is fuzzed, run once over what the fuzzing begins with: that it still compiles, and that no seed is a finding.

#![cfg(all(feature = "gzip", feature = "zstd"))]
#![allow(dead_code, reason = "each is called by its name")]

#[allow(unreachable_pub, reason = "there it is a library")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// A target whose seeds are those of another.
const SHARED: [(&str, &str); 1] = [("differential", "unpack")];

#[test]
fn no_seed_is_a_finding() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (target, run) in targets::TARGETS {
        let folder = SHARED.iter().find(|(name, _)| name == target).map_or(*target, |(_, other)| other);
        let mut count = 0;
        for seed in fs::read_dir(seeds.join(folder)).unwrap_or_else(|error| panic!("the seeds of {target}: {error}")) {
            let path = seed.unwrap().path();
            println!("{target}: {}", path.display());
            let seed = fs::read(path).unwrap();
            run(&seed);
            // Cut anywhere, and with one byte that is another.
            for at in (0..seed.len()).step_by(seed.len() / 16 + 1) {
                run(&seed[..at]);
                let mut changed = seed.clone();
                changed[at] ^= 0x11;
                run(&changed);
            }
            count += 1;
        }
        assert!(count > 3, "{target} has {count} seeds");
    }
}
