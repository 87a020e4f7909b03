//! A stand-in for the real shim that keeps the contract, runs no containers, and counts every request.
//!
//! Everything is in the library (`shimtap_tests::standin`); here is only the exit status of a Go shim: 1 with
//! the reason on stderr.

use std::process::ExitCode;

fn main() -> ExitCode {
    if shimtap_tests::standin::kata::household::ran() {
        return ExitCode::SUCCESS;
    }
    match shimtap_tests::standin::verbs::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("containerd-shim-standin-v2: {e:#}");
            ExitCode::FAILURE
        }
    }
}
