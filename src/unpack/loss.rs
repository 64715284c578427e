//! What an archive holds and the disk does not: counted, with the first names.

use std::ffi::CStr;
use std::fmt;

use super::entry::EntryPath;
use super::options::LossPolicy;
use crate::error::{Error, ErrorKind, Result};

/// How many names each kind of loss keeps.
const EXAMPLES: usize = 3;
/// How much of a name is kept, in characters.
const EXAMPLE_MAX: usize = 256;
/// The namespaces that Linux knows. All others are one kind of loss, or an image could make as many kinds as it likes.
const NAMESPACES: [&str; 5] = ["user", "trusted", "security", "system", "btrfs"];

/// What could not be kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
pub struct Losses {
    losses: Vec<Loss>,
}

/// One kind of loss.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Loss {
    /// What was lost.
    pub kind: LossKind,
    /// At how many entries.
    pub count: u64,
    /// The first few of them, escaped.
    pub examples: Vec<String>,
}

/// What was lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum LossKind {
    /// The owner: the entry belongs to the caller, or to whoever owns the directory's group.
    Owner,
    /// Setuid or setgid, dropped because the owner could not be kept: with another owner they would be a hole.
    SetId,
    /// A device node, which is missing.
    Device,
    /// A socket, which is missing: only a program that listens at one can make it.
    Socket,
    /// An ACL.
    Acl,
    /// An extended attribute of this namespace: `user`, `trusted`, `security`, `system`, `btrfs`, or an unknown one.
    Xattr(String),
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossKind::Owner => f.write_str("owner"),
            LossKind::SetId => f.write_str("setuid or setgid"),
            LossKind::Device => f.write_str("device node"),
            LossKind::Socket => f.write_str("socket"),
            LossKind::Acl => f.write_str("ACL"),
            LossKind::Xattr(namespace) => write!(f, "attribute in {namespace}"),
        }
    }
}

impl LossKind {
    /// The loss of the extended attribute `name`.
    pub(super) fn of_xattr(name: &CStr) -> Self {
        let name = name.to_bytes();
        if name.starts_with(b"system.posix_acl_") {
            return LossKind::Acl;
        }
        let namespace = name.split(|&byte| byte == b'.').next().unwrap_or_default();
        let known = NAMESPACES.iter().find(|known| known.as_bytes() == namespace);
        LossKind::Xattr((*known.unwrap_or(&"an unknown namespace")).to_owned())
    }
}

impl Losses {
    /// Whether everything was kept.
    pub fn is_empty(&self) -> bool {
        self.losses.is_empty()
    }

    /// How many losses there were, of all kinds.
    pub fn count(&self) -> u64 {
        self.losses.iter().map(|loss| loss.count).sum()
    }

    /// The kinds of loss there were, in the order in which each was first met.
    pub fn iter(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter()
    }

    /// Adds what was lost elsewhere, of other kinds.
    #[cfg(feature = "squashfs")]
    pub(super) fn append(&mut self, mut other: Losses) {
        self.losses.append(&mut other.losses);
    }

    /// Counts a loss at `path`, or refuses it.
    pub(super) fn add(&mut self, policy: LossPolicy, kind: LossKind, path: &EntryPath) -> Result<()> {
        if policy == LossPolicy::Refuse {
            return Err(Error::new(ErrorKind::Lossy, "unpack", format!("cannot keep its {kind}"))
                .with_remedy("run as root on a file system that knows it, or let losses be reported"));
        }
        let index = match self.losses.iter().position(|loss| loss.kind == kind) {
            Some(index) => index,
            None => {
                self.losses.push(Loss { kind, count: 0, examples: Vec::new() });
                self.losses.len() - 1
            }
        };
        if let Some(loss) = self.losses.get_mut(index) {
            loss.count += 1;
            if loss.examples.len() < EXAMPLES {
                let mut example = path.to_string();
                if let Some((end, _)) = example.char_indices().nth(EXAMPLE_MAX) {
                    example.truncate(end);
                    example.push_str("...");
                }
                loss.examples.push(example);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, loss) in self.losses.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            let more = if loss.count > loss.examples.len() as u64 { ", ..." } else { "" };
            write!(f, "{separator}{} of {} ({}{more})", loss.kind, loss.count, loss.examples.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_and_the_first_are_named() {
        let mut losses = Losses::default();
        for number in 0..5 {
            let path = EntryPath::new_unchecked(format!("f{number}").into_bytes());
            losses.add(LossPolicy::Report, LossKind::Owner, &path).unwrap();
        }
        let path = EntryPath::new_unchecked(b"bin/ping".to_vec());
        losses.add(LossPolicy::Report, LossKind::of_xattr(c"security.capability"), &path).unwrap();
        assert_eq!(losses.to_string(), "owner of 5 (f0, f1, f2, ...); attribute in security of 1 (bin/ping)");
        let error = losses.add(LossPolicy::Refuse, LossKind::Device, &path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lossy);
    }
}
