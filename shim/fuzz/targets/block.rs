//! A damaged block, to everything that reads one: see `block::damage`.

#![no_main]

use std::{path::PathBuf, sync::OnceLock};

use containerd_shim_tap::Patient;
use libfuzzer_sys::fuzz_target;

static PATIENT: OnceLock<(Patient, PathBuf)> = OnceLock::new();

fuzz_target!(|input: &[u8]| {
    let (patient, dir) = PATIENT.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("shimtap-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        (Patient::new(), dir)
    });
    patient.examine(input, dir);
});
