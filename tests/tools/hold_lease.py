#!/usr/bin/env python3
"""Hold a lease or grant on modelpoold's control socket until standard input ends.

    hold_lease.py SOCKET lease|grant KEY=VALUE...

Prints the answer's keys as lines of KEY=VALUE and then an empty line.
"""
import socket
import sys

import wire


def main():
    path, request, *words = sys.argv[1:]
    conn = socket.socket(socket.AF_UNIX)
    conn.settimeout(30)
    conn.connect(path)
    conn.sendall(wire.encode([("type", "hello"), ("version", 1), ("program", "hold_lease.py")]))
    hello = wire.receive(conn)
    assert hello and hello["type"] == "hello", hello
    conn.sendall(wire.encode([("type", request)] + [w.split("=", 1) for w in words]))
    answer = wire.receive(conn)
    assert answer, "the daemon closed the connection"
    if answer["type"] == "error":
        sys.exit(answer["text"])
    for key, value in answer.items():
        print(f"{key}={value}")
    print(flush=True)
    sys.stdin.read()


main()
