//! [`Faulty`]: a volume, or a pool of bases, whose primitives fail where they are told to.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::base_name::BaseName;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::volume::{
    BasePool, Capabilities, Holder, Names, RebuildableVolume, Reclaiming, RootId, RootMetadata, Slot, Snapshot, StageSpec, Tidied,
    Usage, UsageDetail, VolumeId, VolumeLock, Warning,
};

/// A method of [`RebuildableVolume`], or of [`BasePool`], that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is named after its method; those that begin with `Base` after one of the pool's")]
pub enum Primitive {
    Lock,
    Names,
    Identity,
    Holders,
    Snapshots,
    Usage,
    Record,
    Capture,
    Stage,
    Grow,
    Seal,
    Rename,
    Exchange,
    Purge,
    Discard,
    Tidy,
    BaseNames,
    BaseVolume,
    BaseHold,
    BaseOpen,
    BaseClones,
    BaseUsed,
    BaseTouch,
    BaseForget,
    BaseMemo,
    BaseSetMemo,
}

impl Primitive {
    /// All of them.
    pub const ALL: [Primitive; 26] = [
        Primitive::Lock,
        Primitive::Names,
        Primitive::Identity,
        Primitive::Holders,
        Primitive::Snapshots,
        Primitive::Usage,
        Primitive::Record,
        Primitive::Capture,
        Primitive::Stage,
        Primitive::Grow,
        Primitive::Seal,
        Primitive::Rename,
        Primitive::Exchange,
        Primitive::Purge,
        Primitive::Discard,
        Primitive::Tidy,
        Primitive::BaseNames,
        Primitive::BaseVolume,
        Primitive::BaseHold,
        Primitive::BaseOpen,
        Primitive::BaseClones,
        Primitive::BaseUsed,
        Primitive::BaseTouch,
        Primitive::BaseForget,
        Primitive::BaseMemo,
        Primitive::BaseSetMemo,
    ];
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Primitive::Lock => "lock",
            Primitive::Names => "names",
            Primitive::Identity => "identity",
            Primitive::Holders => "holders",
            Primitive::Snapshots => "snapshots",
            Primitive::Usage => "usage",
            Primitive::Record => "record",
            Primitive::Capture => "capture",
            Primitive::Stage => "stage",
            Primitive::Grow => "grow",
            Primitive::Seal => "seal",
            Primitive::Rename => "rename",
            Primitive::Exchange => "exchange",
            Primitive::Purge => "purge",
            Primitive::Discard => "discard",
            Primitive::Tidy => "tidy",
            Primitive::BaseNames => "base-names",
            Primitive::BaseVolume => "base-volume",
            Primitive::BaseHold => "base-hold",
            Primitive::BaseOpen => "base-open",
            Primitive::BaseClones => "base-clones",
            Primitive::BaseUsed => "base-used",
            Primitive::BaseTouch => "base-touch",
            Primitive::BaseForget => "base-forget",
            Primitive::BaseMemo => "base-memo",
            Primitive::BaseSetMemo => "base-set-memo",
        })
    }
}

/// On which side of a primitive something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum When {
    /// Nothing was done yet.
    Before,
    /// All was done, and the caller does not know.
    After,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            When::Before => "before",
            When::After => "after",
        })
    }
}

/// A moment of a run: before or after the n-th call of a primitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct FaultPoint {
    /// The primitive.
    pub primitive: Primitive,
    /// Which of its calls, from 1.
    pub occurrence: u32,
    /// Before it or after it.
    pub when: When,
}

impl FaultPoint {
    /// Before or after the `occurrence`-th call, counted from 1, of `primitive`.
    pub fn new(primitive: Primitive, occurrence: u32, when: When) -> Self {
        FaultPoint { primitive, occurrence, when }
    }
}

impl fmt::Display for FaultPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} #{}", self.when, self.primitive, self.occurrence)
    }
}

/// What happens at a [`FaultPoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The primitive returns an error of this kind. After it: although it was carried out.
    Error(ErrorKind),
    /// The whole process is killed with `SIGKILL`.
    Kill,
}

/// A call of a primitive that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The primitive.
    pub primitive: Primitive,
    /// Which of its calls, from 1.
    pub occurrence: u32,
    /// Its arguments in a few words; may be empty.
    pub arguments: String,
    /// Whether it returned `Ok`, as its caller saw it.
    pub succeeded: bool,
}

impl Call {
    /// The two moments at which this call can be made to fail.
    pub fn points(&self) -> [FaultPoint; 2] {
        [When::Before, When::After].map(|when| FaultPoint::new(self.primitive, self.occurrence, when))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.primitive, self.occurrence)?;
        if !self.arguments.is_empty() {
            write!(f, " ({})", self.arguments)?;
        }
        f.write_str(if self.succeeded { "" } else { " failed" })
    }
}

