//! SHA-256 digests.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};

/// A SHA-256 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Sha256(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl FromStr for Sha256 {
    type Err = Error;

    /// Reads 64 hexadecimal digits of either case, with or without the `sha256:` that registries write before them.
    fn from_str(text: &str) -> Result<Self, Error> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let mut bytes = [0; 32];
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let valid = hex.len() == 64
            && bytes.iter_mut().zip(hex.chunks_exact(2)).all(|(byte, pair)| {
                let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return false };
                *byte = high << 4 | low;
                true
            });
        if !valid {
            return Err(Error::new(ErrorKind::InvalidInput, "read a digest", format!("{text:?} is not a SHA-256 digest"))
                .with_remedy("write 64 hexadecimal digits, as sha256sum prints them"));
        }
        Ok(Sha256(bytes))
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Digests bytes as they pass.
#[cfg(any(feature = "tar", feature = "conformance"))]
#[derive(Clone)]
pub(crate) struct Hasher(sha2::Sha256);

#[cfg(any(feature = "tar", feature = "conformance"))]
impl Hasher {
    pub(crate) fn new() -> Self {
        use sha2::Digest;
        Hasher(sha2::Sha256::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        use sha2::Digest;
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Sha256 {
        use sha2::Digest;
        Sha256(self.0.finalize().into())
    }
}

#[cfg(any(feature = "tar", feature = "conformance"))]
impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_hex() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest: Sha256 = hex.parse().unwrap();
        assert_eq!(digest.to_string(), hex);
        assert_eq!(format!("sha256:{}", hex.to_uppercase()).parse::<Sha256>().unwrap(), digest);
        for bad in ["", "e3b0", &hex[1..], &format!("{hex}0"), &hex.replace('e', "g"), &hex.replace("e3", "é")] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad:?}");
        }
    }

    #[cfg(feature = "tar")]
    #[test]
    fn digests_as_sha256sum_does() {
        let mut hasher = Hasher::new();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish().to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
