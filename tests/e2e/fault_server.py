# SPDX-License-Identifier: Apache-2.0
"""A scripted HTTP/1.1 server: serves a folder as nginx does (ranges, ETag, Last-Modified, autoindex JSON), and
misbehaves on demand, at the byte asked for.

    server = FaultServer(folder)
    server.fault("/0001.bin", Reset(at=4096), times=1)         # first GET of it: RST after 4096 bytes of the body
    server.fault("*", Status(503), until=lambda: time.monotonic() < deadline)
    ... server.url ... ; server.log -> [Request]
    server.close()

A fault is a function (connection, request, server) -> bool: whether the connection can be used on. One thread a
connection. Rules are tried in the order given; the first that matches takes the request.
"""
import email.utils
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import socket
import struct
import threading
import time
import urllib.parse


class Request:
    def __init__(self, head):
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ", 2)
        self.path = urllib.parse.unquote(self.target.split("?")[0])
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self.range = None
        self.address = self.peer = None  # of the connection: our end's address, and the other end
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if match:
            self.range = (int(match.group(1)), int(match.group(2)) if match.group(2) else None)

    def __repr__(self):
        return f"{self.method} {self.target} {self.headers.get('range', '')}"


class Answer:
    """What a well-behaved server would say."""

    def __init__(self, request, server):
        file = server.folder / request.path.lstrip("/")
        self.headers, self.body, self.status = {}, b"", "404 Not Found"
        if request.path.endswith("/") and file.is_dir():
            self.status, self.body = "200 OK", json.dumps(server.listing(file)).encode()
            self.headers["Content-Type"] = "application/json"
        elif file.is_file():
            data, stat = file.read_bytes(), file.stat()
            if server.dates:
                self.headers["Last-Modified"] = email.utils.formatdate(int(stat.st_mtime), usegmt=True)
            etag = '"' + hashlib.md5(data).hexdigest() + '"'
            if server.etags:
                self.headers["ETag"] = etag
            self.headers["Accept-Ranges"] = "bytes"
            if server.etags and request.headers.get("if-match", etag) not in (etag, "*"):
                self.status, self.body = "412 Precondition Failed", b""
            elif request.range and request.range[0] >= len(data):
                self.status, self.headers["Content-Range"] = "416 Range Not Satisfiable", f"bytes */{len(data)}"
            elif request.range:
                first, last = request.range[0], min(len(data) - 1 if request.range[1] is None else request.range[1], len(data) - 1)
                self.status, self.body = "206 Partial Content", data[first:last + 1]
                self.headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            else:
                self.status, self.body = "200 OK", data
        self.headers["Content-Length"] = str(len(self.body))

    def head(self):
        text = f"HTTP/1.1 {self.status}\r\nServer: fault_server\r\n"
        text += "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return text.encode() + b"\r\n"

    def send(self, connection, request):
        connection.sendall(self.head() + (b"" if request.method == "HEAD" else self.body))
        return True


def _reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def Truncate(after):
    """Says the whole length, sends `after` bytes (an int, or a fraction of the body), closes."""
    def act(connection, request, server):
        answer = Answer(request, server)
        connection.sendall(answer.head() + answer.body[:_at(after, answer)])
        return False
    return act


def _at(where, answer):
    return int(where * len(answer.body)) if isinstance(where, float) else min(where, len(answer.body))


def Reset(at):
    """RST after `at` bytes of the body, once the client has taken them."""
    def act(connection, request, server):
        answer = Answer(request, server)
        connection.sendall(answer.head() + answer.body[:_at(at, answer)])
        server.drained(connection)
        return _reset(connection)
    return act


def TooLong(extra, honest_length=False):
    """More body than was asked for. honest_length: Content-Length says so too; else it trails behind the message."""
    def act(connection, request, server):
        answer = Answer(request, server)
        answer.body += b"\xee" * extra
        if honest_length:
            answer.headers["Content-Length"] = str(len(answer.body))
        return answer.send(connection, request)
    return act


