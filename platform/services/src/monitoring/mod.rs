//! Logs of apps, read from the stage's log stream. The Platform keeps no copy.

pub(crate) mod api;
pub(crate) mod readers;
