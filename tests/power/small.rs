//! An image that its volume is too small for, by much or by little: told before, of a file, or when it is full, of a stream.

use std::fs::File;
use std::time::Duration;

use reroot::conformance::Tree;
use reroot::conformance::fault::Faulty;
use reroot::{ErrorKind, Image, Rebuild, Space, Strategy};

use super::child::Job;
use super::common::ledger::Ledger;
use super::disks::{Disks, Seen, on_disks};
use super::effort;
use super::errors::{Traces, judge};
use super::ground::Ground;
use super::loss::{check, prepare};
use super::stand::{Found, Stand, Which, report};

/// In MiB: what any of the volumes has room for, and what none of them has.
const FITS: usize = 4;
const DOES_NOT: usize = 72;

/// Whether an image says how large it is.
#[derive(Debug, Clone, Copy)]
enum Form {
    File,
    Stream,
}

pub(crate) fn outgrow(ground: &dyn Ground, job: Job, strategy: Strategy, ledger: &mut Ledger) -> Result<(), String> {
    on_disks(ground, |disks| outgrow_on(ground, disks, job, strategy, ledger))
}

fn outgrow_on(ground: &dyn Ground, disks: &Disks, job: Job, strategy: Strategy, ledger: &mut Ledger) -> Result<(), String> {
    let stand = prepare(ground, disks, job, "")?;
    // What cannot be read twice is not rebuilt from in place.
    let forms: &[Form] = if strategy == Strategy::InPlace { &[Form::File] } else { &[Form::File, Form::Stream] };
    for form in forms.iter().copied() {
        // Ever closer to what just fits.
        let (mut fits, mut does_not, mut mib) = (FITS, DOES_NOT, DOES_NOT);
        for _ in 0..effort::sizes() {
            let (told, found) = try_size(ground, disks, &stand, job, strategy, form, mib)
                .map_err(|why| format!("an image of {mib} MiB, a {form:?}: {why}"))?;
            println!("  {:<40} {told:<50} {}", format!("{mib} MiB, a {form:?}").to_lowercase(), found.word());
            match found {
                Found::New => fits = mib,
                _ => does_not = mib,
            }
            ledger.enter(told, found.word());
            if does_not - fits <= 1 {
                break;
            }
            mib = fits.midpoint(does_not);
        }
        if does_not == DOES_NOT && fits > FITS {
            return Err(format!("an image of {fits} MiB fits"));
        }
    }
    Ok(())
}

fn try_size(
    ground: &dyn Ground,
    disks: &Disks,
    stand: &Stand,
    job: Job,
    strategy: Strategy,
    form: Form,
    mib: usize,
) -> Result<(String, Found), String> {
    let mut tree = Tree::new();
    tree.file("large", "0123456789abcdef".repeat(mib << 16));
    let path = stand.place.folder().join("large.tar");
    tree.to_tar().and_then(|bytes| std::fs::write(&path, bytes)).map_err(|error| error.to_string())?;
    let view = disks.view(Seen::Itself)?;
    ground.up(view.path())?;
    let tried = (|| {
        let image = match form {
            Form::File => Image::open(&path).map_err(report)?,
            Form::Stream => Image::from_reader(File::open(&path).map_err(|error| error.to_string())?, "large.tar"),
        };
        let mut volume = Faulty::new(stand.volume(job)?);
        let result = Rebuild::new(image).strategy(strategy).busy_wait(Duration::from_secs(10)).run(&mut volume);
        let calls = volume.calls();
        drop(volume);
        let names = stand.names(job)?;
        let told = match result {
            Ok(_) if stand.place.live()?.as_ref() == Some(&tree.manifest()) => {
                stand.reset(Which::A)?;
                ("done".to_owned(), Found::New)
            }
            Ok(report) => return Err(format!("it is not what is there: {report}")),
            Err(error) => {
                let said = error.report().to_string();
                let found = check(stand, job).map_err(|why| format!("{why}\n  (it had said: {said})"))?;
                if !matches!(error.kind(), ErrorKind::TooSmall | ErrorKind::NoSpace(Space::Quota)) || error.remedy().is_none() {
                    return Err(format!("it does not say that the volume is too small, or what to do: {said}"));
                }
                let told = Ledger::told(&error);
                judge(&Err(error), found, &Traces::new(names, &calls))
                    .map_err(|why| format!("{why}: {found:?}\n  (it had said: {said})"))?;
                (told, found)
            }
        };
        ground.down()?;
        Ok(told)
    })();
    if tried.is_err() {
        ground.abandon();
    }
    tried
}
