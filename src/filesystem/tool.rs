//! Running the tools, and making sense of how they ended.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use super::Device;
use crate::error::{Error, ErrorKind, Result, Space};
use crate::sys::command::{Command, Finished, Program};
use crate::text::Escaped;

/// The package that a tool comes in, by the name it has with nearly everyone.
#[derive(Debug, Clone, Copy)]
pub(super) enum Needs {
    UtilLinux,
    E2fsprogs,
    Xfsprogs,
    BtrfsProgs,
}

impl Needs {
    fn package(self) -> &'static str {
        match self {
            Needs::UtilLinux => "util-linux",
            Needs::E2fsprogs => "e2fsprogs",
            Needs::Xfsprogs => "xfsprogs",
            Needs::BtrfsProgs => "btrfs-progs",
        }
    }
}

/// What tools say of a want of room, whatever they exit with.
const TOO_SMALL: [&str; 9] = [
    "too small",
    "too big for a",
    "Not enough space to build",
    "invalid number of inodes",
    "Could not allocate block",
    "must be larger than",
    "must be at least",
    "minimum size for each btrfs device",
    "imaxpct",
];

/// What they say of a device that is in use.
const IN_USE: [&str; 5] = ["is in use", "in use by the system", "Device or resource busy", "is mounted", "mounted filesystem"];
/// For how long a device that is in use may have been left just now.
const SETTLES: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(10);

impl Device<'_> {
    /// Runs a tool to its end, good or bad.
    pub(super) fn run(&self, tool: &'static str, needs: Needs, with: impl FnOnce(Command) -> Command) -> Result<Finished> {
        let run = Program::find(tool, needs.package()).and_then(|tool| with(tool.command()).run(self.operation, self.wait));
        run.map_err(|error| self.named(error))
    }

    /// Waits a moment for the device to be no one's. Not every tool looks, and none sees a mount that no path leads to.
    ///
    /// Who has just unmounted a device may find it in use: a process that was begun meanwhile, anywhere in the caller's program, holds a copy of every
    /// descriptor until it becomes another program.
    pub(super) fn unused(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            // Of a device this is what a mount does; it ends with the descriptor.
            match File::options().read(true).custom_flags(libc::O_EXCL).open(self.path) {
                Ok(_) => return Ok(()),
                Err(error) if error.raw_os_error() != Some(libc::EBUSY) => return Err(self.io("cannot open it", error)),
                Err(_) if self.settles(begun)? => {}
                Err(error) => {
                    let error = self.io("it is mounted, or in use by another device", error);
                    return Err(error.with_remedy("unmount it, and end whoever else uses it"));
                }
            }
        }
    }

    /// Waits a step for what may be over in a moment; `false` once that was long enough.
    pub(super) fn settles(&self, begun: Instant) -> Result<bool> {
        Ok(begun.elapsed() < SETTLES && self.wait.pause(self.operation, STEP)?)
    }

    /// Runs a tool that has to succeed; returns what it said.
    pub(super) fn succeed(&self, tool: &'static str, needs: Needs, with: impl FnOnce(Command) -> Command) -> Result<String> {
        let done = self.run(tool, needs, with)?;
        if done.status.success() { Ok(text(&done.stdout)) } else { Err(self.failed(&done)) }
    }

    /// Why a tool did not succeed, in its words.
    pub(super) fn failed(&self, done: &Finished) -> Error {
        let words = done.words();
        let error = self.error(ErrorKind::Io, format!("{}: {}", done.end(), reason(&done.complaint())));
        let says = |text: &str| words.contains(text);
        if says("No space left on device") {
            error.with_kind(ErrorKind::NoSpace(Space::Pool))
        } else if TOO_SMALL.into_iter().any(says) {
            error.with_kind(ErrorKind::TooSmall).with_remedy("give the volume a larger size")
        } else if IN_USE.into_iter().any(says) {
            error.with_kind(ErrorKind::Busy).with_remedy("unmount it, and end whoever else uses it")
        } else if says("Permission denied") {
            error.with_kind(ErrorKind::PermissionDenied)
        } else {
            error
        }
    }

    pub(super) fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        self.named(Error::new(kind, self.operation, message))
    }

    pub(super) fn io(&self, message: impl Into<String>, source: impl Into<std::io::Error>) -> Error {
        self.named(Error::io(self.operation, message, source))
    }

    /// Says which device an error is about.
    pub(super) fn named(&self, error: Error) -> Error {
        error.with_context("device", self.shown())
    }

    pub(super) fn shown(&self) -> Escaped<'_> {
        Escaped::from(self.path)
    }
}

/// A word among a user's options that would be taken for a device.
pub(super) fn malformed(device: &Device<'_>, word: &OsStr) -> Error {
    let message = format!("{} is no option of mkfs, or lacks its value", Escaped::from(word));
    device.error(ErrorKind::InvalidInput, message).with_remedy("look at the options that the filesystem is made with")
}

pub(super) fn long_label(device: &Device<'_>, bytes: usize) -> Error {
    device.error(ErrorKind::InvalidInput, format!("the label is longer than {bytes} bytes"))
}

/// The reason in what a tool wrote, which some follow by all their options, and others precede by advice.
fn reason(words: &str) -> &str {
    let words = words.split("; Usage:").next().unwrap_or_default();
    words.find("ERROR:").and_then(|at| words.get(at..)).unwrap_or(words)
}

/// What a tool said, as text.
pub(super) fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// The bytes of a text in which `\xNN` stands for one.
pub(super) fn unescape(text: &str) -> OsString {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match rest {
            [b'\\', b'x', high, low, ..] => {
                let digit = |byte: &u8| (*byte as char).to_digit(16);
                digit(high).zip(digit(low)).map(|(high, low)| (high << 4 | low) as u8)
            }
            _ => None,
        };
        out.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { rest.get(4..).unwrap_or_default() } else { after };
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_among_the_words() {
        let xfs = "Filesystem must be larger than 300MB.; Usage: mkfs.xfs; /* blocksize */ [-b size=num]";
        assert_eq!(reason(xfs), "Filesystem must be larger than 300MB.");
        let btrfs = "NOTE: several default settings have changed; - DUP; ERROR: 't.img' is too small; ERROR: minimum size is 1";
        assert_eq!(reason(btrfs), "ERROR: 't.img' is too small; ERROR: minimum size is 1");
        assert_eq!(reason("mke2fs: bad"), "mke2fs: bad");
    }

    #[test]
    fn labels_are_read_byte_for_byte() {
        // As blkid wrote them of a label with a blank, a quote, a backslash, a dollar and an é.
        assert_eq!(unescape(r"a\x20b\x22\x5c\x24é"), "a b\"\\$é");
        assert_eq!(unescape(r"\xff\x2").into_vec(), b"\xff\\x2");
        assert_eq!(unescape(r"a\"), "a\\");
    }
}
