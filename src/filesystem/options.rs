//! Options of a user's own for tools whose last word does not always win.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// An option of one letter, and its value where it takes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) letter: u8,
    pub(super) value: Option<OsString>,
}

/// Takes options apart as getopt(3) does, without its reordering. `taking` are the letters that take a value.
///
/// # Errors
/// The word that is none: the tools would take it for a device. Or the option whose value is missing.
pub(super) fn shorts(options: &[OsString], taking: &[u8]) -> Result<Vec<Short>, OsString> {
    let mut found = Vec::new();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let letters = word.as_bytes().strip_prefix(b"-").filter(|letters| !letters.is_empty() && !letters.starts_with(b"-"));
        let mut rest = letters.ok_or_else(|| word.clone())?;
        while let Some((&letter, after)) = rest.split_first() {
            if !taking.contains(&letter) {
                found.push(Short { letter, value: None });
                rest = after;
                continue;
            }
            let value = match after {
                [] => words.next().ok_or_else(|| word.clone())?.clone(),
                after => OsString::from_vec(after.to_owned()),
            };
            found.push(Short { letter, value: Some(value) });
            break;
        }
    }
    Ok(found)
}

impl Short {
    /// It as the tool takes it.
    pub(super) fn words(&self) -> impl Iterator<Item = OsString> {
        [Some(OsString::from_vec(vec![b'-', self.letter])), self.value.clone()].into_iter().flatten()
    }

    pub(super) fn number(&self) -> Option<u64> {
        size(self.value.as_deref()?)
    }

    /// The parts of a value with commas between.
    pub(super) fn parts(&self) -> impl Iterator<Item = &OsStr> {
        let value = self.value.as_deref().unwrap_or_default().as_bytes();
        value.split(|&byte| byte == b',').filter(|part| !part.is_empty()).map(OsStr::from_bytes)
    }
}

/// A number with or without the letter of its unit, in powers of 1024.
pub(super) fn size(text: &OsStr) -> Option<u64> {
    let text = text.to_str()?;
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<String, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let shown = |short: &Short| short.words().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join("=");
        let found = shorts(&words, b"ENi").map_err(|word| word.into_string().unwrap())?;
        Ok(found.iter().map(shown).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn options_are_taken_apart_as_getopt_does() {
        assert_eq!(read(&["-qi", "4096", "-N100", "-E", "-a"]).unwrap(), "-q -i=4096 -N=100 -E=-a");
        assert_eq!(read(&[]).unwrap(), "");
        // What follows would be a device.
        assert_eq!(read(&["-q", "/dev/sda"]), Err("/dev/sda".into()));
        for bad in ["-", "--", "--help", "-E"] {
            assert_eq!(read(&["-q", bad]), Err(bad.into()));
        }
    }

    #[test]
    fn numbers_have_units() {
        let number = |text: &str| size(OsStr::new(text));
        assert_eq!((number("4096"), number("16k"), number("2G")), (Some(4096), Some(16 << 10), Some(2 << 30)));
        assert_eq!((number(""), number("k"), number("1x"), number("99999999999t")), (None, None, None, None));
    }
}
