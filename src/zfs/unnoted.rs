//! What a loss of power leaves of a dataset: the pool makes it in one transaction, and notes whose it is in the next.

use super::bases::ORIGIN;
use super::place::{Place, program, text};
use crate::error::{Error, Result};
use crate::size::ByteSize;
use crate::sys::detached::Access;
use crate::sys::walk::{Order, Walk};
use crate::sys::zfs::Value;

/// What the pool itself writes into a clone: one block, twice. Whoever changes as much as the mode of a file has it write fifteen.
const ACCOUNTS: ByteSize = ByteSize::kib(8);

impl Place {
    /// Whether a dataset under a name of ours is one that was just made: nothing was set on it, and there is nothing in it but what is in the base that it
    /// is a clone of. Nobody loses anything with it.
    pub(super) fn is_unnoted(&self, dataset: &str, operation: &'static str) -> Result<bool> {
        let found = self.ask(program!("unnoted"), &[text("name", dataset)], operation)?;
        if !found.contains_key("untouched") {
            return Ok(false);
        }
        if let Some(origin) = found.get("origin").and_then(Value::as_str) {
            let is_of_a_base = origin.ends_with(&format!("@{ORIGIN}"));
            let written = found.get("written").and_then(Value::as_number).map(ByteSize::from_bytes);
            return Ok(is_of_a_base && written.is_some_and(|written| written <= ACCOUNTS));
        }
        let top = self.mount(dataset, Access::ReadOnly, operation)?;
        let first = Walk::new(top, c"the dataset", Order::Listed).and_then(|mut walk| walk.advance());
        first
            .map(|entry| entry.is_none())
            .map_err(|error| self.add_volume(Error::io(operation, format!("cannot look into {dataset}"), error)))
    }
}
