//! The next release's wrapper: the same source with another layout. Only tests run it.

use std::process::ExitCode;

fn main() -> ExitCode {
    shimtap_next::main()
}
