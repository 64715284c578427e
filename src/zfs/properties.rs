//! What was set on a dataset, and how it gets to the next one.

use std::ffi::CString;

use super::limits::Limits;
use super::name::c_text;
use super::place::{Found, Place, program, text};
use super::{note, values};
use crate::error::Result;
use crate::size::ByteSize;
use crate::sys::zfs::{Given, Map, Value};
use crate::text::Escaped;
use crate::volume::Warning;

/// What `zfs receive` says of a value that came with a stream.
const RECEIVED: &str = "$recvd";

/// Those that come another way, or are what a dataset is and not what was set on it.
const NOT_COPIED: [&str; 12] = [
    "canmount",
    "casesensitivity",
    "encryption",
    "keyformat",
    "keylocation",
    "normalization",
    "pbkdf2iters",
    "quota",
    "refquota",
    "utf8only",
    "version",
    "volsize",
];
/// How many bookmarks a warning names.
const SHOWN: usize = 3;

/// Those that would not let a root be filled.
const SET_LAST: [&str; 2] = ["readonly", "zoned"];

/// What was set on a live root's dataset.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) native: Vec<(String, Value)>,
    pub(super) user: Vec<(String, Vec<u8>)>,
    pub(super) limits: Limits,
    /// Of `canmount`, if it was set.
    canmount: Option<String>,
    mounts_itself: bool,
    /// How many values came with a stream.
    received: usize,
    /// Bookmarks, by their whole names.
    bookmarks: Vec<String>,
}

/// What a new dataset is made with.
#[derive(Debug, Default)]
pub(super) struct Properties {
    /// At once.
    pub(super) now: Vec<(CString, Given)>,
    /// The same, but ones that the command can set soon after: as the kernel takes them, and as the command does.
    pub(super) or_soon: Vec<(CString, Given, String)>,
    /// By the command, before it is filled: `property=value`.
    pub(super) soon: Vec<String>,
    /// By the command, when it is filled.
    pub(super) last: Vec<String>,
}

impl Kept {
    pub(super) fn read(place: &Place, dataset: &str, found: &Found, operation: &'static str) -> Result<Self> {
        let answer = place.ask(program!("properties"), &[text("name", dataset)], operation)?;
        let mut kept = Kept::default();
        for (property, value, source) in entries(&answer, "native") {
            kept.received += usize::from(source == RECEIVED);
            match (property, value) {
                ("canmount", value) => kept.canmount = value.as_str().map(str::to_owned),
                ("quota", value) => kept.limits.quota = size(value),
                ("refquota", value) => kept.limits.refquota = size(value),
                (property, _) if NOT_COPIED.contains(&property) => {}
                ("xattr", value) if value.as_str() == Some("on") && on_is_sa() => {
                    kept.native.push((property.to_owned(), Value::Text("sa".into())));
                }
                (property, value) => kept.native.push((property.to_owned(), value.clone())),
            }
        }
        for (property, value, source) in entries(&answer, "user") {
            if let Some(value) = value.as_text().filter(|_| !property.starts_with(note::PREFIX)) {
                kept.received += usize::from(source == RECEIVED);
                kept.user.push((property.to_owned(), value.to_owned()));
            }
        }
        // A limit that was only the clone's stand-in for another goes with it.
        let stand_in = found.notes.get(note::LIMIT).and_then(|note| std::str::from_utf8(note).ok()?.parse().ok());
        if stand_in.map(ByteSize::from_bytes) == kept.limits.refquota {
            kept.limits.refquota = None;
        }
        // A dataset that waits to be mounted by itself again is as good as one that is.
        if let Some(parked) = found.notes.get(note::CANMOUNT) {
            kept.canmount = Some(Escaped(parked).to_string());
        }
        kept.bookmarks =
            answer.get("bookmarks").and_then(Value::as_list).into_iter().flatten().map(|(name, _)| name.clone()).collect();
        let word = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        let canmount = kept.canmount.as_deref().unwrap_or(word("canmount"));
        kept.mounts_itself = canmount == "on" && !matches!(word("mountpoint"), "legacy" | "none");
        Ok(kept)
    }

    /// Whether a dataset with these would be mounted by itself, at boot for example.
    pub(super) fn mounts_itself(&self) -> bool {
        self.mounts_itself
    }

    /// What a dataset that replaces the one they were set on is made with.
    pub(super) fn properties(&self) -> Properties {
        let mut out = Properties::default();
        for (property, value) in &self.native {
            let word = || format!("{property}={}", shown(value));
            match values::given(property, value) {
                _ if SET_LAST.contains(&property.as_str()) => out.last.push(word()),
                Some(given) => out.or_soon.push((c_text(property.as_str()), given, word())),
                None => out.soon.push(word()),
            }
        }
        out.now.extend(self.user.iter().map(|(name, value)| text(name, value.as_slice())));
        // Until it is live nobody is to mount it by itself.
        if self.mounts_itself() {
            out.now.extend(values::word("canmount", "noauto"));
            out.now.push(text(note::CANMOUNT, "on"));
        } else if let Some(canmount) = &self.canmount {
            out.now.extend(values::word("canmount", canmount));
        }
        out
    }

    /// What cannot be told the next dataset in the way this one was told.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let received = (self.received > 0).then(|| {
            Warning::new(format!(
                "{} properties that came with a received stream are local ones now: `zfs inherit -S` no longer brings them back",
                self.received
            ))
        });
        let bookmarks = (!self.bookmarks.is_empty()).then(|| {
            let named: Vec<_> = self.bookmarks.iter().take(SHOWN).map(String::as_str).collect();
            let more = self.bookmarks.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Warning::new(format!(
                "bookmarks go with the old root: {}{more}; where the snapshots are kept, the bookmarks stay too",
                named.join(", ")
            ))
        });
        [received, bookmarks].into_iter().flatten().collect()
    }
}

impl Properties {
    /// All that the kernel is given when the dataset is made.
    pub(super) fn at_once(&self) -> Vec<(CString, Given)> {
        let all = self.or_soon.iter().map(|(name, value, _)| (name.clone(), value.clone()));
        self.now.iter().cloned().chain(all).collect()
    }

    /// Leaves to the command what it can set: the kernel did not take one of them.
    pub(super) fn leave_to_command(&mut self) {
        self.soon.extend(self.or_soon.drain(..).map(|(_, _, word)| word));
    }
}

fn entries<'a>(answer: &'a Map, kind: &str) -> impl Iterator<Item = (&'a str, &'a Value, &'a str)> {
    answer.get(kind).and_then(Value::as_list).into_iter().flatten().filter_map(|(property, entry)| {
        let entry = entry.as_list()?;
        Some((property.as_str(), entry.get("value")?, entry.get("source")?.as_str()?))
    })
}

/// Whether `xattr=on` is `xattr=sa`: it is since OpenZFS 2.3, and was `dir` before.
fn on_is_sa() -> bool {
    let version = std::fs::read_to_string("/sys/module/zfs/version").unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(2), Some(3))
}

/// A limit; zero is none.
pub(super) fn size(value: &Value) -> Option<ByteSize> {
    value.as_number().filter(|bytes| *bytes > 0).map(ByteSize::from_bytes)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.cast_unsigned().to_string(),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    }
}
