//! Makes this build of wrapper and collector the next release: a block with a layout of its own, a link that says more. No other
//! build sets these.

fn main() {
    println!("cargo::rustc-cfg=next_layout");
    println!("cargo::rustc-cfg=next_link");
    println!("cargo::rerun-if-changed=build.rs");
}
