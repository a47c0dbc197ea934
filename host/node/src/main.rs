//! The host process: ingress, agent, health, metrics.

fn main() {}
