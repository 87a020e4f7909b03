//! What dashboards ask for is answered once per container, for a container in a VM as for one of runc: a real Prometheus is
//! told by each scrape configuration that is shipped to read a kubelet and our collector, and the usual sums are the truth.
//!
//! The kubelet is a page that says what a kubelet says of two pods: of runc's the containers, of Kata's the whole VM at its
//! sandbox, and both networks, the VM's twice. The Kata pod is a stand-in behind the wrapper. Needs `prometheus`; `./dev test`
//! leaves it out, and says so, where that is not installed.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use serde_json::{Value, json};
use shimtap_tests::{
    rig::{
        collector::{Collector, Settings, free_address, get},
        eventually,
        run::Running,
    },
    standin::{
        client::{
            lab::Lab,
            pod::{self, Pod},
            wrapped::{STANDIN, WRAPPER, binary, wrapped_as},
        },
        kata::{
            Profile,
            guest::{Cgroup, Guest},
        },
        script::Script,
    },
};
use yaml_rust2::{Yaml, YamlEmitter, YamlLoader, yaml::Hash};

const LIMIT: Duration = Duration::from_secs(60);

/// What the kubelet says of runc's container, and is therefore to come out.
const RUNC: [(&str, f64); 4] = [
    ("container_cpu_usage_seconds_total", 12.5),
    ("container_memory_working_set_bytes", 7_000_000.0),
    ("container_cpu_cfs_throttled_periods_total", 3.0),
    ("container_fs_reads_bytes_total", 4_096.0),
];
/// And of a whole VM.
const VM: f64 = 300_000_000.0;
/// Bytes that each pod received.
const RECEIVED: f64 = 5_000.0;

/// The page of the kubelet.
fn kubelet_page() -> String {
    let mut page = String::new();
    let labels = |container: &str, image: &str, pod: &str| {
        format!(
            "container=\"{container}\",id=\"/{pod}/{container}{image}\",image=\"{image}\",name=\"{pod}\",namespace=\"ns\",pod=\"{pod}\""
        )
    };
    for (name, value) in RUNC {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let _ = writeln!(page, "# TYPE {name} {kind}");
        for (container, image, pod, value) in [
            ("app", "app:1", "runc-pod", value),
            ("", "pause:3.9", "runc-pod", 0.5),
            ("", "", "runc-pod", value + 0.5),
            ("", "pause:3.9", "kata-pod", VM),
            ("", "", "kata-pod", VM),
        ] {
            let _ = writeln!(page, "{name}{{{}}} {value}", labels(container, image, pod));
        }
    }
    let _ = writeln!(page, "# TYPE container_network_receive_bytes_total counter");
    for (interface, pod) in [("eth0", "runc-pod"), ("eth0", "kata-pod"), ("tap0_kata", "kata-pod")] {
        let labels = labels("", "pause:3.9", pod);
        let _ = writeln!(
            page,
            "container_network_receive_bytes_total{{interface=\"{interface}\",{labels}}} {RECEIVED}"
        );
    }
    page
}

/// Serves the page until the process ends; gives the address.
fn kubelet() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("a port")?;
    let address = listener.local_addr().context("its address")?.to_string();
    let serve = move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                asked.extend(byte);
            }
            let page = kubelet_page();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{page}", page.len());
        }
    };
    thread::Builder::new().name("kubelet".to_owned()).spawn(serve).context("a thread")?;
    Ok(address)
}

/// A pod in a VM, as containerd tells of it.
fn kata(guest: &Guest, collector: &Collector) -> Result<Pod> {
    let script = Script { guest: Some(guest.clone()), ..Script::stayer() };
    let pod = wrapped_as("kata-app", &script, |lab| {
        let path = lab.dir().join("containerd-shim-kata-v2");
        symlink(binary(STANDIN)?, &path).context("a shim of that name")?;
        lab.wrap(WRAPPER, Path::new(&path))?;
        lab.env.push((Profile::KEY.to_owned(), Profile::Rust.word().to_owned()));
        lab.env.push(("SHIMTAP_COLLECTOR".to_owned(), collector.socket().display().to_string()));
        Ok(())
    })?;
    let config = pod.bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
    let annotations = json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": "sandbox",
        "io.kubernetes.cri.sandbox-namespace": "ns",
        "io.kubernetes.cri.sandbox-name": "kata-pod",
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.image-name": "app:1",
    });
    spec.as_object_mut().context("an object")?.insert("annotations".to_owned(), annotations);
    fs::write(&config, spec.to_string()).context("config.json")?;
    Ok(pod)
}

