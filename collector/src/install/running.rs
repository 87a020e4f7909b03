//! Every containerd among the processes: which configuration it reads, which unit it belongs to, where it looks for shims.
//!
//! Distributions are not known by name: command line, cgroup and environment of the process say it, whoever has started it. One in
//! a container (kind, docker in docker) is not the node's. Only reads below `/proc`; a process that ends meanwhile is none.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    InstallFault,
    node::{DEFAULT_CONFIG, Program, Where},
};
use crate::{time::now_ns, units::ticks_as_ns};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pid: u32,
    parent: Option<u32>,
    pub(super) program: Program,
    /// Its main configuration file.
    pub config: PathBuf,
    /// The folder of its bundles, where its command line names it: that holds, whatever the configuration says.
    pub state: Option<PathBuf>,
    /// Its unit, where it runs in one of systemd's.
    pub unit: Option<String>,
    /// Its PATH.
    pub path: Option<OsString>,
    /// Since when it runs.
    pub started: Option<SystemTime>,
}

/// All of this machine.
pub fn all() -> Vec<Running> {
    below(Path::new("/proc"))
}

/// The one that is meant. None where none runs, or where a binary was named that does not run.
pub fn choose(mut running: Vec<Running>, at: &Where) -> Result<Option<Running>, InstallFault> {
    let found: Vec<String> = running.iter().map(|found| found.config.display().to_string()).collect();
    let found = found.join(", ");
    let Some(config) = &at.config else {
        return if running.len() > 1 { Err(InstallFault::Several { found }) } else { Ok(running.pop()) };
    };
    running.retain(|found| is_same(&found.config, config));
    // Of what runs, none reads that file: a slip of the pen would else make a file that nobody reads. Of what does not run, the
    // binary says what is meant.
    if running.is_empty() && !found.is_empty() && at.containerd.is_none() {
        return Err(InstallFault::NobodyReads { config: config.clone(), found });
    }
    // Their command lines may name other folders, and their units differ: any of them would be a guess.
    if running.len() > 1 {
        let pids: Vec<String> = running.iter().map(|found| found.pid.to_string()).collect();
        return Err(InstallFault::SeveralRead { config: config.clone(), pids: pids.join(", ") });
    }
    Ok(running.pop())
}

fn is_same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    a == b || real(a).is_some_and(|a| real(b) == Some(a))
}

fn below(proc: &Path) -> Vec<Running> {
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let found: Vec<Running> = processes.filter_map(|entry| of_process(&entry.path())).collect();
    // What containerd has forked has its command line until it has become a shim.
    let is_forked = |one: &&Running| {
        found.iter().any(|other| one.parent == Some(other.pid) && one.program.name == other.program.name)
    };
    found.iter().filter(|one| !is_forked(one)).cloned().collect()
}

fn of_process(folder: &Path) -> Option<Running> {
    let pid = folder.file_name()?.to_str()?.parse().ok()?;
    let words = list(&folder.join("cmdline"))?;
    let name = words.first()?;
    if Path::new(name).file_name()? != "containerd" {
        return None;
    }
    let about = fs::read_to_string(folder.join("status")).unwrap_or_default();
    // One pid for each namespace of pids in which it has one, below that of this /proc.
    if of_status(&about, "NSpid:").is_some_and(|pids| pids.split_whitespace().nth(1).is_some()) {
        return None;
    }
    Some(Running {
        pid,
        parent: of_status(&about, "PPid:").and_then(|parent| parent.trim().parse().ok()),
        program: Program { file: folder.join("exe"), name: name.clone() },
        config: flag(&words, &["config", "c"]).unwrap_or_else(|| DEFAULT_CONFIG.into()),
        state: flag(&words, &["state"]),
        unit: unit(folder),
        path: path(folder),
        started: started(folder, UNIX_EPOCH + Duration::from_nanos(now_ns())),
    })
}

/// Since when a process runs, by its age. Its folder's own time says nothing of it: that is when somebody first looked, and after a want of
/// memory first looked again.
fn started(folder: &Path, now: SystemTime) -> Option<SystemTime> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // Fields as proc(5) counts them: the second is a name in parentheses, which may hold anything, and the 22nd the time since boot.
    let ticks = stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?.parse().ok()?;
    let uptime = fs::read_to_string(folder.parent()?.join("uptime")).ok()?;
    let uptime = Duration::try_from_secs_f64(uptime.split(' ').next()?.parse().ok()?).ok()?;
    now.checked_sub(uptime.saturating_sub(Duration::from_nanos(ticks_as_ns(ticks)?)))
}

/// What the kernel shows with a zero behind each.
fn list(file: &Path) -> Option<Vec<OsString>> {
    let said = fs::read(file).ok()?;
    Some(said.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect())
}

