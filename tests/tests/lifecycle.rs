//! Containers start, fail to start, are killed and come back under the same name exactly as they do
//! without the wrapper: same exit status, same output, same words of containerd.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::cri_log;
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::run::run;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually, same_with_and_without};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    first_start,
    each_hook_puts_the_wrapper_in_place_for_ctr,
    each_hook_puts_the_wrapper_in_place_for_cri,
    two_containers_of_a_pod_share_one_shim,
    create_failure,
    create_failure_in_a_pod,
    same_id_started_stopped_and_started_again,
    out_of_memory,
    out_of_memory_in_a_pod,
    unset_stdio,
    what_is_not_ours_goes_to_the_inner_shim,
    delete_of_what_was_never_ours,
);

fn first_start(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Path, |node| {
        let said = node.run("a", &["sh", "-c", "echo out; echo err >&2; exit 3"])?;
        node.complete(&said.stdout, b"out\n")?;
        node.complete(without_changing_words(&said.stderr).as_bytes(), b"err")?;
        Ok(said.code)
    })?;
    assert_eq!(answer, 3);
    Ok(())
}

/// Whether a container that runs now runs behind a keeper, a worker and the real shim.
fn is_wrapped_now(node: &Node) -> Result<()> {
    let keepers = node.wrappers("tap-keeper")?;
    let workers = node.wrappers("tap-worker")?;
    let inner = node.inner_shims()?;
    ensure!(
        (keepers.len(), workers.len(), inner.len()) == (1, 1, 1),
        "keepers {keepers:?}, workers {workers:?}, inner shims {inner:?}"
    );
    Ok(())
}

fn each_hook_puts_the_wrapper_in_place_for_ctr(version: Version) -> Result<()> {
    for hook in [Hook::Path, Hook::Name, Hook::Opt] {
        Setup::new(version, Shim::Wrapped(hook)).run(|node| {
            node.run_detached("a", &["sleep", "1000"])?;
            is_wrapped_now(node)?;
            node.remove("a")
        })?;
    }
    Ok(())
}

fn each_hook_puts_the_wrapper_in_place_for_cri(version: Version) -> Result<()> {
    let mut hooks = vec![Hook::Opt, Hook::Name];
    if version.tools()?.honours_runtime_path() {
        hooks.push(Hook::Path);
    }
    for hook in hooks {
        Setup::new(version, Shim::Wrapped(hook)).run(|node| {
            let cri = node.cri()?;
            let pod = cri.run_pod("p")?;
            cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
            is_wrapped_now(node)?;
            cri.remove_pod(&pod)
        })?;
    }
    Ok(())
}

fn two_containers_of_a_pod_share_one_shim(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let mut answers = Vec::new();
        for (name, seed, exit) in [("one", "seed=1", "exit=4"), ("two", "seed=2", "exit=5")] {
            let command = ["speaker", "lines=200", seed, exit];
            let id = cri.run(&pod, &Wanted { name, command: &command, ..Wanted::default() })?;
            answers.push(cri.await_exit(&id)?.exit_code);
        }
        ensure!(node.inner_shims()?.len() == 1, "inner shims: {:?}", node.inner_shims()?);
        if node.is_wrapped() {
            is_wrapped_now(node)?;
        }
        for name in ["one", "two"] {
            let log = cri_log(&cri.log_path(&pod, name))?;
            ensure!(log.stderr.is_empty(), "{name} wrote nothing to stderr");
        }
        cri.remove_pod(&pod)?;
        Ok(answers)
    })?;
    assert_eq!(answer, [4, 5]);
    Ok(())
}

fn create_failure(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Path, |node| {
        let said = node.run("a", &["/no/such/program"])?;
        ensure!(node.processes()?.iter().all(|p| !p.is_role("tap-worker")), "a worker stays for nothing");
        Ok((said.code, said.text(), without_changing_words(&said.stderr)))
    })?;
    assert_ne!(answer.0, 0);
    assert!(answer.2.contains("no such file"), "{answer:?}");
    Ok(())
}

/// ctr's stderr without its own log lines, which bear the time.
fn without_changing_words(stderr: &str) -> String {
    stderr.lines().filter(|line| !line.contains("time=")).collect::<Vec<_>>().join("\n")
}

fn create_failure_in_a_pod(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let bad = Wanted { name: "bad", command: &["/no/such/program"], ..Wanted::default() };
        let id = cri.create(&pod, &bad)?;
        let refused = cri.start(&id).expect_err("there is no such program");
        let status = cri.status(&id)?;
        // The pod lives, and the next container of it starts.
        let good = Wanted { name: "good", command: &["sh", "-c", "exit 6"], ..Wanted::default() };
        let after = cri.run(&pod, &good)?;
        let after = cri.await_exit(&after)?;
        cri.remove_pod(&pod)?;
        let words = format!("{refused:#}").contains("no such file");
        Ok((words, status, after))
    })?;
    assert!(answer.0, "containerd says why: {answer:?}");
    assert_eq!(answer.2.exit_code, 6);
    Ok(())
}

