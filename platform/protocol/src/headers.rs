//! HTTP headers by which routers, hosts and the Platform understand each other.

/// Carries a request's id, from whoever saw it first to every log line about it.
pub const REQUEST_ID: &str = "x-request-id";

/// Longest request id that is taken over from a client, in bytes; a longer one is replaced.
pub const REQUEST_ID_BYTES_MAX: usize = 64;

/// Says that the host started this request by itself, and why: `timer`, `event` or `service`. It is taken from whatever
/// comes from outside.
pub const TRIGGER: &str = "odeon-trigger";

/// Says who called an app that calls another one. It is taken from whatever comes from outside.
pub const USER: &str = "odeon-user";

/// A sealed [`crate::calls::Call`]: the request comes from an app of the stage.
pub const CALL: &str = "odeon-call";

/// A host's answer that no guest saw the request, because the app is not served there (any more, or yet).
/// The router then asks another replica. Never passed on from a guest, and never to a user.
pub const NOT_SERVED: &str = "x-odeon-not-served";