/// What the command line says of a flag, by any of its names: as Go reads them, with one hyphen or two, the last one counts, and
/// one that is empty says nothing.
fn flag(words: &[OsString], names: &[&str]) -> Option<PathBuf> {
    let mut said = None;
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        let Some(word) = word.as_bytes().strip_prefix(b"-") else { continue };
        let word = word.strip_prefix(b"-").unwrap_or(word);
        let mut parts = word.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default();
        if names.iter().any(|known| known.as_bytes() == name) {
            let value = parts.next().map(|value| OsString::from_vec(value.to_vec()));
            said = value.or_else(|| words.next().cloned());
        }
    }
    said.filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn of_status<'a>(about: &'a str, name: &str) -> Option<&'a str> {
    about.lines().find_map(|line| line.strip_prefix(name))
}

fn unit(folder: &Path) -> Option<String> {
    let said = fs::read_to_string(folder.join("cgroup")).ok()?;
    let mut parts = said.lines().filter_map(|line| line.rsplit(':').next()).flat_map(|path| path.split('/'));
    parts.find(|part| part.ends_with(".service")).map(str::to_owned)
}

fn path(folder: &Path) -> Option<OsString> {
    let all = list(&folder.join("environ"))?;
    let path = all.iter().find_map(|entry| entry.as_encoded_bytes().strip_prefix(b"PATH="))?;
    Some(OsString::from_vec(path.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_flag_says_what_containerd_would_take_of_it() {
        for line in [
            "containerd -c /x",
            "containerd --config /x --log-level debug",
            "containerd --log-level info --config=/x",
            "containerd -config /x",
            "containerd --config /y --c=/x",
        ] {
            assert_eq!(flag(&words(line), &["config", "c"]), Some("/x".into()), "{line}");
        }
        for line in ["containerd --address /c", "containerd --config=", "containerd --config"] {
            assert_eq!(flag(&words(line), &["config", "c"]), None, "{line}");
        }
        let bytes = OsString::from_vec(b"--log\xff".to_vec());
        assert_eq!(flag(&["containerd".into(), bytes, "-c=/x".into()], &["c"]), Some("/x".into()));
    }

    /// Command lines and cgroups as these distributions have them, read or seen; and what is none of them.
    #[test]
    fn each_layout_says_its_configuration_and_its_unit() {
        const K3S: &str = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml";
        const RKE2: &str = "/var/lib/rancher/rke2/agent/etc/containerd/config.toml";
        const SNAP: &str = "/var/snap/microk8s/7731/args/containerd.toml";
        let k0s = "/var/lib/k0s/bin/containerd --root=/var/lib/k0s/containerd --state=/run/k0s/containerd \
                   --address=/run/k0s/containerd.sock --log-level=info --config=/etc/k0s/containerd.toml";
        for (line, cgroup, config, state, unit) in [
            (
                "/usr/bin/containerd",
                "0::/system.slice/containerd.service",
                DEFAULT_CONFIG,
                None,
                Some("containerd.service"),
            ),
            (&format!("containerd -c {K3S}"), "0::/system.slice/k3s.service", K3S, None, Some("k3s.service")),
            (
                &format!(
                    "containerd -c {K3S} -a /run/k3s/containerd/containerd.sock --state /run/k3s/containerd"
                ),
                "0::/system.slice/k3s-agent.service/containerd",
                K3S,
                Some("/run/k3s/containerd"),
                Some("k3s-agent.service"),
            ),
            (
                &format!("containerd -c {RKE2}"),
                "12:pids:/system.slice/rke2-server.service\n0::/system.slice/rke2-server.service",
                RKE2,
                None,
                Some("rke2-server.service"),
            ),
            (
                k0s,
                "0::/system.slice/k0sworker.service",
                "/etc/k0s/containerd.toml",
                Some("/run/k0s/containerd"),
                Some("k0sworker.service"),
            ),
            (
                &format!(
                    "/snap/microk8s/7731/bin/containerd --config {SNAP} --root /var/snap/microk8s/common/var/lib/containerd \
                     --state /var/snap/microk8s/common/run/containerd"
                ),
                "0::/system.slice/snap.microk8s.daemon-containerd.service",
                SNAP,
                Some("/var/snap/microk8s/common/run/containerd"),
                Some("snap.microk8s.daemon-containerd.service"),
            ),
            (
                "/usr/bin/containerd",
                "0::/user.slice/user-0.slice/session-1.scope",
                DEFAULT_CONFIG,
                None,
                None,
            ),
        ] {
            let proc = tempfile::tempdir().expect("a folder");
            let put = |pid: &str, line: &str| {
                let folder = proc.path().join(pid);
                fs::create_dir(&folder).expect("a folder");
                fs::write(folder.join("cmdline"), format!("{}\0", line.replace(' ', "\0"))).expect("a file");
                fs::write(folder.join("cgroup"), cgroup).expect("a file");
                fs::write(folder.join("environ"), "HOME=/\0PATH=/a:/b\0").expect("a file");
            };
            put("17", line);
            put("18", "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io");
            put("19", "k3s server");
            put("self", "/usr/bin/containerd");
            let found = below(proc.path());
            let [one] = found.as_slice() else { panic!("{line}: {found:?}") };
            assert_eq!((one.config.as_path(), one.unit.as_deref()), (Path::new(config), unit), "{line}");
            assert_eq!(one.state.as_deref(), state.map(Path::new), "{line}");
            assert_eq!(one.path.as_deref(), Some("/a:/b".as_ref()), "{line}");
            assert_eq!(one.program.file, proc.path().join("17/exe"));
        }
    }

    #[test]
    fn a_process_runs_since_its_start_and_not_since_somebody_looked() {
        let proc = tempfile::tempdir().expect("a folder");
        let folder = proc.path().join("17");
        fs::create_dir(&folder).expect("a folder");
        fs::write(proc.path().join("uptime"), "1000.50 1900.00\n").expect("a file");
        // 500 s after the boot, at the 100 ticks that Linux shows everywhere.
        let stat = "17 (a) S (b) S 1 17 17 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 5 0 50000 900 33\n";
        fs::write(folder.join("stat"), stat).expect("a file");
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(started(&folder, now), Some(now - Duration::from_millis(500_500)));
        fs::remove_file(folder.join("stat")).expect("it was there");
        assert_eq!(started(&folder, now), None);
        // It is what is asked for of a process that runs.
        let own = Path::new("/proc").join(std::process::id().to_string());
        assert!(started(&own, UNIX_EPOCH + Duration::from_nanos(now_ns())).is_some());
    }

    #[test]
    fn one_in_a_container_is_not_the_node_s_and_one_that_was_forked_is_none() {
        let proc = tempfile::tempdir().expect("a folder");
        let put = |pid: &str, line: &str, about: &str| {
            let folder = proc.path().join(pid);
            fs::create_dir(&folder).expect("a folder");
            fs::write(folder.join("cmdline"), format!("{}\0", line.replace(' ', "\0"))).expect("a file");
            fs::write(folder.join("status"), format!("Name:\tx\n{about}\nNSsid:\t1\n")).expect("a file");
        };
        put("17", "/usr/bin/containerd", "PPid:\t1\nNSpid:\t17");
        put("18", "/usr/bin/containerd", "PPid:\t1\nNSpid:\t18\t142");
        put("19", "/usr/bin/containerd", "PPid:\t17\nNSpid:\t19");
        put("20", "/opt/other/containerd -c /x", "PPid:\t17\nNSpid:\t20");
        // A kernel before 4.1.
        put("21", "/usr/bin/containerd -c /y", "PPid:\t1");
        let mut found: Vec<u32> = below(proc.path()).iter().map(|one| one.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [17, 20, 21]);
    }

    #[test]
    fn of_several_the_one_that_was_named() {
        let running = |config: &str| Running {
            pid: 17,
            parent: None,
            program: Program { file: "/bin/containerd".into(), name: "containerd".into() },
            config: config.into(),
            state: None,
            unit: None,
            path: None,
            started: None,
        };
        let named = |config: &str| Where { config: Some(config.into()), ..Where::default() };
        let two = || vec![running("/a"), running("/b")];
        let fault = choose(two(), &Where::default()).expect_err("which?").to_string();
        assert!(fault.contains("/a, /b"), "{fault}");
        let chosen = choose(two(), &named("/b")).expect("one").expect("one");
        assert_eq!(chosen.config, Path::new("/b"));
        // A slip of the pen is no other containerd.
        let fault = choose(two(), &named("/c")).expect_err("nobody reads it").to_string();
        assert!(fault.contains("/c") && fault.contains("/a, /b"), "{fault}");
        // Whose folders and unit would be meant?
        let fault = choose(vec![running("/a"), running("/a")], &named("/a")).expect_err("which?").to_string();
        assert!(fault.contains("17, 17 all read /a"), "{fault}");
        // One that does not run is named by its binary; where none runs, as in an image, a file is enough.
        let other = Where { containerd: Some("/x/containerd".into()), ..named("/c") };
        assert_eq!(choose(two(), &other).expect("none"), None);
        assert_eq!(choose(Vec::new(), &named("/c")).expect("none"), None);
    }

    #[test]
    fn a_link_to_its_configuration_is_its_configuration() {
        let dir = tempfile::tempdir().expect("a folder");
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "").expect("a file");
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        assert!(is_same(&real, &link) && !is_same(&real, &dir.path().join("other")));
    }
}
