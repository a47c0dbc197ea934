//! Nothing here: the end-to-end tests are in `tests/`, one scenario per file. They run the binaries that
//! `make test` built, against a PostgreSQL and a nats-server that `odeon up` starts for them.
