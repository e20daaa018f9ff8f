//! The local socket, for root and the agent's own user, JSON lines, and who it was that spoke.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use portcullis_schemas::events::{LocalActor, Posture};
use rustix::net::{RecvFlags, recv};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::local::status::{Exclusions, Status};

const MOST_BYTES: u64 = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);
/// A release may have to wait for nft.
const ANSWER: Duration = Duration::from_secs(60);
const MOST_REASON: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    Status,
    Exclusions,
    Release {
        #[serde(default)]
        reason: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Status(Box<Status>),
    Exclusions(Exclusions),
    Released(Released),
    Refused { reason: String },
}

/// What a local release did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Released {
    pub posture: Posture,
    pub generation: u64,
    pub milliseconds: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A request of a process on this host.
#[derive(Debug)]
pub struct Exchange {
    pub request: Request,
    pub actor: LocalActor,
    pub answer: oneshot::Sender<Answer>,
}

pub fn path(directory: &Path) -> PathBuf {
    directory.join("agent.sock")
}

/// Opens the socket. The lock on the directory is held, so a socket that is there is nobody's.
pub fn open(directory: &Path) -> anyhow::Result<UnixListener> {
    let path = path(directory);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub async fn serve(listener: UnixListener, exchanges: mpsc::Sender<Exchange>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let exchanges = exchanges.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, exchanges).await {
                        tracing::warn!(error = format!("{error:#}"), "request on the local socket not answered");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "connection on the local socket not accepted: retrying");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, exchanges: mpsc::Sender<Exchange>) -> anyhow::Result<()> {
    let peer = stream.peer_cred().context("the peer's credentials cannot be read")?;
    if peer.uid() != 0 && peer.uid() != rustix::process::geteuid().as_raw() {
        bail!("uid {} is neither root nor the agent's user", peer.uid());
    }
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MOST_BYTES));
    timeout(PATIENCE, reader.read_line(&mut line)).await.context("no request came")??;
    let request: Request = serde_json::from_str(&line).context("the request cannot be read")?;
    // Whoever has given up while this agent did not answer does not count on it any more.
    let socket: &UnixStream = reader.get_ref().get_ref().as_ref();
    if recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok_and(|(_, length)| length == 0) {
        bail!("the client disconnected before its request was read: nothing is done");
    }
    let reason = match &request {
        Request::Release { reason } => reason.as_ref().map(|text| text.chars().take(MOST_REASON).collect()),
        _ => None,
    };
    let actor = LocalActor { reason, ..actor(peer.uid(), peer.pid()) };
    let (answer, answered) = oneshot::channel();
    exchanges.send(Exchange { request, actor, answer }).await.context("the agent is stopping")?;
    let answer = timeout(ANSWER, answered).await.context("the agent did not answer")??;
    let mut body = serde_json::to_vec(&answer)?;
    body.push(b'\n');
    writer.write_all(&body).await?;
    Ok(())
}

/// Asks a running agent. None if none runs.
pub async fn ask(directory: &Path, request: &Request) -> anyhow::Result<Option<Answer>> {
    let path = path(directory);
    let mut stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot speak to the agent at {}; be root", path.display())),
    };
    let mut body = serde_json::to_vec(request)?;
    body.push(b'\n');
    stream.write_all(&body).await?;
    let mut line = String::new();
    timeout(ANSWER, BufReader::new(stream).read_line(&mut line)).await.context("the agent does not answer; see its log")??;
    if line.is_empty() {
        bail!("the agent closed the connection without an answer; see its log");
    }
    Ok(Some(serde_json::from_str(&line).context("the agent's answer cannot be read; is it another version?")?))
}

/// The process at the other end, as the kernel describes it.
fn actor(uid: u32, pid: Option<i32>) -> LocalActor {
    let read = |pid: i32, name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let stat = pid.and_then(|pid| read(pid, "stat")).and_then(|text| stat(&text));
    LocalActor {
        uid,
        login_uid: pid
            .and_then(|pid| read(pid, "loginuid"))
            .and_then(|text| text.trim().parse().ok())
            .filter(|uid| *uid != u32::MAX),
        tty: stat.as_ref().and_then(|(_, tty)| tty.clone()),
        parent: stat.and_then(|(parent, _)| read(parent, "comm")).map(|name| name.trim().to_owned()),
        reason: None,
    }
}

/// Parent and terminal from /proc/PID/stat; the name in parentheses may hold anything.
fn stat(text: &str) -> Option<(i32, Option<String>)> {
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let device: u32 = fields.nth(2)?.parse::<i32>().ok()?.cast_unsigned();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    // Documentation/admin-guide/devices.txt
    let tty = match major {
        136..=143 => Some(format!("pts/{}", (major - 136) * 256 + minor)),
        4 if minor < 64 => Some(format!("tty{minor}")),
        4 => Some(format!("ttyS{}", minor - 64)),
        0 => None,
        _ => Some(format!("{major}:{minor}")),
    };
    Some((parent, tty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_and_terminal_are_read_whatever_the_program_is_called() {
        let line = |tty: u32| format!("42 (a) b (c) S 41 42 42 {tty} 42 4194304 1 0");
        assert_eq!(stat(&line(0x8803)), Some((41, Some("pts/3".into()))));
        assert_eq!(stat(&line(0x0440)), Some((41, Some("ttyS0".into()))));
        assert_eq!(stat(&line(0)), Some((41, None)));
        assert_eq!(stat("42 (a"), None);
    }
}
