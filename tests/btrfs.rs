//! The conformance suite on the btrfs backend: with qgroups on, with simple quotas on, and with neither; by an exchange, and by two renames.

mod common;

use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use reroot::conformance::{Case, CaseOutcome, cases};
use reroot::volume::Commit;

use common::pools::{DirFactory, Quotas};

fn main() {
    let arguments = Arguments::from_args();
    let place = |quotas, commit| Arc::new(DirFactory::btrfs(quotas, commit));
    let places = [
        ("qgroups".to_owned(), place(Quotas::Full, Commit::Exchange)),
        ("simple_quotas".to_owned(), place(Quotas::Simple, Commit::Exchange)),
        ("no_quotas".to_owned(), place(Quotas::Off, Commit::Exchange)),
        ("two_renames".to_owned(), place(Quotas::Full, Commit::TwoRenames)),
    ];
    let mut trials = Vec::new();
    for (label, factory) in &places {
        let own: Vec<_> = cases().into_iter().map(|case| trial(label, factory, case)).collect();
        if !arguments.list && own.iter().any(|trial| !arguments.is_filtered_out(trial)) {
            // Now, before there are threads. Whether it worked, the trials say.
            let _ = factory.prepare();
        }
        trials.extend(own);
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // What is mounted goes before the process ends, which runs no destructors.
    drop(places);
    conclusion.exit();
}

fn trial(label: &str, factory: &Arc<DirFactory>, case: Case) -> Trial {
    let factory = Arc::clone(factory);
    Trial::ignorable_test(format!("{label}::{}", case.name), move || {
        if let Err(obstacle) = factory.prepare() {
            return if common::required() { Err(Failed::from(obstacle)) } else { Ok(Completion::ignored_with(obstacle)) };
        }
        match (case.run)(&*factory) {
            Ok(CaseOutcome::Passed) => Ok(Completion::Completed),
            Ok(CaseOutcome::NotApplicable(why)) => Ok(Completion::ignored_with(why)),
            Err(failure) => Err(Failed::from(failure)),
        }
    })
}
