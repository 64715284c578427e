//! Filling a staged root from an image: where a directory and a stream meet.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::Options;
use super::growth;
use super::report::Clock;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result, Space};
use crate::image::{Image, Position, Reading};
use crate::progress::Event;
use crate::record::Contents;
use crate::size::ByteSize;
use crate::unpack::{Hooks, Tally, UnpackOptions, Unpacked, Writeback, fingerprint};
use crate::volume::{RebuildableVolume, RootMetadata};

/// The shortest time between two events of progress.
const PROGRESS_STEP: Duration = Duration::from_millis(100);

/// How often the store is asked for room: after so long, or so much.
const ROOM_STEP: Duration = Duration::from_millis(50);
const ROOM_BYTES: ByteSize = ByteSize::mib(1);

/// What came of filling a root.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) unpacked: Unpacked,
    pub(super) digest: Option<Sha256>,
    pub(super) grown: Option<ByteSize>,
}

/// Unpacks `image` into `root`, checks its digest, and grows the volume when it runs full and may grow.
pub(super) fn fill(
    volume: &mut dyn RebuildableVolume,
    root: impl AsFd,
    image: &mut Image,
    metadata: RootMetadata,
    options: &Options,
    size: Option<ByteSize>,
    clock: &Clock<'_>,
) -> Result<Filled> {
    let reading = reading(options);
    let mut filling = Filling::new(image, reading.position.clone(), options, clock);
    filling.growth = Some(Growth { volume, size, grown: None });
    let (unpacked, digest) = image.fill(root.as_fd(), &unpack_options(metadata, options), &mut filling, &reading)?;
    filling.report(&unpacked.tally);
    let Some(Growth { volume, grown, .. }) = filling.growth else { return Ok(Filled { unpacked, digest, grown: None }) };
    // Also for the last bytes, which are still on their way.
    volume.check_room(unpacked.tally.bytes)?;
    Ok(Filled { unpacked, digest, grown })
}

/// Reads `image` to its end and checks all that can be checked without writing.
pub(super) fn check(image: &mut Image, options: &Options, clock: &Clock<'_>) -> Result<Tally> {
    let reading = reading(options);
    let mut filling = Filling::new(image, reading.position.clone(), options, clock);
    let tally = image.check(&unpack_options(RootMetadata::Keep, options), &mut filling, &reading)?;
    filling.report(&tally);
    Ok(tally)
}

/// What a root that has just been filled from `image` holds.
pub(super) fn contents(root: impl AsFd, image: &Image, options: &Options, clock: &Clock<'_>) -> Result<Contents> {
    fingerprint(root.as_fd(), &mut Filling::new(image, Position::default(), options, clock))
}

fn reading(options: &Options) -> Reading<'_> {
    Reading { cancel: &options.cancel, patience: options.stall_limit, position: Position::default() }
}

fn unpack_options(metadata: RootMetadata, options: &Options) -> UnpackOptions {
    let unpack = UnpackOptions::default()
        .with_limits(options.limits)
        .with_devices(options.devices)
        .with_losses(options.losses)
        .with_root(metadata)
        // The seal syncs.
        .with_writeback(Writeback::Early);
    match &options.shift {
        Some(shift) => unpack.with_shift(shift.clone()),
        None => unpack,
    }
}

/// Follows an unpacking: tells progress, heeds the cancel token, makes room.
#[derive(Debug)]
struct Filling<'a> {
    options: &'a Options,
    clock: &'a Clock<'a>,
    position: Position,
    of_base: bool,
    total: Option<ByteSize>,
    told: Instant,
    asked: (Instant, ByteSize),
    growth: Option<Growth<'a>>,
}

#[derive(Debug)]
struct Growth<'a> {
    volume: &'a mut dyn RebuildableVolume,
    size: Option<ByteSize>,
    grown: Option<ByteSize>,
}

impl<'a> Filling<'a> {
    fn new(image: &Image, position: Position, options: &'a Options, clock: &'a Clock<'a>) -> Self {
        Filling {
            options,
            clock,
            position,
            of_base: image.base().is_some(),
            total: image.length(),
            told: Instant::now(),
            asked: (Instant::now(), ByteSize::ZERO),
            growth: None,
        }
    }

    fn report(&self, so_far: &Tally) {
        // A base is not read but cloned or copied: what is done is what counts.
        let read = if self.of_base { so_far.bytes } else { ByteSize::from_bytes(self.position.bytes()) };
        self.clock.event(&Event::Filled { read, total: self.total, written: so_far.bytes, entries: so_far.entries });
    }
}

impl Hooks for Filling<'_> {
    fn entry(&mut self, so_far: &Tally) -> Result<()> {
        self.options.cancel.check("fill the staged root")?;
        if let Some(growth) = &mut self.growth
            && (self.asked.0.elapsed() >= ROOM_STEP || so_far.bytes >= self.asked.1.saturating_add(ROOM_BYTES))
        {
            growth.volume.check_room(so_far.bytes)?;
            self.asked = (Instant::now(), so_far.bytes);
        }
        if self.told.elapsed() >= PROGRESS_STEP {
            self.told = Instant::now();
            self.report(so_far);
        }
        Ok(())
    }

    fn full(&mut self, space: Space, error: Error) -> Result<()> {
        let (Some(growth), Some(max)) = (&mut self.growth, self.options.max_size) else { return Err(error) };
        let Some(size) = growth.size else { return Err(error) };
        if !growth.volume.capabilities().sizing.can_grow() {
            return Err(error);
        }
        let Some(mut larger) = growth::larger(size, max) else {
            return Err(growth::is_largest(error.with_kind(ErrorKind::NoSpace(space)), size));
        };
        let grown = loop {
            // Some file systems take small steps for too small.
            let error = match growth.volume.grow(larger) {
                Err(error) if error.kind() == ErrorKind::TooSmall => error,
                grown => break grown?,
            };
            larger = growth::larger(larger, max).ok_or(error)?;
        };
        crate::trace::debug!(%size, %grown, "grown");
        if grown <= size {
            return Err(error);
        }
        growth.size = Some(grown);
        growth.grown = Some(grown);
        self.clock.event(&Event::Grown(grown));
        Ok(())
    }
}
