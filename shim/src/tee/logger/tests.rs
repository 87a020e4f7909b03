//! Creates that name a logger, decided and answered by a real worker; the process that hands the container's ends over is played.

use std::io::{Read, Write};

use super::*;
use crate::{run_dir::RunDir, sys::fd, worker::model::stage::Stage};

const URI: &str = "binary:///bin/true?a=b";

fn create(stdout: &str) -> Create<'_> {
    Create { id: "c", bundle: "/b", stdout, stderr: stdout, ..Create::default() }
}

/// With an inner shim that starts loggers as runc's does, or one that does not.
fn told(stage: &Stage, starts_loggers: bool) {
    let who = &stage.block.tables().identity;
    let description = Description {
        version: 1,
        namespace: who.namespace.get(),
        id: who.id.get(),
        inner_socket: who.inner_path.get().into(),
        inner_binary: "/bin/true".into(),
        task_api: 3,
        keeper_pid: 0,
        starts_loggers,
        inner_build: String::new(),
    };
    let path = RunDir::at(&stage.dir).description(&who.key.get());
    fs::write(path, serde_json::to_vec(&description).unwrap()).unwrap();
}

fn begin(worker: &mut Worker, create: &Create<'_>) -> usize {
    worker.task_begin(0, 1, 3, create).expect("there is room")
}

fn not_captured(worker: &Worker, task: usize) -> [u32; 2] {
    worker.task(task).not_captured.each_ref().map(|word| word.load(Ordering::Relaxed))
}

/// The container's writing ends, the read ends of its pipes, and what the logger got to read.
struct HandedOver {
    writers: [fs::File; 2],
    readers: [OwnedFd; 2],
    logger: Vec<fs::File>,
    handle: u32,
}

fn hand_over(worker: &mut Worker, task: usize) -> HandedOver {
    let first = linked(&worker.task(task).streams[0]).expect("it is captured");
    let handle = worker.stream(first).handle.load(Ordering::Relaxed);
    let [(out, out_writer), (err, err_writer)] = [fd::pipe().unwrap(), fd::pipe().unwrap()];
    let readers = [out, err];
    let slots = worker.logger_came(handle, readers.each_ref().map(duplicate).into()).unwrap();
    let end = |slot: &Slot| worker.hands.get(*slot).unwrap().try_clone_to_owned().unwrap();
    let logger: Vec<_> = slots.iter().map(|slot| fs::File::from(end(slot))).collect();
    assert_eq!(logger.len(), 2);
    HandedOver { writers: [out_writer.into(), err_writer.into()], readers, logger, handle }
}

fn duplicate(end: &OwnedFd) -> OwnedFd {
    end.try_clone().unwrap()
}

#[test]
fn one_that_is_asked_again_after_its_create_keeps_what_it_has() {
    let mut stage = Stage::new();
    told(&stage, true);
    stage.act(|worker| {
        let task = begin(worker, &create(URI));
        let mut over = hand_over(worker, task);
        let again = worker.logger_came(over.handle, over.readers.each_ref().map(duplicate).into());
        assert_eq!(again.map(|slots| slots.len()), Ok(2), "before it, the answer is the same");
        worker.task_created(task, 7);
        let late = worker.logger_came(over.handle, over.readers.each_ref().map(duplicate).into());
        assert!(late.is_err());
        drop(over.readers);
        for (writer, reader) in over.writers.iter_mut().zip(&mut over.logger) {
            writer.write_all(b"still there").expect("its pipe has a reader");
            worker.pump_task_streams(task);
            let mut got = [0; 64];
            assert_eq!(reader.read(&mut got).map(|n| got[..n].to_vec()).unwrap(), b"still there");
        }
    });
}

#[test]
fn what_was_written_before_a_create_failed_is_with_the_logger() {
    let mut stage = Stage::new();
    told(&stage, true);
    stage.act(|worker| {
        let task = begin(worker, &create(URI));
        let mut over = hand_over(worker, task);
        for writer in &mut over.writers {
            writer.write_all(b"last words").unwrap();
        }
        drop((over.writers, over.readers));
        worker.task_undo(task);
        for mut reader in over.logger {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).expect("up to the end");
            assert_eq!(got, b"last words");
        }
    });
}

#[test]
fn a_successor_keeps_the_verdict_of_its_predecessor() {
    let mut stage = Stage::new();
    told(&stage, true);
    let uris = stage.act(|worker| {
        let task = begin(worker, &create(URI));
        worker.inner_uris(task, &create(URI))
    });
    assert!(uris[0].as_deref().is_some_and(|uri| uri.contains("tap-logger")), "{uris:?}");
    told(&stage, false);
    stage.act(|worker| {
        let task = begin(worker, &create(URI));
        assert_eq!(worker.inner_uris(task, &create(URI)), uris);
        assert_eq!(not_captured(worker, task), [0, 0]);
    });
}

#[test]
fn what_a_predecessor_left_half_done_is_left_alone_whole() {
    let mut stage = Stage::new();
    told(&stage, true);
    stage.act(|worker| {
        let task = begin(worker, &create(URI));
        let second = linked(&worker.task(task).streams[1]).unwrap();
        // It died before this one had its name.
        worker.stream(second).outer_path.set("");
    });
    told(&stage, false);
    stage.act(|worker| {
        let task = begin(worker, &create(URI));
        assert_eq!(worker.inner_uris(task, &create(URI)), [None, None]);
        let left_alone = u32::try_from(NotCaptured::NOT_CAPTURED_BINARY_URI as i32).unwrap();
        assert_eq!(not_captured(worker, task), [left_alone; 2]);
        assert!(worker.task(task).streams.iter().all(|word| linked(word).is_none()));
        let streams = worker.block.tables().streams();
        assert!(streams.iter().all(|s| StreamState::load(&s.state) == StreamState::Free));
    });
}

#[test]
fn a_create_without_a_uri_of_ours_goes_as_it_is() {
    let mut stage = Stage::new();
    told(&stage, true);
    stage.act(|worker| {
        let task = begin(worker, &create(URI));
        let first = linked(&worker.task(task).streams[0]).unwrap();
        // As where our program has lost its name since.
        worker.tee.running(first).logger = false;
        assert_eq!(worker.inner_uris(task, &create(URI)), [None, None], "an empty path would lose all");
        worker.tee.running(first).logger = true;
        worker.task_created(task, 7);
        let failed = u32::try_from(NotCaptured::NOT_CAPTURED_FAILED as i32).unwrap();
        assert_eq!(not_captured(worker, task), [failed; 2]);
    });
}
