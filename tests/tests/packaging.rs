//! Every file under packaging/ is loaded by the program that it is for, or parsed, and says what it is
//! meant to say.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::run::run;
use shimtap_tests::rig::{Version, tools};
use yaml_rust2::{Yaml, YamlLoader};

const LIMIT: Duration = Duration::from_secs(60);
const WRAPPER: &str = "/usr/bin/containerd-shim-tap-v2";

on_each_containerd!(containerd_loads_the_examples_of_its_line);

fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(path)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// The lines of a section of a TOML file, up to the next section, without quotes and blanks.
fn section(dump: &str, name: &str) -> Vec<String> {
    let plain = dump.replace(['"', '\''], "");
    let lines = plain.lines().map(str::trim).skip_while(|line| *line != format!("[{name}]")).skip(1);
    lines.take_while(|line| !line.starts_with('[')).map(str::to_owned).collect()
}

fn containerd_loads_the_examples_of_its_line(version: Version) -> Result<()> {
    let tools = version.tools()?;
    let line = if tools.is_v2() { "2.x" } else { "1.x" };
    let cri = if tools.is_v2() { "io.containerd.cri.v1.runtime" } else { "io.containerd.grpc.v1.cri" };
    let runtime = |name: &str| format!("plugins.{cri}.containerd.runtimes.{name}");
    let path = format!("runtime_path = {WRAPPER}");
    let kept = "runtime_type = io.containerd.runc.v2".to_owned();
    let by_name = "runtime_type = io.containerd.tap-runc.v2".to_owned();
    let opt = ("plugins.io.containerd.internal.v1.opt".to_owned(), "path = /opt/containerd".to_owned());
    let expected = [
        (
            "runtime-path",
            vec![
                (runtime("runc"), path.clone()),
                (runtime("runc"), kept.clone()),
                (runtime("tap"), path),
                (runtime("tap"), kept),
            ],
        ),
        ("name", vec![(runtime("tap"), by_name)]),
        ("opt", vec![opt]),
    ];
    let files = std::fs::read_dir(packaging("containerd")).context("list the examples")?;
    let ours = files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(line)).count();
    ensure!(ours == expected.len(), "{ours} examples for {line}, {} are known here", expected.len());
    for (hook, lines) in expected {
        let file = packaging("containerd").join(format!("{line}-{hook}.toml"));
        let mut command = Command::new(&tools.containerd);
        command.arg("--config").arg(&file).args(["config", "dump"]);
        let dump = run(command, LIMIT)?.ok().with_context(|| format!("{} loads", file.display()))?.text();
        for (name, line) in lines {
            let found = section(&dump, &name);
            ensure!(found.contains(&line), "{}: [{name}] has no {line:?}: {found:#?}", file.display());
        }
    }
    Ok(())
}

#[test]
fn runtime_classes_name_handlers_of_the_examples() -> Result<()> {
    let text = read(&packaging("kubernetes/runtimeclass.yaml"))?;
    let classes = YamlLoader::load_from_str(&text).context("it is no YAML")?;
    ensure!(!classes.is_empty(), "there is no class");
    for class in classes {
        ensure!(class["apiVersion"].as_str() == Some("node.k8s.io/v1"), "{:?}", class["apiVersion"]);
        ensure!(class["kind"].as_str() == Some("RuntimeClass"), "{:?}", class["kind"]);
        ensure!(!matches!(class["metadata"]["name"], Yaml::BadValue), "it has no name");
        let handler = class["handler"].as_str().context("it has no handler")?;
        for example in ["1.x-runtime-path", "1.x-name", "2.x-runtime-path", "2.x-name"] {
            let text = read(&packaging("containerd").join(format!("{example}.toml")))?;
            ensure!(text.contains(&format!(".runtimes.{handler}]")), "{example} has no handler {handler}");
        }
    }
    Ok(())
}

/// A stopped unit loses its runtime directory; the wrappers' must survive every unit of ours.
#[test]
fn no_unit_names_the_wrappers_directory() -> Result<()> {
    let unit = read(&packaging("systemd/shimtap.service"))?;
    let settings: Vec<&str> = unit.lines().filter(|line| !line.starts_with('#')).collect();
    ensure!(settings.iter().all(|line| !line.contains("shimtap-shim")), "it names the wrappers' directory");
    ensure!(settings.contains(&"RuntimeDirectory=shimtap"), "the collector's directory is its own");
    ensure!(settings.contains(&"ExecStartPre=/usr/bin/shimtap check"), "the configuration is checked first");
    Ok(())
}

#[test]
#[ignore = "needs systemd-analyze (package systemd): `sudo ./dev test` runs it"]
fn systemd_accepts_the_unit() -> Result<()> {
    let unit = read(&packaging("systemd/shimtap.service"))?;
    // verify looks for the binary where the package will put it; here it stands elsewhere.
    let unit = unit.replace("/usr/bin/shimtap", &tools::collector()?.to_string_lossy());
    let dir = std::env::temp_dir().join(format!("shimtap-unit-{}", std::process::id()));
    std::fs::create_dir_all(&dir).context("create a folder")?;
    let file = dir.join("shimtap.service");
    std::fs::write(&file, unit).context("write the unit")?;
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).arg(&file);
    let said = run(command, LIMIT)?;
    std::fs::remove_dir_all(&dir).context("remove the folder")?;
    let complaints = said.stderr.lines().filter(|line| line.contains("shimtap.service")).collect::<Vec<_>>();
    ensure!(said.code == 0 && complaints.is_empty(), "{}: {complaints:#?}", said.code);
    Ok(())
}
