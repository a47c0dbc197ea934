//! The load balancer of a stage.

fn main() {}
