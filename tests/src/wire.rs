//! A sender that writes the NATS protocol by hand, and so whatever it likes into a header.

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Header blocks that break ADR-4, each in its own way.
pub const MALFORMED: [&[u8]; 4] = [
    b"NATS/1.0\r\nX-A: b\rc\r\n\r\n",
    b"NATS/1.0\r\nX-A: b\xffc\r\n\r\n",
    b"NATS/1.0\r\nnocolon\r\n\r\n",
    b"HTTP/1.1\r\nX-A: b\r\n\r\n",
];

/// Publishes messages, each with its subject, header block and body, and returns when the server has taken all of them.
pub async fn publish(port: u16, messages: &[(&str, &[u8], &[u8])]) -> anyhow::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
    let mut out = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_vec();
    for (subject, block, body) in messages {
        out.extend(format!("HPUB {subject} {} {}\r\n", block.len(), block.len() + body.len()).bytes());
        out.extend([*block, *body, b"\r\n"].concat());
    }
    out.extend(b"PING\r\n");
    stream.get_mut().write_all(&out).await?;
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(stream.read_line(&mut line).await.context("nats-server")? > 0, "nats-server closed the connection");
        match line.trim() {
            "PONG" => return Ok(()),
            error if error.starts_with("-ERR") => anyhow::bail!("nats-server: {error}"),
            _ => {}
        }
    }
}
