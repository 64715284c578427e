//! Bytes from the outside, made safe to show.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Shows a name from an archive or a file system so that it cannot move the cursor, end a line or pass for another.
///
/// Control characters, backslashes and bytes that are not UTF-8 come out as `\n`, `\t`, `\\` or `\xNN`; all else stays.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl<'a> From<&'a Path> for Escaped<'a> {
    fn from(path: &'a Path) -> Self {
        Escaped(path.as_os_str().as_bytes())
    }
}

impl<'a> From<&'a OsStr> for Escaped<'a> {
    fn from(name: &'a OsStr) -> Self {
        Escaped(name.as_bytes())
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '\\' => f.write_str("\\\\")?,
                    // Format characters reorder or hide text on a terminal.
                    '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
                        write!(f, "\\u{{{:x}}}", c as u32)?;
                    }
                    c if c.is_control() => write!(f, "\\x{:02x}", c as u32)?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Bytes from text in which `%XX` stands for a byte; `None` if an escape is malformed.
pub(crate) fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|&byte| (byte as char).to_digit(16));
        out.push((digit()? << 4 | digit()?) as u8);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_reach_the_terminal_raw() {
        let shown = |bytes: &[u8]| Escaped(bytes).to_string();
        assert_eq!(shown(b"etc/passwd"), "etc/passwd");
        assert_eq!(shown("Grüße".as_bytes()), "Grüße");
        assert_eq!(shown(b"a\nb\tc\\d"), "a\\nb\\tc\\\\d");
        assert_eq!(shown(b"\x1b[2J\x07\x00"), "\\x1b[2J\\x07\\x00");
        assert_eq!(shown(b"\xff\xfe"), "\\xff\\xfe");
        assert_eq!(shown("\u{202e}gnp".as_bytes()), "\\u{202e}gnp");
    }
}
