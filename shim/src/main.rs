//! The program: see the library beside it. Nothing may be added here.

use std::process::ExitCode;

fn main() -> ExitCode {
    containerd_shim_tap::main()
}
