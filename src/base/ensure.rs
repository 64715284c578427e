//! Finding the base of an image, or making it.

use std::time::{Duration, SystemTime};

use super::options::BaseOptions;
use super::{Base, Bases, memo};
use crate::base_name::BaseName;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::progress::{Phase, Wait};
use crate::rebuild::{Rebuild, Silent};
use crate::volume::VolumeLock;

/// How old a note of a base's use may be before it is renewed: it is read to the day, not to the second.
const USE_STEP: Duration = Duration::from_secs(60);

/// How long to wait at once for the right to make a base: whoever waits for that waits for all who hold it.
const MAKE_STEP: Duration = Duration::from_millis(20);

impl Bases {
    /// Finds the base of `image`, or makes it.
    ///
    /// To know which base that is takes the image's digest. It is known for an image in layers, and for one that was asked for by its
    /// digest ([`Image::with_sha256`]), which then is not even read. The file of any other is read once and remembered with its times.
    ///
    /// If another process makes the same base, this waits for it.
    ///
    /// # Errors
    /// Those of [`Rebuild::run`]; no base is left then, and what was there is as it was. [`ErrorKind::Unsupported`] for a stream whose digest is not
    /// given; [`ErrorKind::Locked`] when the wait was too short; [`ErrorKind::Cancelled`].
    pub fn ensure(&self, image: Image, options: &BaseOptions) -> Result<Base> {
        self.ensure_base(image, options).map_err(|error| self.add_pool(error))
    }

    /// Finds a base by its name; `None` if there is none. Waits as long as `wait` says for one that is being made.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`]; [`ErrorKind::Cancelled`]; what prevents the look.
    pub fn find(&self, name: &BaseName, wait: &Wait) -> Result<Option<Base>> {
        let found = self.open_held(name, || self.pool.hold(name, wait));
        found.inspect(|base| base.iter().for_each(|_| self.note_use(name))).map_err(|error| self.add_pool(error))
    }

    /// Finds a base by its name, for a [plan](Rebuild::plan) alone: it is not held, nor is its use noted. Changes nothing.
    ///
    /// # Errors
    /// What prevents the look.
    pub fn look_at(&self, name: &BaseName) -> Result<Option<Base>> {
        self.open_held(name, || Ok(VolumeLock::new(()))).map_err(|error| self.add_pool(error))
    }

    /// The name that the base of `image` has, whether it exists or not. Changes nothing: what was read is not remembered.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub fn name_of(&self, image: &Image, options: &BaseOptions) -> Result<BaseName> {
        self.find_name(image, options).map(|(name, _)| name).map_err(|error| self.add_pool(error))
    }

    /// The name, and what is worth remembering of how it was found.
    fn find_name(&self, image: &Image, options: &BaseOptions) -> Result<(BaseName, Option<String>)> {
        let (digest, state) = self.digest_of(image, options).map_err(|error| error.with_context("image", image.origin()))?;
        let name = BaseName::new(digest);
        let name = match options.variant(&image.record(Some(digest))) {
            Some(variant) => name.with_variant(variant),
            None => name,
        };
        Ok((name, state))
    }

    fn ensure_base(&self, image: Image, options: &BaseOptions) -> Result<Base> {
        const OPERATION: &str = "make a base";
        if image.base().is_some() || image.is_empty() {
            return Err(
                Error::new(ErrorKind::InvalidInput, OPERATION, "there is no image to make it from").with_remedy("name an image")
            );
        }
        let (name, state) = self.find_name(&image, options)?;
        if let Some(state) = state {
            // Only work is lost without it.
            let _ = memo::remember(&*self.pool, &state, name.image());
        }
        let wait = Wait::new(options.wait, options.cancel.clone());
        let mut rebuild = Rebuild::for_base(image.with_sha256(name.image()), options, wait.left().min(MAKE_STEP));
        let mut made = false;
        loop {
            let hold = self.pool.hold(&name, &wait)?;
            if let Some(base) = self.open(&name, hold)? {
                self.note_use(&name);
                return Ok(base);
            }
            // Removed again before it could be held.
            if made {
                return Err(Error::new(ErrorKind::NotFound, OPERATION, "it was removed as soon as it was made")
                    .with_context("base", &name)
                    .with_remedy("try again"));
            }
            let mut volume = self.pool.volume(&name)?;
            match rebuild.create(&mut *volume) {
                Ok(report) => made = report.is_some(),
                // Someone makes it, or has made it and holds it. Not to be waited for here: that can be long after it is there.
                Err(error) if error.kind() == ErrorKind::Locked && !wait.left().is_zero() => {}
                Err(error) => return Err(error.with_context("base", &name)),
            }
        }
    }

    /// The digest, and the state of the file that was read for it if that tells it from every other.
    fn digest_of(&self, image: &Image, options: &BaseOptions) -> Result<(Sha256, Option<String>)> {
        if let Some(digest) = image.known_digest(&options.cancel)? {
            return Ok((digest, None));
        }
        let before = image.file_state();
        if let Some(digest) = before.as_deref().and_then(|state| memo::recall(&*self.pool, state)) {
            return Ok((digest, None));
        }
        let progress = options.progress.as_deref().unwrap_or(&Silent);
        progress.event(&crate::Event::Phase(Phase::Check));
        let digest = image.digest(&options.cancel, Default::default())?;
        Ok((digest, before.filter(|before| image.file_state().as_ref() == Some(before))))
    }

    /// Notes that a base is used, not more often than is of use.
    fn note_use(&self, name: &BaseName) {
        let recent = |used: SystemTime| used.elapsed().is_ok_and(|since| since < USE_STEP);
        if !self.pool.used(name).is_ok_and(|used| used.is_some_and(recent)) {
            // A base whose use could not be noted may be collected too early, and is made again then.
            let _ = self.pool.touch(name);
        }
    }
}
