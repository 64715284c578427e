//! Bases: roots made once from an image, from which volumes are cloned.
//!
//! With a base a rebuild takes as long for ten gigabytes as for ten megabytes, where the backend clones; a directory shares the data of the
//! base's files where the file system can.
//!
//! A base is keyed by the digest of its image and by the options that shape what comes of it, and made as every root is: staged, sealed, and
//! only then given its name. A base that a kill left half-made is none, and the next call makes it.
//!
//! ```no_run
//! # #[cfg(feature = "dir")]
//! # fn main() -> reroot::Result<()> {
//! use reroot::base::BaseOptions;
//! use reroot::dir::{DirBases, DirVolume};
//! use reroot::{Bases, Image, Rebuild};
//!
//! let bases = Bases::new(DirBases::open("/srv/pool")?);
//! let base = bases.ensure(Image::open("debian-13.tar.zst")?, &BaseOptions::default())?;
//! for name in ["c1", "c2", "c3"] {
//!     let mut volume = DirVolume::open(format!("/srv/pool/containers/{name}"))?;
//!     Rebuild::from_base(&base).run(&mut volume)?;
//! }
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "dir"))]
//! # fn main() {}
//! ```

mod collect;
mod ensure;
mod list;
mod memo;
mod options;
mod verify;

pub use self::collect::{CollectPolicy, Collected, Kept, KeptBase, References};
pub use self::list::{BaseInfo, BaseState};
pub use self::options::BaseOptions;
pub use self::verify::Verdict;

use std::sync::{Arc, OnceLock};

use crate::base_name::BaseName;
use crate::error::{Error, Result};
use crate::image::{BaseRoot, Image};
use crate::record::ImageRecord;
use crate::volume::{BasePool, VolumeId, VolumeLock};

/// The bases of a pool.
///
/// It may be shared by threads, and other processes may use the same pool at the same time.
#[derive(Debug, Clone)]
pub struct Bases {
    pool: Arc<dyn BasePool>,
}

impl Bases {
    /// Those that `pool` keeps.
    pub fn new(pool: impl BasePool + 'static) -> Self {
        Bases { pool: Arc::new(pool) }
    }

    /// The pool, for messages.
    pub fn pool(&self) -> VolumeId {
        self.pool.id()
    }

    fn add_pool(&self, error: Error) -> Error {
        error.with_context("pool", self.pool.id())
    }
}

/// A complete base, held: as long as this value or a clone of it lives, the base is neither removed nor made anew. (Not that of [`Bases::look_at`].)
#[derive(Debug, Clone)]
pub struct Base {
    root: Arc<BaseRoot>,
}

impl Base {
    /// Its name.
    pub fn name(&self) -> &BaseName {
        &self.root.name
    }

    /// Its identity as a volume, to be named in [`StageSpec::base`](crate::volume::StageSpec::base).
    pub fn id(&self) -> &VolumeId {
        &self.root.id
    }

    /// What it was made from, and what it holds.
    pub fn record(&self) -> &ImageRecord {
        &self.root.record
    }

    /// The base as the image of a rebuild.
    pub fn image(&self) -> Image {
        Image::of_base(Arc::clone(&self.root))
    }
}

impl Bases {
    /// Opens a complete base once `hold` holds it; `None` if there is none. Where nothing was ever made of it nothing is held or made.
    fn open_held(&self, name: &BaseName, hold: impl FnOnce() -> Result<VolumeLock>) -> Result<Option<Base>> {
        if self.pool.names()?.contains(name) { self.open(name, hold()?) } else { Ok(None) }
    }

    /// Opens a complete base; `None` if there is none. Whoever calls holds it.
    fn open(&self, name: &BaseName, hold: VolumeLock) -> Result<Option<Base>> {
        let volume = self.pool.volume(name)?;
        if !volume.names()?.live {
            return Ok(None);
        }
        let record = volume.record()?.unwrap_or_else(|| list::unrecorded(name));
        let pool = Arc::clone(&self.pool);
        let root = BaseRoot { id: volume.id(), name: name.clone(), record, pool, root: OnceLock::new(), _hold: hold };
        Ok(Some(Base { root: Arc::new(root) }))
    }
}
