//! Floods from all processors of a host through everything that can change its rules: not one frame gets by from enforcement to release, and not
//! one excluded connection is interrupted.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{sync::Arc, sync::Mutex};

use anyhow::{Context, ensure};
use portcullis_dev::{BROKER_PORT, HUB_V4, HUB_V6, Netns, OUTSIDE_V4, OUTSIDE_V6, in_netns};
use portcullis_schemas::events::Posture;
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, connect, eth, recv, socket_with};

/// What the flood is sent to, and what stands before the time of sending in each of its frames.
const PORT: u16 = 9_999;
const MARK: &[u8; 16] = b"portcullis flood";
/// The host stamps the time of enforcement with milliseconds.
const ROUNDED: Duration = Duration::from_millis(1);
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn nothing_gets_by_and_nothing_excluded_is_interrupted_whatever_changes() -> anyhow::Result<()> {
    let echo = |more: &str| {
        format!(
            "[{{ name: echo, direction: out, protocol: tcp, remote: [{OUTSIDE_V4}/32, \"{OUTSIDE_V6}/128\"], remote_ports: 7 }}{more}]"
        )
    };
    let more = ", { name: more, direction: out, protocol: udp, remote: [192.0.2.0/24], remote_ports: 9999 }";
    let policy = format!("{POLICY}exclusions:\n  automatic: {}\n  manual_default: {}\n", echo(more), echo(""));
    let world = World::start(1, Some(&policy)).await?;
    let host = world.lab().host(1).netns.clone();
    let seen = Seen::start(world.lab().outside())?;
    let (flood, excluded) = (Flood::start(&host)?, Excluded::start(&host)?);
    until("the flood is seen while the host is open", SOON, || async { Ok((seen.count() > 100).then_some(())) }).await?;

    let mut windows = Vec::new();
    let mut window = Window::begin(&world, "a detection isolates", 1, || async {
        // The broker is one more process under the flood: its answer may come late.
        let detect = || async { world.bus.detect("siem", ransomware(by_id("h1"))).await.map(Some) };
        until("the detection is stored", Duration::from_secs(60), detect).await.map(drop)
    })
    .await?;
    // Other exclusions, twice.
    said(&world.verb(&["isolate", "h1", "--wait", "60s"])?, 0)?;
    said(&world.verb(&["isolate", "h1", "--for", "9h", "--wait", "60s"])?, 0)?;
    // Each new process takes the tables over, with other addresses of the broker; a new address is a new set.
    let urls =
        [format!("nats://{HUB_V4}:{BROKER_PORT}"), format!("nats://[{HUB_V6}]:{BROKER_PORT},nats://{HUB_V4}:{BROKER_PORT}")];
    for (round, url) in urls.iter().cycle().take(6).enumerate() {
        let agent = world.lab().agent(1);
        match round % 2 {
            0 => agent.kill9()?,
            _ => drop(agent.stop().await?),
        }
        let before = world.bus.states("h1").await?.len();
        agent.start(&[("PORTCULLIS_NATS", url)])?;
        until("the next agent tells what stands", Duration::from_secs(60), || async {
            Ok((world.bus.states("h1").await?.len() > before).then_some(()))
        })
        .await?;
    }
    flood.reaches(600_000).await?;
    windows.push(window.end());
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    let while_isolated = seen.count();
    until("the flood is seen again", SOON, || async { Ok((seen.count() > while_isolated + 100).then_some(())) }).await?;
    let generation = world.bus.orders("h1").await?.len() as u64 + 1;
    window = Window::begin(&world, "an operator isolates again", generation, || async {
        said(&world.verb(&["isolate", "h1", "--wait", "60s"])?, 0).map(drop)
    })
    .await?;
    flood.reaches(1_200_000).await?;
    windows.push(window.end());
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;

    let tries = flood.end()?;
    let (echoes, connections) = excluded.end()?;
    let frames = seen.end()?;
    println!(
        "{tries} tries, {} frames while open; excluded: {echoes} echoes in one connection, {connections} new connections",
        frames.len()
    );
    for (name, from, to) in &windows {
        let leaked = frames.iter().filter(|sent| (from..to).contains(sent)).count();
        println!("{name}: isolated for {} ms, {leaked} frames", (to - from) / 1_000_000);
        ensure!(leaked == 0, "{name}: {leaked} frames got by");
    }
    ensure!(tries > 1_000_000, "{tries} tries");
    Ok(())
}

