//! Cases that need no request: clocks, randomness, streams, files, sockets, the command line.

use std::io::Read as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasip2::cli::{environment, terminal_stderr, terminal_stdin, terminal_stdout};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::filesystem::preopens;
use wasip2::io::poll;
use wasip2::random::{insecure, insecure_seed, random};
use wasip2::sockets::network::IpAddressFamily;
use wasip2::sockets::{instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket};

type Case = fn() -> String;

/// A case and its name.
pub(crate) const CASES: &[(&str, Case)] = &[
    ("monotonic-clock", monotonic),
    ("wall-clock", wall),
    ("clocks-of-std", clocks_of_std),
    ("timers", timers),
    ("poll-nothing", poll_nothing),
    ("poll-twice-the-same", poll_twice),
    ("random-lengths", random_lengths),
    ("random-differs", random_differs),
    ("random-of-std", random_of_std),
    ("insecure-seed", seed),
    ("environment", environment),
    ("arguments", arguments),
    ("directory", || format!("{:?}", environment::initial_cwd())),
    ("terminals", terminals),
    ("stdin", stdin),
    ("stdout", stdout),
    ("exit-well", || std::process::exit(0)),
    ("exit-badly", || std::process::exit(1)),
    ("abort", || std::process::abort()),
    ("panic", || panic!("asked to")),
    ("preopens", || format!("{}", preopens::get_directories().len())),
    ("files-of-std", files_of_std),
    ("tcp", tcp),
    ("udp", udp),
    ("lookup", lookup),
    ("sockets-of-std", sockets_of_std),
    ("threads-of-std", || format!("{:?}", std::thread::Builder::new().spawn(|| ()).is_err())),
];

fn monotonic() -> String {
    let (first, second) = (monotonic_clock::now(), monotonic_clock::now());
    format!("{} {}", first <= second, monotonic_clock::resolution() > 0)
}

fn wall() -> String {
    let (now, resolution) = (wall_clock::now(), wall_clock::resolution());
    let is_plausible = now.seconds > 1_600_000_000 && now.nanoseconds < 1_000_000_000;
    format!("{is_plausible} {}", resolution.seconds == 0 && resolution.nanoseconds > 0)
}

fn clocks_of_std() -> String {
    let begun = Instant::now();
    std::thread::sleep(Duration::from_millis(2));
    let is_later = begun.elapsed() >= Duration::from_millis(2);
    format!("{is_later} {}", SystemTime::now().duration_since(UNIX_EPOCH).is_ok())
}

fn timers() -> String {
    let long = monotonic_clock::subscribe_duration(3_600_000_000_000);
    let past = monotonic_clock::subscribe_instant(0);
    let was_ready = (long.ready(), past.ready());
    let ready = poll::poll(&[&long, &past]);
    let short = monotonic_clock::subscribe_duration(1_000_000);
    short.block();
    format!("{was_ready:?} {ready:?} {}", short.ready())
}

fn poll_nothing() -> String {
    format!("{:?}", poll::poll(&[]))
}

fn poll_twice() -> String {
    let past = monotonic_clock::subscribe_instant(0);
    format!("{:?}", poll::poll(&[&past, &past]))
}

fn random_lengths() -> String {
    let secure = [0, 1, 1_000].map(|length| random::get_random_bytes(length).len());
    let insecure = [0, 1, 1_000].map(|length| insecure::get_insecure_random_bytes(length).len());
    format!("{secure:?} {insecure:?}")
}

fn random_differs() -> String {
    let secure = random::get_random_u64() != random::get_random_u64();
    let insecure = insecure::get_insecure_random_u64() != insecure::get_insecure_random_u64();
    format!("{secure} {insecure} {}", random::get_random_bytes(32) != random::get_random_bytes(32))
}

fn random_of_std() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    format!("{}", RandomState::new().hash_one(1) != RandomState::new().hash_one(2))
}

fn seed() -> String {
    format!("{}", insecure_seed::insecure_seed() == insecure_seed::insecure_seed())
}

fn environment() -> String {
    format!("{:?} {}", environment::get_environment(), std::env::vars().count())
}

fn arguments() -> String {
    format!("{:?} {}", environment::get_arguments(), std::env::args().count())
}

fn terminals() -> String {
    let are_there = (
        terminal_stdin::get_terminal_stdin().is_some(),
        terminal_stdout::get_terminal_stdout().is_some(),
        terminal_stderr::get_terminal_stderr().is_some(),
    );
    format!("{are_there:?}")
}

fn stdin() -> String {
    let mut text = String::new();
    format!("{:?} {text:?}", std::io::stdin().read_to_string(&mut text).map_err(|error| error.kind()))
}

fn stdout() -> String {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    let written = out.write_all(b"a line\n").and_then(|()| out.flush());
    let errors = std::io::stderr().write_all(b"another\n");
    format!("{} {}", written.is_ok(), errors.is_ok())
}

fn files_of_std() -> String {
    let outcomes = [
        std::fs::read("/etc/passwd").map(|_| ()),
        std::fs::read("relative").map(|_| ()),
        std::fs::write("/tmp/new", b"x"),
        std::fs::create_dir("/new"),
        std::fs::read_dir("/").map(|_| ()),
        std::fs::metadata("/").map(|_| ()),
    ];
    outcomes
        .map(|outcome| outcome.map_err(|error| error.kind()))
        .map(|outcome| format!("{outcome:?}"))
        .join(" ")
}

fn tcp() -> String {
    [IpAddressFamily::Ipv4, IpAddressFamily::Ipv6]
        .map(|family| match tcp_create_socket::create_tcp_socket(family) {
            Ok(socket) => format!("{:?} {:?}", socket.address_family(), socket.is_listening()),
            Err(code) => format!("{code:?}"),
        })
        .join(" ")
}

fn udp() -> String {
    [IpAddressFamily::Ipv4, IpAddressFamily::Ipv6]
        .map(|family| match udp_create_socket::create_udp_socket(family) {
            Ok(socket) => format!("{:?}", socket.address_family()),
            Err(code) => format!("{code:?}"),
        })
        .join(" ")
}

fn lookup() -> String {
    let network = instance_network::instance_network();
    format!("{:?}", ip_name_lookup::resolve_addresses(&network, "localhost").map(|_| ()))
}

fn sockets_of_std() -> String {
    let outcomes = [
        std::net::TcpStream::connect("127.0.0.1:1").map(|_| ()),
        std::net::TcpListener::bind("127.0.0.1:0").map(|_| ()),
        std::net::UdpSocket::bind("127.0.0.1:0").map(|_| ()),
    ];
    outcomes
        .map(|outcome| outcome.map_err(|error| error.kind()))
        .map(|outcome| format!("{outcome:?}"))
        .join(" ")
}
