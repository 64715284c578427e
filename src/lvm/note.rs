//! The record of a base in the tags of its logical volume, where it is read without activating that.
//!
//! A tag has at most 1,024 characters of few kinds (see lvm(8)), so the record is written in hexadecimal digits, in several tags.

use super::report::Volume;
use crate::record::ImageRecord;

const PREFIX: &str = "reroot-record-";
/// So many bytes in each.
const PART: usize = 480;
/// A longer record, with a path that goes on for ever, is only in the base itself.
const PARTS: usize = 10;

/// The tags that hold a record; none if there is no room for it.
pub(super) fn tags(record: &ImageRecord) -> Vec<String> {
    let bytes = record.to_bytes();
    if bytes.len() > PART * PARTS {
        return Vec::new();
    }
    let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(PART).enumerate().map(|(number, part)| format!("{PREFIX}{number}={}", hex(part))).collect()
}

/// The record that the tags of a volume hold.
pub(super) fn record(volume: &Volume) -> Option<ImageRecord> {
    let mut bytes = Vec::new();
    for number in 0..PARTS {
        let Some(hex) = volume.tagged(&format!("{PREFIX}{number}=")) else { break };
        for digits in hex.as_bytes().chunks(2) {
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        }
    }
    ImageRecord::from_bytes(&bytes).ok()
}
