//! The conformance suite as a program: all cases in all places.

use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use reroot::conformance::{Case, CaseOutcome, cases};

use super::pools::Place;

/// Runs the suite in these places, by what they are called, and ends the process.
pub(crate) fn run<P: Place + 'static>(places: Vec<(&str, P)>) -> ! {
    let arguments = Arguments::from_args();
    let places: Vec<_> = places.into_iter().map(|(label, factory)| (label, Arc::new(factory))).collect();
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
    conclusion.exit()
}

fn trial<P: Place + 'static>(label: &str, factory: &Arc<P>, case: Case) -> Trial {
    let factory = Arc::clone(factory);
    Trial::ignorable_test(format!("{label}::{}", case.name), move || {
        if let Err(obstacle) = factory.prepare() {
            return if factory.is_required() { Err(Failed::from(obstacle)) } else { Ok(Completion::ignored_with(obstacle)) };
        }
        match (case.run)(&*factory) {
            Ok(CaseOutcome::Passed) => Ok(Completion::Completed),
            Ok(CaseOutcome::NotApplicable(why)) => Ok(Completion::ignored_with(why)),
            Err(failure) => Err(Failed::from(failure)),
        }
    })
}
