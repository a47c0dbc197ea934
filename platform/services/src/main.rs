//! The Platform: REST services over revisions, builds and deployments.

fn main() {}
