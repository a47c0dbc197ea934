//! What went wrong in a guest, with the HTTP status and the stable code by which its owner finds it.

use std::fmt::{self, Display, Write as _};

use http::StatusCode;

use crate::origin::Origin;

/// What went wrong, and where in the app, if that is known. Its text is for clients too, and leaves the origin to the
/// owner of the app.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// What went wrong.
    pub error: GuestError,
    /// What ran.
    pub origin: Option<Origin>,
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        Self { error, origin: None }
    }
}

/// A request that a guest could not answer. Its neighbours never notice.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The guest trapped: a panic, an `unreachable`, an access out of bounds.
    #[error("the app failed: {0}")]
    Trap(String),
    /// The guest asked for more memory than it may have, and then failed.
    #[error("the app needed more than {0} bytes of memory and failed")]
    Memory(u64),
    /// All instances of the app together needed more memory than the app may have on a host.
    #[error("the app's instances together needed more than {0} bytes of memory, so that this one failed")]
    AppMemory(u64),
    /// The host had no more memory to give.
    #[error("the host is short of memory: the app got no more of it, or had most, and was ended")]
    HostMemory,
    /// The guest called itself too deeply.
    #[error("the app ran out of stack; look for a recursion without an end")]
    Stack,
    /// The guest used up its CPU time.
    #[error("the app used more than {0} ms of CPU time for one request")]
    CpuDeadline(u64),
    /// The guest took too long.
    #[error("the app took longer than {0} ms for one request")]
    WallDeadline(u64),
    /// The guest ended without an answer, or with one that is no HTTP.
    #[error("the app gave no valid answer: {0}")]
    NoResponse(String),
    /// What the app wrote could not be committed.
    #[error("what the app wrote to its database could not be committed: {0}")]
    Commit(String),
    /// The app was replaced or taken away, and the time its requests had to end has passed.
    #[error("the app was replaced by another revision while it worked on this request")]
    Unloaded,
    /// Another request of the same instance failed.
    #[error("this request shared an instance with another one that failed; try again")]
    Neighbour,
    /// All instance slots of the host are taken.
    #[error("this host runs as many instances as it may; try again in a moment")]
    Full,
}

impl GuestError {
    /// The HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Trap(_) | Self::Memory(_) | Self::AppMemory(_) | Self::Stack | Self::Commit(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::CpuDeadline(_) | Self::WallDeadline(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::NoResponse(_) => StatusCode::BAD_GATEWAY,
            Self::Full | Self::HostMemory | Self::Unloaded | Self::Neighbour => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Trap(_) => "OS-BERT-50001",
            Self::Memory(_) => "OS-BERT-50002",
            Self::Stack => "OS-BERT-50003",
            Self::Commit(_) => "OS-BERT-50004",
            Self::AppMemory(_) => "OS-BERT-50005",
            Self::NoResponse(_) => "OS-BERT-50201",
            Self::Full => "OS-BERT-50301",
            Self::Unloaded => "OS-BERT-50303",
            Self::HostMemory => "OS-BERT-50313",
            Self::Neighbour => "OS-BERT-50314",
            Self::WallDeadline(_) => "OS-BERT-50401",
            Self::CpuDeadline(_) => "OS-BERT-50402",
        }
    }
}

/// Characters of an error that are shown: a guest may say megabytes, and who reads them slowly keeps them here.
const SHOWN_CHARS_MAX: usize = 1_000;

/// What a guest, or somebody on its behalf, says of an error, as far as it is shown.
pub fn shown(said: &impl Display) -> String {
    let mut shown = Shown { text: String::new(), left: SHOWN_CHARS_MAX };
    if write!(shown, "{said}").is_err() {
        shown.text.push_str("...");
    }
    shown.text
}

struct Shown {
    text: String,
    left: usize,
}

impl fmt::Write for Shown {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if let Some((end, _)) = more.char_indices().nth(self.left) {
            self.text.push_str(&more[..end]);
            self.left = 0;
            return Err(fmt::Error);
        }
        self.text.push_str(more);
        self.left -= more.chars().count();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_of_an_error_is_shown() {
        assert_eq!(shown(&format_args!("{:?} and {}", "short", 1)), "\"short\" and 1");
        let whole = "\u{e4}".repeat(SHOWN_CHARS_MAX);
        assert_eq!(shown(&whole), whole);
        assert_eq!(shown(&format_args!("{whole}{whole}")), format!("{whole}..."));
        assert_eq!(shown(&format_args!("-{whole}{}", "")), format!("-{}...", &whole[2..]));
    }
}
