//! Every layout of host cgroups that Kata makes, on either version.

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const VMM: u32 = 30;
const FILES: u32 = 31;
const SHIM: u32 = 32;
/// Kata's state names none.
const NAMED: &[&str] = &[];

/// A host whose processes are where a layout puts them.
struct Host {
    root: tempfile::TempDir,
    unified: bool,
}

impl Host {
    fn new(unified: bool) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let top = root.path().join("sys/fs/cgroup");
        if unified {
            fs::create_dir_all(&top).expect("a folder");
            fs::write(top.join("cgroup.controllers"), "cpu memory").expect("a file");
        } else {
            fs::create_dir_all(top.join("memory")).expect("a folder");
            fs::create_dir_all(top.join("cpuacct")).expect("a folder");
        }
        Self { root, unified }
    }

    /// A cgroup that is charged with so many bytes and so many seconds.
    fn cgroup(&self, path: &str, bytes: u64, secs: u64) {
        let top = self.root.path().join("sys/fs/cgroup");
        let write = |dir: PathBuf, name: &str, text: String| {
            fs::create_dir_all(&dir).expect("a folder");
            fs::write(dir.join(name), text).expect("a file");
        };
        if self.unified {
            write(top.join(path), "memory.current", format!("{bytes}\n"));
            let stat = format!("usage_usec {}\nuser_usec 1\nsystem_usec 2\n", secs * 1_000_000);
            write(top.join(path), "cpu.stat", stat);
        } else {
            write(top.join("memory").join(path), "memory.usage_in_bytes", format!("{bytes}\n"));
            write(top.join("cpuacct").join(path), "cpuacct.usage", format!("{}\n", secs * 1_000_000_000));
        }
    }

    /// A process of one thread in these cgroups.
    fn process(&self, pid: u32, memory: &str, cpu: &str) {
        self.thread(pid, pid, memory, cpu);
        let dir = self.root.path().join(format!("proc/{pid}"));
        fs::write(dir.join("cgroup"), self.row(memory, cpu)).expect("a file");
    }

    fn thread(&self, pid: u32, thread: u32, memory: &str, cpu: &str) {
        let dir = self.root.path().join(format!("proc/{pid}/task/{thread}"));
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join("cgroup"), self.row(memory, cpu)).expect("a file");
    }

    fn row(&self, memory: &str, cpu: &str) -> String {
        if self.unified {
            assert_eq!(memory, cpu, "one hierarchy");
            return format!("0::/{memory}\n");
        }
        format!("9:name=systemd:/x\n4:memory:/{memory}\n3:cpu,cpuacct:/{cpu}\n0::/\n")
    }

    fn read(&self, named: &[impl AsRef<str>]) -> HostUse {
        let named: Vec<String> = named.iter().map(|path| path.as_ref().to_owned()).collect();
        let asked = Asked { sandbox: ID, named: &named, charged: &[VMM, FILES], others: &[SHIM] };
        read(self.root.path(), &asked)
    }
}

fn of(bytes: u64, secs: u64) -> HostUse {
    HostUse { memory_bytes: Some(bytes), cpu_ns: Some(secs * 1_000_000_000) }
}

#[test]
fn everything_in_one_cgroup() {
    let layouts = [
        format!("kubepods/burstable/podx/kata_{ID}"),
        format!("kubepods/podx/{ID}"),
        format!("kubepods.slice/kubepods-podx.slice/cri-containerd-{ID}.scope"),
        format!("kata_sandboxed_pod/{ID}"),
        format!("default/{ID}"),
    ];
    for unified in [false, true] {
        for path in &layouts {
            let host = Host::new(unified);
            host.cgroup(path, 700, 9);
            for pid in [VMM, FILES, SHIM] {
                host.process(pid, path, path);
            }
            assert_eq!(host.read(NAMED), of(700, 9), "{unified} {path}");
            assert_eq!(host.read(&[path]), of(700, 9), "{unified} {path}: named and found is one");
        }
    }
}

/// Where each shim puts a sandbox and its overhead with `sandbox_cgroup_only = false`: Go and Rust, cgroupfs and systemd.
fn apart() -> [(String, String); 5] {
    let scope = |slice: &str| format!("{slice}/cri-containerd-{ID}.scope");
    [
        (format!("kubepods/podx/kata_{ID}"), format!("kata_overhead/{ID}")),
        // Literally so, colons and all (issue 2963).
        (format!("kubepods-besteffort-podx.slice:cri-containerd:{ID}"), format!("kata_overhead/{ID}")),
        (format!("kubepods.slice/kubepods-podx.slice:cri-containerd:{ID}"), format!("kata_overhead/{ID}")),
        (format!("kubepods/burstable/podx/{ID}"), format!("kata_overhead/{ID}")),
        (scope("kubepods.slice/kubepods-podx.slice"), format!("kata-overhead.slice/runtime-rs-{ID}.scope")),
    ]
}

