//! Dependencies: what apps use of one another, and what a deployment would break.
//!
//! [`analysis`] compares what is expected with what there is in a stage; [`api`] tells it, and what an app lets others
//! use. Invariant: what is compared are the revisions that serve in the stage, not the newest ones.

pub(crate) mod analysis;
pub(crate) mod api;
