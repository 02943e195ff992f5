//! The main job on one machine.
//!
//! `phases.rs` is the story that is told; `laboratory.rs` builds the coalition and writes what its daemons need,
//! `router.rs` is one daemon, `view.rs` what it says of itself, `report.rs` what comes out.

mod agreement;
mod laboratory;
mod patience;
mod phases;
mod report;
mod router;
mod timeline;
mod traffic;
mod view;

use muster_dataplane::Probe;
use muster_netlab::{enter_user_namespace, unavailable};
use nix::unistd::geteuid;

use crate::args::DemoArgs;
use crate::output::{Failure, because, hint, say};

use self::laboratory::Laboratory;
use self::patience::Patience;
use self::phases::Story;
use self::report::Report;
use self::timeline::Timeline;

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    check_machine(&args.dataplane)?;
    let patience = Patience::new()?;
    let mut timeline = Timeline::start(!args.json);
    let mut report = Report::new(args.routers.into());
    // Daemons, namespaces and files go when this goes, whichever way that happens.
    let mut laboratory = Laboratory::build(args, patience)?;
    let outcome = Story::new(args, &mut laboratory, &mut timeline, &mut report).tell();
    if args.keep {
        hint(format_args!("kept in {}", laboratory.keep()?.display()));
    }
    drop(laboratory);
    let not_ok = match outcome {
        Ok(()) => None,
        Err(Failure::Because(why)) => Some(why),
        Err(other) => return Err(other),
    };
    report.ok = not_ok.is_none();
    report.timeline = timeline.entries();
    if args.json {
        say(report.json())?;
        return not_ok.map_or(Ok(()), |why| Err(because(format!("not ok: {why}"))));
    }
    say(format_args!("\n{report}\n"))?;
    match not_ok {
        None => say("ok"),
        Some(why) => say(format_args!("not ok: {why}")).and(Err(Failure::Told)),
    }
}

fn check_machine(backend: &str) -> Result<(), Failure> {
    let Probe { tun, kernel, .. } = muster_dataplane::probe();
    // With `auto` nobody knows before the routers are there.
    if backend == "kernel" { kernel } else { tun }.map_err(because)?;
    // While there is but one thread: the kernel allows it to no other.
    if !geteuid().is_root() {
        enter_user_namespace()?;
    }
    unavailable()?.map_or(Ok(()), |reason| Err(because(reason)))
}
