#!/usr/bin/env python3
"""Run a command under a lease of its own.

    with_lease.py SOCKET KEY=VALUE... -- COMMAND [ARG...]

KEY in an argument becomes the lease's key.  The exit status is the command's.
"""
import socket
import subprocess
import sys

import wire


def main():
    path, *words = sys.argv[1:]
    end = words.index("--")
    conn = socket.socket(socket.AF_UNIX)
    conn.settimeout(30)
    conn.connect(path)
    conn.sendall(wire.encode([("type", "hello"), ("version", 1), ("program", "with_lease.py")]))
    assert wire.receive(conn)["type"] == "hello"
    conn.sendall(wire.encode([("type", "lease")] + [w.split("=", 1) for w in words[:end]]))
    answer = wire.receive(conn)
    if answer["type"] == "error":
        sys.exit(answer["text"])
    command = [word.replace("KEY", answer["key"]) for word in words[end + 1:]]
    return subprocess.run(command).returncode


sys.exit(main())
