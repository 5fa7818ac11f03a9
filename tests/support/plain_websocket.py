"""A WebSocket client on a plain socket, for tests that read millions of frames or none at all."""

import asyncio
import base64
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

_MASK = b"\0\0\0\0"
_CLOSE, _PING = 0x8, 0x9


class ClosedError(Exception):
    """Raised when the server closed the connection; `code` is 1006 if it did so without a close frame."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


def handshake(host: str, headers: Mapping[str, str]) -> bytes:
    """Return the request that opens the API's stream."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        "GET /api/v1/stream HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def text_frame(payload: bytes, opcode: int = 0x1) -> bytes:
    """Return a client's frame, masked with zeros."""
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    else:
        head = bytes([0x80 | opcode, 0x80 | 126]) + size.to_bytes(2)
    return head + _MASK + payload


class FrameParser:
    """Splits what a server sends into frames; servers do not mask, and this one does not fragment."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the complete frames, each as opcode and payload."""
        self._data += data
        found: list[tuple[int, bytes]] = []
        buffer, at = bytes(self._data), 0
        while len(buffer) - at >= 2:
            size, start = buffer[at + 1] & 0x7F, at + 2
            extra = {126: 2, 127: 8}.get(size, 0)
            if len(buffer) < start + extra:
                break
            if extra:
                size = int.from_bytes(buffer[start : start + extra])
                start += extra
            if len(buffer) < start + size:
                break
            found.append((buffer[at] & 0x0F, buffer[start : start + size]))
            at = start + size
        del self._data[:at]
        return found


class PlainClient:
    """One connection on an event loop; reads frames in bulk, without compression."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = FrameParser()

    @classmethod
    async def open(cls, host: str, port: int, headers: Mapping[str, str]) -> "PlainClient":
        """Connect. Raises OSError or ClosedError if the server refuses."""
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(handshake(f"{host}:{port}", headers))
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            raise ClosedError(1006) from None
        if not answer.startswith(b"HTTP/1.1 101"):
            writer.close()
            raise ClosedError(int(answer.split()[1]), answer.decode())
        return cls(reader, writer)

    def send(self, payload: bytes) -> None:
        self._writer.write(text_frame(payload))

    async def frames(self) -> list[bytes]:
        """Return the next text frames, at least one. Raises ClosedError."""
        while True:
            try:
                data = await self._reader.read(65_536)
            except OSError:
                data = b""
            if not data:
                raise ClosedError(1006)
            texts = []
            for opcode, payload in self._parser.feed(data):
                if opcode == _PING:
                    self._writer.write(text_frame(payload, 0xA))
                elif opcode == _CLOSE:
                    raise ClosedError(int.from_bytes(payload[:2]), payload[2:].decode())
                else:
                    texts.append(payload)
            if texts:
                return texts

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def open_silent(host: str, port: int, headers: Mapping[str, str], *, receive_bytes: int) -> socket.socket:
    """Return a connected stream whose receive buffer is small; nothing is read after the handshake."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    found.connect((host, port))
    found.sendall(handshake(f"{host}:{port}", headers))
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += found.recv(1)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return found
