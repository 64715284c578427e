//! What is remembered of image files, so that one that has not changed need not be read to know its digest.

use crate::digest::Sha256;
use crate::error::Result;
use crate::volume::BasePool;

/// A pool may keep no more than this, in bytes.
const MAX: usize = 7 << 10;

/// The digest that a file had when it was in this state.
pub(super) fn recall(pool: &dyn BasePool, state: &str) -> Option<Sha256> {
    let memo = pool.memo().ok()?;
    let memo = std::str::from_utf8(&memo).ok()?;
    memo.lines().filter_map(|line| line.split_once(' ')).find(|(known, _)| *known == state)?.1.parse().ok()
}

/// Remembers the digest of a file in this state. The newest come first, the oldest go.
pub(super) fn remember(pool: &dyn BasePool, state: &str, digest: Sha256) -> Result<()> {
    let old = pool.memo()?;
    let old = std::str::from_utf8(&old).unwrap_or_default();
    let mut memo = format!("{state} {digest}\n");
    for line in old.lines().filter(|line| line.split_once(' ').is_some_and(|(known, _)| known != state)) {
        if memo.len() + line.len() + 1 > MAX {
            break;
        }
        memo.push_str(line);
        memo.push('\n');
    }
    pool.set_memo(memo.as_bytes())
}
