//! `shimtap completions`: what a shell sources to complete our arguments, made from the definition of the command line.

use clap::{CommandFactory, ValueEnum};
use clap_complete::{Generator, generate, shells};

use super::{Exit, args::Cli, say};

/// A shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// In /usr/share/bash-completion/completions/shimtap
    Bash,
    /// In a folder of $fpath, as _shimtap
    Zsh,
    /// In /usr/share/fish/vendor_completions.d/shimtap.fish
    Fish,
}

/// Prints it.
pub(super) fn run(shell: Shell) -> Exit {
    let text = match shell {
        Shell::Bash => made(shells::Bash),
        Shell::Zsh => made(shells::Zsh),
        Shell::Fish => made(shells::Fish),
    };
    say(&String::from_utf8_lossy(&text));
    Exit::Done
}

fn made(shell: impl Generator) -> Vec<u8> {
    let mut text = Vec::new();
    generate(shell, &mut Cli::command(), "shimtap", &mut text);
    text
}
