//! The suite that every backend passes, and what it is made of.

pub mod fault;
pub mod manifest;
pub mod tree;
