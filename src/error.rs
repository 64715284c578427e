//! One error type for the whole library.
//!
//! An [`Error`] is written for the person who has to act on it: what failed, on which volume, why, what state the volume is in
//! now ([`Outcome`]) and what to do ([`Error::remedy`]). Programs match on [`ErrorKind`].

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// What the library returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which space ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Space {
    /// The pool or file system that holds the volume: `ENOSPC` with inodes left.
    Pool,
    /// A limit on the volume, its owner or its project: `EDQUOT`, for which XFS says `ENOSPC` of a project.
    Quota,
    /// The file system's inodes: `ENOSPC` with blocks left.
    Inodes,
    /// The data space of a thin pool, which all its volumes share.
    ThinData,
    /// The metadata space of a thin pool: it maps no more blocks, however much data space is left.
    ThinMetadata,
}

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ErrorKind {
    /// The volume, the image or something they need does not exist.
    NotFound,
    /// Something that is not ours has the name we need.
    AlreadyExists,
    /// A holder keeps the volume busy; the message names it.
    Busy,
    /// Another rebuild or recovery of the same volume holds its lock.
    Locked,
    /// The volume has snapshots and the policy is to refuse; the message names them.
    HasSnapshots,
    /// Something outside the volume would break, a clone of a snapshot for instance.
    HasDependents,
    /// The image cannot fit in what is there; known before anything was written.
    TooSmall,
    /// A space ran out on the way.
    NoSpace(Space),
    /// The backend, the kernel or the file system cannot do what was asked.
    Unsupported,
    /// The caller lacks a privilege.
    PermissionDenied,
    /// A name, a path or an option is malformed.
    InvalidInput,
    /// The image is empty, truncated, corrupt, of an unknown format, or holds no root.
    InvalidImage,
    /// An entry of the image tried to leave the root.
    UnsafePath,
    /// The image exceeds one of the [`Limits`](crate::Limits).
    LimitExceeded,
    /// The image's digest is not the expected one.
    DigestMismatch,
    /// Something could not be kept and the policy is to refuse losses.
    Lossy,
    /// The cancel token was set.
    Cancelled,
    /// A deadline passed.
    TimedOut,
    /// The operating system refused a call; see [`source`](StdError::source).
    Io,
}

impl ErrorKind {
    /// Whether this is a decision of ours (a policy, a check, a missing capability) rather than something that broke.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            ErrorKind::AlreadyExists
                | ErrorKind::Busy
                | ErrorKind::Locked
                | ErrorKind::HasSnapshots
                | ErrorKind::HasDependents
                | ErrorKind::TooSmall
                | ErrorKind::Unsupported
        )
    }

    fn describe(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not found",
            ErrorKind::AlreadyExists => "already exists",
            ErrorKind::Busy => "busy",
            ErrorKind::Locked => "locked",
            ErrorKind::HasSnapshots => "has snapshots",
            ErrorKind::HasDependents => "has dependents",
            ErrorKind::TooSmall => "too small",
            ErrorKind::NoSpace(Space::Pool) => "no space left in the pool",
            ErrorKind::NoSpace(Space::Quota) => "quota exceeded",
            ErrorKind::NoSpace(Space::Inodes) => "no inodes left in the pool",
            ErrorKind::NoSpace(Space::ThinData) => "no data space left in the thin pool",
            ErrorKind::NoSpace(Space::ThinMetadata) => "no metadata space left in the thin pool",
            ErrorKind::Unsupported => "not supported",
            ErrorKind::PermissionDenied => "permission denied",
            ErrorKind::InvalidInput => "invalid input",
            ErrorKind::InvalidImage => "invalid image",
            ErrorKind::UnsafePath => "unsafe path",
            ErrorKind::LimitExceeded => "limit exceeded",
            ErrorKind::DigestMismatch => "digest mismatch",
            ErrorKind::Lossy => "would lose data",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::TimedOut => "timed out",
            ErrorKind::Io => "input/output error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// What happened to the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing was changed.
    #[default]
    Untouched,
    /// A new root was begun and is gone again, or is left for `recover` to discard. The volume is as it was: its old root is live
    /// and whole, or it does not exist, as before.
    RolledBack,
    /// A complete root exists, but maybe not under the volume's name; `recover` puts it there. After an error of the disk, which root has the name is known
    /// when that is back.
    Interrupted,
    /// No root remains. Only an in-place rebuild can end so; a new rebuild of the same volume works.
    NoRoot,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Untouched => "nothing was changed",
            Outcome::RolledBack => "the volume is as it was before",
            Outcome::Interrupted => "a root is whole, but maybe not under its name: run recover",
            Outcome::NoRoot => "no root remains: rebuild the volume again",
        })
    }
}

