//! holders
