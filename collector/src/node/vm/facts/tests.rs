//! Against the captured state of a real pod, against Go's as it was read, and against files that are none.

use super::{
    super::table::{Table, tests::process},
    *,
};

const CAPTURED: &str = include_str!("../../../../tests/fixtures/kata/state.json");

fn rust(root: &Path, sandbox: &str, text: &str) {
    let dir = root.join("run/kata").join(sandbox);
    fs::create_dir_all(&dir).expect("a folder");
    fs::write(dir.join("state.json"), text).expect("a file");
}

fn go(root: &Path, sandbox: &str, text: &str) {
    let dir = root.join("run/vc/sbs").join(sandbox);
    fs::create_dir_all(&dir).expect("a folder");
    fs::write(dir.join("persist.json"), text).expect("a file");
}

#[test]
fn a_captured_state_is_read() {
    let root = tempfile::tempdir().expect("a folder");
    rust(root.path(), "k2", CAPTURED);
    let kata = root.path().join("opt/kata/share/kata-containers");
    fs::create_dir_all(&kata).expect("a folder");
    fs::write(kata.join("vmlinux-6.12.42-160"), "").expect("a file");
    std::os::unix::fs::symlink("vmlinux-6.12.42-160", kata.join("vmlinux")).expect("a link");
    let facts = read(root.path(), "k2", None);
    let known = Facts {
        hypervisor: Some(Hypervisor::Qemu),
        kernel: Some("vmlinux-6.12.42-160".into()),
        image: Some("initrd.img".into()),
        memory_bytes: Some(384 << 20),
        hotplugged_bytes: None,
        vcpus: None,
        sandbox_cgroup_only: Some(true),
        confidential: Some(false),
        cgroups: vec!["default/k2".into(), "kata_overhead/k2".into()],
    };
    assert_eq!(facts, known);
    let line = ["/opt/kata/bin/qemu-system-x86_64", "-m", "416M,slots=10,maxmem=24105M", "-smp", "2,cores=1"];
    process(root.path(), 9, 1, &line);
    let table = Table::look(root.path());
    let facts = read(root.path(), "k2", table.get(9));
    assert_eq!((facts.memory_bytes, facts.vcpus), (Some(416 << 20), Some(2)), "what it was given");
    assert_eq!(facts.kernel, known.kernel);
    // A link that Kata names is followed, one that only the arguments name is not.
    let named = "/opt/kata/share/kata-containers/vmlinux";
    std::os::unix::fs::symlink("secret", root.path().join("opt/mine")).expect("a link");
    fs::write(root.path().join("opt/secret"), "").expect("a file");
    for (path, kernel) in [(named, "vmlinux-6.12.42-160"), ("/opt/mine", "mine"), ("/x/a\x1b[2Jb", "a[2Jb")] {
        process(root.path(), 9, 1, &["/opt/kata/bin/qemu-system-x86_64", "-kernel", path]);
        let facts = read(root.path(), "k2", Table::look(root.path()).get(9));
        assert_eq!(facts.kernel.as_deref(), Some(kernel));
    }
}

#[test]
fn a_go_shims_state_is_read() {
    let root = tempfile::tempdir().expect("a folder");
    let text = serde_json::json!({
        "SandboxCgroupPath": "/kubepods/podx/kata_p1",
        "OverheadCgroupPath": "/kata_overhead/p1",
        "HypervisorState": {"Type": "clh", "Pid": 7, "HotpluggedMemory": 512},
        "Config": {
            "SandboxCgroupOnly": false,
            "HypervisorConfig": {
                "MemorySize": 2048,
                "KernelPath": "/opt/kata/share/vmlinux.container",
                "ImagePath": "/opt/kata/share/kata.img",
            },
        },
    });
    go(root.path(), "p1", &text.to_string());
    let facts = read(root.path(), "p1", None);
    assert_eq!(facts.hypervisor, Some(Hypervisor::Cloud));
    assert_eq!((facts.memory_bytes, facts.hotplugged_bytes), (Some(2 << 30), Some(512 << 20)));
    assert_eq!((facts.sandbox_cgroup_only, facts.confidential), (Some(false), None));
    assert_eq!(facts.kernel.as_deref(), Some("vmlinux.container"));
    assert_eq!(facts.cgroups, ["/kubepods/podx/kata_p1", "/kata_overhead/p1"]);
}

