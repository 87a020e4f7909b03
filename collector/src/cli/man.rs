//! `shimtap man`: the manual pages, made from the definition of the command line. Packagers run it.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Exit, args::Cli};

/// Writes one page for the program and one for each command, into a folder that is made where it is not there.
pub(super) fn run(dir: &Path) -> Exit {
    match write(dir) {
        Ok(()) => Exit::Done,
        Err(fault) => {
            eprintln!(
                "shimtap man: writing pages into {}: {fault}; is it a folder that you may write to?",
                dir.display()
            );
            Exit::Failed
        }
    }
}

fn write(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut command = Cli::command();
    command.build();
    page(&command, dir)?;
    command.get_subcommands().filter(|one| !one.is_hide_set()).try_for_each(|one| page(one, dir))
}

fn page(command: &Command, dir: &Path) -> io::Result<()> {
    let source = concat!("shimtap ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone()).source(source).manual("shimtap").generate_to(dir).map(drop)
}
