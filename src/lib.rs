//! placeholder
#![deny(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
mod digest;
#[cfg(feature = "dir")]
pub mod dir;
pub mod error;
pub mod image;
mod progress;
pub mod rebuild;
mod record;
mod size;
mod sys;
mod text;
#[cfg(feature = "tar")]
pub mod unpack;
pub mod volume;

pub use digest::Sha256;
pub use error::{Error, ErrorKind, Outcome, Result, Space};
pub use progress::{CancelToken, Event, Phase, Progress, Wait};
pub use record::{ImageRecord, Origin};
pub use size::ByteSize;
#[doc(inline)]
pub use volume::RebuildableVolume;
