//! The asset repository: apps, their immutable revisions, and the bytes behind them.

pub(crate) mod api;
pub(crate) mod blobs;
pub(crate) mod store;
pub(crate) mod uploads;