/// The jobs of a shipped configuration, with the places of their targets put to these addresses.
fn configuration(file: &str, addresses: [&str; 2]) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus").join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let parse = |text: &str| -> Result<Yaml> {
        YamlLoader::load_from_str(text).context("YAML")?.pop().context("a document")
    };
    let mut whole = parse(&text)?;
    // In Azure's it is a text within.
    let text = |text: &str| Yaml::String(text.to_owned());
    let of = |yaml: &Yaml, key: &str| yaml.as_hash().and_then(|hash| hash.get(&text(key))).cloned();
    if let Some(inner) = of(&whole, "data").and_then(|data| of(&data, "prometheus-config")) {
        whole = parse(inner.as_str().context("a text")?)?;
    }
    let jobs = of(&whole, "scrape_configs").context("jobs")?;
    let jobs = jobs.as_vec().context("jobs")?;
    ensure!(jobs.len() == addresses.len(), "{} jobs", jobs.len());
    let of_a_cluster = ["kubernetes_sd_configs", "static_configs", "scheme", "tls_config", "authorization"];
    let local = jobs.iter().zip(addresses).map(|(job, address)| {
        let mut job = job.as_hash().context("a job")?.clone();
        for key in of_a_cluster {
            job.remove(&text(key));
        }
        let targets = Hash::from_iter([(text("targets"), Yaml::Array(vec![text(address)]))]);
        job.insert(text("static_configs"), Yaml::Array(vec![Yaml::Hash(targets)]));
        job.insert(text("scrape_interval"), text("1s"));
        job.insert(text("scrape_timeout"), text("1s"));
        Ok(Yaml::Hash(job))
    });
    let jobs = Yaml::Array(local.collect::<Result<_>>()?);
    let mut out = String::new();
    YamlEmitter::new(&mut out).dump(&Yaml::Hash(Hash::from_iter([(text("scrape_configs"), jobs)])))?;
    Ok(out)
}

/// A query's answer: values by the labels that it groups by.
fn ask(address: &str, query: &str) -> Result<BTreeMap<String, f64>> {
    let coded: String = query.bytes().fold(String::new(), |mut coded, byte| {
        let _ = write!(coded, "%{byte:02X}");
        coded
    });
    let answer: Value = serde_json::from_str(&get(address, &format!("/api/v1/query?query={coded}"))?)?;
    let rows = answer.pointer("/data/result").and_then(Value::as_array).context("a result")?;
    let row = |row: &Value| -> Result<(String, f64)> {
        let field = |path: &str| row.pointer(path).and_then(Value::as_str);
        let label = |name: &str| field(&format!("/metric/{name}")).unwrap_or_default().to_owned();
        let value = field("/value/1").context("a value")?.parse()?;
        Ok((["pod", "container"].map(label).join("/"), value))
    };
    rows.iter().map(row).collect()
}

/// What the usual sums come to.
fn expected(guest: &Guest) -> Vec<(String, BTreeMap<String, f64>)> {
    let truth = guest.truth();
    let mut all: Vec<_> = RUNC
        .into_iter()
        .map(|(name, value)| {
            let query =
                format!("sum by (namespace, pod, container) ({name}{{namespace=\"ns\", image!=\"\"}})");
            let rows = [("runc-pod/app", value), ("kata-pod/app", truth.get(name).copied().unwrap_or(-1.0))];
            (query, rows.map(|(key, value)| (key.to_owned(), value)).into())
        })
        .collect();
    let network = "sum by (namespace, pod) (container_network_receive_bytes_total{namespace=\"ns\"})";
    let rows = ["runc-pod/", "kata-pod/"].map(|pod| (pod.to_owned(), RECEIVED));
    all.push((network.to_owned(), rows.into()));
    all
}

fn judge(dir: &Path, file: &str, kubelet: &str, collector: &Collector, guest: &Guest) -> Result<()> {
    let config = dir.join(file);
    fs::write(&config, configuration(file, [kubelet, collector.address()])?).context("write it")?;
    let address = free_address()?;
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join(format!("{file}-data")).display()));
    command.arg(format!("--web.listen-address={address}"));
    let prometheus = Running::start(command).context("is prometheus installed?")?;
    for (query, rows) in expected(guest) {
        let mut last = None;
        eventually(LIMIT, &query, || {
            // It does not listen at once.
            last = ask(&address, &query).ok();
            let same = last.as_ref().is_some_and(|got| {
                got.len() == rows.len()
                    && rows
                        .iter()
                        .all(|(key, value)| got.get(key).is_some_and(|it| (it - value).abs() < 1e-6))
            });
            Ok(same.then_some(()))
        })
        .with_context(|| format!("{query}: {last:?}, not {rows:?}\n{}", prometheus.stderr_so_far()))?;
    }
    // What stands for a kubelet's cAdvisor in rules and dashboards: both jobs' rows have the same labels.
    let jobs =
        ask(&address, "count by (job) (container_cpu_usage_seconds_total{namespace=\"ns\", image!=\"\"})")?;
    let one = file == "prometheus.yml" || jobs == BTreeMap::from([("/".to_owned(), 2.0)]);
    ensure!(one, "{jobs:?}");
    drop(prometheus);
    Ok(())
}

#[test]
#[ignore = "needs prometheus; ./dev test runs it where that is installed"]
fn prometheus_has_each_container_once_by_each_shipped_configuration() -> Result<()> {
    let lab = Lab::new()?;
    let sections = "[stats]\ninterval_secs = 1\n".to_owned();
    let settings = Settings { sections, ..Settings::default() };
    let collector = Collector::start(lab.dir(), lab.namespace(), &settings)?;
    let guest = Guest::worked(Cgroup::V2);
    let pod = kata(&guest, &collector)?;
    let _fifos = pod.run()?;
    let kubelet = kubelet()?;
    for file in ["prometheus.yml", "kube-prometheus.yml", "azure-managed.yml"] {
        judge(lab.dir(), file, &kubelet, &collector, &guest).with_context(|| file.to_owned())?;
    }
    pod.connection.call("Kill", &pod::kill(&pod.id, "", 9))?.message::<api::Empty>()?;
    pod.wait()?;
    pod.finish()?;
    collector.stop()
}
