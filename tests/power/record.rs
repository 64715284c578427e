//! What dm-log-writes recorded: every write in the order in which it reached the disk. See log-writes.rst of the kernel's documentation.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::common::lab::run;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: u64 = 512;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// A write, a flush, a discard or a mark.
#[derive(Debug)]
pub(crate) struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its data is in the record.
    data: u64,
    /// Of a mark.
    text: String,
}

impl Entry {
    /// Whether it is itself on the disk when it has been acknowledged.
    pub(crate) fn is_durable(&self) -> bool {
        self.flags & (FLUSH | FUA) != 0
    }

    pub(crate) fn mark(&self) -> Option<&str> {
        (self.flags & MARK != 0).then_some(self.text.as_str())
    }

    pub(crate) fn writes(&self) -> bool {
        self.flags & (MARK | DISCARD) == 0 && self.sectors > 0
    }
}

/// The record of one run.
#[derive(Debug)]
pub(crate) struct Record {
    log: File,
    pub(crate) entries: Vec<Entry>,
}

impl Record {
    pub(crate) fn read(device: &Path) -> Result<Record, String> {
        // What an earlier record left in memory.
        run(std::process::Command::new("blockdev").arg("--flushbufs").arg(device))?;
        let log = File::open(device).map_err(failed)?;
        let number = |sector: u64, field: u64| -> Result<u64, String> {
            let mut bytes = [0; 8];
            log.read_exact_at(&mut bytes, sector * SECTOR + field * 8).map_err(failed)?;
            Ok(u64::from_le_bytes(bytes))
        };
        // The superblock: magic, version, number of entries, size of a sector.
        let (magic, version, count, size) = (number(0, 0)?, number(0, 1)?, number(0, 2)?, number(0, 3)? & 0xffff_ffff);
        if (magic, version, size) != (MAGIC, 1, SECTOR) {
            return Err(format!("{} is no record: {magic:#x}, version {version}, sectors of {size} bytes", device.display()));
        }
        let (mut entries, mut at) = (Vec::new(), 1);
        for _ in 0..count {
            let (sector, sectors, flags, length) = (number(at, 0)?, number(at, 1)?, number(at, 2)?, number(at, 3)?);
            let mut text = String::new();
            if flags & MARK != 0 {
                // It lies in the entry's own sector.
                let mut bytes = vec![0; length.min(SECTOR - 32) as usize];
                log.read_exact_at(&mut bytes, at * SECTOR + 32).map_err(failed)?;
                text = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
            }
            entries.push(Entry { sector, sectors, flags, data: (at + 1) * SECTOR, text });
            at += 1 + if flags & DISCARD == 0 { sectors } else { 0 };
        }
        Ok(Record { log, entries })
    }

    /// Does to a device what was done to the one that was recorded. What was discarded reads as zeros.
    pub(crate) fn replay(&self, index: usize, to: &File) -> Result<(), String> {
        let entry = &self.entries[index];
        if entry.flags & MARK != 0 {
            return Ok(());
        }
        let (mut done, end) = (0, entry.sectors * SECTOR);
        let mut buffer = vec![0; end.min(1 << 20) as usize];
        while done < end {
            let part = &mut buffer[..(end - done).min(1 << 20) as usize];
            if entry.flags & DISCARD == 0 {
                self.log.read_exact_at(part, entry.data + done).map_err(failed)?;
            }
            to.write_all_at(part, entry.sector * SECTOR + done).map_err(failed)?;
            done += part.len() as u64;
        }
        Ok(())
    }
}

fn failed(error: std::io::Error) -> String {
    format!("cannot replay a record: {error}")
}
