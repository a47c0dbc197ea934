//! The command line: up, publish, deploy, logs.

fn main() {}
