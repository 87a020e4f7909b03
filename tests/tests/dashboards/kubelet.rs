//! A kubelet, as far as Prometheus asks it: a page that does not change (`tests/fixtures/kubelet-cadvisor.prom`).

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use anyhow::{Context, Result};

/// What it says.
pub const PAGE: &str = include_str!("../../fixtures/kubelet-cadvisor.prom");

/// Serves the page until the process ends; gives the address.
pub fn serve() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("a port")?;
    let address = listener.local_addr().context("its address")?.to_string();
    let serve = move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                asked.extend(byte);
            }
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{PAGE}", PAGE.len());
        }
    };
    thread::Builder::new().name("kubelet".to_owned()).spawn(serve).context("a thread")?;
    Ok(address)
}
