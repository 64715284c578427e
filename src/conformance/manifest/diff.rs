//! What differs between two manifests.

use std::cmp::Ordering;
use std::fmt;
use std::path::PathBuf;

use super::{Entry, Facts, Hex, Manifest, shown};
use crate::text::Escaped;

/// All differences between two manifests, in the order of their entries. `Display` shows the first twenty.
#[derive(Debug)]
pub struct Differences<'a> {
    all: Vec<Difference<'a>>,
}

/// A path at which two trees differ.
#[derive(Debug)]
#[non_exhaustive]
pub struct Difference<'a> {
    /// The entry: of the expected tree, if it has one there.
    pub entry: Entry<'a>,
    /// How they differ.
    pub change: Change,
}

/// How two trees differ at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The expected tree has it, the actual one does not.
    Missing,
    /// The actual tree has it, the expected one does not.
    Unexpected,
    /// Both have it, and these facts differ, each in the words `mode 0644, not 0600`: actual, not expected.
    Differs(Vec<String>),
}

const SHOWN: usize = 20;

impl<'a> Differences<'a> {
    /// Both lists are in preorder, so the deeper of two entries belongs to a directory that only its own tree has (or that the other has
    /// finished), and two of one depth belong to the same directory.
    pub(super) fn between(expected: &'a Manifest, actual: &'a Manifest) -> Self {
        let mut all = Vec::new();
        let entry = |manifest, index| Entry { manifest, index };
        // For each actual entry its expected twin, to compare which paths are linked.
        let mut twins = vec![None; actual.nodes.len()];
        let (mut left, mut right) = (0, 0);
        loop {
            let order = match (expected.nodes.get(left), actual.nodes.get(right)) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => b.depth.cmp(&a.depth).then_with(|| a.name.cmp(&b.name)),
            };
            match order {
                Ordering::Less => {
                    all.push(Difference { entry: entry(expected, left), change: Change::Missing });
                    left += 1;
                }
                Ordering::Greater => {
                    all.push(Difference { entry: entry(actual, right), change: Change::Unexpected });
                    right += 1;
                }
                Ordering::Equal => {
                    twins[right] = Some(left);
                    let (a, b) = (&expected.nodes[left].facts, &actual.nodes[right].facts);
                    let mut facts = compare(a, b);
                    if a.linked_to != b.linked_to.and_then(|first| twins[first]) || a.linked_to.is_some() != b.linked_to.is_some() {
                        let path = |manifest: &Manifest, first: Option<usize>| match first {
                            Some(first) => format!("linked to {}", shown(&manifest.path(first))),
                            None => "the first of its links".into(),
                        };
                        facts.push(format!("{}, not {}", path(actual, b.linked_to), path(expected, a.linked_to)));
                    }
                    if !facts.is_empty() {
                        all.push(Difference { entry: entry(expected, left), change: Change::Differs(facts) });
                    }
                    left += 1;
                    right += 1;
                }
            }
        }
        Differences { all }
    }

    /// Whether the trees are the same.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// At how many paths they differ.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The differences.
    pub fn iter(&self) -> impl Iterator<Item = &Difference<'a>> {
        self.all.iter()
    }
}

fn compare(expected: &Facts, actual: &Facts) -> Vec<String> {
    let mut facts = Vec::new();
    if expected.kind != actual.kind {
        facts.push(format!("type {}, not {}", actual.kind, expected.kind));
    }
    if expected.mode != actual.mode {
        facts.push(format!("mode {:04o}, not {:04o}", actual.mode, expected.mode));
    }
    if expected.owner != actual.owner {
        let show = |owner: Option<(u32, u32)>| owner.map_or("ignored".into(), |(uid, gid)| format!("{uid}:{gid}"));
        facts.push(format!("owner {}, not {}", show(actual.owner), show(expected.owner)));
    }
    if expected.mtime != actual.mtime {
        let show = |time: Option<(i64, u32)>| time.map_or("ignored".into(), |(s, ns)| format!("{s}.{ns:09}"));
        facts.push(format!("mtime {}, not {}", show(actual.mtime), show(expected.mtime)));
    }
    let value = |facts: &Facts, name: &_| facts.xattrs.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
    for (name, wanted) in &expected.xattrs {
        let name_shown = Escaped(name.to_bytes());
        match value(actual, name) {
            None => facts.push(format!("no {name_shown}")),
            Some(found) if found != *wanted => facts.push(format!("{name_shown} {}, not {}", Hex(&found), Hex(wanted))),
            Some(_) => {}
        }
    }
    for (name, found) in &actual.xattrs {
        if value(expected, name).is_none() {
            facts.push(format!("unexpected {} {}", Escaped(name.to_bytes()), Hex(found)));
        }
    }
    facts
}

impl Difference<'_> {
    /// The path, below the roots.
    pub fn path(&self) -> PathBuf {
        self.entry.path()
    }
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::Missing => write!(f, "missing: {}", self.entry),
            Change::Unexpected => write!(f, "unexpected: {}", self.entry),
            Change::Differs(facts) => write!(f, "{}: {}", shown(&self.path()), facts.join("; ")),
        }
    }
}

impl fmt::Display for Differences<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("the same");
        }
        for (n, difference) in self.all.iter().take(SHOWN).enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{difference}")?;
        }
        if self.len() > SHOWN {
            write!(f, "\nand {} more", self.len() - SHOWN)?;
        }
        Ok(())
    }
}
