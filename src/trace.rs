//! Events for the `tracing` feature; without it they compile to nothing.

macro_rules! debug {
    ($($arg:tt)*) => {{
        #[cfg(feature = "tracing")]
        tracing::debug!(target: "reroot", $($arg)*);
    }};
}

macro_rules! warning {
    ($($arg:tt)*) => {{
        #[cfg(feature = "tracing")]
        tracing::warn!(target: "reroot", $($arg)*);
    }};
}

pub(crate) use {debug, warning};
