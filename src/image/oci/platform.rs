//! For which machine an image is, in the words that Go and OCI use.

use std::env::consts::ARCH;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::text::Escaped;

/// An operating system and an architecture in Go's words, as OCI has them: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// The operating system and the architecture that this was built for.
    pub fn current() -> Self {
        let architecture = match ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "mips64" if cfg!(target_endian = "little") => "mips64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Of the fields of a document; `None` if it does not say.
    pub(super) fn from_fields(os: &str, architecture: &str, variant: &str) -> Option<Self> {
        let variant = Some(variant).filter(|variant| !variant.is_empty()).map(str::to_owned);
        let known = !os.is_empty() && !architecture.is_empty();
        known.then(|| Platform { os: os.into(), architecture: architecture.into(), variant })
    }

    /// Whether an image for `other` is what is asked for. Without a variant any will do.
    pub(super) fn accepts(&self, other: &Platform) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || self.variant() == other.variant())
    }

    /// The variant; that of arm64 is v8 if it does not say.
    fn variant(&self) -> Option<&str> {
        match &self.variant {
            None if self.architecture == "arm64" => Some("v8"),
            variant => variant.as_deref(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Escaped(self.os.as_bytes()), Escaped(self.architecture.as_bytes()))?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", Escaped(variant.as_bytes())),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `os/architecture` or `os/architecture/variant`.
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<_> = text.split('/').collect();
        let known = match parts[..] {
            [os, architecture] => Platform::from_fields(os, architecture, ""),
            [os, architecture, variant] if !variant.is_empty() => Platform::from_fields(os, architecture, variant),
            _ => None,
        };
        known.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read a platform", format!("{text:?} is not a platform"))
                .with_remedy("write it like linux/amd64 or linux/arm/v7")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_and_their_variants() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(platform("linux/arm").accepts(&platform("linux/arm/v7")));
        assert!(!platform("linux/arm/v7").accepts(&platform("linux/arm")));
        assert!(platform("linux/arm64/v8").accepts(&platform("linux/arm64")));
        assert!(!platform("linux/arm").accepts(&platform("linux/arm64")));
        assert_eq!(platform("linux/arm/v7").to_string(), "linux/arm/v7");
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
