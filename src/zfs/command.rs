//! The `zfs` command, for what the library cannot do: native properties of a dataset that exists, and delegation.

use std::time::Duration;

use super::place::Place;
use crate::error::Result;
use crate::progress::{CancelToken, Wait};
use crate::sys::command::{Command, Program};
use crate::text::Escaped;

/// It waits for the pool, which may be busy.
const LIMIT: Duration = Duration::from_secs(120);

/// Sets properties, each as `name=value`.
pub(super) fn set(place: &Place, dataset: &str, properties: &[String], operation: &'static str) -> Result<()> {
    if properties.is_empty() {
        return Ok(());
    }
    run(place, operation, |zfs| zfs.arg("set").args(properties).arg(dataset)).map(drop)
}

/// What properties, named with commas between, are.
pub(super) fn get(place: &Place, dataset: &str, properties: &str, operation: &'static str) -> Result<Vec<(String, String)>> {
    let output = run(place, operation, |zfs| zfs.args(["get", "-Hp", "-o", "property,value", properties, dataset]))?;
    let lines = output.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines
        .filter_map(|line| {
            let tab = line.iter().position(|&byte| byte == b'\t')?;
            Some((Escaped(&line[..tab]).to_string(), Escaped(&line[tab + 1..]).to_string()))
        })
        .collect())
}

/// What is delegated on a dataset, as the command shows it.
pub(super) fn allowed(place: &Place, dataset: &str, operation: &'static str) -> Result<String> {
    run(place, operation, |zfs| zfs.args(["allow", dataset])).map(|output| String::from_utf8_lossy(&output).into_owned())
}

/// Delegates on a dataset.
pub(super) fn allow(place: &Place, dataset: &str, arguments: &[String], operation: &'static str) -> Result<()> {
    run(place, operation, |zfs| zfs.arg("allow").args(arguments).arg(dataset)).map(drop)
}

/// Runs the command, which has to succeed; returns what it said.
fn run(place: &Place, operation: &'static str, with: impl FnOnce(Command) -> Command) -> Result<Vec<u8>> {
    let command = with(Program::find("zfs", "zfsutils-linux")?.command());
    let done = command.run(operation, &Wait::new(LIMIT, CancelToken::new())).and_then(|done| done.success(operation));
    done.map_err(|error| place.add_volume(error))
}
