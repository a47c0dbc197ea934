//! HTTP/1 by hand: bytes go out as they are, and what comes back is read with a bound and a deadline.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use odeon_tests::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Most that is read of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A connection.
pub struct Raw {
    /// The socket, for whatever a test wants of it.
    pub stream: TcpStream,
    rest: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Status line and headers, lower case.
    pub head: String,
    /// As much of the body as its `content-length` or its chunks say.
    pub body: String,
}

impl Raw {
    /// Connects.
    pub async fn connect(address: &str) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), rest: Vec::new() }
    }

    /// Connects from an address of this machine, with a small window to read with.
    pub async fn connect_from(from: IpAddr, address: &str, window_bytes: Option<u32>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = window_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = socket.connect(address.parse().map_err(io::Error::other)?).await?;
        Ok(Self { stream, rest: Vec::new() })
    }

    /// Sends bytes; false when the other side has closed.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.expect("it can be written").is_ok()
    }

    /// The next answer; none when the connection was closed before there was one.
    pub async fn answer(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.rest[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        self.rest.drain(..end);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body = match length {
            Some(length) => self.take(length.trim().parse().ok()?).await?,
            None if head.contains("transfer-encoding: chunked") => self.chunks().await?,
            None => Vec::new(),
        };
        Some(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Waits until the other side closes, whatever it sends before; the bytes that came.
    pub async fn closed(&mut self) -> usize {
        let mut bytes = self.rest.len();
        let mut some = vec![0; 64 << 10];
        let all = async {
            loop {
                match self.stream.read(&mut some).await {
                    Ok(0) | Err(_) => return bytes,
                    Ok(read) => bytes += read,
                }
            }
        };
        timeout(PATIENCE, all).await.expect("the connection is closed")
    }

    /// Whether the other side has not closed so far. What it sent before is kept.
    pub fn is_open(&mut self) -> bool {
        let mut some = [0; 4096];
        loop {
            match self.stream.try_read(&mut some) {
                Ok(0) => return false,
                Ok(read) => self.rest.extend_from_slice(&some[..read]),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.rest.len() < length {
            self.more().await?;
        }
        Some(self.rest.drain(..length).collect())
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = self.rest.windows(2).position(|two| two == b"\r\n") {
                    break end;
                }
                self.more().await?;
            };
            let size = usize::from_str_radix(&String::from_utf8_lossy(&self.rest[..end]), 16).ok()?;
            self.rest.drain(..end + 2);
            let chunk = self.take(size + 2).await?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Some(body);
            }
        }
    }

    async fn more(&mut self) -> Option<()> {
        assert!(self.rest.len() < ANSWER_BYTES_MAX, "the answer is too long for a test");
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.rest)).await.expect("an answer");
        read.ok().filter(|read| *read > 0).map(|_| ())
    }
}

/// The head of a request that is well.
pub fn head(method: &str, path: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n")
}
