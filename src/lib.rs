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
mod trace;
#[cfg(feature = "tar")]
pub mod unpack;
pub mod volume;

pub use digest::Sha256;
pub use error::{Error, ErrorKind, Outcome, Result, Space};
pub use image::Image;
pub use progress::{CancelToken, Event, Phase, Progress, Wait};
#[doc(inline)]
pub use rebuild::{Dispose, Plan, Rebuild, RecoverAction, Recovery, Report, SnapshotPolicy, Strategy, recover};
pub use record::{ImageRecord, Origin};
pub use size::ByteSize;
#[cfg(feature = "tar")]
#[doc(inline)]
pub use unpack::{DevicePolicy, Limits, LossPolicy};
#[doc(inline)]
pub use volume::RebuildableVolume;
