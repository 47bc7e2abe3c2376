#!/usr/bin/env python3
"""A control socket that speaks the protocol of HACKING.md and serves nothing: it grants every model
but those given with --refuse, and writes what it was asked, one JSON object a line.  For tests of
the plugin alone, where the answers, delays and deaths of the daemon must be the test's to choose.

    fake_daemon.py SOCKET LOG [--refuse NAME] [--silent hello|grant] [--garbage]

Lines of LOG: {"event": "hello"|"grant"|"close", "peer": uid, ...keys of the request}.
"""
import argparse
import json
import os
import socket
import struct
import threading

import wire


def send(conn, pairs):
    conn.sendall(wire.encode(pairs))


class Daemon:
    def __init__(self, args):
        self.args = args
        self.lock = threading.Lock()  # guards log and count
        self.log = open(args.log, "a", buffering=1)
        self.count = 0

    def note(self, **what):
        with self.lock:
            self.log.write(json.dumps(what) + "\n")

    def answer(self, conn, request, uid):
        kind = request["type"]
        self.note(event=kind, peer=uid, **{k: v for k, v in request.items() if k != "type"})
        if self.args.silent == kind:
            return None
        if self.args.garbage:
            conn.sendall(struct.pack("<I", 7) + b"garbage")
            return None
        if kind == "hello":
            return send(conn, [("type", "hello"), ("version", 1), ("release", "fake")])
        assert kind == "grant", kind
        for name in request["models"].split(","):
            if name in self.args.refuse:
                return send(conn, [("type", "error"), ("status", "not-found"),
                                   ("text", f'there is no model "{name}"')])
        with self.lock:
            self.count += 1
            number = self.count
        send(conn, [("type", "granted"), ("grant", number), ("lease", 1000 + number),
                    ("key", f"mp1.{number:016x}.{'0' * 64}"), ("future", "ignored"),
                    ("base_url", "http://127.0.0.1:811/v1"), ("state", "live"),
                    ("http_socket", "/run/modelpool/http.sock"),
                    ("model", request["models"].split(",")[0])])
        return number

    def serve(self, conn):
        peer = struct.unpack("3i", conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        grant = None
        try:
            while (request := wire.receive(conn)) is not None:
                grant = self.answer(conn, request, peer[1]) or grant
        except ConnectionError:
            pass
        if grant:
            self.note(event="close", grant=grant)
        conn.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("log")
    parser.add_argument("--refuse", action="append", default=[])
    parser.add_argument("--silent")
    parser.add_argument("--garbage", action="store_true")
    args = parser.parse_args()
    daemon = Daemon(args)
    if os.path.exists(args.socket):
        os.unlink(args.socket)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(args.socket)
    os.chmod(args.socket, 0o666)
    listener.listen(64)
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=daemon.serve, args=(conn,), daemon=True).start()


main()
