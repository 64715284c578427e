//! unpack
mod entry;
