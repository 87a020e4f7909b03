//! `shimtap install` and `uninstall`: puts the wrapper in front of a node's shims, and takes it away again.
//!
//! In order: [`node`] finds containerd ([`running`]) and asks it for its effective configuration, [`effective`] reads that, [`alone`] asks what it
//! would be without us, [`plan`] chooses the [`hook`] that works for each handler ([`standing`]: or leaves one that is wrapped as it
//! has to be) and [`contents`] makes the new contents of files ([`edit`], [`imports`]), [`files`] puts them in place, [`record`]
//! remembers what was there before, [`proof`] asks containerd again and compares.
//!
//! Nothing is believed: after the files are in place containerd itself says what holds now, and anything but the wanted
//! difference undoes all of it. Never touches a running pod, never removes a file that it has not made.

mod alone;
mod bundles;
mod contents;
mod edit;
mod effective;
mod files;
mod hook;
mod imports;
mod node;
mod plan;
mod proof;
mod record;
mod running;
mod shims;
mod standing;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use bundles::{Bundle, bundles};
pub use effective::{Handler, Release};
pub use files::Change;
pub use hook::{Hook, inner_shims};
pub use node::{Node, Where};
pub use plan::{Mode, Plan, Wanted};
pub use record::{Record, Undo};
pub use shims::pilot_of;
pub use standing::{Standing, unlike_today};

/// Why an installation was not made, or not undone.
#[derive(Debug, thiserror::Error)]
pub enum InstallFault {
    /// No daemon runs, and none was named.
    #[error(
        "no containerd is running and none is in PATH; start it, or name it with --containerd and --containerd-config"
    )]
    NoContainerd,
    /// Which one is meant?
    #[error("several containerds run here: {found}; say which with --containerd-config")]
    Several {
        /// Their configurations.
        found: String,
    },
    /// Which of those is meant that read one file?
    #[error(
        "the containerds with the pids {pids} all read {config}, and which of them is meant cannot be told; end the others, or give each a \
         file of its own; nothing was changed"
    )]
    SeveralRead {
        /// As asked for.
        config: PathBuf,
        /// Theirs.
        pids: String,
    },
    /// A configuration that is none of those that are read.
    #[error(
        "no containerd that runs here reads {config}; those that run read {found}; nothing was changed. For one that does not run, \
         name its binary with --containerd"
    )]
    NobodyReads {
        /// As asked for.
        config: PathBuf,
        /// Those that are read.
        found: String,
    },
    /// It could not be asked.
    #[error("running {what}: {why}; is it containerd, and is its configuration sound?")]
    Ask {
        /// The command.
        what: String,
        /// What it said, or why it did not start.
        why: String,
    },
    /// Its answer made no sense.
    #[error("understanding what {what} said: {why}; this release of containerd is not known to shimtap")]
    Answer {
        /// The command.
        what: String,
        /// Which part.
        why: String,
    },
    /// A containerd of a time to come.
    #[error(
        "{what} shows no table of CRI's runtimes, and CRI is not switched off (disabled_plugins): this release of containerd is not \
         known to shimtap; take a newer one of shimtap"
    )]
    NoRuntimes {
        /// The command that was asked.
        what: String,
    },
    /// A handler that is not configured.
    #[error("containerd has no handler {name}; it has {all}")]
    NoHandler {
        /// As asked for.
        name: String,
        /// Those that are there.
        all: String,
    },
    /// A handler whose shim is nowhere.
    #[error(
        "handler {handler}: its shim {shim} is not in {searched}; install it first, or leave this handler out (name those \
         that are meant)"
    )]
    NoShim {
        /// The handler.
        handler: String,
        /// The shim's file name or path.
        shim: String,
        /// Where it was looked for.
        searched: String,
    },
    /// The wrapper is not there.
    #[error("no containerd-shim-tap-v2 beside {beside} or in PATH; name it with --wrapper")]
    NoWrapper {
        /// The folder of our own binary.
        beside: PathBuf,
    },
    /// This hook does nothing here.
    #[error("{hook} has no effect here: {why}; leave --hook out to have the one that works chosen")]
    Hook {
        /// Which.
        hook: &'static str,
        /// Why not.
        why: String,
    },
    /// No hook does anything for a handler that was named.
    #[error(
        "handler {handler} cannot be wrapped on this node: {why}; leave it out (name those that are meant)"
    )]
    NoHook {
        /// The handler.
        handler: String,
        /// Why not.
        why: String,
    },
    /// There are handlers, and none of them can be wrapped.
    #[error("no handler of this containerd can be wrapped, each for the reason above; nothing was changed")]
    NothingToWrap,
    /// A file that is not as TOML should be.
    #[error("{path} cannot be understood, so it is not changed: {why}")]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where and what.
        why: String,
    },
    /// A file could not be read or written.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Another file is where ours would go.
    #[error("{path} is there already and not shimtap's; move it away, or choose another hook (--hook)")]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// containerd says something else than was wanted.
    #[error(
        "with the new files containerd would use {got} for {key}, where {wanted} is meant; everything is as it was before"
    )]
    Differs {
        /// The key that differs.
        key: String,
        /// What it would be.
        got: String,
        /// What it should be.
        wanted: String,
    },
    /// An earlier step failed and could not be taken back either.
    #[error("{first}; and putting back what was there failed too: {second}; its old content is in {kept}")]
    NotUndone {
        /// The first fault.
        first: Box<InstallFault>,
        /// What hindered the way back.
        second: Box<InstallFault>,
        /// Where the old contents are.
        kept: PathBuf,
    },
    /// Nothing was installed.
    #[error("shimtap has not been installed on this node: there is no {path}; nothing was changed")]
    NotInstalled {
        /// Where the record would be.
        path: PathBuf,
    },
    /// A record of another release.
    #[error("{path} is no record that this release understands: {why}; use the shimtap that wrote it")]
    Record {
        /// The record.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// containerd was not restarted.
    #[error("restarting {unit}: {why}; {then}")]
    Restart {
        /// The unit.
        unit: String,
        /// What systemctl said.
        why: String,
        /// What holds now.
        then: &'static str,
    },
    /// It was not restarted, and what was done could not be taken back.
    #[error("restarting {unit}: {why}; putting back what was there failed too: {second}; {then}")]
    RestartNotUndone {
        /// The unit.
        unit: String,
        /// What systemctl said.
        why: String,
        /// What hindered the way back.
        #[source]
        second: Box<InstallFault>,
        /// What holds now.
        then: &'static str,
    },
    /// It was to be restarted and is in nobody's hands that are known.
    #[error(
        "the files are in place, and containerd ({config}) was not restarted: it runs in no unit of systemd that is known here; \
         restart it the way it was started; {then}"
    )]
    NoUnit {
        /// Its configuration.
        config: PathBuf,
        /// What holds from then on.
        then: &'static str,
    },
}

