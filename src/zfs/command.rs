//! The `zfs` command, for what the library cannot do: native properties of a dataset that exists, and delegation.

use std::time::Duration;

use super::place::Place;
use crate::error::Result;
use crate::progress::{CancelToken, Wait};
use crate::sys::command::Program;
use crate::text::Escaped;

/// It waits for the pool, which may be busy.
const LIMIT: Duration = Duration::from_secs(120);

/// Sets properties, each as `name=value`.
pub(super) fn set(place: &Place, dataset: &str, properties: &[String], operation: &'static str) -> Result<()> {
    if properties.is_empty() {
        return Ok(());
    }
    let command = zfs()?.command().arg("set").args(properties).arg(dataset);
    let done = command.run(operation, &wait()).and_then(|done| done.success(operation));
    done.map(drop).map_err(|error| place.add_volume(error))
}

/// What properties, named with commas between, are.
pub(super) fn get(place: &Place, dataset: &str, properties: &str, operation: &'static str) -> Result<Vec<(String, String)>> {
    let command = zfs()?.command().args(["get", "-Hp", "-o", "property,value", properties, dataset]);
    let output = command.run(operation, &wait()).and_then(|done| done.success(operation));
    let output = output.map_err(|error| place.add_volume(error))?;
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
    let command = zfs()?.command().args(["allow", dataset]);
    let output = command.run(operation, &wait()).and_then(|done| done.success(operation));
    output.map(|output| String::from_utf8_lossy(&output).into_owned()).map_err(|error| place.add_volume(error))
}

/// Delegates on a dataset.
pub(super) fn allow(place: &Place, dataset: &str, arguments: &[String], operation: &'static str) -> Result<()> {
    let command = zfs()?.command().arg("allow").args(arguments).arg(dataset);
    let done = command.run(operation, &wait()).and_then(|done| done.success(operation));
    done.map(drop).map_err(|error| place.add_volume(error))
}

fn zfs() -> Result<Program> {
    Program::find("zfs", "zfsutils-linux")
}

fn wait() -> Wait {
    Wait::new(LIMIT, CancelToken::new())
}