/// The Go shim's file does not say it, and the other's may not know what became of the wish.
#[test]
fn a_guest_is_confidential_where_its_hypervisor_was_told_to_have_it_so() {
    for (machine, confidential) in [
        ("q35,accel=kvm,confidential-guest-support=tdx", [Some(true); 2]),
        ("confidential-guest-support=snp,q35", [Some(true); 2]),
        // `go`, `rust`.
        ("q35,accel=kvm", [None, Some(false)]),
        ("q35,name=confidential-guest-support", [None, Some(false)]),
    ] {
        let root = tempfile::tempdir().expect("a folder");
        rust(root.path(), "rust", CAPTURED);
        go(root.path(), "go", "{\"HypervisorState\": {\"Type\": \"qemu\"}}");
        process(root.path(), 9, 1, &["qemu-system-x86_64", "-machine", machine, "-m", "2048M"]);
        let table = Table::look(root.path());
        let said = ["go", "rust"].map(|sandbox| read(root.path(), sandbox, table.get(9)).confidential);
        assert_eq!(said, confidential, "{machine}");
    }
}

#[test]
fn the_size_of_a_vm_of_somewhere_else_is_not_known() {
    let root = tempfile::tempdir().expect("a folder");
    rust(root.path(), "p1", &CAPTURED.replace("\"qemu\"", "\"remote\""));
    let state = serde_json::json!({
        "HypervisorState": {"Type": "remote", "HotpluggedMemory": 0},
        "Config": {"HypervisorConfig": {"MemorySize": 2048}},
    });
    go(root.path(), "p2", &state.to_string());
    for sandbox in ["p1", "p2"] {
        let facts = read(root.path(), sandbox, None);
        assert_eq!(facts.hypervisor, Some(Hypervisor::Remote), "{sandbox}");
        assert_eq!(
            (facts.memory_bytes, facts.hotplugged_bytes, facts.vcpus),
            (None, None, None),
            "{sandbox}"
        );
    }
}

#[test]
fn what_is_odd_is_as_if_it_were_not_there() {
    let odd = [
        "",
        "[]",
        "null",
        "{\"hypervisor\": 7}",
        "{\"hypervisor\": {\"config\": [], \"hypervisor_type\": \"acrn\"}}",
        "{\"hypervisor\": {\"config\": {\"default_memory\": -1, \"kernel\": \"relative\", \"image\": 9}}}",
        "{\"hypervisor\": {\"config\": {\"default_memory\": 18446744073709551615}}}",
        "{\"resource\": {\"cgroup_state\": {\"path\": 1, \"sandbox_cgroup_only\": \"yes\"}}}",
    ];
    for text in odd {
        let root = tempfile::tempdir().expect("a folder");
        rust(root.path(), "p1", text);
        go(root.path(), "p2", text);
        assert_eq!(read(root.path(), "p1", None), Facts::default(), "{text}");
        assert_eq!(read(root.path(), "p2", None), Facts::default(), "{text}");
    }
    let root = tempfile::tempdir().expect("a folder");
    rust(root.path(), "p1", CAPTURED);
    for id in ["../kata/p1", "p1/", "", ".", "p1/../p1", "/run/kata/p1"] {
        let found = read(root.path(), id, None);
        assert!(id == "p1/" || found == Facts::default(), "{id}");
    }
}

#[test]
fn sizes_are_read_as_hypervisors_mean_them() {
    for (arguments, bytes, count) in [
        (&["qemu-system-x86_64", "-m", "2048", "-smp", "cpus=4,sockets=1"][..], Some(2 << 30), Some(4)),
        (&["qemu-system-x86_64", "-m", "size=2G,slots=4"], Some(2 << 30), None),
        (&["cloud-hypervisor", "--memory", "size=536870912,shared=on"], Some(512 << 20), None),
        (&["cloud-hypervisor", "--memory", "size=512M", "--cpus", "boot=1,max=8"], Some(512 << 20), Some(1)),
        (&["qemu-system-x86_64", "-m", "0", "-smp", "0"], None, None),
        (&["qemu-system-x86_64", "-m", "much", "-smp", "many"], None, None),
        (&["qemu-system-x86_64", "-m", "99999999999999999999G"], None, None),
        (&["qemu-system-x86_64", "-m"], None, None),
    ] {
        let root = tempfile::tempdir().expect("a folder");
        process(root.path(), 9, 1, arguments);
        let table = Table::look(root.path());
        let facts = read(root.path(), "p1", table.get(9));
        assert_eq!((facts.memory_bytes, facts.vcpus), (bytes, count), "{arguments:?}");
    }
}

#[test]
fn a_label_is_short_and_plain() {
    assert_eq!(text("vmlinux-6.12"), Some("vmlinux-6.12".to_owned()));
    assert_eq!(text("a\x1b[31mb\n"), Some("a[31mb".to_owned()));
    assert_eq!(text("\u{202e}\t "), None);
    assert_eq!(text(&"x".repeat(4_000)).map(|text| text.len()), Some(TEXT_BYTES));
}
