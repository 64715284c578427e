//! Sizes in bytes.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};

/// A number of bytes.
///
/// Parses what people write (`4096`, `10GiB`, `500 MB`, `10G`: a lone letter counts in powers of 1024, as in LVM and
/// coreutils) and shows itself in the largest binary unit with one decimal (`1.5 GiB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
pub struct ByteSize(u64);

impl ByteSize {
    /// No bytes.
    pub const ZERO: ByteSize = ByteSize(0);

    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        ByteSize(bytes)
    }

    /// So many KiB; saturates.
    pub const fn kib(count: u64) -> Self {
        ByteSize(count.saturating_mul(1 << 10))
    }

    /// So many MiB; saturates.
    pub const fn mib(count: u64) -> Self {
        ByteSize(count.saturating_mul(1 << 20))
    }

    /// So many GiB; saturates.
    pub const fn gib(count: u64) -> Self {
        ByteSize(count.saturating_mul(1 << 30))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The sum, or the largest size there is.
    #[must_use]
    pub const fn saturating_add(self, other: ByteSize) -> Self {
        ByteSize(self.0.saturating_add(other.0))
    }

    /// The difference, or nothing.
    #[must_use]
    pub const fn saturating_sub(self, other: ByteSize) -> Self {
        ByteSize(self.0.saturating_sub(other.0))
    }

    /// The smallest multiple of `unit` that holds this size; saturates. A `unit` of nothing changes nothing.
    ///
    /// Backends allocate in extents, objects or blocks, and always round up: a size that was asked for is a size one gets.
    #[must_use]
    pub const fn round_up(self, unit: ByteSize) -> Self {
        if unit.0 == 0 {
            return self;
        }
        match self.0.checked_next_multiple_of(unit.0) {
            Some(bytes) => ByteSize(bytes),
            None => ByteSize(u64::MAX - u64::MAX % unit.0),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = ((63 - self.0.leading_zeros()) / 10) as usize;
        let mut tenths = (u128::from(self.0) * 10 + (1u128 << (unit * 10 - 1))) >> (unit * 10);
        if tenths >= 10240 && unit < UNITS.len() {
            unit += 1;
            tenths = 10;
        }
        match tenths % 10 {
            0 => write!(f, "{} {}", tenths / 10, UNITS[unit - 1]),
            rest => write!(f, "{}.{rest} {}", tenths / 10, UNITS[unit - 1]),
        }
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::new(ErrorKind::InvalidInput, "read a size", format!("{text:?} is not a size"))
                .with_remedy("write a size like 4096, 500MB or 10GiB")
        };
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| invalid())?;
        let unit: u64 = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "p" | "pib" => 1 << 50,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "pb" => 1_000_000_000_000_000,
            _ => return Err(invalid()),
        };
        number.checked_mul(unit).map(ByteSize).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let read = |text: &str| text.parse::<ByteSize>().map(ByteSize::bytes).ok();
        assert_eq!(read("4096"), Some(4096));
        assert_eq!(read("10GiB"), Some(10 << 30));
        assert_eq!(read("10g"), Some(10 << 30));
        assert_eq!(read("500 MB"), Some(500_000_000));
        for bad in ["", "GiB", "-1", "1.5G", "1 0", "1XB", "99999999999P", "१K"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn shows_one_decimal_and_never_1024_of_a_unit() {
        let show = |bytes| ByteSize(bytes).to_string();
        assert_eq!(show(0), "0 B");
        assert_eq!(show(1023), "1023 B");
        assert_eq!(show(1024), "1 KiB");
        assert_eq!(show(1536), "1.5 KiB");
        assert_eq!(show((1 << 20) - 1), "1 MiB");
        assert_eq!(show(u64::MAX), "16 EiB");
    }

    #[test]
    fn rounds_up_and_never_down() {
        let unit = ByteSize::mib(4);
        assert_eq!(ByteSize::ZERO.round_up(unit), ByteSize::ZERO);
        assert_eq!(ByteSize::from_bytes(1).round_up(unit), unit);
        assert_eq!(unit.round_up(unit), unit);
        assert_eq!(ByteSize(u64::MAX).round_up(unit).bytes() % unit.bytes(), 0);
        assert_eq!(ByteSize(7).round_up(ByteSize::ZERO), ByteSize(7));
    }
}
