//! Checked-in generated code is what the generator makes of its source today.

use std::{env, fs, path::Path};

/// `UPDATE=1 cargo test -p shimtap-tests --test generated` writes the file anew.
#[test]
fn link_messages_match_their_proto() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let out = env::temp_dir().join(format!("shimtap-gen-{}", std::process::id()));
    fs::create_dir_all(&out).expect("temporary directory");
    protobuf_codegen::Codegen::new()
        .pure()
        .customize(protobuf_codegen::Customize::default().lite_runtime(true))
        .include(proto.join("proto"))
        .input(proto.join("proto/shimtap/v1/collector.proto"))
        .out_dir(&out)
        .run()
        .expect("collector.proto generates");
    // The generator's inner attributes are only allowed at the top of a crate; lib.rs has what is needed.
    let made: String = fs::read_to_string(out.join("collector.rs"))
        .expect("generated file")
        .lines()
        .filter(|l| !l.starts_with("#![") && !l.starts_with("//!"))
        .flat_map(|l| [l, "\n"])
        .collect();
    fs::remove_dir_all(&out).expect("temporary directory is ours");
    let kept = proto.join("src/gen/collector.rs");
    if env::var_os("UPDATE").is_some() {
        fs::write(&kept, &made).expect("gen/collector.rs is writable");
    }
    let have = fs::read_to_string(&kept).expect("gen/collector.rs");
    assert!(have == made, "proto/src/gen/collector.rs is stale: run this test with UPDATE=1");
}
