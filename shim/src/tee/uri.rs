//! What a stdio field of Create says: a FIFO of containerd's, or something that is left alone, and why.

use shimtap_proto::link::NotCaptured;

/// The path of a FIFO, or the reason why the stream is the inner shim's own business.
pub fn fifo_path(field: &str) -> Result<&str, NotCaptured> {
    if field.is_empty() {
        return Err(NotCaptured::NOT_CAPTURED_EMPTY);
    }
    let path = field.strip_prefix(FIFO).unwrap_or(field);
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(match field.split_once("://").map(|(scheme, _)| scheme) {
        Some("file") => NotCaptured::NOT_CAPTURED_FILE_URI,
        Some("binary" | "binary-v2") => NotCaptured::NOT_CAPTURED_BINARY_URI,
        // `<ttrpc|grpc>+<unix|vsock|hvsock>` (containerd's internal/cri/io/streaming.go), in whatever company.
        Some(scheme) if scheme.split('+').any(|word| matches!(word, "streaming" | "ttrpc" | "grpc")) => {
            NotCaptured::NOT_CAPTURED_STREAMING
        }
        _ => NotCaptured::NOT_CAPTURED_OTHER_URI,
    })
}

/// The same field with another path in it.
pub fn with_path(field: &str, path: &str) -> String {
    if field.starts_with(FIFO) { format!("{FIFO}{path}") } else { path.to_owned() }
}

const FIFO: &str = "fifo://";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_and_fifo_uris_are_ours() {
        use NotCaptured::*;
        let cases = [
            ("/run/containerd/fifo/1/a-stdout", Ok("/run/containerd/fifo/1/a-stdout")),
            ("fifo:///run/f", Ok("/run/f")),
            ("", Err(NOT_CAPTURED_EMPTY)),
            ("file:///var/log/x", Err(NOT_CAPTURED_FILE_URI)),
            ("binary:///usr/bin/logger?a=b", Err(NOT_CAPTURED_BINARY_URI)),
            ("binary-v2:///usr/bin/logger", Err(NOT_CAPTURED_BINARY_URI)),
            ("ttrpc+unix:///run/s?streaming_id=a", Err(NOT_CAPTURED_STREAMING)),
            ("grpc+vsock://3:4?streaming_id=a", Err(NOT_CAPTURED_STREAMING)),
            ("ttrpc+hvsock:///run/s:1?streaming_id=a", Err(NOT_CAPTURED_STREAMING)),
            ("streaming+ttrpc:///run/s?id=a", Err(NOT_CAPTURED_STREAMING)),
            ("ttrpcish:///run/s", Err(NOT_CAPTURED_OTHER_URI)),
            ("npipe:////x", Err(NOT_CAPTURED_OTHER_URI)),
            ("relative/path", Err(NOT_CAPTURED_OTHER_URI)),
            ("fifo://relative", Err(NOT_CAPTURED_OTHER_URI)),
        ];
        for (field, want) in cases {
            assert_eq!(fifo_path(field), want, "{field:?}");
        }
        assert_eq!(with_path("fifo:///a", "/b"), "fifo:///b");
        assert_eq!(with_path("/a", "/b"), "/b");
    }
}
