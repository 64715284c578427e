//! What the tests of single backends rebuild: small trees, told apart by a file, and what they demand of a refusal.

use std::io::Cursor;
use std::time::Duration;

use reroot::conformance::Tree;
use reroot::{CancelToken, ErrorKind, Image, Outcome, Wait};

pub(crate) fn old() -> Tree {
    let mut tree = Tree::new();
    tree.file("old", "old");
    tree.directory("srv").mode = 0o755;
    tree
}

pub(crate) fn new() -> Tree {
    let mut tree = Tree::new();
    tree.file("new", "new");
    tree
}

pub(crate) fn image(tree: &Tree) -> Image {
    Image::from_reader(Cursor::new(tree.to_tar().unwrap()), "test")
}

pub(crate) fn soon() -> Wait {
    Wait::new(Duration::from_secs(20), CancelToken::new())
}

/// Demands a refusal of this kind that changed nothing and says what to do; returns its message.
pub(crate) fn refused<T: std::fmt::Debug>(result: reroot::Result<T>, kind: ErrorKind) -> String {
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (kind, Outcome::Untouched), "{}", error.report());
    assert!(error.remedy().is_some() || kind == ErrorKind::InvalidInput, "{}", error.report());
    error.report().to_string()
}
