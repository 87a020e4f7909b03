//! The containers that containerd has tasks of, read from its bundles: it need not run, and no socket is asked.
//!
//! A bundle says by its start answer (`address` up to 1.7, `bootstrap.json` from 2.0 on) who serves its task. A folder that
//! vanishes while it is read is a container that has ended.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Deserialize;

use crate::install::{Bundle, bundles};

/// One task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// containerd's namespace.
    pub namespace: String,
    /// Container id.
    pub id: String,
    /// The pod's sandbox: its own id for a sandbox; none outside of Kubernetes.
    pub sandbox: Option<String>,
    /// For people.
    pub name: String,
    /// The socket that serves it; none where the bundle does not say.
    pub address: Option<PathBuf>,
    /// The binary that its shim was started by; none where the bundle does not say.
    pub shim: Option<PathBuf>,
    /// When the bundle was made.
    pub made: Option<SystemTime>,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Bootstrap {
    address: String,
}

/// All tasks below a state folder.
pub fn read(state: &Path) -> Vec<Task> {
    let mut all: Vec<Task> = bundles(state).iter().filter_map(task).collect();
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    all
}

fn task(bundle: &Bundle) -> Option<Task> {
    let text = |file: &str| fs::read_to_string(bundle.path.join(file)).ok();
    let config = bundle.path.join("config.json");
    let Bundle { namespace, id, .. } = bundle;
    let spec: Spec = serde_json::from_slice(&fs::read(&config).ok()?).ok()?;
    let bootstrap =
        || serde_json::from_str::<Bootstrap>(&text("bootstrap.json")?).ok().map(|said| said.address);
    let address = text("address").or_else(bootstrap);
    Some(Task {
        namespace: namespace.clone(),
        name: readable(namespace, id, &spec.annotations),
        sandbox: spec.annotations.get("io.kubernetes.cri.sandbox-id").cloned(),
        address: address.map(|said| PathBuf::from(said.trim().trim_start_matches("unix://"))),
        shim: bundle.shim(),
        made: fs::metadata(&config).ok().and_then(|about| about.modified().ok()),
        id: id.clone(),
    })
}

/// `namespace/pod/container` of Kubernetes, else containerd's namespace and the id, shortened as people see it.
fn readable(namespace: &str, id: &str, annotations: &BTreeMap<String, String>) -> String {
    let of = |key: &str| annotations.get(&format!("io.kubernetes.cri.{key}"));
    match (of("sandbox-namespace"), of("sandbox-name"), of("container-name")) {
        (Some(ns), Some(pod), Some(container)) => format!("{ns}/{pod}/{container}"),
        (Some(ns), Some(pod), None) => format!("{ns}/{pod} (sandbox)"),
        _ => format!("{namespace}/{}", id.chars().take(13).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_of_both_lines_are_read() {
        let state = tempfile::tempdir().expect("a folder");
        let put = |id: &str, files: &[(&str, &str)]| {
            let bundle = state.path().join("io.containerd.runtime.v2.task").join("k8s.io").join(id);
            fs::create_dir_all(&bundle).expect("a bundle");
            files.iter().for_each(|(file, text)| fs::write(bundle.join(file), text).expect("a file"));
        };
        let spec = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s","io.kubernetes.cri.sandbox-namespace":"n",
            "io.kubernetes.cri.sandbox-name":"p","io.kubernetes.cri.container-name":"c"}}"#;
        put("one", &[("config.json", spec), ("address", "unix:///run/a"), ("shim-binary-path", "/bin/shim")]);
        put(
            "two",
            &[("config.json", "{}"), ("bootstrap.json", r#"{"version":3,"address":"unix:///run/b"}"#)],
        );
        put(".three", &[("config.json", "{}")]);
        put("four", &[]);
        let tasks = read(state.path());
        let [two, one] = tasks.as_slice() else { panic!("{tasks:?}") };
        assert_eq!((one.name.as_str(), one.sandbox.as_deref()), ("n/p/c", Some("s")));
        assert_eq!(one.address.as_deref(), Some(Path::new("/run/a")));
        assert_eq!(one.shim.as_deref(), Some(Path::new("/bin/shim")));
        assert_eq!((two.name.as_str(), two.address.as_deref()), ("k8s.io/two", Some(Path::new("/run/b"))));
    }
}
