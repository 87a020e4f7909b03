//! Bad input against the wrapper: what it must not choke on.
//!
//! Garbage, oversize and dribbling frames, ids that are paths, FIFOs that vanish, no descriptors left: the peers get
//! what they would get without a wrapper, and the worker lives through it.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::unistd::Pid;
use shimtap_tests::rig::program::copy;
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        frame::{Frame, header, kind},
        lab::files,
        launch::Flavour,
        pod, rules,
        wrapped::{binary, unharmed, wrapped, wrapping},
    },
    journal::hash,
    script::Script,
};

#[test]
fn frames_of_all_sizes_arrive_whole_however_they_are_cut() -> Result<()> {
    let services = ["a.service", "containerd.task.v2.Task"];
    unharmed(&Script::stayer(), |pod| rules::frames_of_all_sizes_arrive_whole(pod, &services))
}

#[test]
fn oversize_is_refused_by_the_shim_and_not_by_us() -> Result<()> {
    unharmed(&Script::stayer(), rules::one_byte_too_many_is_refused)
}

#[test]
fn unknown_types_and_reused_ids_are_the_shims_business() -> Result<()> {
    unharmed(&Script::stayer(), rules::unknown_types_and_reused_ids)
}

#[test]
fn garbage_on_a_connection_hurts_only_that_connection() -> Result<()> {
    unharmed(&Script::stayer(), |pod| {
        for garbage in [
            b"GET / HTTP/1.1\r\nHost: shim\r\n\r\n".to_vec(),
            vec![0xff; 70_000],
            vec![0; 70_000],
            header(u32::MAX, 1, kind::REQUEST, 0),
            header(16, 1, kind::REQUEST, 0),
            (0..=255u8).cycle().take(300_000).collect(),
        ] {
            let c = pod.connect()?;
            // The shim may hang up in the middle of it.
            let _cut_off = c.send_bytes(&garbage);
            let _closed_already = c.shutdown_write();
            c.wait_end(PATIENCE).with_context(|| format!("garbage {:?}…", garbage.get(..12)))?;
            pod.answers()?;
        }
        Ok(())
    })
}

#[test]
fn messages_that_do_not_decode_arrive_as_they_are() -> Result<()> {
    unharmed(&Script::stayer(), |pod| {
        let c = &pod.connection;
        for method in ["Create", "Exec", "Start", "Wait", "State", "Kill", "Delete", "Stats", "Shutdown"] {
            for payload in [vec![0xff; 40], vec![0x0a, 0x7f, b'x'], vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]]
            {
                let frame = Frame::request(c.next_stream(), "containerd.task.v2.Task", method, payload)?;
                c.send_bytes(&frame.bytes())?;
                assert_ne!(c.answer(frame.stream, PATIENCE)?.code(), 0, "{method}");
                let seen = pod.lab.requests()?;
                let entry = seen.iter().find(|e| e.stream == frame.stream).context("in the books")?;
                assert_eq!(entry.hash, hash(&frame.body), "{method}");
            }
        }
        // Nor does a request whose own fields are broken.
        let stream = c.next_stream();
        c.send_bytes(&Frame { stream, kind: kind::REQUEST, flags: 0, body: vec![0x0a, 0xff, 0x01] }.bytes())?;
        assert_eq!(c.answer(stream, PATIENCE)?.code(), 3);
        pod.answers()
    })
}

#[test]
fn ids_that_are_paths_make_no_file_outside() -> Result<()> {
    unharmed(&Script::stayer(), |pod| {
        let c = &pod.connection;
        let long = "x".repeat(300);
        for (n, id) in
            ["../../evil", "a/b", "..", ".", "/etc/evil", "", "nul\0byte", long.as_str()].iter().enumerate()
        {
            let fifos = pod.fifos(&format!("bad-{n}"))?;
            let mut create = pod.create_request(&fifos);
            create.id = (*id).to_owned();
            // The stand-in takes any id, so this task runs, captured or not.
            c.call("Create", &create)?
                .message::<api::CreateTaskResponse>()
                .with_context(|| format!("{id:?}"))?;
            c.call("Start", &pod::start(id, ""))?.message::<api::StartResponse>()?;
            c.call("Kill", &pod::kill(id, "", 9))?.message::<api::Empty>()?;
            c.call("Wait", &pod::wait(id, ""))?.message::<api::WaitResponse>()?;
            c.call("Delete", &pod::delete(id, ""))?.message::<api::DeleteResponse>()?;
            fifos.stdout.to_end(PATIENCE)?;
        }
        let strays: Vec<PathBuf> = files(pod.lab.dir())
            .into_iter()
            .filter(|p| p.to_string_lossy().contains("evil") || p.parent() == Some(pod.lab.dir()))
            .filter(|p| !["inner", "run", "bundles", "fifo", "shim.toml"].iter().any(|n| p.ends_with(n)))
            .collect();
        assert!(strays.is_empty(), "{strays:?}");
        assert!(!Path::new("/etc/evil").exists());
        pod.answers()
    })
}

