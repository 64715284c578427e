//! What `zfs allow` delegated on a dataset: read and set by the command, which alone can.

use super::command;
use super::place::Place;
use crate::error::Result;
use crate::volume::Warning;

/// The arguments of the calls of `zfs allow` that delegate the same on another dataset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Delegated(Vec<Vec<String>>);

impl Delegated {
    pub(super) fn read(place: &Place, dataset: &str, operation: &'static str) -> Result<Self> {
        command::allowed(place, dataset, operation).map(|text| Self::parse(&text, dataset))
    }

    /// Reads what is said of the dataset itself; what it has from those above it, one beside it has too.
    fn parse(text: &str, dataset: &str) -> Self {
        let mut calls = Vec::new();
        let (mut own, mut scope) = (false, Scope::default());
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("---- Permissions on ") {
                own = title.trim_end_matches('-').trim_end() == dataset;
            } else if let Some(entry) = line.strip_prefix('\t').filter(|_| own) {
                calls.extend(scope.call(entry));
            } else {
                scope = Scope::from_title(line);
            }
        }
        Delegated(calls)
    }

    /// Delegates the same on another dataset.
    pub(super) fn apply(&self, place: &Place, dataset: &str, operation: &'static str) -> Vec<Warning> {
        let refused = |call: &Vec<String>| {
            let error = command::allow(place, dataset, call, operation).err()?;
            Some(Warning::new(format!("`zfs allow {}` could not be kept", call.join(" "))).with_error(error))
        };
        self.0.iter().filter_map(refused).collect()
    }
}

/// What the lines below a heading are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Scope {
    #[default]
    Other,
    Sets,
    CreateTime,
    Local,
    Descendent,
    Both,
}

impl Scope {
    fn from_title(title: &str) -> Self {
        match title.trim_end_matches(':') {
            "Permission sets" => Scope::Sets,
            "Create time permissions" => Scope::CreateTime,
            "Local permissions" => Scope::Local,
            "Descendent permissions" => Scope::Descendent,
            "Local+Descendent permissions" => Scope::Both,
            _ => Scope::Other,
        }
    }

    /// The arguments for a line such as `user alice mount,snapshot`.
    fn call(self, entry: &str) -> Option<Vec<String>> {
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        let scope = match self {
            Scope::Other => return None,
            Scope::CreateTime => return words(&["-c", entry]),
            Scope::Sets => {
                let (set, permissions) = entry.split_once(' ')?;
                return words(&["-s", set, permissions]);
            }
            Scope::Local => "-l",
            Scope::Descendent => "-d",
            Scope::Both => "-ld",
        };
        let (who, permissions) = entry.rsplit_once(' ')?;
        // Someone who is not known here is told by number.
        let number = |name: &str| name.strip_prefix("(unknown: ").and_then(|name| name.strip_suffix(')')).map(str::to_owned);
        match who.split_once(' ') {
            None => words(&[scope, "-e", permissions]),
            Some(("user", name)) => words(&[scope, "-u", &number(name).unwrap_or(name.to_owned()), permissions]),
            Some(("group", name)) => words(&[scope, "-g", &number(name).unwrap_or(name.to_owned()), permissions]),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_command_says_is_said_to_it_again() {
        let text = "---- Permissions on p/a ---------\nPermission sets:\n\t@own mount,snapshot\nCreate time permissions:\n\tdestroy\n\
                    Local permissions:\n\tuser root compression\n\tgroup staff of x hold\nDescendent permissions:\n\teveryone create\n\
                    Local+Descendent permissions:\n\tuser (unknown: 12345) @own,hold\n---- Permissions on p ------\nLocal permissions:\n\teveryone mount\n";
        let expected: [&[&str]; 6] = [
            &["-s", "@own", "mount,snapshot"],
            &["-c", "destroy"],
            &["-l", "-u", "root", "compression"],
            &["-l", "-g", "staff of x", "hold"],
            &["-d", "-e", "create"],
            &["-ld", "-u", "12345", "@own,hold"],
        ];
        assert_eq!(Delegated::parse(text, "p/a").0, expected);
        assert_eq!(Delegated::parse("", "p/a"), Delegated::default());
    }
}
