//! The names of bases.

use std::fmt;
use std::str::FromStr;

use crate::digest::Sha256;
use crate::error::{Error, ErrorKind};

/// How many digits of the digest of the options are in a name.
const VARIANT: usize = 16;
/// How many digits of an image's digest are in a name that is shortened.
#[cfg(any(feature = "ceph", feature = "lvm"))]
const SHORT: usize = 32;

/// The name of a base: the digest of its image, as 64 hexadecimal digits, and, where it was not unpacked by the default options, a hyphen
/// and 16 digits that stand for those.
///
/// Two images, or two ways to unpack one, never share a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseName {
    image: Sha256,
    variant: Option<[u8; VARIANT / 2]>,
}

impl BaseName {
    /// The base of the image with this digest, unpacked by the default options.
    pub const fn new(image: Sha256) -> Self {
        BaseName { image, variant: None }
    }

    /// That of the same image, unpacked by the options that `digest` is the digest of.
    #[cfg(feature = "tar")]
    pub(crate) fn with_variant(mut self, digest: Sha256) -> Self {
        self.variant = digest.as_bytes().first_chunk().copied();
        self
    }

    /// The same with fewer digits, for where names have little room.
    #[cfg(any(feature = "ceph", feature = "lvm"))]
    pub(crate) fn shortened(&self) -> String {
        let (image, whole) = (self.image.to_string(), self.to_string());
        let variant = whole.strip_prefix(&image).unwrap_or_default();
        format!("{}{variant}", image.get(..SHORT).unwrap_or(&image))
    }

    /// The digest of its image.
    pub const fn image(&self) -> Sha256 {
        self.image
    }
}

impl fmt::Display for BaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.image.fmt(f)?;
        let Some(variant) = self.variant else { return Ok(()) };
        f.write_str("-")?;
        variant.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for BaseName {
    type Err = Error;

    /// Reads what `Display` writes, and nothing else.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::new(ErrorKind::InvalidInput, "read the name of a base", format!("{text:?} is none"))
                .with_remedy("name it as the list of bases does: 64 hexadecimal digits, and for some a hyphen and 16 more")
        };
        let (image, variant) = text.split_once('-').map_or((text, None), |(image, variant)| (image, Some(variant)));
        let mut name = BaseName::new(image.parse().map_err(|_| invalid())?);
        if let Some(variant) = variant {
            // As the start of a digest: the rest is of no account.
            let padded: Sha256 = format!("{variant:0<64}").parse().map_err(|_| invalid())?;
            name.variant = padded.as_bytes().first_chunk().copied();
        }
        if name.to_string() != text {
            return Err(invalid());
        }
        Ok(name)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for BaseName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_in_no_other_way() {
        let image = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for good in [image.to_owned(), format!("{image}-00112233445566ff")] {
            assert_eq!(good.parse::<BaseName>().unwrap().to_string(), good);
        }
        #[cfg(any(feature = "ceph", feature = "lvm"))]
        for variant in ["", "-00112233445566ff"] {
            let name: BaseName = format!("{image}{variant}").parse().unwrap();
            assert_eq!(name.shortened(), format!("e3b0c44298fc1c149afbf4c8996fb924{variant}"));
        }
        let upper = image.to_uppercase();
        let more = ["", "x", &image[1..], &upper, "..", "sha256:", "-"].map(str::to_owned);
        let variants = ["-", "-0", "-00112233445566FF", "-00112233445566ff0", "-../..", "-00112233445566ff.reroot-staged"];
        for bad in more.into_iter().chain(variants.map(|variant| format!("{image}{variant}"))).chain([format!("sha256:{image}")]) {
            assert!(bad.parse::<BaseName>().is_err(), "{bad}");
        }
    }
}
