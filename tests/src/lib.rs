//! End-to-end tests: real processes, a real PostgreSQL, a real nats-server.
