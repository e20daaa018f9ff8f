"""The peer to beat: core NATS, a forked nft, nothing kept and nothing proved. Arguments: broker's address, port, folder of rulesets."""

import socket
import subprocess
import sys

nats = socket.create_connection((sys.argv[1], int(sys.argv[2])))
nats.sendall(b'CONNECT {"verbose":false}\r\nSUB bench.peer 1\r\n')
lines = nats.makefile("rb")
for line in lines:
    if line.startswith(b"PING"):
        nats.sendall(b"PONG\r\n")
    elif line.startswith(b"MSG"):
        word = lines.read(int(line.split()[-1]) + 2).decode().strip()
        subprocess.run(["/usr/sbin/nft", "-f", f"{sys.argv[3]}/{word}.nft"])