/// A volume, or a pool of bases, that hands every call on to another one, writes it down, and fails where it is told to.
///
/// Put a pool in an [`Arc`] to ask for its [`calls`](Self::calls) when it has become part of a [`Bases`](crate::Bases).
///
/// A first run without a fault tells through [`calls`](Self::calls) all the points at which a second one can fail:
///
/// ```
/// # use reroot::{Result, RebuildableVolume};
/// # use reroot::conformance::fault::{Fault, Faulty};
/// # fn job(volume: &mut dyn RebuildableVolume) -> Result<()> { volume.capture() }
/// # fn every_failure(open: impl Fn() -> Result<Box<dyn RebuildableVolume>>) -> Result<()> {
/// let mut volume = Faulty::new(open()?);
/// job(&mut volume)?;
/// for point in volume.calls().iter().flat_map(|call| call.points()) {
///     let mut volume = Faulty::new(open()?).with_fault(point, Fault::Error(reroot::ErrorKind::Io));
///     let result = job(&mut volume);
///     assert!(volume.fired());
///     // Whatever `result` says, the volume must be whole now.
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Faulty<T> {
    inner: T,
    faults: Faults,
}

/// Where to fail, and what was called; shared by the volumes of one pool.
#[derive(Debug, Clone, Default)]
struct Faults {
    fault: Option<(FaultPoint, Fault)>,
    action: Option<(FaultPoint, Action)>,
    log: Arc<Mutex<Log>>,
}

/// What a test does in the middle of a run.
#[derive(Clone)]
struct Action(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Action")
    }
}

#[derive(Debug, Default)]
struct Log {
    calls: Vec<Call>,
    fired: bool,
}

impl Faults {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call, writes it down, and fails where that is due.
    fn call<T>(&self, primitive: Primitive, arguments: String, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let (index, occurrence) = {
            let calls = &mut self.log().calls;
            let occurrence = calls.iter().filter(|call| call.primitive == primitive).count() as u32 + 1;
            calls.push(Call { primitive, occurrence, arguments, succeeded: false });
            (calls.len() - 1, occurrence)
        };
        self.fail_at(FaultPoint::new(primitive, occurrence, When::Before))?;
        let value = call()?;
        self.fail_at(FaultPoint::new(primitive, occurrence, When::After))?;
        if let Some(call) = self.log().calls.get_mut(index) {
            call.succeeded = true;
        }
        Ok(value)
    }

    fn fail_at(&self, point: FaultPoint) -> Result<()> {
        if let Some((at, Action(act))) = &self.action
            && *at == point
        {
            act();
        }
        match self.fault {
            Some((at, fault)) if at == point => {
                self.log().fired = true;
                match fault {
                    Fault::Error(kind) => Err(Error::new(kind, "carry on", format!("made to fail {point}"))),
                    Fault::Kill => kill(),
                }
            }
            _ => Ok(()),
        }
    }
}

impl<T> Faulty<T> {
    /// `inner` with its calls written down.
    pub fn new(inner: T) -> Self {
        Faulty { inner, faults: Faults::default() }
    }

    /// Makes `fault` happen at `point`, once.
    #[must_use]
    pub fn with_fault(mut self, point: FaultPoint, fault: Fault) -> Self {
        self.faults.fault = Some((point, fault));
        self
    }

    /// Has something done at `point`: for a failure that comes from below the volume, a store that stops answering for one.
    #[must_use]
    pub fn with_action(mut self, point: FaultPoint, action: impl Fn() + Send + Sync + 'static) -> Self {
        self.faults.action = Some((point, Action(Arc::new(action))));
        self
    }

    /// The calls so far, in their order.
    pub fn calls(&self) -> Vec<Call> {
        self.faults.log().calls.clone()
    }

    /// Whether the fault has happened.
    pub fn fired(&self) -> bool {
        self.faults.log().fired
    }

    /// The volume or the pool, without faults.
    pub fn into_inner(self) -> T {
        self.inner
    }

    fn observe<R>(&self, primitive: Primitive, arguments: String, call: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        self.faults.call(primitive, arguments, || call(&self.inner))
    }

    fn change<R>(&mut self, primitive: Primitive, arguments: String, call: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        self.faults.call(primitive, arguments, || call(&mut self.inner))
    }
}

/// The volumes that it returns share its log and its fault.
impl<P: BasePool> BasePool for Faulty<P> {
    fn id(&self) -> VolumeId {
        self.inner.id()
    }

    fn names(&self) -> Result<Vec<BaseName>> {
        self.observe(Primitive::BaseNames, String::new(), P::names)
    }

