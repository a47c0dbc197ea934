//! Cases that need no request: clocks, randomness, files, sockets, the command line.

use wasip3::cli::{environment, stderr, stdin, stdout, terminal_stderr, terminal_stdin, terminal_stdout};
use wasip3::clocks::{monotonic_clock, system_clock};
use wasip3::filesystem::preopens;
use wasip3::random::{insecure, insecure_seed, random};
use wasip3::sockets::ip_name_lookup;
use wasip3::sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket};
use wasip3::wit_stream;

/// Names of the cases.
pub(crate) const CASES: &[&str] = &[
    "monotonic-clock",
    "system-clock",
    "waits",
    "random-lengths",
    "random-differs",
    "insecure-seed",
    "environment",
    "arguments",
    "directory",
    "terminals",
    "stdin",
    "stdout",
    "exit",
    "panic",
    "preopens",
    "tcp",
    "tcp-connect",
    "udp",
    "lookup",
];

/// What a case finds.
pub(crate) async fn run(name: &str) -> Option<String> {
    Some(match name {
        "monotonic-clock" => {
            let (first, second) = (monotonic_clock::now(), monotonic_clock::now());
            format!("{} {}", first <= second, monotonic_clock::get_resolution() > 0)
        }
        "system-clock" => {
            let (now, resolution) = (system_clock::now(), system_clock::get_resolution());
            format!("{} {} {}", now.seconds > 1_600_000_000, now.nanoseconds < 1_000_000_000, resolution > 0)
        }
        "waits" => {
            let begun = monotonic_clock::now();
            monotonic_clock::wait_until(0).await;
            monotonic_clock::wait_for(0).await;
            monotonic_clock::wait_for(2_000_000).await;
            format!("{}", monotonic_clock::now() - begun >= 2_000_000)
        }
        "random-lengths" => {
            let secure = [0, 1, 1_000].map(|length| random::get_random_bytes(length).len());
            let insecure = [0, 1, 1_000].map(|length| insecure::get_insecure_random_bytes(length).len());
            format!("{secure:?} {insecure:?}")
        }
        "random-differs" => {
            let secure = random::get_random_u64() != random::get_random_u64();
            format!("{secure} {}", insecure::get_insecure_random_u64() != insecure::get_insecure_random_u64())
        }
        "insecure-seed" => {
            format!("{}", insecure_seed::get_insecure_seed() == insecure_seed::get_insecure_seed())
        }
        "environment" => format!("{:?}", environment::get_environment()),
        "arguments" => format!("{:?}", environment::get_arguments()),
        "directory" => format!("{:?}", environment::get_initial_cwd()),
        "terminals" => format!(
            "{} {} {}",
            terminal_stdin::get_terminal_stdin().is_some(),
            terminal_stdout::get_terminal_stdout().is_some(),
            terminal_stderr::get_terminal_stderr().is_some()
        ),
        "stdin" => {
            let (contents, ended) = stdin::read_via_stream();
            let bytes = contents.collect().await;
            format!("{bytes:?} {:?}", ended.await)
        }
        "stdout" => {
            let (mut out, contents) = wit_stream::new();
            let (mut err, errors) = wit_stream::new();
            let written = stdout::write_via_stream(contents);
            let told = stderr::write_via_stream(errors);
            let left = out.write_all(b"a line\n".to_vec()).await.len()
                + err.write_all(b"another\n".to_vec()).await.len();
            drop((out, err));
            format!("{left} {:?} {:?}", written.await, told.await)
        }
        "exit" => std::process::exit(1),
        "panic" => panic!("asked to"),
        "preopens" => format!("{}", preopens::get_directories().len()),
        "tcp" => {
            let made = [IpAddressFamily::Ipv4, IpAddressFamily::Ipv6].map(|family| {
                TcpSocket::create(family)
                    .map(|socket| (socket.get_address_family(), socket.get_is_listening()))
            });
            format!("{made:?}")
        }
        "tcp-connect" => match TcpSocket::create(IpAddressFamily::Ipv4) {
            Ok(socket) => {
                let nobody = Ipv4SocketAddress { port: 1, address: (127, 0, 0, 1) };
                format!("{:?}", socket.connect(IpSocketAddress::Ipv4(nobody)).await)
            }
            Err(code) => format!("{code:?}"),
        },
        "udp" => format!(
            "{:?}",
            UdpSocket::create(IpAddressFamily::Ipv4).map(|socket| socket.get_address_family())
        ),
        "lookup" => {
            format!("{:?}", ip_name_lookup::resolve_addresses("localhost".to_owned()).await.map(|_| ()))
        }
        _ => return None,
    })
}
