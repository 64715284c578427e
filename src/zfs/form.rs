//! What can be chosen only when a dataset is made: how it compares names.
//!
//! Programs in the kernel tell it wrongly, so the command is asked, once: it is noted with the dataset and never changes.

use std::ffi::CString;

use super::place::{Found, Place, text};
use super::{command, note};
use crate::error::Result;
use crate::sys::zfs::Given;
use crate::text::Escaped;
use crate::zfs::name::c_text;

const PROPERTIES: &str = "casesensitivity,normalization,utf8only";
const DEFAULTS: [(&str, &str); 3] = [("casesensitivity", "sensitive"), ("normalization", "none"), ("utf8only", "off")];

/// How a dataset compares names, as `property=value` with commas between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form(String);

impl Default for Form {
    fn default() -> Self {
        Form(DEFAULTS.map(|(name, value)| format!("{name}={value}")).join(","))
    }
}

impl Form {
    pub(super) fn of(place: &Place, dataset: &str, found: &Found, operation: &'static str) -> Result<Self> {
        if let Some(noted) = found.notes.get(note::FORM) {
            return Ok(Form(Escaped(noted).to_string()));
        }
        let mut values = command::get(place, dataset, PROPERTIES, operation)?;
        values.sort();
        Ok(Form(values.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")))
    }

    /// What a new dataset is made with to have it, and the note of it.
    pub(super) fn properties(&self) -> Vec<(CString, Given)> {
        let mut out = vec![self.note()];
        let parts = self.0.split(',').filter_map(|part| part.split_once('='));
        for (name, value) in parts.filter(|part| !DEFAULTS.contains(part)) {
            out.extend(number(name, value).map(|number| (c_text(name), Given::Number(number))));
        }
        out
    }

    pub(super) fn note(&self) -> (CString, Given) {
        text(note::FORM, self.0.as_str())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// As OpenZFS numbers them.
fn number(property: &str, value: &str) -> Option<u64> {
    Some(match (property, value) {
        ("casesensitivity", "sensitive") => 0,
        ("casesensitivity", "insensitive") => 1,
        ("casesensitivity", "mixed") => 2,
        ("normalization", "none") => 0,
        ("normalization", "formC") => 0x50,
        ("normalization", "formD") => 0x10,
        ("normalization", "formKC") => 0x60,
        ("normalization", "formKD") => 0x20,
        ("utf8only", "off") => 0,
        ("utf8only", "on") => 1,
        _ => return None,
    })
}
