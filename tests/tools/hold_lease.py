#!/usr/bin/env python3
"""Hold a local lease on modelpoold's control socket until standard input ends.

    hold_lease.py SOCKET MODELS [TOKENS]

Prints the answer's keys as lines of KEY=VALUE and then an empty line.
"""
import socket
import sys

import wire


def main():
    conn = socket.socket(socket.AF_UNIX)
    conn.settimeout(30)
    conn.connect(sys.argv[1])
    conn.sendall(wire.encode([("type", "hello"), ("version", 1), ("program", "hold_lease.py")]))
    hello = wire.receive(conn)
    assert hello and hello["type"] == "hello", hello
    pairs = [("type", "lease"), ("models", sys.argv[2])]
    if len(sys.argv) > 3:
        pairs.append(("tokens", sys.argv[3]))
    conn.sendall(wire.encode(pairs))
    answer = wire.receive(conn)
    assert answer, "the daemon closed the connection"
    if answer["type"] == "error":
        sys.exit(answer["text"])
    for key, value in answer.items():
        print(f"{key}={value}")
    print(flush=True)
    sys.stdin.read()


main()