/// The hypervisor in the sandbox's cgroup, the rest in the overhead's: on v2, and on v1 where it is moved as a whole.
#[test]
fn an_overhead_beside_the_sandbox() {
    for unified in [false, true] {
        for (sandbox, overhead) in &apart() {
            let host = Host::new(unified);
            host.cgroup(sandbox, 700, 9);
            host.cgroup(overhead, 50, 2);
            host.process(VMM, sandbox, sandbox);
            host.process(FILES, overhead, overhead);
            host.process(SHIM, overhead, overhead);
            for named in [&[][..], &[sandbox.as_str(), overhead.as_str()]] {
                assert_eq!(host.read(named), of(750, 11), "{unified} {sandbox}");
            }
        }
    }
}

/// On v1 vCPU threads alone are in the sandbox's cgroup, and all memory is the overhead's (issue 4128).
#[test]
fn vcpu_threads_alone_in_the_sandbox() {
    for (sandbox, overhead) in &apart() {
        let host = Host::new(false);
        host.cgroup(sandbox, 0, 9);
        host.cgroup(overhead, 800, 2);
        host.process(VMM, overhead, overhead);
        host.thread(VMM, 33, overhead, sandbox);
        host.process(FILES, overhead, overhead);
        host.process(SHIM, overhead, overhead);
        for named in [&[][..], &[sandbox.as_str(), overhead.as_str()]] {
            assert_eq!(host.read(named), of(800, 11), "{sandbox}");
        }
        // What a thread that was overlooked has used would be missing.
        host.cgroup("elsewhere", 1, 1);
        host.thread(VMM, 34, overhead, "elsewhere");
        assert_eq!(host.read(NAMED), HostUse { cpu_ns: None, ..of(800, 0) }, "{sandbox}");
    }
}

/// An empty overhead is charged for what its processes left (page cache) where Kata's state names it, and only there.
#[test]
fn an_overhead_without_a_process_counts_where_it_is_named() {
    let (sandbox, overhead) = (format!("default/{ID}"), format!("kata_overhead/{ID}"));
    for unified in [false, true] {
        let host = Host::new(unified);
        host.cgroup(&sandbox, 700, 9);
        host.cgroup(&overhead, 50, 2);
        for pid in [VMM, FILES, SHIM] {
            host.process(pid, &sandbox, &sandbox);
        }
        assert_eq!(host.read(&[&sandbox, &overhead]), of(750, 11), "{unified}");
        assert_eq!(host.read(&[&sandbox]), of(700, 9), "{unified}");
    }
}

#[test]
fn what_is_charged_elsewhere_makes_the_sum_unknown() {
    for unified in [false, true] {
        let path = format!("kubepods/podx/{ID}");
        for elsewhere in ["system.slice/containerd.service".to_owned(), format!("x/{ID}0"), String::new()] {
            let host = Host::new(unified);
            host.cgroup(&path, 700, 9);
            host.cgroup(&elsewhere, 9_000, 99);
            host.process(VMM, &path, &path);
            host.process(FILES, &elsewhere, &elsewhere);
            assert_eq!(host.read(NAMED), HostUse::default(), "{unified} {elsewhere}");
            // A shim outside is not charged to the pod, and not looked for.
            host.process(FILES, &path, &path);
            host.process(SHIM, &elsewhere, &elsewhere);
            assert_eq!(host.read(NAMED), of(700, 9), "{unified} {elsewhere}");
        }
    }
}

#[test]
fn a_cgroup_within_another_is_counted_once() {
    let host = Host::new(true);
    let (outer, inner) = (format!("podx/{ID}"), format!("podx/{ID}/below"));
    host.cgroup(&outer, 700, 9);
    host.cgroup(&inner, 300, 4);
    host.process(VMM, &inner, &inner);
    host.process(FILES, &outer, &outer);
    assert_eq!(host.read(NAMED), of(700, 9));
}

#[test]
fn without_a_process_or_a_file_nothing_is_said() {
    let host = Host::new(true);
    assert_eq!(host.read(NAMED), HostUse::default(), "nobody is there");
    let path = format!("podx/{ID}");
    host.process(VMM, &path, &path);
    host.process(FILES, &path, &path);
    assert_eq!(host.read(NAMED), HostUse::default(), "nothing counts");
    host.cgroup(&path, 1, 1);
    assert_eq!(host.read(&["../../etc", "/", ""]), of(1, 1), "no way elsewhere");
    let none = Asked { sandbox: ID, named: &[], charged: &[], others: &[VMM] };
    assert_eq!(read(host.root.path(), &none), HostUse::default());
}

#[test]
fn ids_are_whole_words() {
    for (path, its) in [
        ("a/p1", true),
        ("a/kata_p1/b", true),
        ("a/cri-containerd-p1.scope", true),
        ("x.slice:cri-containerd:p1", true),
        ("a/xp1", false),
        ("a/my-p1", false),
        ("system.slice/my-p1.scope", false),
        ("a/p1.scope.d", false),
        ("a/p10", false),
    ] {
        assert_eq!(has_id(Path::new(path), "p1"), its, "{path}");
    }
    assert!(!has_id(Path::new("a/"), ""));
}
