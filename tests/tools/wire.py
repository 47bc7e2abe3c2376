"""Frames of the control socket (common/wire.h), for test tools."""
import struct

BODY_MAX = 16384


def encode(pairs):
    body = b"".join(k.encode() + b"\0" + str(v).encode() + b"\0" for k, v in pairs)
    assert len(body) <= BODY_MAX
    return struct.pack("<I", len(body)) + body


def take(conn, count):
    data = b""
    while len(data) < count:
        more = conn.recv(count - len(data))
        if not more:
            return None
        data += more
    return data


def receive(conn):
    """The next message as a dictionary, None at the end of the stream."""
    head = take(conn, 4)
    if head is None:
        return None
    size, = struct.unpack("<I", head)
    assert size <= BODY_MAX, size
    body = take(conn, size)
    assert body is not None and body.endswith(b"\0")
    words = body[:-1].decode().split("\0")
    assert len(words) % 2 == 0, words
    return dict(zip(words[::2], words[1::2]))
