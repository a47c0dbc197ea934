//! Which addresses an app may be connected to.
//!
//! An allow-list of names says nothing about where a name points: whoever owns a name may point it at the host's own
//! network, at other apps, or at the service that hands out the machine's credentials. So the address itself is judged, after
//! the name was resolved and before anything is dialled. Invariant: an address that stands for another one (an IPv4 address
//! inside an IPv6 one) is judged as that other one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::str::FromStr;

/// A range of addresses, as `10.0.0.0/8` or `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

/// Why a text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CidrError(String);

impl fmt::Display for CidrError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for CidrError {}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = |why: &str| CidrError(format!("`{text}` is no network: {why}; write `10.1.0.0/16`"));
        let (base, prefix) = text.split_once('/').ok_or_else(|| wrong("it has no length after a `/`"))?;
        let base: IpAddr = base.parse().map_err(|_| wrong("it does not begin with an IP address"))?;
        let length = if base.is_ipv4() { 32 } else { 128 };
        let is_plain = !prefix.is_empty() && prefix.bytes().all(|digit| digit.is_ascii_digit());
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|prefix| is_plain && *prefix <= length)
            .ok_or_else(|| wrong(&format!("its length is a number up to {length}")))?;
        let cidr = Self { base, prefix };
        if bits(base) != bits(base) & cidr.mask() {
            return Err(wrong("the address has bits behind the length"));
        }
        Ok(cidr)
    }
}

impl Cidr {
    const fn v4(base: [u8; 4], prefix: u8) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(base[0], base[1], base[2], base[3])), prefix }
    }

    const fn v6(base: u128, prefix: u8) -> Self {
        Self { base: IpAddr::V6(Ipv6Addr::from_bits(base)), prefix }
    }

    /// The bits that count, of the address as [`bits`] gives it.
    fn mask(self) -> u128 {
        let length = if self.base.is_ipv4() { 32 } else { 128 };
        let free = u32::from(length - self.prefix);
        u128::MAX.checked_shl(free).unwrap_or(0)
    }

    fn holds(self, address: IpAddr) -> bool {
        self.base.is_ipv4() == address.is_ipv4() && bits(address) & self.mask() == bits(self.base)
    }
}

/// An IPv4 address fills the lowest 32.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Services that hand the machine's credentials or settings to whoever asks from it. No setting opens these.
const METADATA: [IpAddr; 10] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), // nearly every cloud
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),   // AWS, tasks
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),  // AWS, pods
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)), // AWS, pods
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // Google
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)), // Oracle
];

/// What is not the Internet, of IPv4 (the registry of RFC 6890).
const CLOSED_V4: [(Cidr, &str); 15] = [
    (Cidr::v4([0, 0, 0, 0], 8), "this network"),
    (Cidr::v4([10, 0, 0, 0], 8), "private"),
    (Cidr::v4([100, 64, 0, 0], 10), "shared (carrier-grade NAT)"),
    (Cidr::v4([127, 0, 0, 0], 8), "loopback"),
    (Cidr::v4([169, 254, 0, 0], 16), "link-local"),
    (Cidr::v4([172, 16, 0, 0], 12), "private"),
    (Cidr::v4([192, 0, 0, 0], 24), "protocol assignments"),
    (Cidr::v4([192, 0, 2, 0], 24), "documentation"),
    (Cidr::v4([192, 88, 99, 0], 24), "6to4 relays"),
    (Cidr::v4([192, 168, 0, 0], 16), "private"),
    (Cidr::v4([198, 18, 0, 0], 15), "benchmarks"),
    (Cidr::v4([198, 51, 100, 0], 24), "documentation"),
    (Cidr::v4([203, 0, 113, 0], 24), "documentation"),
    (Cidr::v4([224, 0, 0, 0], 4), "multicast"),
    (Cidr::v4([240, 0, 0, 0], 4), "reserved or broadcast"),
];

/// What is not the Internet, of the part of IPv6 that is global; all other IPv6 is closed.
const CLOSED_V6: [(Cidr, &str); 3] = [
    (Cidr::v6(0x2001 << 112, 23), "protocol assignments, Teredo"),
    (Cidr::v6(0x2001_0db8 << 96, 32), "documentation"),
    (Cidr::v6(0x3fff << 112, 20), "documentation"),
];

/// A socket that sends nothing needs a port to be connected to.
const ANY_PORT: u16 = 9;

/// Global unicast IPv6.
const GLOBAL_V6: Cidr = Cidr::v6(0x2000 << 112, 3);

/// Ranges of IPv6 that stand for IPv4 addresses, and how far from the right that address is, in bits.
const EMBEDDING: [(Cidr, u32); 5] = [
    (Cidr::v6(0xffff << 32, 96), 0),      // mapped
    (Cidr::v6(0xffff << 48, 96), 0),      // translated (SIIT)
    (Cidr::v6(0x0064_ff9b << 96, 96), 0), // NAT64
    (Cidr::v6(0x2002 << 112, 16), 80),    // 6to4
    (Cidr::v6(0, 96), 0),                 // compatible; `::` and `::1` are judged before
];

/// The IPv4 address that an IPv6 address stands for, or the address itself.
fn stands_for(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if v6.is_unspecified() || v6.is_loopback() {
        return address;
    }
    let embedded = EMBEDDING.iter().find(|(range, _)| range.holds(address));
    embedded.map_or(address, |(_, shift)| {
        let low = (v6.to_bits() >> shift) & u128::from(u32::MAX);
        IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(low).unwrap_or(0)))
    })
}