/// The time in which nothing may have been sent that is seen outside: from the host's own word on enforcement until its release is ordered.
struct Window {
    name: &'static str,
    from: u64,
}

impl Window {
    async fn begin<F: Future<Output = anyhow::Result<()>>>(
        world: &World,
        name: &'static str,
        generation: u64,
        isolate: impl FnOnce() -> F,
    ) -> anyhow::Result<Self> {
        isolate().await?;
        let state = world.bus.state("h1", generation, Posture::Isolated).await?.event.data;
        ensure!(state.error.is_none() && state.evidence.table_locked, "{state:?}");
        let enforced = u64::try_from(state.enforced_at.timestamp_nanos_opt().context("a time")?)?;
        Ok(Self { name, from: enforced + ROUNDED.as_nanos() as u64 })
    }

    fn end(self) -> (&'static str, u64, u64) {
        (self.name, self.from, now())
    }
}

/// Frames of the flood, by the time at which each was sent, as the outside sees them.
struct Seen {
    running: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<u64>>>,
    thread: JoinHandle<io::Result<()>>,
}

impl Seen {
    fn start(outside: &Netns) -> anyhow::Result<Self> {
        let socket = in_netns(outside, || {
            let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(eth::ALL))?;
            set_socket_recv_buffer_size_force(&socket, 256 << 20)?;
            set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100)))?;
            Ok::<OwnedFd, rustix::io::Errno>(socket)
        })??;
        let (running, sent) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
        let (goes_on, list) = (Arc::clone(&running), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                    Ok((_, length)) => list.lock().expect("no panic").extend(time_of(&buffer[..length])),
                    Err(rustix::io::Errno::INTR) => {}
                    // All that was there has been read.
                    Err(rustix::io::Errno::AGAIN) if !goes_on.load(Ordering::Relaxed) => return Ok(()),
                    Err(rustix::io::Errno::AGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        });
        Ok(Self { running, sent, thread })
    }

    fn count(&self) -> usize {
        self.sent.lock().expect("no panic").len()
    }

    fn end(self) -> anyhow::Result<Vec<u64>> {
        self.running.store(false, Ordering::Relaxed);
        self.thread.join().ok().context("the sniffer")??;
        Ok(std::mem::take(&mut self.sent.lock().expect("no panic")))
    }
}

fn time_of(frame: &[u8]) -> Option<u64> {
    let at = frame.windows(MARK.len()).position(|part| part == MARK)? + MARK.len();
    frame.get(at..)?.first_chunk().map(|time| u64::from_le_bytes(*time))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// One thread for each processor by ordinary sockets of both families, and a process that writes whole frames.
struct Flood {
    running: Arc<AtomicBool>,
    tries: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
    frames: Child,
}

const FRAMES: &str = "
import socket, struct, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0))
end = time.monotonic() + 300
head = bytes.fromhex('ffffffffffff 020000000002 0800 45000034 00010000 40110000 0ad5000b 0ad500fa') + struct.pack('!HHHH', 9999, 9999, 32, 0)
while time.monotonic() < end:
    for _ in range(100):
        try: s.send(head + b'portcullis flood' + struct.pack('<Q', time.time_ns()))
        except OSError: pass
        else: time.sleep(0.0001)
";

impl Flood {
    fn start(host: &Netns) -> anyhow::Result<Self> {
        let (running, tries) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for _ in 0..thread::available_parallelism()?.get() {
            let four: IpAddr = Ipv4Addr::UNSPECIFIED.into();
            let six: IpAddr = Ipv6Addr::UNSPECIFIED.into();
            let sockets =
                [(host.udp_socket((four, 0))?, OUTSIDE_V4.into()), (host.udp_socket((six, 0))?, IpAddr::from(OUTSIDE_V6))];
            let (running, tries) = (Arc::clone(&running), Arc::clone(&tries));
            threads.push(thread::spawn(move || {
                while running.load(Ordering::Relaxed) {
                    let sent = sockets.iter().filter(|(socket, to)| send(socket, *to)).count();
                    tries.fetch_add(sockets.len() as u64, Ordering::Relaxed);
                    // What gets out while the host is open has to be read outside.
                    if sent > 0 {
                        thread::yield_now();
                    }
                }
            }));
        }
        let frames = host.command("python3").args(["-c", FRAMES]).spawn()?;
        Ok(Self { running, tries, threads, frames })
    }

