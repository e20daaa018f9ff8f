//! The rows of the leak matrix: ways out of a host, each as a few lines of Python.

/// What the matrix says of a way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaks {
    Never,
    /// Where the level is too low: the name in `firewall::LEAKS`.
    Below(&'static str),
    /// At every level. What the host says of it, or why there is nothing to say.
    Known(&'static str),
}

/// One way out.
pub struct Row {
    pub name: &'static str,
    /// On the host, in a process of its own; `P` is a port that only this row uses.
    pub program: &'static str,
    /// How what the sniffer then sees begins; `P` stands for the port.
    pub seen: &'static str,
    pub leaks: Leaks,
}

const PACKETS: Leaks = Leaks::Below("frames of packet sockets, outwards");

const fn row(name: &'static str, program: &'static str, seen: &'static str) -> Row {
    Row { name, program, seen, leaks: Leaks::Never }
}

const fn below(name: &'static str, program: &'static str, seen: &'static str) -> Row {
    Row { name, program, seen, leaks: PACKETS }
}

pub const ROWS: &[Row] = &[
    row("UDP", "u4().sendto(b'x', (S4, P))", "udp 10.99.0.3:P"),
    row("UDP over IPv6", "u6().sendto(b'x', (S6, P))", "udp [fd99::3]:P"),
    row("TCP", "begin(AF_INET, (S4, P))", "tcp 10.99.0.3:P"),
    row("TCP over IPv6", "begin(AF_INET6, (S6, P))", "tcp [fd99::3]:P"),
    row("ICMP", "socket(AF_INET, SOCK_RAW, 1).sendto(bytes([8, 0, 0xf7, 0xfd, 0, 1, 0, 1]), (S4, 0))", "icmp-8 10.99.0.3"),
    row("ICMPv6", "socket(AF_INET6, SOCK_RAW, 58).sendto(bytes([128, 0, 0, 0, 0, 1, 0, 1]), (S6, 0))", "icmp-128 fd99::3"),
    row(
        "an ICMP error",
        "socket(AF_INET, SOCK_RAW, 1).sendto(bytes([3, 1, 0xfc, 0xfe, 0, 0, 0, 0]) + ip(P), (S4, 0))",
        "icmp-3 10.99.0.3",
    ),
    row("DNS to another resolver", "u4().sendto(b'x', (S4, 53))", "udp 10.99.0.3:53"),
    row("DNS to another resolver by TCP over IPv6", "begin(AF_INET6, (S6, 53))", "tcp [fd99::3]:53"),
    row(
        "UDP-Lite",
        "s = socket(AF_INET, SOCK_RAW, 136); s.sendto(struct.pack('!HHHHx', P, P, 9, 0), (S4, 0))",
        "protocol 136 10.99.0.3",
    ),
    row("SCTP, by a raw socket", "socket(AF_INET, SOCK_RAW, 132).sendto(bytes(12), (S4, 0))", "protocol 132 10.99.0.3"),
    row("SCTP over IPv6, by a raw socket", "socket(AF_INET6, SOCK_RAW, 132).sendto(bytes(12), (S6, 0))", "protocol 132 fd99::3"),
    row("every other IP protocol", "each_protocol(AF_INET, S4)", "protocol 253 10.99.0.3"),
    row("every other protocol over IPv6", "each_protocol(AF_INET6, S6)", "protocol 253 fd99::3"),
    row("fragments", "u4().sendto(bytes(4000), (S4, P))", "udp 10.99.0.3:P"),
    row("fragments over IPv6", "u6().sendto(bytes(4000), (S6, P))", "protocol 44 fd99::3"),
    row(
        "a later fragment, by a raw socket",
        "f = bytearray(ip(P)); f[7] = 5; socket(AF_INET, SOCK_RAW, 255).sendto(bytes(f), (S4, 0))",
        "udp 10.99.0.3:P",
    ),
    row(
        "a first fragment of eight bytes",
        "f = bytearray(ip(P)); f[6] = 32; socket(AF_INET, SOCK_RAW, 255).sendto(bytes(f[:28]), (S4, 0))",
        "udp 10.99.0.3:P",
    ),
    row(
        "IP options",
        "s = u4(); s.setsockopt(0, 4, bytes([7, 7, 4, 0, 0, 0, 0, 1])); s.sendto(b'x', (S4, P))",
        "udp 10.99.0.3:P",
    ),
    row("broadcast", "u4().sendto(b'x', ('255.255.255.255', P))", "udp 255.255.255.255:P"),
    row("broadcast of the subnet", "u4().sendto(b'x', ('10.99.0.255', P))", "udp 10.99.0.255:P"),
    row("multicast", "u4().sendto(b'x', ('239.1.2.3', P))", "udp 239.1.2.3:P"),
    row("multicast of the link", "u4().sendto(b'x', ('224.0.0.251', P))", "udp 224.0.0.251:P"),
    row("multicast over IPv6", "u6().sendto(b'x', ('ff02::fb', P, 0, if_nametoindex('eth0')))", "udp [ff02::fb]:P"),
    row("site multicast over IPv6", "u6().sendto(b'x', ('ff05::2', P, 0, if_nametoindex('eth0')))", "udp [ff05::2]:P"),
    row(
        "hop-by-hop options",
        "s = u6(); s.setsockopt(41, 54, bytes([0, 0, 1, 4, 0, 0, 0, 0])); s.sendto(b'x', (S6, P))",
        "udp [fd99::3]:P",
    ),
    row(
        "destination options",
        "s = u6(); s.setsockopt(41, 59, bytes([0, 0, 1, 4, 0, 0, 0, 0])); s.sendto(b'x', (S6, P))",
        "protocol 60 fd99::3",
    ),
    row(
        "a routing header",
        "socket(AF_INET6, SOCK_RAW, 43).sendto(bytes([17, 0, 4, 0, 0, 0, 0, 0]) + struct.pack('!HHHHx', P, P, 9, 0), (S6, 0))",
        "protocol 43 fd99::3",
    ),
    row(
        "an atomic fragment",
        "socket(AF_INET6, SOCK_RAW, 44).sendto(bytes([17, 0, 0, 0, 0, 0, 0, 7]) + struct.pack('!HHHHx', P, P, 9, 0), (S6, 0))",
        "protocol 44 fd99::3",
    ),
    row("no next header", "socket(AF_INET6, SOCK_RAW, 59).sendto(b'text', (S6, 0))", "protocol 59 fd99::3"),
    row("what looks like an answer by UDP", "s = u4(); s.bind((H4, 5301)); s.sendto(b'x', (F4, P))", "udp 10.99.0.1:P"),
    row(
        "what looks like an answer by TCP",
        "s = socket(); s.bind((H4, 2200)); s.setblocking(False); s.connect_ex((F4, P))",
        "tcp 10.99.0.1:P",
    ),
    row("an excluded peer on another port", "u6().sendto(b'x', (F6, P))", "udp [fd99::1]:P"),
    row("another user to the broker's address", "os.setuid(65533); begin(AF_INET, (F4, 4222))", "tcp 10.99.0.1:4222"),
    row("root, by an ordinary socket, to the broker's address over IPv6", "begin(AF_INET6, (F6, 4222))", "tcp [fd99::1]:4222"),
    below("root, by a packet socket, to the broker's address", "packet().send(ether(tcp(F4, 4222)))", "tcp 10.99.0.1:4222"),
    below("a packet socket", "packet().send(ether(ip(P)))", "udp 10.99.0.3:P"),
    below(
        "a packet socket past the queueing discipline",
        "s = packet(); s.setsockopt(263, 20, 1); s.send(ether(ip(P)))",
        "udp 10.99.0.3:P",
    ),
    below(
        "a packet socket without Ethernet headers",
        "socket(AF_PACKET, SOCK_DGRAM).sendto(ip(P), ('eth0', 0x0800, 0, 0, OUT[:6]))",
        "udp 10.99.0.3:P",
    ),
    below(
        "an inherited packet socket, used by a user without capabilities",
        "s = packet(); os.setgid(65533); os.setuid(65533); s.send(ether(ip(P)))",
        "udp 10.99.0.3:P",
    ),
    below("a fragment by a packet socket", "f = bytearray(ip(P)); f[7] = 5; packet().send(ether(bytes(f)))", "udp 10.99.0.3:P"),
    below("a broadcast frame", "packet().send(b'\\xff' * 6 + ether(ip(P))[6:])", "udp 10.99.0.3:P"),
    below("a frame that is not IP", "packet().send(OUT[:12] + b'\\x88\\xb5' + bytes(46))", "ethertype 88b5"),
    below("an LLDP frame", "packet().send(OUT[:12] + b'\\x88\\xcc' + bytes(46))", "ethertype 88cc"),
    below("an ARP frame with a message behind it", "packet().send(OUT[:12] + b'\\x08\\x06' + bytes(500))", "long arp"),
    below("a message that is said to be ARP", "packet().send(OUT[:12] + b'\\x08\\x06' + bytes(28))", "no arp"),
    below("an ARP frame with another's address in it", "packet().send(OUT[:12] + b'\\x08\\x06' + arp(b'messag'))", "no arp"),
    below("a packet that is said to be ARP", "said_to_be(0x0806, ether(ip(P)))", "udp 10.99.0.3:P"),
    below("a packet that is said to be EAPOL", "said_to_be(0x888e, ether(ip(P)))", "udp 10.99.0.3:P"),
    below("a packet that is said to be LACP", "said_to_be(0x8809, ether(ip(P)))", "udp 10.99.0.3:P"),
    below(
        "a packet with a VLAN tag that is said to be ARP",
        "said_to_be(0x0806, OUT[:12] + b'\\x81\\0\\0\\x05' + ether(ip(P))[12:])",
        "udp 10.99.0.3:P",
    ),
    below(
        "a packet with a VLAN tag that is said to be ARP and looks like it",
        "said_to_be(0x0806, OUT[:12] + b'\\x81\\0\\0\\1' + ether(ip(P))[12:14] + b'\\6\\4\\0\\1' + ip(P))",
        "icmp-27 10.99.0.2",
    ),
    below("a slow protocol that is not LACP", "packet().send(OUT[:12] + b'\\x88\\x09\\x0a' + bytes(60))", "ethertype 8809"),
    below("LACP with a message behind it", "packet().send(OUT[:12] + b'\\x88\\x09\\x01' + bytes(200))", "ethertype 8809"),
    // The sniffer gets it without its tag.
    below("a frame with a VLAN tag", "packet().send(OUT[:12] + b'\\x81\\0\\0\\x05' + ether(ip(P))[12:])", "udp 10.99.0.3:P"),
    row(
        "a packet written into a tun device, to be forwarded",
        "
f = os.open('/dev/net/tun', os.O_RDWR); fcntl.ioctl(f, 0x400454ca, struct.pack('16sH', b'tun9', 0x1001))
os.system('ip addr add 10.97.0.1/24 dev tun9; ip link set tun9 up')
os.write(f, ip(P, '10.97.0.2'))",
        "udp 10.99.0.3:P",
    ),
    row(
        "a frame written into a tap device, to be forwarded",
        "
f = os.open('/dev/net/tun', os.O_RDWR); fcntl.ioctl(f, 0x400454ca, struct.pack('16sH', b'tap9', 0x1002))
os.system('ip link set tap9 address 02:00:00:00:00:0c; ip addr add 10.94.0.1/24 dev tap9; ip link set tap9 up')
os.write(f, bytes([2, 0, 0, 0, 0, 12, 2, 0, 0, 0, 0, 13, 8, 0]) + ip(P, '10.94.0.2'))",
        "udp 10.99.0.3:P",
    ),
    row("VXLAN to the stranger", "tunnel('vxlan id 9 remote 10.99.0.3 dstport 4789 dev eth0', P)", "udp 10.99.0.3:4789"),
    row("a VLAN device", "tunnel('vlan id 9', P, 'link eth0')", "udp 10.96.0.255:P"),
    row("GRE", "tunnel('gre local 10.99.0.2 remote 10.99.0.3', P)", "protocol 47 10.99.0.3"),
    row("IP in IP", "tunnel('ipip local 10.99.0.2 remote 10.99.0.3', P)", "protocol 4 10.99.0.3"),
    row("IPv6 in IP", "tunnel('sit local 10.99.0.2 remote 10.99.0.3', P)", "protocol 41 10.99.0.3"),
    row("Geneve", "tunnel('geneve id 9 remote 10.99.0.3', P)", "udp 10.99.0.3:6081"),
    row(
        "SCTP, by a socket of its own",
        "
try: s = socket(AF_INET, SOCK_STREAM, 132)
except OSError: os._exit(9)
s.setblocking(False); s.connect_ex((S4, P))",
        "protocol 132 10.99.0.3",
    ),
    Row {
        name: "the agent's user to the broker",
        program: "os.setuid(65534); begin(AF_INET6, (F6, 4222))",
        seen: "tcp [fd99::1]:4222",
        leaks: Leaks::Known("the control channel itself; nothing to say"),
    },
    Row {
        name: "AF_XDP",
        program: "
area = mmap.mmap(-1, 8192); s = socket(44, SOCK_RAW)
s.setsockopt(283, 4, struct.pack('QQIIII', ctypes.addressof(ctypes.c_char.from_buffer(area)), 8192, 2048, 0, 0, 0))
for ring in [5, 6, 3]: s.setsockopt(283, ring, struct.pack('I', 8))
at = struct.unpack('16Q', s.getsockopt(283, 1, 128))[4:8]
sending = mmap.mmap(s.fileno(), 4096, offset=0x80000000)
name = struct.pack('HHIII', 44, 2, if_nametoindex('eth0'), 0, 0)
assert ctypes.CDLL(None).bind(s.fileno(), name, 16) == 0
f = ether(ip(P)); area[:len(f)] = f
struct.pack_into('QII', sending, at[2], 0, len(f), 0); struct.pack_into('I', sending, at[0], 1)
s.send(b'', MSG_DONTWAIT)",
        seen: "udp 10.99.0.3:P",
        leaks: Leaks::Known(
            "no rule sees such frames; the agent counts such sockets and names them in its state (flows: programs)",
        ),
    },
];

/// Runs each row in a process of its own, and says `row N` to the excluded friend after it. One processor for all of it: what they send arrives
/// in the order in which it was sent.
pub const PRELUDE: &str = "
import ctypes, fcntl, mmap, os, struct, sys
from socket import *
H4, S4, F4, H6, S6, F6 = '10.99.0.2', '10.99.0.3', '10.99.0.1', 'fd99::2', 'fd99::3', 'fd99::1'
OUT = bytes([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0])
def checksum(b):
    s = sum(struct.unpack('!%dH' % (len(b) // 2), bytes(b))); s = (s & 0xffff) + (s >> 16); s = (s & 0xffff) + (s >> 16)
    return struct.pack('!H', ~s & 0xffff)
def header(protocol, length, source, to):
    h = bytearray(struct.pack('!BBHHHBBH', 0x45, 0, 20 + length, 1, 0, 64, protocol, 0) + inet_aton(source) + inet_aton(to))
    h[10:12] = checksum(h)
    return bytes(h)
def ip(port, source=H4):
    return header(17, 9, source, S4) + struct.pack('!HHHHc', port, port, 9, 0, b'x')
def tcp(to, port):
    return header(6, 20, H4, to) + struct.pack('!HHIIBBHHH', 40000, port, 1, 0, 0x50, 2, 1000, 0, 0)
def ether(packet):
    return OUT + packet
def u4():
    s = socket(AF_INET, SOCK_DGRAM); s.setsockopt(SOL_SOCKET, SO_BROADCAST, 1); return s
def u6():
    return socket(AF_INET6, SOCK_DGRAM)
def begin(family, to):
    s = socket(family); s.setblocking(False); s.connect_ex(to)
def packet():
    s = socket(AF_PACKET, SOCK_RAW); s.bind(('eth0', 0)); return s
def said_to_be(kind, frame):
    socket(AF_PACKET, SOCK_RAW).sendto(frame, ('eth0', kind))
def arp(mac):
    return b'\\0\\1\\x08\\0\\6\\4\\0\\1' + mac + inet_aton(H4) + bytes(6) + inet_aton(F4)
def each_protocol(family, to):
    for number in range(256):
        if number in (1, 6, 17, 58): continue
        try: socket(family, SOCK_RAW, number).sendto(bytes(20), (to, 0))
        except OSError: pass
def tunnel(kind, port, more=''):
    if os.system('ip link add tn9 %s type %s 2> /dev/null' % (more, kind)): os._exit(9)
    try:
        os.system('ip addr add 10.96.0.1/24 broadcast 10.96.0.255 dev tn9; ip link set tn9 up')
        u4().sendto(b'x', ('10.96.0.255', port))
    finally:
        os.system('ip link del tn9')
def row(number, program):
    child = os.fork()
    if child == 0:
        try: exec(program, dict(globals(), P=7000 + number))
        except OSError: pass
        except BaseException as error: print('row', number, repr(error)); os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9: print('lacks', number)
    u4().sendto(b'row %d' % number, (F4, 9))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
";
