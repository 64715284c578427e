//! What became of the trials of one fault on one backend, in a line that `tests/faults/run` makes a row of its table of.

use std::collections::BTreeMap;

/// Counts trials that passed all checks. When it is dropped, it prints what was counted, unless that is nothing.
#[derive(Debug)]
pub(crate) struct Ledger {
    fault: String,
    backend: String,
    times: usize,
    told: BTreeMap<String, usize>,
    found: BTreeMap<String, usize>,
}

impl Ledger {
    pub(crate) fn new(fault: &str, backend: &str) -> Self {
        let (told, found) = (BTreeMap::new(), BTreeMap::new());
        Ledger { fault: fault.to_owned(), backend: backend.to_owned(), times: 0, told, found }
    }

    /// A trial: what the user saw (`killed`, `done`, or the kind of the error and what it says of the volume), and which root a recovery found:
    /// `old`, `new` or `none`. That nothing else was left has been looked at before.
    pub(crate) fn enter(&mut self, told: impl Into<String>, found: &str) {
        self.times += 1;
        *self.told.entry(told.into()).or_default() += 1;
        *self.found.entry(found.to_owned()).or_default() += 1;
    }

    /// An error as the user sees it.
    pub(crate) fn told(error: &reroot::Error) -> String {
        format!("{}: {}", error.kind(), error.outcome())
    }

    pub(crate) fn times(&self) -> usize {
        self.times
    }

    fn line(&self) -> String {
        let list = |counts: &BTreeMap<String, usize>| {
            let mut counts: Vec<_> = counts.iter().collect();
            counts.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
            // The separator of the line's fields is in none of them.
            let items: Vec<_> = counts.iter().map(|(what, times)| format!("{} ×{times}", what.replace(['|', '\n'], "/"))).collect();
            items.join(", ")
        };
        let (fault, backend) = (&self.fault, &self.backend);
        format!("fault-row|{fault}|{backend}|{}|{}|{}|nothing", self.times, list(&self.told), list(&self.found))
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.times > 0 && !std::thread::panicking() {
            // In one piece: other tests print too.
            println!("{}", self.line());
        }
    }
}
