//! HTTP/2 by hand (RFC 9113): frames as a test wants them, with headers in HPACK's plainest form.

use std::time::Duration;

use odeon_tests::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// Types of frames.
pub mod kind {
    /// A piece of a body.
    pub const DATA: u8 = 0;
    /// A head, or the beginning of one.
    pub const HEADERS: u8 = 1;
    /// The end of a stream, before its time.
    pub const RST_STREAM: u8 = 3;
    /// Settings of the sender.
    pub const SETTINGS: u8 = 4;
    /// Is anybody there?
    pub const PING: u8 = 6;
    /// The end of a connection.
    pub const GOAWAY: u8 = 7;
    /// Room for more.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More of a head.
    pub const CONTINUATION: u8 = 9;
}

/// The stream ends with this frame.
pub const END_STREAM: u8 = 1;
/// The head ends with this frame.
pub const END_HEADERS: u8 = 4;
/// It answers one of the same kind.
pub const ACK: u8 = 1;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream, 0 for the connection.
    pub stream: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// One setting.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
}

/// The headers of a request, each written out in full and not remembered.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x")];
    pseudo.iter().chain(headers).flat_map(|(name, value)| header(name, value)).collect()
}

/// One header.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        length(&mut bytes, text.len());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// A length of 7 bits, and what is beyond in more bytes (RFC 7541, 5.1).
fn length(bytes: &mut Vec<u8>, length: usize) {
    const SMALL: usize = 127;
    let Some(mut rest) = length.checked_sub(SMALL) else { return bytes.push(u8::try_from(length).unwrap()) };
    bytes.push(0x7f);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

/// A connection that has begun.
pub struct Http2 {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Http2 {
    /// Connects and sends the preface with these settings.
    pub async fn connect(address: &str, settings: &[(u16, u32)]) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let settings: Vec<u8> = settings.iter().flat_map(|(id, value)| setting(*id, *value)).collect();
        let mut this = Self { stream, rest: Vec::new() };
        assert!(this.send(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &settings)].concat()).await);
        this
    }

    /// Sends bytes; false when the other side has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("it can be written").is_ok()
    }

    /// Sends `bytes` again and again while reading what comes, until the other side closes or `times` is reached.
    /// The times that it was sent.
    pub async fn flood(&mut self, bytes: &[u8], times: usize) -> Flooded {
        let (mut reader, mut writer) = self.stream.split();
        let reading = async {
            let mut seen = vec![0; 64 << 10];
            while reader.read(&mut seen).await.is_ok_and(|read| read > 0) {}
        };
        let writing = async {
            for sent in 0..times {
                if writer.write_all(bytes).await.is_err() {
                    return sent;
                }
            }
            times
        };
        let both = async {
            tokio::pin!(reading, writing);
            tokio::select! {
                () = &mut reading => Flooded { closed: true, sent: None },
                sent = &mut writing => Flooded { closed: sent < times, sent: Some(sent) },
            }
        };
        timeout(PATIENCE, both).await.expect("a flood ends")
    }

    /// The next frame; none when the connection was closed.
    pub async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read_frame()).await.expect("a frame")
    }

    async fn read_frame(&mut self) -> Option<Frame> {
        while self.rest.len() < 9 {
            self.more().await?;
        }
        let length =
            usize::try_from(u32::from_be_bytes([0, self.rest[0], self.rest[1], self.rest[2]])).unwrap();
        while self.rest.len() < 9 + length {
            self.more().await?;
        }
        let bytes: Vec<u8> = self.rest.drain(..9 + length).collect();
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() })
    }

    /// The first frame for which `wanted` is true; none when the connection was closed before. Answers pings meanwhile.
    pub async fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
            self.pong(&frame).await;
        }
    }

    /// Answers a ping, if this is one; false when the other side has closed.
    async fn pong(&mut self, ping: &Frame) -> bool {
        let is_asked = ping.kind == kind::PING && ping.flags & ACK == 0;
        !is_asked || self.send(&frame(kind::PING, ACK, 0, &ping.payload)).await
    }

    /// Answers pings until the other side closes; whether it does within `patience`.
    pub async fn closed_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            match timeout_at(deadline, self.read_frame()).await {
                Err(_) => return false,
                Ok(None) => return true,
                Ok(Some(frame)) => {
                    if !self.pong(&frame).await {
                        return true;
                    }
                }
            }
        }
    }

    async fn more(&mut self) -> Option<()> {
        self.stream.read_buf(&mut self.rest).await.ok().filter(|read| *read > 0).map(|_| ())
    }
}

/// How a flood ended.
#[derive(Debug)]
pub struct Flooded {
    /// The other side closed.
    pub closed: bool,
    /// Times it was sent, if all of them could be.
    pub sent: Option<usize>,
}