def Garbage(data=b"\x00\xff garbage\r\n\r\n" * 8):
    """Bytes that are no HTTP, where a status line belongs; then the answer."""
    def act(connection, request, server):
        connection.sendall(data)
        return Answer(request, server).send(connection, request)
    return act


def BigHead(size=1 << 20):
    def act(connection, request, server):
        answer = Answer(request, server)
        line = b"X-Padding: " + b"a" * 1000 + b"\r\n"
        try:
            connection.sendall(answer.head()[:-2] + line * (size // len(line)) + b"\r\n")
            connection.sendall(answer.body)
        except OSError:
            pass  # the client had enough: that is what is wanted
        return False
    return act


def Redirect(to=None, status="302 Found"):
    """To a given URL, or for ever on to itself."""
    def act(connection, request, server):
        target = to if to is not None else f"{server.url.rstrip('/')}{request.path}?hop={time.monotonic_ns()}"
        connection.sendall(f"HTTP/1.1 {status}\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
        return True
    return act


def Status(code, headers=(), body=b"no\n"):
    def act(connection, request, server):
        text = f"HTTP/1.1 {code} Because\r\nContent-Length: {len(body)}\r\n"
        text += "".join(f"{name}: {value}\r\n" for name, value in headers)
        connection.sendall(text.encode() + b"\r\n" + (b"" if request.method == "HEAD" else body))
        return True
    return act


def Stall(after):
    """Sends head and `after` bytes of the body, then nothing more until the client leaves or the server closes."""
    def act(connection, request, server):
        answer = Answer(request, server)
        connection.sendall(answer.head() + answer.body[:_at(after, answer)])
        server.wait_for_end(connection)
        return False
    return act


def Silent():
    """Takes the request and never answers."""
    def act(connection, request, server):
        server.wait_for_end(connection)
        return False
    return act


class Ration:
    """Answers as many requests as were given, and no more until more are: what a client gets by then depends on no clock.

        ration = Ration()
        server.fault("*", ration)
        ration.give(3)
        ... ration.served ...
        ration.give_all()
    """

    def __init__(self):
        self.served, self._left, self._all, self._changed = 0, 0, False, threading.Condition()

    def give(self, requests):
        with self._changed:
            self._left += requests
            self._changed.notify_all()

    def give_all(self):
        with self._changed:
            self._all = True
            self._changed.notify_all()

    def __call__(self, connection, request, server):
        with self._changed:
            while True:
                if server.ended() or self._has_left(connection):
                    return False
                if self._all or self._left > 0:
                    break
                self._changed.wait(0.05)
            self._left -= 1
        Answer(request, server).send(connection, request)
        with self._changed:
            self.served += 1
        return True

    @staticmethod
    def _has_left(connection):
        try:
            return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


def Call(function):
    """Calls the function (which may change files), then answers as usual."""
    def act(connection, request, server):
        function()
        return Answer(request, server).send(connection, request)
    return act


def Edit(function):
    """Lets function(answer) change the answer before it is sent."""
    def act(connection, request, server):
        answer = Answer(request, server)
        function(answer)
        return answer.send(connection, request)
    return act


def WrongRange(shift=1):
    """206 for another range than was asked for."""
    def act(connection, request, server):
        answer = Answer(request, server)
        first, last, size = map(int, re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers["Content-Range"]).groups())
        answer.headers["Content-Range"] = f"bytes {first + shift}-{last + shift}/{size}"
        return answer.send(connection, request)
    return act


def IgnoreRange():
    """200 with the whole object instead of 206."""
    def act(connection, request, server):
        request.range = None
        return Answer(request, server).send(connection, request)
    return act


def Chunked():
    """Transfer-Encoding: chunked in place of Content-Length."""
    def act(connection, request, server):
        answer = Answer(request, server)
        del answer.headers["Content-Length"]
        answer.headers["Transfer-Encoding"] = "chunked"
        connection.sendall(answer.head())
        for at in range(0, len(answer.body), 10000):
            piece = answer.body[at:at + 10000]
            connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        return True
    return act


def WrongLength(by):
    """Content-Length that does not agree with Content-Range, and as many bytes as it says."""
    def act(connection, request, server):
        answer = Answer(request, server)
        answer.body = answer.body[:len(answer.body) + by] if by < 0 else answer.body + b"\xee" * by
        answer.headers["Content-Length"] = str(len(answer.body))
        return answer.send(connection, request)
    return act


class _Rule:
    def __init__(self, path, act, times, skip, until, when):
        self.path, self.act, self.left, self.skip, self.until, self.when = path, act, times, skip, until, when
        self.hits = 0

    def takes(self, request):
        if not fnmatch.fnmatch(request.path, self.path) or (self.when and not self.when(request)):
            return False
        if self.until and not self.until():
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.left is not None:
            if self.left == 0:
                return False
            self.left -= 1
        self.hits += 1
        return True


def payload(request):
    """For when=: ranged GETs of data, as opposed to listings and the index."""
    name = request.path.rpartition("/")[2]
    return request.method == "GET" and request.range is not None and name != "" and not name.startswith(".")


class FaultServer:
    def __init__(self, folder, host="127.0.0.1", etags=True, port=0, dates=True):
        """Without dates its listings and answers say nothing of when an object was written."""
        self.folder, self.etags, self.dates, self.host = pathlib.Path(folder), etags, dates, host
        self.log, self._rules, self._lock = [], [], threading.Lock()
        self._ended, self._connections, self._threads = threading.Event(), set(), []
        self._listener = socket.create_server((host, port), backlog=512)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{host}:{self.port}/"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def fault(self, path, act, times=None, skip=0, until=None, when=payload):
        """Rule for requests of `path` (a glob): after `skip` of them, the next `times` (None: all), while until()."""
        rule = _Rule(path, act, times, skip, until, when)
        with self._lock:
            self._rules.append(rule)
        return rule

    def forget(self):
        """All rules, and what was asked."""
        with self._lock:
            self._rules.clear()
            self.log.clear()

    def listing(self, folder):
        entries = []
        for path in sorted(folder.iterdir()):
            stamp = email.utils.formatdate(int(path.stat().st_mtime), usegmt=True)
            entry = {"name": path.name, "type": "directory" if path.is_dir() else "file", **({"mtime": stamp} if self.dates else {})}
            if path.is_file():
                entry["size"] = path.stat().st_size
            entries.append(entry)
        return entries

    def requests(self, path="*"):
        with self._lock:
            return [request for request in self.log if fnmatch.fnmatch(request.path, path)]

    def ended(self, seconds=0):
        """Whether the server closes within this time."""
        return self._ended.wait(seconds)

    def wait_for_end(self, connection):
        """Until the peer closes, or the server does."""
        connection.settimeout(0.2)
        while not self._ended.is_set():
            try:
                if connection.recv(4096) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def drained(self, connection, limit=2.0):
        """Until the peer's kernel has acknowledged what was sent (so that a RST does not overtake it)."""
        deadline, outq = time.monotonic() + limit, 0x5411
        import fcntl
        while time.monotonic() < deadline:
            left = struct.unpack("i", fcntl.ioctl(connection.fileno(), outq, b"\0\0\0\0"))[0]
            if left == 0:
                return
            self._ended.wait(0.002)

    def _accept(self):
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        buffer = b""
        try:
            while not self._ended.is_set():
                while b"\r\n\r\n" not in buffer:
                    data = connection.recv(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                request = Request(head)
                request.address, request.peer = connection.getsockname()[0], connection.getpeername()
                with self._lock:
                    self.log.append(request)
                    rule = next((rule for rule in self._rules if rule.takes(request)), None)
                act = rule.act if rule else (lambda c, r, s: Answer(r, s).send(c, r))
                if not act(connection, request, self):
                    return
        except OSError:
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def close(self):
        self._ended.set()
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


if __name__ == "__main__":
    import sys
    with FaultServer(sys.argv[1] if len(sys.argv) > 1 else os.getcwd()) as running:
        print(running.url, flush=True)
        threading.Event().wait()
