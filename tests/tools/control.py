#!/usr/bin/env python3
"""Send one request to modelpoold's control socket and print its answer, one JSON object a row.

    control.py SOCKET REQUEST [KEY=VALUE...]

The exit status is 1 if the answer is an error.
"""
import json
import socket
import sys

import wire


def main():
    path, request, *words = sys.argv[1:]
    conn = socket.socket(socket.AF_UNIX)
    conn.settimeout(30)
    conn.connect(path)
    conn.sendall(wire.encode([("type", "hello"), ("version", 1), ("program", "control.py")]))
    hello = wire.receive(conn)
    assert hello and hello["type"] == "hello", hello
    conn.sendall(wire.encode([("type", request)] + [w.split("=", 1) for w in words]))
    while (answer := wire.receive(conn)) is not None:
        if answer["type"] == "end":
            return 0
        print(json.dumps(answer), flush=True)
        if answer["type"] == "error":
            return 1
        if answer["type"] in ("ok", "granted"):
            return 0
    return 1


sys.exit(main())
