//! One file through a session of its own, as if its wrapper said it now.

use std::sync::Arc;

use protobuf::Message;
use shimtap_proto::{
    link::{FromWrapper, Hello, from_wrapper},
    spool::SpoolFault,
};

use super::{
    dir::{Aside, Found, OpenFault},
    file::{ReadFault, SpoolFile},
    turn::Turn,
};
use crate::{
    event::HoleReason,
    ingest::{Ingest, fault::IngestFault, session::Session, streams::Slot},
};

/// What became of a file.
#[derive(Debug)]
pub(super) enum Replayed {
    /// All of it was taken that was there; it can go when its writer has ended and these streams are durable up to these
    /// offsets.
    Taken(SpoolFile, Vec<(Arc<Slot>, u64)>),
    /// Somebody has removed it.
    Gone,
    /// Its disk does not answer, or its wrapper is back: taken as far as it went, and to be tried again.
    Later,
    /// The same, because the journal has no room for it.
    Held,
    /// Nothing of it can be taken.
    Wrong(Aside, WrongFile),
    /// A later release wrote it, and can read it; nobody else touches it, whether it is still being written or not.
    OfLaterRelease(WrongFile),
    /// It was taken as far as it is right; it can be set aside when these streams are durable up to these offsets.
    Spoilt(Aside, WrongFile, SpoolFile, Vec<(Arc<Slot>, u64)>),
}

/// What is wrong with a file. Whose fault it is depends: the disk's, or whoever put it there.
#[derive(Debug, thiserror::Error)]
pub(super) enum WrongFile {
    #[error(transparent)]
    Open(#[from] OpenFault),
    #[error(transparent)]
    Read(#[from] ReadFault),
    #[error("it does not say whose it is, or not what its name says")]
    Stranger,
    #[error("a record is no message of a wrapper: {0}")]
    Decode(#[from] protobuf::Error),
    #[error("{0}")]
    Session(#[from] IngestFault),
    #[error("the journal has no room for it")]
    Held,
}

/// Takes a file to its end or to its first fault.
pub(super) async fn replay(ingest: &Arc<Ingest>, found: &Found, id: u64, turn: &mut Turn<'_>) -> Replayed {
    let mut file = match found.open().await {
        Ok(file) => file,
        Err(OpenFault::Gone) => return Replayed::Gone,
        Err(OpenFault::Stuck) => return Replayed::Later,
        Err(fault @ OpenFault::Unsafe) => return Replayed::Wrong(Aside::Unsafe, fault.into()),
        Err(fault @ OpenFault::System(_)) => return Replayed::Wrong(Aside::Unreadable, fault.into()),
    };
    let being_written = file.is_being_written();
    let mut session = None;
    let mut taken = take_all(ingest, found, id, turn, &mut file, &mut session).await;
    if let (Some(session), Err(fault)) = (&mut session, &taken)
        && !being_written
        && !fault.is_for_now()
    {
        // What is there of a line has no end here: nothing that it would have to wait for is read.
        match turn.take(session.pieces()).await {
            Some(Ok(())) => {}
            Some(Err(fault)) => taken = Err(fault.into()),
            None => taken = Err(WrongFile::Held),
        }
    }
    let reached = session.as_ref().map(Session::reached).unwrap_or_default();
    match taken {
        Ok(()) => Replayed::Taken(file, reached),
        Err(WrongFile::Held) => Replayed::Held,
        Err(fault) if fault.aside() == Aside::Version => Replayed::OfLaterRelease(fault),
        Err(fault) if being_written || fault.is_for_now() => Replayed::Later,
        Err(fault) => {
            // A later offset shows how much it was.
            reached.iter().for_each(|(slot, _)| slot.expect_loss(HoleReason::SpoolCorrupt));
            Replayed::Spoilt(fault.aside(), fault, file, reached)
        }
    }
}

async fn take_all(
    ingest: &Arc<Ingest>,
    found: &Found,
    id: u64,
    turn: &mut Turn<'_>,
    file: &mut SpoolFile,
    session: &mut Option<Session>,
) -> Result<(), WrongFile> {
    loop {
        let messages = file.read(found).await?;
        if messages.is_empty() {
            return Ok(());
        }
        for message in messages {
            let message = FromWrapper::parse_from_bytes(&message)?;
            ingest.registry.totals.spool_records.add(1);
            match (session.as_mut(), message) {
                (Some(session), message) => {
                    if session.leads_to(turn.crowded(), &message) {
                        return Err(WrongFile::Held);
                    }
                    drop(turn.take(session.take(message)).await.ok_or(WrongFile::Held)??)
                }
                (None, FromWrapper { body: Some(from_wrapper::Body::Hello(hello)), .. })
                    if is_its(&hello, file, found) =>
                {
                    *session = Some(Session::replay(ingest, id, &hello));
                }
                (None, _) => return Err(WrongFile::Stranger),
            }
        }
    }
}

fn is_its(hello: &Hello, file: &mut SpoolFile, found: &Found) -> bool {
    let header = file.header().map(|header| (header.wrapper, header.number));
    hello.wrapper == found.wrapper && header == Some((found.wrapper, found.number))
}

// === impl WrongFile ===

impl WrongFile {
    /// Nothing is wrong with the file: it may be taken later.
    fn is_for_now(&self) -> bool {
        match self {
            // Its wrapper has come back and did not wait: what is left is in its ring or declared lost by now.
            Self::Session(IngestFault::Superseded(_)) => true,
            Self::Read(ReadFault::Stuck) | Self::Held => true,
            _ => false,
        }
    }

    fn aside(&self) -> Aside {
        match self {
            Self::Open(OpenFault::Unsafe) => Aside::Unsafe,
            Self::Open(_) | Self::Held | Self::Read(ReadFault::System(_) | ReadFault::Stuck) => {
                Aside::Unreadable
            }
            Self::Read(ReadFault::Format(fault)) => match fault {
                SpoolFault::Foreign => Aside::Foreign,
                SpoolFault::Version(_) => Aside::Version,
                SpoolFault::Truncated(_) => Aside::Truncated,
                SpoolFault::Header | SpoolFault::Length(..) | SpoolFault::Checksum(_) => Aside::Corrupt,
            },
            Self::Stranger => Aside::Foreign,
            Self::Decode(_) | Self::Session(_) => Aside::Messages,
        }
    }
}
