//! The conformance suite on the dir backend: on the temporary directory, with and without an exchange, and on every kind of file system
//! that the kernel and the caller's privileges allow to make.

mod common;

use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use reroot::conformance::{Case, CaseOutcome, cases};
use reroot::volume::Commit;

use common::loopfs::Kind;
use common::pools::DirFactory;

fn main() {
    let arguments = Arguments::from_args();
    let mut places = vec![
        ("exchange".to_owned(), Arc::new(DirFactory::new(None, Commit::Exchange))),
        ("two_renames".to_owned(), Arc::new(DirFactory::new(None, Commit::TwoRenames))),
    ];
    for kind in Kind::ALL {
        places.push((kind.name().to_owned(), Arc::new(DirFactory::new(Some(kind), Commit::Exchange))));
    }
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