fn same_id_started_stopped_and_started_again(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Path, |node| {
        let mut answers = Vec::new();
        for turn in 0..3 {
            let said = node.run("same", &["sh", "-c", &format!("echo turn {turn}; exit {turn}")])?;
            node.complete(&said.stdout, format!("turn {turn}\n").as_bytes())?;
            answers.push(said.code);
        }
        // A task may also end and be started anew while its container stays, as dockerd does it.
        node.run_detached("stays", &["sleep", "1000"])?;
        for _ in 0..2 {
            node.kill("stays", "SIGKILL")?.ok()?;
            node.await_status("stays", "STOPPED")?;
            node.ctr(&["tasks", "delete", "stays"])?;
            node.ctr(&["tasks", "start", "--detach", "--null-io", "stays"])?.ok()?;
            node.await_status("stays", "RUNNING")?;
        }
        node.remove("stays")?;
        Ok(answers)
    })
    .map(drop)
}

fn out_of_memory(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Path, |node| {
        let flags = ["--rm", "--memory-limit", "33554432"];
        let said = run(node.run_command("fat", &flags, &["speaker", "eat=256"]), LIMIT)?;
        Ok(said.code)
    })?;
    assert_eq!(answer, 137);
    Ok(())
}

fn out_of_memory_in_a_pod(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let fat = Wanted {
            name: "fat",
            command: &["speaker", "eat=256"],
            memory_limit_bytes: 32 << 20,
            ..Wanted::default()
        };
        let id = cri.run(&pod, &fat)?;
        let status = cri.await_exit(&id)?;
        cri.remove_pod(&pod)?;
        Ok(status.exit_code)
    })?;
    assert_eq!(answer, 137);
    Ok(())
}

fn unset_stdio(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Path, |node| {
        let command = node.run_command("mute", &["--rm", "--null-io"], &["speaker", "lines=5000", "exit=9"]);
        let said = run(command, LIMIT)?;
        Ok((said.code, said.text()))
    })?;
    assert_eq!(answer, (9, String::new()));
    Ok(())
}

fn what_is_not_ours_goes_to_the_inner_shim(version: Version) -> Result<()> {
    let wrapper = shimtap_tests::rig::tools::wrapper()?;
    let inner = version.tools()?.runc_shim;
    let beside = inner.parent().context("the shim has no folder")?;
    let said = |program: &std::path::Path, flag: &str| {
        let mut command = Command::new(program);
        command.arg(flag).env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", beside.display()));
        let said = run(command, LIMIT)?;
        anyhow::Ok((said.code, said.stdout))
    };
    for flag in ["-v", "-info", "-no-such-flag"] {
        // The program's own name is all that may differ.
        let (code, ours) = said(&wrapper, flag)?;
        let (inner_code, theirs) = said(&inner, flag)?;
        let named = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.replace(&*wrapper.to_string_lossy(), "SHIM").replace(&*inner.to_string_lossy(), "SHIM")
        };
        assert_eq!((code, named(&ours)), (inner_code, named(&theirs)), "{flag}");
    }
    Ok(())
}

fn delete_of_what_was_never_ours(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).run(|node| {
        let bundle = node.dir().join("bundle");
        let delete = |program: &std::path::Path| {
            std::fs::create_dir_all(bundle.join("rootfs")).context("create a bundle")?;
            std::fs::write(bundle.join("config.json"), "{}").context("write its spec")?;
            let mut command = Command::new(program);
            command.args(["-namespace", node.namespace(), "-address"]).arg(node.socket());
            command.arg("-publish-binary").arg(&node.tools().containerd);
            command.args(["-id", "never", "-bundle"]).arg(&bundle).arg("delete");
            let shims = node.tools().runc_shim.parent().context("the shim has no folder")?;
            let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", shims.display());
            command.current_dir(&bundle).env("PATH", path).env("SHIMTAP_RUN_DIR", node.run_dir());
            command.env("TTRPC_ADDRESS", format!("{}.ttrpc", node.socket().display()));
            let said = run(command, LIMIT)?;
            anyhow::Ok((said.code, said.stdout.is_empty()))
        };
        let theirs = delete(&node.tools().runc_shim.clone())?;
        let ours = delete(node.wrapper())?;
        ensure!(ours == theirs, "ours {ours:?}, the inner shim's {theirs:?}");
        eventually(LIMIT, "nothing to run on", || Ok(node.wrappers("tap-worker")?.is_empty().then_some(())))
    })
}
