//! `shimtap upgrade` against the wrappers of a lab, and a wrapper's own word on it.
//!
//! The command line is the real one; [`hand_over`] speaks to a wrapper as the command does, but sends along whatever
//! image it is given, since what the command would refuse must not hurt either.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use shimtap_proto::control::{Answer, Ask, Outcome, Upgraded};

use super::{PATIENCE, lab::Lab, pod::Pod, wrapped::binary};
use crate::{
    rig::run::{Finished, run},
    standin::procs,
};

/// The wrapper as its next release: another version, another layout.
pub const NEXT: &str = "containerd-shim-tap-next";

/// Runs `shimtap upgrade` with these arguments on the wrappers of this lab.
///
/// # Errors
/// It cannot be run, or does not end.
pub fn upgrade(lab: &Lab, arguments: &[&str]) -> Result<Finished> {
    let mut command = Command::new(binary("shimtap")?);
    command.arg("upgrade").args(arguments).arg("--run-dir").arg(lab.run_dir());
    run(command, Duration::from_secs(100))
}

/// Brings all wrappers of the lab to the release of that binary; gives what was said of each.
///
/// # Errors
/// As [`upgrade`], and where a line cannot be read.
pub fn upgrade_all(lab: &Lab, to: &Path, more: &[&str]) -> Result<Vec<Upgraded>> {
    let to = to.display().to_string();
    let said = upgrade(lab, &[&["--all", "--json", "--binary", &to], more].concat())?;
    let line = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
    let told: Result<Vec<Upgraded>> = said.text().lines().map(line).collect();
    let told = told.with_context(|| said.stderr.clone())?;
    let fine = told.iter().all(|t| t.outcome.is_fine()) && !told.is_empty();
    ensure!((said.code == 0) == fine, "exit status {} for {told:?}: {}", said.code, said.stderr);
    Ok(told)
}

/// The same of the one wrapper of a pod.
///
/// # Errors
/// As [`upgrade_all`], and where there is not one.
pub fn upgrade_pod(pod: &Pod, to: &Path, more: &[&str]) -> Result<Upgraded> {
    let mut told = upgrade_all(&pod.lab, to, more)?;
    ensure!(told.len() == 1, "one wrapper: {told:?}");
    told.pop().context("one wrapper")
}

/// Brings it there and says so where it did not come to pass.
///
/// # Errors
/// Anything else than an upgraded wrapper.
pub fn brought_to(pod: &Pod, name: &str) -> Result<Upgraded> {
    let mut told = upgrade_pod(pod, &binary(name)?, &[])?;
    if was_too_slow(&told) {
        told = upgrade_pod(pod, &binary(name)?, &[])?;
    }
    ensure!(told.outcome == Outcome::Upgraded, "{told:?}");
    Ok(told)
}

/// Whether a keeper of the new release did not come within the three seconds that its worker gives it, which a busy machine may take;
/// who asked is to ask again.
#[must_use]
pub fn was_too_slow(told: &Upgraded) -> bool {
    told.outcome == Outcome::Failed && told.why.contains("is at work again")
}

/// A connection to a wrapper's own requests.
#[derive(Debug)]
pub struct Control(BufReader<UnixStream>);

impl Control {
    /// Dials the wrapper of a pod.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn open(pod: &Pod) -> Result<Self> {
        let stream = UnixStream::connect(pod.endpoint.path()?).context("the wrapper's socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks, with an image where one is given, and reads the answer.
    ///
    /// # Errors
    /// There is none.
    pub fn ask(&mut self, ask: Ask, image: Option<&File>) -> Result<Answer> {
        self.send(ask, image)?;
        let mut line = String::new();
        self.0.read_line(&mut line).context("the wrapper's answer")?;
        serde_json::from_str(&line).with_context(|| format!("the answer {line:?}"))
    }

    /// Asks and does not wait.
    ///
    /// # Errors
    /// The wrapper has hung up.
    pub fn send(&self, ask: Ask, image: Option<&File>) -> Result<()> {
        let raw: Vec<i32> = image.iter().map(|file| file.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let along = if raw.is_empty() { &[][..] } else { &rights[..] };
        let bytes = ask.encode();
        let parts = [std::io::IoSlice::new(&bytes)];
        sendmsg::<()>(self.0.get_ref().as_raw_fd(), &parts, along, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Waits until the wrapper's upgrade is where `is_there` says.
    ///
    /// # Errors
    /// It does not come there.
    pub fn await_step(&mut self, is_there: impl Fn(&Answer) -> bool) -> Result<Answer> {
        let mut last = None;
        let what = "the upgrade to come to its end";
        let found = procs::wait(
            PATIENCE,
            || what.to_owned(),
            || {
                let answer = self.ask(Ask::Who, None);
                last = Some(format!("{answer:?}"));
                answer.ok().filter(&is_there)
            },
        );
        found.with_context(|| last.unwrap_or_default())
    }
}

/// Hands an image to the wrapper of a pod, whatever it is.
///
/// # Errors
/// The wrapper does not answer.
pub fn hand_over(pod: &Pod, image: &Path) -> Result<(Control, Answer)> {
    let image = File::open(image).with_context(|| image.display().to_string())?;
    let mut control = Control::open(pod)?;
    let answer = control.ask(Ask::Become, Some(&image))?;
    Ok((control, answer))
}
