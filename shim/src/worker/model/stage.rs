//! One wrapper in the test's process: the real worker over a real block, real FIFOs, sockets and pipes, with a keeper that
//! serves it on a thread. Its worker can be made to die before any of its steps and is replaced as a keeper would.

use std::{
    fs,
    os::unix::net::UnixListener,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{
    block::{Block, care::Mode},
    keeper::InProcess,
    link::Switchboard,
    run_dir::RunDir,
    sys::{
        atomic::mortal::{self, Death},
        process,
    },
    worker::{Hands, Worker},
};

static STAGES: AtomicU32 = AtomicU32::new(0);

/// What workers want for ever, of stages that are over.
static IDLE: Mutex<Vec<(&'static Block, &'static Switchboard)>> = Mutex::new(Vec::new());

/// The wrapper and where it stands.
pub struct Stage {
    pub block: &'static Block,
    pub board: &'static Switchboard,
    pub keeper: InProcess,
    /// Where containerd's and the inner shim's files lie.
    pub dir: PathBuf,
    /// Where the wrapper connects to.
    pub inner: UnixListener,
    worker: Option<Worker>,
    pub deaths: u32,
}

// === impl Stage ===

impl Stage {
    pub fn new() -> Self {
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("shimtap-model-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        RunDir::at(&dir).make().unwrap();
        let inner_path = dir.join("i");
        let inner = UnixListener::bind(&inner_path).unwrap();
        inner.set_nonblocking(true).unwrap();
        let (block, board) = IDLE.lock().unwrap().pop().unwrap_or_else(|| {
            let block: &'static Block = Box::leak(Box::new(Block::create().unwrap()));
            (block, &*Box::leak(Box::new(Switchboard::new().unwrap())))
        });
        identify(block, &dir, &inner_path);
        let memfd = process::duplicate(block.memfd()).unwrap();
        let keeper = InProcess::new(Block::open(memfd).unwrap());
        let mut stage = Self { block, board, keeper, dir, inner, worker: None, deaths: 0 };
        stage.succeed(None);
        stage
    }

    /// One round of the worker's loop.
    pub fn turn(&mut self) {
        self.live(None);
    }

    /// Something that the worker does out of turn.
    pub fn act<T>(&mut self, act: impl FnOnce(&mut Worker) -> T) -> T {
        act(self.worker.as_mut().unwrap())
    }

    /// Rounds of the loop until the worker has died before its step number `after`, at most `rounds`; its successor dies
    /// before its own step number `again`, if that is given and it has so many before it is at work.
    pub fn die(&mut self, after: u32, again: Option<u32>, rounds: u32) {
        mortal::light(after);
        for _ in 0..rounds {
            if !self.live(again) {
                return;
            }
        }
        // So few steps were to be had: then between two rounds.
        mortal::put_out();
        self.worker = None;
        self.deaths += 1;
        self.succeed(again);
    }

    /// One round. False where the worker died in it; its successor is there by then.
    fn live(&mut self, again: Option<u32>) -> bool {
        let mut worker = self.worker.take().unwrap();
        let round = || {
            assert!(!worker.tend()?, "nobody asked it to end");
            worker.turn(Some(0))
        };
        match catch_unwind(AssertUnwindSafe(round)) {
            Ok(result) => {
                result.expect("the loop goes on");
                self.worker = Some(worker);
                true
            }
            Err(end) if end.is::<Death>() => {
                drop(worker);
                self.deaths += 1;
                self.succeed(again);
                false
            }
            Err(fault) => resume_unwind(fault),
        }
    }

    fn succeed(&mut self, fuse: Option<u32>) {
        // The link thread died with it.
        self.board.set_attached(false);
        let heirloom = self.keeper.next_worker();
        if let Some(steps) = fuse {
            mortal::light(steps);
        }
        let begun = catch_unwind(AssertUnwindSafe(|| {
            let hands = Hands::new(self.block, heirloom.pair, heirloom.slots);
            let mut worker = Worker::on(self.block, self.board, hands, Mode::Normal, false).unwrap();
            worker.begin();
            worker
        }));
        mortal::put_out();
        match begun {
            Ok(worker) => self.worker = Some(worker),
            Err(end) if end.is::<Death>() => {
                self.deaths += 1;
                self.succeed(None);
            }
            Err(fault) => resume_unwind(fault),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.worker = None;
        let _ = fs::remove_dir_all(&self.dir);
        // After a fault nobody knows who still looks at it.
        if !std::thread::panicking() {
            self.block.renew();
            IDLE.lock().unwrap().push((self.block, self.board));
        }
    }
}

fn identify(block: &Block, dir: &Path, inner: &Path) {
    let (key, _) = RunDir::key_of(inner).unwrap();
    let tables = block.tables();
    let who = &tables.identity;
    who.wrapper.store(0x5eed, Ordering::Relaxed);
    let texts = [(&who.key, key.as_str()), (&who.namespace, "ns"), (&who.id, "pod")];
    assert!(texts.into_iter().all(|(text, value)| text.set(value)));
    assert!(who.run_dir.set(dir.to_str().unwrap()) && who.inner_path.set(inner.to_str().unwrap()));
    tables.stats_interval_ms.store(10_000, Ordering::Relaxed);
}