/// What failed, where, why, what state the volume is in, and what to do.
///
/// `Display` is one line without the outcome, the remedy and the source; [`Error::report`] is all of it for a person.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    message: String,
    context: Vec<(&'static str, String)>,
    outcome: Outcome,
    remedy: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` in `operation` (a verb: "stage", "unpack"); `message` says why in a few words.
    ///
    /// Backends outside this crate make theirs here. `message` must not hold names raw: escape what came from outside.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            operation,
            message: message.into(),
            context: Vec::new(),
            outcome: Outcome::Untouched,
            remedy: None,
            source: None,
        }))
    }

    /// An error of the operating system, its kind taken from the error number.
    ///
    /// `ENOSPC` becomes [`Space::Pool`]; a caller who can tell sets [`Space::Inodes`] with [`Error::with_kind`].
    pub fn io(operation: &'static str, message: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.raw_os_error() {
            Some(libc::ENOENT) => ErrorKind::NotFound,
            Some(libc::EEXIST) => ErrorKind::AlreadyExists,
            Some(libc::EBUSY | libc::ETXTBSY) => ErrorKind::Busy,
            Some(libc::ENOSPC) => ErrorKind::NoSpace(Space::Pool),
            Some(libc::EDQUOT) => ErrorKind::NoSpace(Space::Quota),
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => ErrorKind::PermissionDenied,
            Some(libc::ENOSYS | libc::EOPNOTSUPP) => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        };
        Error::new(kind, operation, message).with_source(source)
    }

    /// Replaces the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Adds a fact: the volume, the entry, an offset. A key already there keeps its first value.
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        if !self.0.context.iter().any(|(k, _)| *k == key) {
            self.0.context.push((key, value.to_string()));
        }
        self
    }

    /// Says what happened to the volume.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    /// Says what to do, as an order: "stop the container and try again". The first one said stays.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy.get_or_insert(remedy.into());
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The step that failed, a verb.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Why, in a few words.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Facts: `volume`, `entry`, `offset`, `holder` and the like, in the order they were added.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// What happened to the volume.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// What to do.
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The error number of the operating system, where it caused this.
    pub fn raw_os_error(&self) -> Option<i32> {
        let source: &(dyn StdError + 'static) = self.0.source.as_deref()?;
        source.downcast_ref::<io::Error>()?.raw_os_error()
    }

    /// Everything, a few lines long, for a person: the error and its causes, the state of the volume, the remedy.
    pub fn report(&self) -> impl fmt::Display {
        Report(self)
    }
}

struct Report<'a>(&'a Error);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        write!(f, "\n  state:  {}", self.0.0.outcome)?;
        if let Some(remedy) = &self.0.0.remedy {
            write!(f, "\n  remedy: {remedy}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.0.operation, self.0.message)?;
        for (n, (key, value)) in self.0.context.iter().enumerate() {
            let open = if n == 0 { " (" } else { ", " };
            write!(f, "{open}{key} {value}")?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("operation", &self.0.operation)
            .field("message", &self.0.message)
            .field("context", &self.0.context)
            .field("outcome", &self.0.outcome)
            .field("remedy", &self.0.remedy)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Error {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut causes = Vec::new();
        let mut cause = self.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        let context: std::collections::BTreeMap<_, _> = self.context().collect();
        let mut state = serializer.serialize_struct("Error", 7)?;
        state.serialize_field("kind", &self.0.kind)?;
        state.serialize_field("operation", &self.0.operation)?;
        state.serialize_field("message", &self.0.message)?;
        state.serialize_field("context", &context)?;
        state.serialize_field("outcome", &self.0.outcome)?;
        state.serialize_field("remedy", &self.0.remedy)?;
        state.serialize_field("causes", &causes)?;
        state.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Error {
        Error::io("unpack", "cannot write", io::Error::from_raw_os_error(libc::ENOSPC))
            .with_context("volume", "dir:/srv/c1")
            .with_context("entry", "usr/lib")
            .with_context("volume", "ignored")
            .with_outcome(Outcome::RolledBack)
            .with_remedy("free some space")
            .with_remedy("ignored")
    }

    #[test]
    fn display_is_one_line_without_the_source() {
        assert_eq!(sample().to_string(), "cannot unpack: cannot write (volume dir:/srv/c1, entry usr/lib)");
    }

    #[test]
    fn report_is_for_a_person() {
        assert_eq!(
            sample().report().to_string(),
            "cannot unpack: cannot write (volume dir:/srv/c1, entry usr/lib): No space left on device (os error 28)\n  \
             state:  the volume is as it was before\n  remedy: free some space"
        );
    }

    #[test]
    fn kinds_come_from_error_numbers() {
        let kind = |errno| Error::io("x", "", io::Error::from_raw_os_error(errno)).kind();
        assert_eq!(kind(libc::EDQUOT), ErrorKind::NoSpace(Space::Quota));
        assert_eq!(kind(libc::EBUSY), ErrorKind::Busy);
        assert_eq!(kind(libc::EIO), ErrorKind::Io);
        assert_eq!(sample().raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn errors_cross_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Error>();
    }
}
