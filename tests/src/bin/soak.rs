//! What `./dev soak` runs: pieces of chaos and cases of the judge in turns, one after the other and each with a seed of its
//! own, until there were so many deaths or the time is over; then a page for `docs/`. Or one case alone.
//!
//! Ends with 1 where anything was wrong. Needs root: half of its pieces are on private containerds.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use shimtap_tests::{
    chaos::{
        self, Ground, Order, dice,
        report::{self, Grounds, Piece, sum},
        schedule::Mix,
        tally::Tally,
    },
    judge::{Case, cases, turns::Turns},
    rig::Version,
};

const USAGE: &str = "soak [--deaths N] [--minutes N] [--seed N] [--ground standin|real|chaos|judge|all] [--case NAME] \
                     [--lanes N] [--report FILE] [--lock FILE]";
/// No strike of a piece begins later: so long others wait for the lock at most, but for the judgement.
const PIECE: Duration = Duration::from_secs(240);

/// Unless it is told otherwise.
const A_DAY: Duration = Duration::from_secs(3600 * 24);

struct Wanted {
    deaths: u64,
    time: Duration,
    seed: u64,
    ground: String,
    /// So many pods, or strikers on a node, side by side; else each piece has its own number.
    lanes: Option<u32>,
    /// This case of the judge and nothing else.
    case: Option<fn(Version, u64) -> Case>,
    report: Option<PathBuf>,
    /// Held, as one of many, during each piece: who takes it alone between two has the machine.
    lock: Option<PathBuf>,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|wanted| soak(&wanted)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("soak: {fault:#}\n{USAGE}");
            ExitCode::from(64)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Wanted> {
    let mut wanted = Wanted {
        deaths: 10_000,
        time: A_DAY,
        seed: dice::SEED,
        ground: "all".to_owned(),
        lanes: None,
        case: None,
        report: None,
        lock: None,
    };
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().with_context(|| format!("{word} {value}"));
        match word.as_str() {
            "--deaths" => wanted.deaths = number()?,
            "--minutes" => wanted.time = Duration::from_secs(60 * number()?),
            "--seed" => wanted.seed = number()?,
            "--ground" if ["standin", "real", "chaos", "judge", "all"].contains(&value.as_str()) => {
                wanted.ground = value
            }
            "--lanes" => wanted.lanes = Some(u32::try_from(number()?)?),
            "--case" => wanted.case = Some(cases::named(&value).with_context(|| format!("no case {value}"))?),
            "--report" => wanted.report = Some(value.into()),
            "--lock" => wanted.lock = Some(value.into()),
            _ => bail!("{word} is unknown"),
        }
    }
    Ok(wanted)
}

/// The pieces of a round: three quarters of the deaths are on stand-ins, where requests are counted; on the real containerds each
/// kind of work is done in each piece.
fn round(seed: u64) -> [Order; 6] {
    let standin = || Order::new(Ground::Standin, seed, 300, 3);
    let real = |version| Order::new(Ground::Real(version), seed, 300, 3).of_every_kind();
    let quick = Mix { hangs: 0, ..Mix::default() };
    let hung = Mix { hangs: 100, pause: Duration::from_millis(100), ..Mix::default() };
    let slow = Mix { hangs: 0, pause: Duration::from_millis(100), ..Mix::default() };
    [
        standin().mix(quick),
        real(Version::Pinned),
        Order { deaths: 5, lanes: 6, ..standin() }.mix(hung),
        Order { deaths: 60, lanes: 1, ..standin() }.mix(slow).with_threshold(),
        real(Version::Packaged),
        Order { seed: seed.wrapping_add(1 << 32), ..standin() }.mix(quick),
    ]
}

