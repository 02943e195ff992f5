//! What a package ships beside the program, made from the definition of its command line.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::args::Args;
use crate::output::{Failure, because, say};

/// Prints the completions for a shell.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(&Args::command()), "muster", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}

/// Writes a page for each command: `muster.1`, `muster-run.1`, …
pub(crate) fn pages(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Args::command(), folder).map_err(|e| because(format!("{}: {e}", folder.display())))
}

/// A command without what is hidden: the scripts would offer that, too.
fn shown(command: &Command) -> Command {
    Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(shown))
}
