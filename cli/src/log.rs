//! The log: lines on standard error, for people, for programs, or for the journal.

use std::io::{self, IsTerminal, Stderr, Write};
use std::str::FromStr;

use muster_bridge::{LogSection, SetLevel};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, error};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

use crate::output::{Failure, because};

/// Starts it; what comes back changes the level.
pub(crate) fn start(section: &LogSection) -> Result<SetLevel, Failure> {
    let filter = filter(&section.level).map_err(|error| because(format!("log.level: {error}")))?;
    let (filter, handle) = reload::Layer::new(filter);
    let journal = is_journal();
    let lines = fmt::layer().with_writer(Lines { journal }).with_ansi(io::stderr().is_terminal());
    let lines = match (section.format.as_str(), journal) {
        ("json", _) => lines.json().flatten_event(true).boxed(),
        (_, true) => lines.without_time().with_level(false).boxed(),
        (_, false) => lines.boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(Box::new(move |level| match self::filter(level) {
        // It fails only when the log is gone.
        Ok(filter) => drop(handle.reload(filter)),
        // The configuration was checked for it.
        Err(error) => error!(%error, "log.level"),
    }))
}

/// Whether standard error is the journal, which stamps the lines itself: systemd names its device and inode.
fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    nix::sys::stat::fstat(io::stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Other crates' chatter may hold what must not be logged: netlink messages carry keys.
fn filter(level: &str) -> Result<Targets, impl std::error::Error + use<>> {
    let level = LevelFilter::from_str(level)?;
    Ok::<_, <LevelFilter as FromStr>::Err>(
        Targets::new().with_default(LevelFilter::WARN.min(level)).with_target("muster", level),
    )
}

/// Standard error, with the level before each line where the journal reads it (`sd-daemon(3)`).
struct Lines {
    journal: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { prefix: "", out: io::stderr() }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { prefix: if self.journal { priority(*metadata.level()) } else { "" }, out: io::stderr() }
    }
}

/// One of `syslog(3)`.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// Takes one line, whole.
struct Line {
    prefix: &'static str,
    out: Stderr,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let prefix = std::mem::take(&mut self.prefix);
        if prefix.is_empty() {
            return self.out.write(line);
        }
        // In one piece: lines of several threads do not mix.
        self.out.write_all(&[prefix.as_bytes(), line].concat())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