    fn volume(&self, name: &BaseName) -> Result<Box<dyn RebuildableVolume>> {
        let inner = self.observe(Primitive::BaseVolume, String::new(), |pool| pool.volume(name))?;
        Ok(Box::new(Faulty { inner, faults: self.faults.clone() }))
    }

    fn hold(&self, name: &BaseName, wait: &Wait) -> Result<VolumeLock> {
        self.observe(Primitive::BaseHold, String::new(), |pool| pool.hold(name, wait))
    }

    fn open(&self, name: &BaseName) -> Result<Option<OwnedFd>> {
        self.observe(Primitive::BaseOpen, String::new(), |pool| pool.open(name))
    }

    fn close(&self, name: &BaseName) {
        self.inner.close(name);
    }

    fn clones(&self, name: &BaseName) -> Result<Vec<String>> {
        self.observe(Primitive::BaseClones, String::new(), |pool| pool.clones(name))
    }

    fn used(&self, name: &BaseName) -> Result<Option<SystemTime>> {
        self.observe(Primitive::BaseUsed, String::new(), |pool| pool.used(name))
    }

    fn touch(&self, name: &BaseName) -> Result<()> {
        self.observe(Primitive::BaseTouch, String::new(), |pool| pool.touch(name))
    }

    fn forget(&self, name: &BaseName) -> Result<()> {
        self.observe(Primitive::BaseForget, String::new(), |pool| pool.forget(name))
    }

    fn memo(&self) -> Result<Vec<u8>> {
        self.observe(Primitive::BaseMemo, String::new(), P::memo)
    }

    fn set_memo(&self, memo: &[u8]) -> Result<()> {
        self.observe(Primitive::BaseSetMemo, String::new(), |pool| pool.set_memo(memo))
    }
}

/// Ends this process as `kill -9` does.
fn kill() -> ! {
    let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    // The signal is delivered before the call returns; should it not be, this ends the process without unwinding too.
    std::process::abort()
}

impl<V: RebuildableVolume> RebuildableVolume for Faulty<V> {
    fn id(&self) -> VolumeId {
        self.inner.id()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn lock(&self, wait: &Wait) -> Result<VolumeLock> {
        self.observe(Primitive::Lock, String::new(), |volume| volume.lock(wait))
    }

    fn names(&self) -> Result<Names> {
        self.observe(Primitive::Names, String::new(), V::names)
    }

    fn identity(&self, slot: Slot) -> Result<Option<RootId>> {
        self.observe(Primitive::Identity, slot.to_string(), |volume| volume.identity(slot))
    }

    fn holders(&self) -> Result<Vec<Holder>> {
        self.observe(Primitive::Holders, String::new(), V::holders)
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.observe(Primitive::Snapshots, String::new(), V::snapshots)
    }

    fn usage(&self, detail: UsageDetail) -> Result<Usage> {
        self.observe(Primitive::Usage, format!("{detail:?}"), |volume| volume.usage(detail))
    }

    fn record(&self) -> Result<Option<ImageRecord>> {
        self.observe(Primitive::Record, String::new(), V::record)
    }

    fn capture(&mut self) -> Result<()> {
        self.change(Primitive::Capture, String::new(), V::capture)
    }

    fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        self.change(Primitive::Stage, String::new(), |volume| volume.stage(spec))
    }

    fn grow(&mut self, to: ByteSize) -> Result<ByteSize> {
        self.change(Primitive::Grow, format!("to {to}"), |volume| volume.grow(to))
    }

    fn seal(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
        self.change(Primitive::Seal, format!("{root:?}"), |volume| volume.seal(record, root))
    }

    fn rename(&mut self, from: Slot, to: Slot) -> Result<()> {
        self.change(Primitive::Rename, format!("{from} to {to}"), |volume| volume.rename(from, to))
    }

    fn exchange(&mut self) -> Result<()> {
        self.change(Primitive::Exchange, String::new(), V::exchange)
    }

    fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        let count = format!("{} snapshots", snapshots.len());
        self.change(Primitive::Purge, count, |volume| volume.purge(snapshots))
    }

    fn discard(&mut self, slot: Slot) -> Result<()> {
        self.change(Primitive::Discard, slot.to_string(), |volume| volume.discard(slot))
    }

    // What only looks ahead or back decides nothing that a fault could spoil.
    fn check_spec(&self, spec: &StageSpec) -> Result<()> {
        self.inner.check_spec(spec)
    }

    fn check_room(&mut self, written: ByteSize) -> Result<()> {
        self.inner.check_room(written)
    }

    fn explain(&self, error: Error) -> Error {
        self.inner.explain(error)
    }

    fn reclaiming(&self) -> Result<Option<Reclaiming>> {
        self.inner.reclaiming()
    }

    fn tidy(&mut self) -> Result<Tidied> {
        self.change(Primitive::Tidy, String::new(), V::tidy)
    }
}
