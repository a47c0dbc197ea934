# Two commands matter: `make up` runs the product, `make test` runs every test. Both set up what is missing.

NATS := .odeon/venv/bin/nats-server
WASMTIME := .odeon/bench/bin/wasmtime
export ODEON_NATS_SERVER := $(abspath $(NATS))
export ODEON_WASMTIME := $(abspath $(WASMTIME))
export ODEON_WASI_SUITE := $(abspath .odeon/wasi-testsuite)

.PHONY: up down build production guests test bench bench-speed bench-host bench-flame bench-contenders bench-smoke bench-runtime bench-density fuzz fuzz-build fuzz-smoke setup fmt lint

# What an installation runs; odeon-host compiles components, too.
PRODUCT := --bin odeon --bin odeon-platform --bin odeon-migrator --bin odeon-host --bin odeon-router

up: setup
	cargo build --release --workspace $(PRODUCT)
	target/release/odeon up $(if $(DETACH),--detach)

down:
	target/release/odeon down

build: setup
	cargo build --release --workspace --bins

# As images have it: what a request passes is built with link-time optimization. It takes long, and `make up` does without.
production: setup
	cargo build --release --workspace --bin odeon --bin odeon-platform --bin odeon-migrator
	cargo build --profile production --workspace --bin odeon-host --bin odeon-router --bin odeon-bench
	ln -f target/release/odeon target/release/odeon-platform target/release/odeon-migrator target/production/

guests: setup
	cargo build --release --target wasm32-wasip2 --manifest-path guest-examples/hello-rust/Cargo.toml --target-dir target/guests
	cargo build --release --target wasm32-wasip2 --manifest-path guest-examples/hello-wasip3/Cargo.toml --target-dir target/guests
	cargo build --release --target wasm32-wasip2 --manifest-path tests/hostile/guest/Cargo.toml --target-dir target/guests
	cargo build --release --target wasm32-wasip2 --manifest-path tests/wasi/command/Cargo.toml --target-dir target/guests
	cargo build --release --target wasm32-wasip2 --manifest-path tests/wasi/p2/Cargo.toml --target-dir target/guests
	cargo build --release --target wasm32-wasip2 --manifest-path tests/wasi/p3/Cargo.toml --target-dir target/guests

test: setup guests
	@tools/setup test
	cargo xtask tidy
	cargo build --workspace --bins
	cargo test --workspace --no-fail-fast

# Everything that is promised about speed and density.
bench: bench-speed bench-host bench-density bench-flame

# Compiled apps, beside Rust, node, and axum with sqlx: figures of this machine, into
# docs/benchmarks/speed.md. Fails when a limit is missed.
bench-speed: build bench-contenders
	env -u RUST_BACKTRACE target/release/odeon-bench speed --guest target/guests/wasm32-wasip2/release/jobs_rust.wasm \
		--peer target/peers/release/expenses-axum --page docs/benchmarks/speed.md

# What a host does with a request, beside `wasmtime serve`, workerd, a bare loop of wasmtime, and hostile neighbours: into
# docs/benchmarks/host.md. Fails when a limit is missed.
bench-host: production bench-contenders
	env -u RUST_BACKTRACE target/production/odeon-bench host --guest target/guests/wasm32-wasip2/release/work_rust.wasm \
		--wasmtime $(WASMTIME) --workerd .odeon/bench/node_modules/.bin/workerd --page docs/benchmarks/host.md

# Where the CPU time of a small request goes, into docs/benchmarks/request.svg.
bench-flame: production bench-contenders
	@tools/setup flame
	env -u RUST_BACKTRACE target/production/odeon-bench flame --guest target/guests/wasm32-wasip2/release/work_rust.wasm --svg docs/benchmarks/request.svg

# By hand, and of no use but to be compared with.
bench-contenders: setup
	@tools/setup bench
	cargo build --release --target wasm32-wasip2 --manifest-path tests/bench/guests/jobs-rust/Cargo.toml --target-dir target/guests
	cargo build --release --target wasm32-wasip2 --manifest-path tests/bench/guests/work-rust/Cargo.toml --target-dir target/guests
	cargo build --release --manifest-path tests/bench/peers/expenses-axum/Cargo.toml --target-dir target/peers

# Figures of this machine, into docs/benchmarks/. Fails when a limit is missed.
bench-smoke: build guests
	@tools/setup bench
	env -u RUST_BACKTRACE target/release/odeon-bench smoke --wasmtime $(WASMTIME) --page docs/benchmarks/smoke.md

