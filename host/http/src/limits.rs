//! How much one connection, one address and all of them together may take.
//!
//! What differs between listeners is in [`Limits`]; the rest are constants. Memory of a connection at worst: its buffers
//! (64 KiB of what comes, and of what goes twice as much: a piece of a body behind what waits), or with HTTP/2 its window for bodies (512 KiB) and what its streams hold back (64 KiB each).

/// Bytes of the head of a request.
pub const HEAD_BYTES_MAX: u32 = 64 << 10;
/// Headers of a request; hyper keeps this one for HTTP/1 by itself.
pub const HEADERS_MAX: usize = 100;
/// Bytes of a path with its query: what browsers and proxies pass on.
pub const URL_BYTES_MAX: usize = 8 << 10;
/// Streams of one HTTP/2 connection.
pub const STREAMS_MAX: u32 = 128;
/// Bytes of one HTTP/2 body that may be under way unread.
pub const STREAM_WINDOW_BYTES: u32 = 128 << 10;
/// Bytes of all bodies of an HTTP/2 connection that may be under way unread.
pub const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;
/// Bytes of an HTTP/2 response that wait for the client.
pub const SEND_BUFFER_BYTES_MAX: usize = 64 << 10;
/// HTTP/2 streams that the client took back before they were looked at (rapid reset, CVE-2023-44487).
pub const PENDING_RESETS_MAX: usize = 20;
/// HTTP/2 streams that we reset because of the client's mistakes.
pub const LOCAL_RESETS_MAX: usize = 256;
/// Requests of a connection that the client gave up before the answer was whole, while they are most of its requests.
pub const ABANDONED_MAX: u64 = 100;
/// The same beyond them, per second of the connection's life, whatever else it asks: one in a hundred where a proxy sends a
/// thousand a second.
pub const ABANDONED_PER_S_MAX: u64 = 10;
/// Bytes read that belong to no request: pings, settings, empty frames. A client that is well has a few hundred.
pub const CONTROL_BYTES_MAX: u64 = 2 << 20;
/// Time between two HTTP/2 pings, and how long an answer may take, in seconds.
pub const PING_S: u64 = 20;

/// What a request body must have in all, in bytes per second of waiting, beyond the first [`Limits::body_gap_s_max`] seconds.
pub const BODY_BYTES_PER_S_MIN: u64 = 500;
/// How long a client may leave a piece of a response unread, in seconds.
pub const UNREAD_S_MAX: u64 = 30;
/// What a client must take of responses, in bytes per second in which nothing could be written, beyond the first
/// [`UNREAD_S_MAX`] seconds.
pub const READ_BYTES_PER_S_MIN: u64 = 500;
/// How long a connection goes on that was asked to end, in seconds: longer than any request.
pub const GRACE_S_MAX: u64 = 120;
/// Time between two looks at a connection, in milliseconds.
pub(crate) const LOOK_MS: u64 = 2_000;

/// The limits that differ between listeners.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Connections at once from one address (of IPv6, one network of 64 bits); more are closed.
    pub connections_per_peer_max: usize,
    /// How long a head may take, and the first request of a connection, in seconds; kept connections are looked at every two.
    pub head_s_max: u64,
    /// How long a request body may be waited for between two pieces, in seconds.
    pub body_gap_s_max: u64,
    /// How long a connection may be without a request, in seconds.
    pub idle_s_max: u64,
    /// How long a connection may live, in seconds; requests under way end first.
    pub life_s_max: u64,
    /// How it says what it refuses by itself.
    pub codes: Codes,
}

/// Codes of what is refused before anybody looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Codes {
    /// The path is too long.
    pub url: &'static str,
    /// The headers are too many.
    pub headers: &'static str,
    /// The request names more than one host.
    pub host: &'static str,
    /// The request asks for a tunnel.
    pub tunnel: &'static str,
}

/// For users, who may be anybody. Load balancers keep idle connections for 60 s unless told otherwise and must drop theirs
/// before we do: a request that meets a connection being closed is lost.
pub const USERS: Limits = Limits {
    connections_max: 8_192,
    connections_per_peer_max: 1_024,
    head_s_max: 10,
    body_gap_s_max: 20,
    idle_s_max: 75,
    life_s_max: 3_600,
    codes: Codes {
        url: "OS-RTR-41401",
        headers: "OS-RTR-43101",
        host: "OS-RTR-40002",
        tunnel: "OS-RTR-50101",
    },
};

/// For routers and other hosts, which keep connections for later: they drop theirs before we do
/// ([`CLIENT_IDLE_S_MAX`]), so that no request meets a connection that is being closed. A slow body is the router's to refuse, which its user is told,
/// and so it is the first to lose patience.
pub const HOSTS: Limits = Limits {
    connections_max: 4_096,
    connections_per_peer_max: 4_096,
    head_s_max: 60,
    body_gap_s_max: 25,
    idle_s_max: 60,
    life_s_max: 24 * 3_600,
    codes: Codes {
        url: "OS-BERT-41401",
        headers: "OS-BERT-43101",
        host: "OS-BERT-40002",
        tunnel: "OS-BERT-50101",
    },
};

/// How long those who ask a listener with [`HOSTS`] keep an idle connection, in seconds.
pub const CLIENT_IDLE_S_MAX: u64 = 30;

/// For health and metrics; of a router, with its codes.
pub const ADMIN: Limits = Limits {
    connections_max: 64,
    connections_per_peer_max: 64,
    head_s_max: 10,
    body_gap_s_max: 20,
    idle_s_max: 60,
    life_s_max: 3_600,
    codes: HOSTS.codes,
};