    async fn reaches(&self, tries: u64) -> anyhow::Result<()> {
        until("enough tries", Duration::from_secs(120), || async {
            Ok((self.tries.load(Ordering::Relaxed) > tries).then_some(()))
        })
        .await
    }

    fn end(mut self) -> anyhow::Result<u64> {
        self.running.store(false, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok().context("a flooder")?;
        }
        ensure!(self.frames.try_wait()?.is_none(), "the process that writes frames has ended early");
        Ok(self.tries.load(Ordering::Relaxed))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        let _ = self.frames.kill();
        let _ = self.frames.wait();
    }
}

fn send(socket: &UdpSocket, to: IpAddr) -> bool {
    let mut body = [0; 24];
    body[..16].copy_from_slice(MARK);
    body[16..].copy_from_slice(&now().to_le_bytes());
    socket.send_to(&body, SocketAddr::new(to, PORT)).is_ok()
}

/// Excluded connections: one that stands and counts, and one new one after the other. The first that fails ends it with its error.
struct Excluded {
    running: Arc<AtomicBool>,
    standing: JoinHandle<io::Result<u64>>,
    new: JoinHandle<io::Result<u64>>,
}

impl Excluded {
    fn start(host: &Netns) -> anyhow::Result<Self> {
        let running = Arc::new(AtomicBool::new(true));
        let mut stream = host.tcp_connect((OUTSIDE_V4, 7), SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        let goes_on = Arc::clone(&running);
        let standing = thread::spawn(move || {
            let mut count = 0u64;
            while goes_on.load(Ordering::Relaxed) {
                let mut back = [0; 8];
                stream.write_all(&count.to_le_bytes())?;
                stream.read_exact(&mut back)?;
                if u64::from_le_bytes(back) != count {
                    return Err(io::Error::other("another number came back"));
                }
                count += 1;
            }
            Ok(count)
        });
        let (goes_on, host) = (Arc::clone(&running), host.clone());
        let new = thread::spawn(move || {
            in_netns(&host, || {
                let mut count = 0u64;
                // Each from a port of its own: conntrack remembers for a while what was closing as the gate dropped.
                for port in (1024..u16::MAX).take_while(|_| goes_on.load(Ordering::Relaxed)) {
                    for to in [IpAddr::from(OUTSIDE_V4), OUTSIDE_V6.into()] {
                        echoed(to, port).map_err(|error| io::Error::other(format!("{to} at {}, from {port}: {error}", now())))?;
                        count += 1;
                    }
                }
                Ok(count)
            })?
        });
        Ok(Self { running, standing, new })
    }

    fn end(self) -> anyhow::Result<(u64, u64)> {
        self.running.store(false, Ordering::Relaxed);
        let standing = self.standing.join().ok().context("the standing connection")?.context("the standing connection")?;
        let new = self.new.join().ok().context("new connections")?.context("a new connection")?;
        ensure!(standing > 0 && new > 0);
        Ok((standing, new))
    }
}

/// A new connection from `port` to the echo, and back.
fn echoed(to: IpAddr, port: u16) -> io::Result<()> {
    let (any, family): (IpAddr, _) = match to {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), AddressFamily::INET),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), AddressFamily::INET6),
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for direction in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, direction, Some(SOON))?;
    }
    // Somebody else's port is left out.
    if bind(&socket, &SocketAddr::new(any, port)).is_err() {
        return Ok(());
    }
    connect(&socket, &SocketAddr::new(to, 7))?;
    let mut stream = TcpStream::from(socket);
    let mut back = [0; 4];
    stream.write_all(b"echo")?;
    stream.read_exact(&mut back)?;
    if &back == b"echo" { Ok(()) } else { Err(io::Error::other("something else came back")) }
}