# The runtime library inside each app, beside one that all share: 1,000 apps, compiled three times.
bench-runtime: build
	env -u RUST_BACKTRACE target/release/odeon-bench runtime-sharing --page docs/benchmarks/runtime-sharing.md

# A host with 10,000 different apps loaded, and 50,000 placed. The first run prepares the apps: minutes, and 8 GB of disk.
bench-density: production guests
	env -u RUST_BACKTRACE target/production/odeon-bench density --page docs/benchmarks/density.md

# Each fuzz target for a minute. Fails when one of them finds something, and says which input it was.
fuzz-smoke: fuzz-build
	$(FUZZ) smoke

# One of them for longer: make fuzz TARGET=sql_rows SECONDS=3600
fuzz: fuzz-build
	$(FUZZ) run $(TARGET) $(SECONDS)

FUZZ := target/fuzz/build/x86_64-unknown-linux-gnu/release/odeon-fuzz

# With a target named, build scripts and macros are told apart from what is instrumented.
fuzz-build: setup
	@tools/setup fuzz
	RUSTC_WRAPPER=$(abspath tests/fuzz/instrument) cargo build --release --target x86_64-unknown-linux-gnu \
		--manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz/build

# What is built for Wasm, compared with or fuzzed is no member of the workspace, so it is linted by name.
lint: setup
	cargo fmt --all --check
	cargo fmt --manifest-path platform/oml-runtime/Cargo.toml --check
	cargo fmt --manifest-path guest-examples/hello-rust/Cargo.toml --check
	cargo fmt --manifest-path guest-examples/hello-wasip3/Cargo.toml --check
	cargo fmt --manifest-path tests/hostile/guest/Cargo.toml --check
	cargo fmt --manifest-path tests/wasi/command/Cargo.toml --check
	cargo fmt --manifest-path tests/wasi/p2/Cargo.toml --check
	cargo fmt --manifest-path tests/wasi/p3/Cargo.toml --check
	cargo fmt --manifest-path tests/bench/guests/jobs-rust/Cargo.toml --check
	cargo fmt --manifest-path tests/bench/guests/work-rust/Cargo.toml --check
	cargo fmt --manifest-path tests/bench/peers/expenses-axum/Cargo.toml --check
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --target wasm32-unknown-unknown --manifest-path platform/oml-runtime/Cargo.toml --target-dir target/guests -- -D warnings
	cargo clippy --target wasm32-wasip2 --manifest-path guest-examples/hello-rust/Cargo.toml --target-dir target/guests -- -D warnings
	cargo clippy --target wasm32-wasip2 --manifest-path guest-examples/hello-wasip3/Cargo.toml --target-dir target/guests -- -D warnings
	cargo clippy --target wasm32-wasip2 --manifest-path tests/hostile/guest/Cargo.toml --target-dir target/guests -- -D warnings
	cargo clippy --target wasm32-wasip2 --manifest-path tests/wasi/command/Cargo.toml --target-dir target/guests -- -D warnings
	cargo clippy --target wasm32-wasip2 --manifest-path tests/wasi/p2/Cargo.toml --target-dir target/guests -- -D warnings
	cargo clippy --target wasm32-wasip2 --manifest-path tests/wasi/p3/Cargo.toml --target-dir target/guests -- -D warnings
	@tools/setup fuzz
	cargo clippy --manifest-path tests/fuzz/Cargo.toml --target-dir target -- -D warnings

fmt:
	cargo fmt --all
	cargo fmt --manifest-path platform/oml-runtime/Cargo.toml
	cargo fmt --manifest-path guest-examples/hello-rust/Cargo.toml
	cargo fmt --manifest-path guest-examples/hello-wasip3/Cargo.toml
	cargo fmt --manifest-path tests/hostile/guest/Cargo.toml
	cargo fmt --manifest-path tests/wasi/command/Cargo.toml
	cargo fmt --manifest-path tests/wasi/p2/Cargo.toml
	cargo fmt --manifest-path tests/wasi/p3/Cargo.toml
	cargo fmt --manifest-path tests/bench/guests/jobs-rust/Cargo.toml
	cargo fmt --manifest-path tests/bench/guests/work-rust/Cargo.toml
	cargo fmt --manifest-path tests/bench/peers/expenses-axum/Cargo.toml
	cargo fmt --manifest-path tests/fuzz/Cargo.toml

setup:
	@tools/setup
