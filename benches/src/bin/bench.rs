//! `bench NAME [--quick]`: asks one question of `questions/`, or all of them, and prints the figures.
//!
//! Must be built with `--release`, together with wrapper and collector: it measures what lies beside it.

use std::process::ExitCode;

use anyhow::Result;
use shimtap_benches::favour::Favour;
use shimtap_benches::options::{Options, USAGE};
use shimtap_benches::questions::{ALL, Question};

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let wanted = words.next().unwrap_or_default();
    let asked: Vec<_> = ALL.iter().filter(|(name, ..)| wanted == *name || wanted == "all").collect();
    if asked.is_empty() {
        eprintln!("usage: bench NAME {USAGE}\n\nNAME is `all` or one of");
        for (name, _, question) in ALL {
            eprintln!("  {name:<12}{question}");
        }
        return ExitCode::from(64);
    }
    match ask_all(words, &asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("bench: {fault:#}");
            ExitCode::FAILURE
        }
    }
}

fn ask_all(words: impl Iterator<Item = String>, asked: &[&Question]) -> Result<()> {
    let options = Options::parse(words)?;
    let _favour = options.favour.then(Favour::ask).transpose()?;
    asked.iter().try_for_each(|(_, ask, _)| ask(&options))
}
