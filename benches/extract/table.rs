//! What is printed: tables in markdown, and all figures as JSON.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::cases::Group;
use crate::measure::Figures;
use crate::runs::{Contested, Results};

/// Said of the tree of a contestant that was not chosen.
pub(crate) const NOT_RUN: &str = "not run";

/// In KiB.
const MIB: f64 = 1024.0;

/// On what, and how.
pub(crate) fn machine(rounds: usize, seed: u64) -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")).map_or("", |rest| rest.trim_start_matches(['\t', ' ', ':']));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "{} cores, {model}, Linux {}, load {load} at the start. File systems in memory, a fresh one each run; {rounds} rounds, seed {seed}.",
        cores(),
        release.trim(),
    )
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The middle one, or the mean of the two in the middle; `None` of none.
fn median(samples: &[Figures], of: impl Fn(&Figures) -> f64) -> Option<f64> {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { (values.get(middle.wrapping_sub(1))? + upper) / 2.0 } else { *upper })
}

fn wall(samples: &[Figures]) -> Option<f64> {
    median(samples, |figures| figures.wall)
}

fn processor(samples: &[Figures]) -> Option<f64> {
    median(samples, Figures::processor)
}

fn peak(samples: &[Figures]) -> Option<f64> {
    samples.iter().map(|figures| figures.peak as f64 / MIB).reduce(f64::max)
}

/// One case in full: each contestant with its median and the range.
pub(crate) fn contestants(results: &Results) -> String {
    let mut out = format!("\n### {}\n\n", results.case.name());
    out.push_str("| contestant | wall s (least to most) | processor s | in the kernel | peak MiB | its tree |\n| --- | --- | --- | --- | --- | --- |\n");
    for one in &results.all {
        let samples = &one.samples;
        let least = samples.iter().map(|figures| figures.wall).fold(f64::INFINITY, f64::min);
        let most = samples.iter().map(|figures| figures.wall).fold(0.0, f64::max);
        let lost = match (&*one.lost, one.group) {
            ("", Group::Decoding) => "none",
            ("", _) => "the same",
            (lost, _) => lost,
        };
        let lost = lost.replace('\n', " ").replace('|', "\\|");
        let figures = match (wall(samples), processor(samples), median(samples, |figures| figures.system), peak(samples)) {
            (Some(wall), Some(processor), Some(system), Some(peak)) => {
                format!("{wall:.2} ({least:.2} to {most:.2}) | {processor:.2} | {system:.2} | {peak:.0}")
            }
            _ => "| | |".into(),
        };
        let name = one.name.replace('|', "\\|");
        let _ = writeln!(out, "| {name} | {figures} | {lost} |");
    }
    out
}

/// The ratios of all cases, with what they have to be.
pub(crate) fn ratios(all: &[Results]) -> String {
    let mut out = String::from(
        "\n### Ratios\n\nOf medians, theirs over ours; of several ways to run one tool the best counts. In brackets: what it has to be at least.\n\n\
         | case | against | wall | processor | peak memory | met |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for results in all {
        for group in [Group::Managers, Group::LargeRecords, Group::Bsdtar, Group::TarCrate] {
            if results.all.iter().any(|one| one.group == group && one.lost != NOT_RUN) {
                out.push_str(&row(results, group));
            }
        }
    }
    let bounds: Vec<_> = all.iter().filter_map(bound).collect();
    if !bounds.is_empty() {
        out.push_str(
            "\n### Distance to the bound\n\nThe bound is the processor time of decompressing alone and of creating the same tree from memory alone, over \
             the cores. In brackets: what the distance may be at most.\n\n\
             | case | decompressing s | creating s | bound s | ours, wall s | distance | met |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        );
        out.extend(bounds);
    }
    out
}

fn row(results: &Results, group: Group) -> String {
    let target = results.case.targets.iter().find(|target| target.against == group);
    let ours: Vec<&Contested> = results.all.iter().filter(|one| one.group == Group::Ours).collect();
    let theirs: Vec<&Contested> = results.all.iter().filter(|one| one.group == group).collect();
    let ratio = |of: fn(&[Figures]) -> Option<f64>| -> Option<f64> {
        let best = |all: &[&Contested]| all.iter().filter_map(|one| of(&one.samples)).reduce(f64::min);
        Some(best(&theirs)? / best(&ours)?)
    };
    let columns = [
        (ratio(wall), target.and_then(|target| target.wall)),
        (ratio(processor), target.and_then(|target| target.processor)),
        (ratio(peak), target.and_then(|target| target.memory)),
    ];
    let mut met = true;
    let mut demanded = false;
    let mut cells = Vec::new();
    for (ratio, least) in columns {
        let shown = ratio.map_or("none".to_owned(), |ratio| format!("{ratio:.2}"));
        cells.push(match least {
            Some(least) => {
                demanded = true;
                met &= ratio.is_some_and(|ratio| ratio >= least);
                format!("{shown} ({least})")
            }
            None => shown,
        });
    }
    let met = if demanded { yes(met) } else { "" };
    format!("| {} | {} | {} | {met} |\n", results.case.name(), group.name(), cells.join(" | "))
}

fn bound(results: &Results) -> Option<String> {
    let most = results.case.bound?;
    let of = |group: Group| results.all.iter().find(|one| one.group == group);
    let decoding = processor(&of(Group::Decoding)?.samples)?;
    let creating = processor(&of(Group::Creating)?.samples)?;
    let ours = wall(&of(Group::Ours)?.samples)?;
    let bound = (decoding + creating) / cores() as f64;
    let distance = ours / bound;
    let name = results.case.name();
    Some(format!(
        "| {name} | {decoding:.2} | {creating:.2} | {bound:.2} | {ours:.2} | {distance:.2} ({most}) | {} |\n",
        yes(distance <= most)
    ))
}

fn yes(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

pub(crate) fn write_json(file: &Path, all: &[Results], seed: u64) -> Result<(), String> {
    let cases: Vec<_> = all
        .iter()
        .map(|results| {
            let contestants: Vec<_> = results
                .all
                .iter()
                .map(|one| json!({ "name": one.name, "against": one.group.name(), "tree": one.lost, "runs": one.samples }))
                .collect();
            json!({ "case": results.case.name(), "contestants": contestants })
        })
        .collect();
    let text = serde_json::to_string_pretty(&json!({ "seed": seed, "cores": cores(), "cases": cases }))
        .map_err(|error| error.to_string())?;
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}
