//! What limits a dataset: `quota` counts its snapshots and children too, `refquota` only what it refers to.

use std::ffi::CString;

use super::{note, values};
use crate::size::ByteSize;
use crate::sys::zfs::{Given, Map};

use super::place::text;
use super::properties::size;

/// The limits that are set on a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Limits {
    pub(super) quota: Option<ByteSize>,
    pub(super) refquota: Option<ByteSize>,
}

impl Limits {
    /// Those that a program told.
    pub(super) fn told(answer: &Map) -> Self {
        let limit = |key: &str| answer.get(key).and_then(size);
        Limits { quota: limit("quota"), refquota: limit("refquota") }
    }

    /// How large the root may become.
    pub(super) fn size(self) -> Option<ByteSize> {
        [self.quota, self.refquota].into_iter().flatten().min()
    }

    /// These, raised to a size: each that is set, and `refquota` if none is. None is lowered.
    pub(super) fn raised(self, size: ByteSize) -> Self {
        let raise = |limit: Option<ByteSize>| limit.map(|limit| limit.max(size));
        match self {
            Limits { quota: None, refquota: None } => Limits { quota: None, refquota: Some(size) },
            Limits { quota, refquota } => Limits { quota: raise(quota), refquota: raise(refquota) },
        }
    }

    /// What a new dataset is made with. On a clone `quota` does not count what it shares with its origin, and would let it become larger than that.
    pub(super) fn properties(self, of_clone: bool) -> Vec<(CString, Given)> {
        let mut out = Vec::new();
        out.extend(self.quota.map(|quota| values::number("quota", quota.bytes())));
        let stand_in = self.quota.filter(|_| of_clone && self.refquota.is_none());
        out.extend(self.refquota.or(stand_in).map(|refquota| values::number("refquota", refquota.bytes())));
        out.extend(stand_in.map(|refquota| text(note::LIMIT, refquota.bytes().to_string())));
        out
    }

    /// What the command sets to get from these limits to others.
    pub(super) fn changes(self, to: Self) -> Vec<String> {
        let change = |name: &str, from: Option<ByteSize>, to: Option<ByteSize>| {
            (from != to).then(|| format!("{name}={}", to.map_or("none".into(), |size| size.bytes().to_string())))
        };
        [change("quota", self.quota, to.quota), change("refquota", self.refquota, to.refquota)].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_the_lower_limit_and_no_limit_is_lowered() {
        let (one, two) = (Some(ByteSize::gib(1)), Some(ByteSize::gib(2)));
        let limits = Limits { quota: two, refquota: one };
        assert_eq!(limits.size(), one);
        assert_eq!(limits.raised(ByteSize::mib(1536)), Limits { quota: two, refquota: Some(ByteSize::mib(1536)) });
        assert_eq!(Limits::default().raised(ByteSize::gib(1)), Limits { quota: None, refquota: one });
        assert_eq!(Limits { quota: one, refquota: None }.raised(ByteSize::gib(2)), Limits { quota: two, refquota: None });
        assert_eq!(limits.changes(limits), Vec::<String>::new());
        assert_eq!(limits.changes(Limits { quota: None, refquota: one }), ["quota=none"]);
    }
}
