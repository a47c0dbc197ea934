//! Deployments: which revision of which app serves in which stage, and how it gets there.
//!
//! [`operation`] runs what a person asked for, step by step, and answers for it; [`reconcile`] keeps stages
//! as they were asked for when hosts come and go. Both write desired state through [`desired`], the one place
//! where a generation is made. [`sweep`] takes out of stages what no deployment needs any more.

pub(crate) mod api;
pub(crate) mod desired;
pub(crate) mod limits;
pub(crate) mod operation;
pub(crate) mod progress;
pub(crate) mod reconcile;
pub(crate) mod store;
pub(crate) mod sweep;
