//! Rules of ttrpc that a shim keeps: asked of the stand-in alone, which proves the two instruments, and of the stand-in
//! behind the wrapper, which must not change what either side sees.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;

use super::{
    PATIENCE,
    frame::{Frame, LARGEST, header, kind},
    pod::{self, Pod},
};
use crate::standin::journal::{Kind, hash};

/// Requests for an unknown method, of all sizes and in pieces of all sizes, arrive whole and are refused once, on each of
/// `services`.
///
/// # Errors
/// One does not, or not in time.
pub fn frames_of_all_sizes_arrive_whole(pod: &Pod, services: &[&str]) -> Result<()> {
    let c = &pod.connection;
    let sizes: &[(usize, &[usize])] = &[
        (0, &[1]),
        (200, &[1]),
        (500, &[3, 7, 5000]),
        (4_097, &[4096]),
        (5_000, &[1]),
        (220_000, &[1 << 20]),
        (220_000, &[10, 1000]),
        (LARGEST - 100, &[1 << 20]),
    ];
    for service in services {
        for (size, pieces) in sizes {
            let frame = Frame::request(c.next_stream(), service, "Unheard", vec![7; *size])?;
            c.send_pieces(&frame.bytes(), pieces)?;
            let code = c.answer(frame.stream, PATIENCE)?.code();
            ensure!(code == 12, "{size} bytes of {service} are answered with {code}");
            let seen = pod.lab.requests()?;
            let entry = seen.iter().find(|e| e.stream == frame.stream && e.kind == Kind::Request);
            let arrived = entry.context("it is not in the shim's books")?;
            ensure!(arrived.hash == hash(&frame.body), "{size} bytes of {service} arrived as others");
        }
    }
    Ok(())
}

/// One byte more than a frame may have is refused on its own stream, and the connection lives.
///
/// # Errors
/// It is not, or the shim does not answer any more.
pub fn one_byte_too_many_is_refused(pod: &Pod) -> Result<()> {
    let c = &pod.connection;
    let stream = c.next_stream();
    let mut bytes = header(u32::try_from(LARGEST)? + 1, stream, kind::REQUEST, 0);
    bytes.resize(bytes.len() + LARGEST + 1, 0);
    c.send_bytes(&bytes)?;
    let code = c.answer(stream, PATIENCE)?.code();
    ensure!(code == 8, "it is answered with {code}");
    pod.answers()
}

/// A frame of an unknown type is passed over, and a stream id that is used up is refused.
///
/// # Errors
/// They are not, or the shim does not answer any more.
pub fn unknown_types_and_reused_ids(pod: &Pod) -> Result<()> {
    let c = pod.connect()?;
    c.send_bytes(&header(0, c.next_stream(), 9, 0xff))?;
    let frame = c.prepare("Connect", &pod::connect(&pod.id))?;
    c.send_bytes(&frame.bytes())?;
    c.answer(frame.stream, PATIENCE)?.message::<api::ConnectResponse>()?;
    c.send_bytes(&frame.bytes())?;
    let codes = |frames: &[Frame]| -> Option<Vec<i32>> {
        let codes: Vec<i32> = frames.iter().filter_map(|f| Some(f.answer().ok()?.code())).collect();
        (codes.len() == 2).then_some(codes)
    };
    let codes = c.wait_for(PATIENCE, codes)?;
    ensure!(codes == [0, 3], "the two are answered with {codes:?}");
    ensure!(c.check_single_answers().is_err(), "the client overlooked a repeated request");
    pod.answers()
}