fn soak(wanted: &Wanted) -> Result<bool> {
    let mut run = Run { wanted, grounds: Grounds::new(), pieces: Vec::new(), began: Instant::now() };
    let mut turns = Turns::default();
    if let Some(case) = wanted.case {
        // Both, whatever the first comes to.
        let green =
            [Version::Pinned, Version::Packaged].map(|version| turns.take(&case(version, wanted.seed)).green);
        return Ok(green == [true; 2]);
    }
    let judges = ["judge", "all"].contains(&wanted.ground.as_str());
    'rounds: for n in 0.. {
        let mut orders = round(wanted.seed.wrapping_add(n)).to_vec();
        orders.retain(|order| match wanted.ground.as_str() {
            "standin" => order.ground == Ground::Standin,
            "real" => order.ground != Ground::Standin,
            "judge" => false,
            _ => true,
        });
        // A case after each piece; where there are only cases, one after the other. The page is written each time, so that a run
        // that is interrupted has it.
        let only_cases = orders.is_empty();
        if only_cases && run.began.elapsed() >= wanted.time {
            break;
        }
        if only_cases {
            let _quiet = run.turn()?;
            run.pieces.push(turns.next(wanted.seed));
            run.write(&turns, judges)?;
        }
        for order in orders {
            if run.died() >= wanted.deaths || run.began.elapsed() >= wanted.time {
                break 'rounds;
            }
            let quiet = run.turn()?;
            run.piece(order);
            if judges {
                run.pieces.push(turns.next(wanted.seed));
            }
            drop(quiet);
            run.write(&turns, judges)?;
        }
    }
    run.write(&turns, judges)?;
    if wanted.report.is_none() {
        println!("{}", run.page(&turns, judges)?);
    }
    Ok(sum(&run.grounds).faults.is_empty() && turns.faults.is_empty())
}

/// What has been done so far.
struct Run<'a> {
    wanted: &'a Wanted,
    grounds: Grounds,
    pieces: Vec<Piece>,
    began: Instant,
}

impl Run<'_> {
    fn died(&self) -> u64 {
        self.grounds.values().map(Tally::died).sum()
    }

    /// Waits until nobody wants the machine alone, where there is a file to tell by.
    fn turn(&self) -> Result<Option<Flock<File>>> {
        let Some(path) = &self.wanted.lock else { return Ok(None) };
        let file = File::create(path).with_context(|| format!("open {}", path.display()))?;
        let held = Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| errno);
        held.map(Some).with_context(|| format!("lock {}", path.display()))
    }

    fn piece(&mut self, mut order: Order) {
        order.lanes = self.wanted.lanes.unwrap_or(order.lanes);
        order.time = PIECE;
        let start = Instant::now();
        let of_it = chaos::run(&order);
        let what = format!(
            "{:?}{}, {} side by side, {} % hang, seed {}",
            order.ground,
            if order.threshold { ", with safe mode" } else { "" },
            order.lanes,
            order.mix.hangs,
            order.seed
        );
        let green = of_it.faults.is_empty();
        for fault in &of_it.faults {
            println!("{fault}");
        }
        let piece = Piece { what, deaths: of_it.died(), took: start.elapsed().as_secs(), green };
        self.grounds.entry(order.ground).or_default().add(of_it);
        let how = if green { "green" } else { "FAILED" };
        println!("{}: {} deaths, {} in all, {how}", piece.what, piece.deaths, self.died());
        self.pieces.push(piece);
    }

    fn write(&self, turns: &Turns, judges: bool) -> Result<()> {
        let Some(path) = &self.wanted.report else { return Ok(()) };
        std::fs::write(path, self.page(turns, judges)?).with_context(|| format!("write {}", path.display()))
    }

    fn page(&self, turns: &Turns, judges: bool) -> Result<String> {
        let title = if judges { "A soak" } else { "A chaos run" };
        let page = report::page(title, &head(self.wanted, self.began), &self.grounds, &self.pieces)?;
        Ok(if judges { page + &turns.page()? } else { page })
    }
}

fn head(wanted: &Wanted, began: Instant) -> Vec<(&'static str, String)> {
    let said = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let release = |version: Version| {
        version.tools().map_or_else(|why| format!("none ({why:#})"), |t| t.release.to_string())
    };
    let how_long = if wanted.time == A_DAY {
        format!("--deaths {}", wanted.deaths)
    } else {
        format!("--minutes {}", wanted.time.as_secs() / 60)
    };
    // Of the tree that this was built from; a change that is in no commit shows as `-dirty`.
    let commit = said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]);
    vec![
        ("date (UTC)", said("date", &["-u", "+%Y-%m-%d %H:%M"])),
        ("commit", if commit.is_empty() { "of no repository".to_owned() } else { commit }),
        ("kernel", said("uname", &["-srm"])),
        ("containerd", format!("{} and {}", release(Version::Packaged), release(Version::Pinned))),
        ("build", if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned()),
        ("seed", format!("{} (`--seed`)", wanted.seed)),
        (
            "command",
            format!("`sudo ./dev soak {how_long} --ground {} --seed {}`", wanted.ground, wanted.seed),
        ),
        ("minutes", (began.elapsed().as_secs() / 60).to_string()),
    ]
}
