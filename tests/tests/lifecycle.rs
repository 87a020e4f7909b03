//! Starting and ending containers through `ctr` and CRI, the same with and without the wrapper.

use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::{Setup, Shim, Version};

fn unwrapped(version: Version) -> anyhow::Result<()> {
    Setup::new(version, Shim::Unwrapped).run(|node| {
        let said = node.run("a", &["sh", "-c", "echo hello; exit 3"])?;
        assert_eq!((said.code, said.text().as_str()), (3, "hello\n"));
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = cri.run(
            &pod,
            &Wanted { name: "c", command: &["speaker", "lines=3", "exit=4"], ..Wanted::default() },
        )?;
        assert_eq!(cri.await_exit(&id)?.exit_code, 4);
        print!("{}", std::fs::read_to_string(cri.log_path(&pod, "c"))?);
        cri.remove_pod(&pod)
    })
}

#[test]
fn a() -> anyhow::Result<()> {
    unwrapped(Version::Packaged)
}
#[test]
fn b() -> anyhow::Result<()> {
    unwrapped(Version::Pinned)
}
