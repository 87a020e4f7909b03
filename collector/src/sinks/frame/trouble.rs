//! What can go wrong between a sink and where it delivers to, as label values.

use crate::closed::closed;

closed! {
    /// Why something was not delivered, now or ever.
    pub enum Trouble {
        /// A system call failed; `shimtap_sink_errors_total` has the errno.
        Io => "io",
        /// The destination's name is not found.
        Dns => "dns",
        /// No connection.
        Connect => "connect",
        /// Certificates or versions do not match.
        Tls => "tls",
        /// No answer within the time for one.
        Timeout => "timeout",
        /// The connection ended before the answer did.
        ConnectionLost => "connection_lost",
        /// 429: asked to slow down.
        Throttled => "throttled",
        /// 408, 502, 503, 504: not now.
        Unavailable => "unavailable",
        /// 401, 403, 407: credentials.
        Unauthorized => "unauthorized",
        /// 404, 405: the wrong address.
        NotFound => "not_found",
        /// 413, for a single record.
        TooLarge => "too_large",
        /// 3xx: not followed.
        Redirect => "redirect",
        /// Any other 4xx.
        ClientError => "client_error",
        /// Any other 5xx, and what is no HTTP.
        ServerError => "server_error",
        /// Part of a request that was taken otherwise.
        PartialSuccess => "partial_success",
    }
}