#[test]
fn fifos_that_are_missing_or_vanish() -> Result<()> {
    unharmed(&Script::talker(), |pod| {
        // Missing at Create: the shim's error arrives, as unwrapped.
        let fifos = pod.fifos("gone")?;
        let create = pod.create_request(&fifos);
        fs::remove_file(fifos.stdout.path())?;
        assert_ne!(pod.connection.call("Create", &create)?.code(), 0);
        // Vanished between Create and Start: whoever has it open goes on.
        let fifos = pod.fifos("task")?;
        pod.connection.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
        fs::remove_file(fifos.stdout.path())?;
        fs::remove_file(fifos.stderr.path())?;
        for path in files(&pod.lab.run_dir()) {
            if fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_fifo()) {
                fs::remove_file(path)?;
            }
        }
        pod.connection.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
        assert_eq!(pod.wait()?, 7);
        fifos.check(&Script::talker())?;
        pod.connection.call("Delete", &pod::delete("task", ""))?.message::<api::DeleteResponse>()?;
        pod.answers()
    })
}

/// Changes the soft descriptor limit of a process from outside.
fn limit_descriptors(pid: Pid, most: u32) -> Result<()> {
    let status = Command::new("prlimit")
        .args([format!("--pid={pid}"), format!("--nofile={most}:")])
        .status()
        .context("prlimit of util-linux")?;
    ensure!(status.success(), "prlimit: {status}");
    Ok(())
}

#[test]
fn descriptors_at_the_limit_stop_new_things_only() -> Result<()> {
    let pod = wrapped(&Script::talker())?;
    let fifos = pod.run()?;
    let (keeper, worker) = (pod.keeper()?, pod.worker()?);
    let open = |pid: Pid| fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or_default();
    limit_descriptors(worker.pid, u32::try_from(open(worker.pid))? + 6)?;
    limit_descriptors(keeper.pid, u32::try_from(open(keeper.pid))? + 6)?;
    let mut crowd = Vec::new();
    for _ in 0..40 {
        let c = pod.connect()?;
        // Some of these will never be served, or be closed at once; none may take the pod along.
        let _refused = c.send("Connect", &pod::connect("task"));
        crowd.push(c);
        pod.answers().context("the old connection while there are no descriptors")?;
    }
    drop(crowd);
    limit_descriptors(keeper.pid, 1024)?;
    limit_descriptors(pod.worker()?.pid, 1024)?;
    let c = pod.connect()?;
    c.call("Connect", &pod::connect("task"))?.message::<api::ConnectResponse>().context("afterwards")?;
    assert_eq!(pod.wait()?, 7);
    fifos.check(&Script::talker())?;
    assert!(keeper.alive(), "the keeper lives");
    Ok(())
}

/// Lets everybody come to a socket, as far as the file system goes.
fn open_to_all(socket: &Path, below: &Path) -> Result<()> {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    mode(socket, 0o666).context("the socket's mode")?;
    for dir in socket.ancestors().skip(1).take_while(|dir| dir.starts_with(below)) {
        mode(dir, 0o755).with_context(|| format!("the mode of {}", dir.display()))?;
    }
    Ok(())
}

/// Who connects as somebody else is not served, whatever the modes of files say; as Go's shims do with
/// UnixSocketRequireSameUser.
#[test]
fn another_user_is_shown_the_door() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root may be somebody else (runs as root)");
        return Ok(());
    }
    unharmed(&Script::stayer(), |pod| {
        let socket = pod.endpoint.path()?;
        open_to_all(&socket, pod.lab.dir())?;
        // Where it was built may be closed to others.
        let program = pod.lab.dir().join("speaker");
        copy(&binary("speaker")?, &program)?;
        let knock = |uid: u32, gid: u32| -> Result<usize> {
            let mut command = Command::new(&program);
            let ran = command.arg(format!("knock={}", socket.display())).uid(uid).gid(gid).output();
            let ran = ran.context("run the speaker as another user")?;
            let fault = String::from_utf8_lossy(&ran.stderr);
            ensure!(ran.status.success(), "as {uid}:{gid}: {}, {fault}", ran.status);
            Ok(String::from_utf8(ran.stdout)?.trim().parse()?)
        };
        ensure!(knock(0, 0)? > 0, "the shim answers its own user");
        for (uid, gid) in [(65_534, 65_534), (65_534, 0), (0, 65_534)] {
            let bytes = knock(uid, gid)?;
            ensure!(bytes == 0, "{uid}:{gid} was answered with {bytes} bytes");
        }
        let heard = pod.lab.requests()?.iter().filter(|entry| entry.service == "a.service").count();
        ensure!(heard == 1, "the shim has heard {heard} of four");
        pod.answers()
    })
}

/// By the defaults alone there would be no shim here, or another one than is meant.
#[test]
fn a_fault_elsewhere_in_shim_toml_leaves_the_shim_that_is_named() -> Result<()> {
    for fault in ["[tee]\nno_such_key = 1\n", "[stats]\ninterval_ms = \"often\"\n"] {
        let (mut lab, shim) = wrapping(Flavour::V1_6, "2", "plain")?;
        lab.reconfigure("[start]\n", &format!("{fault}[start]\n"))?;
        lab.env.push(("PATH".to_owned(), "/nonexistent".to_owned()));
        let bundle = lab.bundle("task", Some("task"), &Script::default())?;
        let ran = shim.start(&lab, "task", &bundle)?;
        ensure!(ran.status.success(), "{fault:?}: {}", String::from_utf8_lossy(&ran.stdout));
        ensure!(lab.verbs()?.len() == 1, "its start, and nobody else's");
    }
    Ok(())
}