/// The networks that the operator opens to apps, beside the Internet, and closes, though they are part of it.
#[derive(Debug, Clone, Default)]
pub struct Networks {
    open: Vec<Cidr>,
    closed: Vec<Cidr>,
}

impl Networks {
    /// Understands what the operator opens.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, CidrError> {
        let open = texts.into_iter().map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { open, closed: Vec::new() })
    }

    /// Understands what the operator closes: that goes before what is opened.
    pub fn closing<'t>(self, texts: impl IntoIterator<Item = &'t str>) -> Result<Self, CidrError> {
        let closed = texts.into_iter().map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { closed, ..self })
    }

    /// Why an app may not be connected to `address`, if it may not.
    pub fn denies(&self, address: IpAddr) -> Option<&'static str> {
        let meant = stands_for(address);
        if METADATA.contains(&meant) {
            return Some("the metadata service of a cloud");
        }
        let holds = |networks: &[Cidr]| networks.iter().any(|one| one.holds(meant) || one.holds(address));
        if holds(&self.closed) {
            return Some("closed by the operator");
        }
        if holds(&self.open) {
            return None;
        }
        let closed: &[(Cidr, &str)] = match meant {
            IpAddr::V4(_) => &CLOSED_V4,
            IpAddr::V6(_) if !GLOBAL_V6.holds(meant) => return Some("not a global address"),
            IpAddr::V6(_) => &CLOSED_V6,
        };
        let reserved = closed.iter().find(|(range, _)| range.holds(meant)).map(|(_, what)| *what);
        reserved.or_else(|| is_of_this_machine(meant).then_some("an address of the host itself"))
    }
}

/// Whether an address is one of this machine's, which may have one of the Internet: what is sent there goes over the loopback, past
/// firewalls. The kernel says so: it would send from that very address. Nothing is sent.
fn is_of_this_machine(address: IpAddr) -> bool {
    let from: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let asked = UdpSocket::bind((from, 0)).and_then(|socket| {
        socket.connect((address, ANY_PORT))?;
        socket.local_addr()
    });
    asked.is_ok_and(|local| local.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(open: &[&str], address: &str, denied: bool) {
        let networks = Networks::parse(open.iter().copied()).unwrap();
        let why = networks.denies(address.parse().unwrap());
        assert_eq!(why.is_some(), denied, "{address} with {open:?}: {why:?}");
    }

    #[test]
    fn only_the_internet_is_open_by_itself() {
        let closed = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fc00::1",
            "fdff::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            "64:ff9b:1::a00:1",
            "100::1",
            "4000::1",
        ];
        closed.iter().for_each(|address| check(&[], address, true));
        let open = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "126.0.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.169.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00::1",
        ];
        open.iter().for_each(|address| check(&[], address, false));
    }

    #[test]
    fn an_address_in_an_address_is_judged_as_what_it_stands_for() {
        let closed = [
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:c0a8:101::5",
        ];
        closed.iter().for_each(|address| check(&[], address, true));
        check(&[], "::ffff:1.1.1.1", false);
        check(&[], "64:ff9b::101:101", false);
        check(&[], "2002:101:101::", false);
        check(&["10.0.0.0/8"], "::ffff:10.0.0.1", false);
    }

    #[test]
    fn the_operator_opens_networks_but_never_metadata() {
        check(&["127.0.0.0/8"], "127.9.9.9", false);
        check(&["127.0.0.0/8"], "128.0.0.1", false);
        check(&["10.1.0.0/16"], "10.2.0.1", true);
        check(&["fd00::/8"], "fd12::1", false);
        check(&["0.0.0.0/0", "::/0"], "10.0.0.1", false);
        for metadata in ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254"] {
            check(&["0.0.0.0/0", "::/0", "169.254.169.254/32", "fd00:ec2::254/128"], metadata, true);
        }
    }

    #[test]
    fn what_the_operator_closes_stays_closed() {
        let closing = |open: [&str; 1], closed: [&str; 2]| Networks::parse(open)?.closing(closed);
        let networks = closing(["10.0.0.0/8"], ["2a00:1450::/32", "10.1.0.0/16"]).unwrap();
        let denies = |address: &str| networks.denies(address.parse().unwrap());
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "2a00:1450::1"] {
            assert_eq!(denies(address), Some("closed by the operator"), "{address}");
        }
        assert_eq!((denies("10.2.0.1"), denies("2a00:1451::1")), (None, None));
        assert!(closing(["10.0.0.0/8"], ["10.0.0.0/8", "nothing"]).is_err());
    }

    #[test]
    fn the_kernel_knows_the_addresses_of_this_machine() {
        for (address, is_ours) in [("127.0.0.1", true), ("1.1.1.1", false), ("2606:4700::1111", false)] {
            assert_eq!(is_of_this_machine(address.parse().unwrap()), is_ours, "{address}");
        }
    }

    #[test]
    fn what_is_no_network_is_told() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::/129",
            "0x7f.1/8",
            "10.0.0.0/+8",
            "a/8",
        ] {
            let told = Networks::parse([text]).unwrap_err().to_string();
            assert!(told.contains(&format!("`{text}`")) && told.contains("10.1.0.0/16"), "{told}");
        }
    }
}
