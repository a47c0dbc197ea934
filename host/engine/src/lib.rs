//! Loads components and runs one instance per request.
