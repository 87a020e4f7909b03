//! Makes this build of the wrapper's source the next release: its block has a layout of its own. No other build sets this.

fn main() {
    println!("cargo::rustc-cfg=next_layout");
    println!("cargo::rerun-if-changed=build.rs");
}