/// What was carried out, on top of what was before.
#[derive(Debug)]
pub struct Made {
    /// The record of an earlier installation.
    pub last: Option<Record>,
    /// The record now.
    pub record: Record,
}

/// Does what was planned: the record first, then the files, then containerd's own word for it. All, or nothing.
pub fn carry_out(node: &Node, plan: &Plan, state: &Path) -> Result<Made, InstallFault> {
    let last = Record::read(state)?;
    let record = Record::after(last.as_ref(), node, plan)?;
    record.keep(state)?;
    let done = files::make_all(&plan.changes, state).and_then(|()| {
        let proven = node
            .ask_again()
            .and_then(|now| proof::compare(&node.effective, &now, &plan.expected, &plan.gone));
        proven.map_err(|first| match files::take_back_all(&plan.changes) {
            Ok(()) => first,
            Err(second) => files::not_undone(first, second, state),
        })
    });
    // What could not be taken back is needed for another attempt.
    if done.is_err() && !matches!(done, Err(InstallFault::NotUndone { .. })) {
        match &last {
            Some(last) => last.keep(state)?,
            None => Record::forget(state)?,
        }
    }
    done.map(|()| Made { last, record })
}

/// Reading a file, with what was being done in the error; none where it is not there.
fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, InstallFault> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(InstallFault::File { doing: "reading", path: path.to_owned(), source }),
    }
}

/// A file's text, to be understood as TOML; none where it is not there.
fn text_of(path: &Path) -> Result<Option<String>, InstallFault> {
    let Some(bytes) = read_if_there(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|_| InstallFault::NotToml { path: path.to_owned(), why: "it is not UTF-8".to_owned() })
}
