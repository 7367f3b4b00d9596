# SPDX-License-Identifier: Apache-2.0
"""Ways in which an HTTP server may differ from nginx and still be right. Each is an act of fault_server; what a client may refuse by name,
because it cannot know the bytes to be right, is in MAY_REFUSE."""
import random

from fault_server import Answer


def _edited(edit, close=False):
    def act(connection, request, server):
        answer = Answer(request, server)
        edit(answer)
        return answer.send(connection, request) and not close
    return act


def no_validators(answer):
    answer.headers.pop("ETag", None)
    answer.headers.pop("Last-Modified", None)


def weak_etags(connection, request, server):
    """The same, to no byte's certainty. If-Match compares strongly: a weak one matches nothing."""
    asked = request.headers.pop("if-match", None)
    answer = Answer(request, server)
    if "ETag" in answer.headers:
        answer.headers["ETag"] = "W/" + answer.headers["ETag"]
        if asked not in (None, "*"):
            answer.status, answer.body = "412 Precondition Failed", b""
            answer.headers["Content-Length"] = "0"
            answer.headers.pop("Content-Range", None)
    return answer.send(connection, request)


def lower_case(connection, request, server):
    answer = Answer(request, server)
    answer.headers = {name.lower(): f"  {value}  " for name, value in answer.headers.items()}
    return answer.send(connection, request)


def no_reason(answer):
    answer.status = answer.status[:3] + " "


def much_said(answer):
    answer.headers = {**{f"X-Padding-{k}": "y" * 200 for k in range(40)}, **answer.headers, "Set-Cookie": "a=b; Path=/", "Vary": "Accept-Encoding"}


def says_close(answer):
    answer.headers["Connection"] = "close"


def early_hints(connection, request, server):
    connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    return Answer(request, server).send(connection, request)


def old_protocol(connection, request, server):
    """HTTP/1.0: the connection ends with the answer."""
    answer = Answer(request, server)
    connection.sendall(answer.head().replace(b"HTTP/1.1", b"HTTP/1.0", 1) + answer.body)
    return False


def in_drops(connection, request, server):
    """A few bytes at a time, cut anywhere: in mid-header, in mid-sample."""
    answer, rng = Answer(request, server), random.Random(request.target)
    whole, at = answer.head() + answer.body, 0
    while at < len(whole):
        piece = rng.choice((1, 2, 7, 100, 1448, 9000, 65536))
        connection.sendall(whole[at:at + piece])
        at += piece
    return True


def breaks_off(connection, request, server):
    """Every third answer is cut short, the connection with it. What was received before was good."""
    server.count = getattr(server, "count", 0) + 1
    answer = Answer(request, server)
    if server.count % 3 or not answer.body or request.range is None:
        return answer.send(connection, request)
    rng = random.Random(server.count)
    connection.sendall(answer.head() + answer.body[:rng.randrange(len(answer.body) // 2, len(answer.body))])
    return False


def redirects(connection, request, server):
    if "moved=1" in request.target:
        return Answer(request, server).send(connection, request)
    target = request.target + ("&" if "?" in request.target else "?") + "moved=1"
    connection.sendall(f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
    return True


def chunked(connection, request, server):
    answer = Answer(request, server)
    del answer.headers["Content-Length"]
    answer.headers["Transfer-Encoding"] = "chunked"
    connection.sendall(answer.head())
    for at in range(0, len(answer.body), 1000):
        piece = answer.body[at:at + 1000]
        connection.sendall(f"{len(piece):x};ext=1\r\n".encode() + piece + b"\r\n")
    connection.sendall(b"0\r\n\r\n")
    return True


def size_unknown(answer):
    if "Content-Range" in answer.headers:
        answer.headers["Content-Range"] = answer.headers["Content-Range"].rpartition("/")[0] + "/*"


def no_ranges(connection, request, server):
    """Range is the client's wish; a server may give the whole."""
    request.range = None
    return Answer(request, server).send(connection, request)


ACTS = {"plain": _edited(lambda answer: None), "no validators": _edited(no_validators), "weak etags": weak_etags, "lower case": lower_case,
        "no reason": _edited(no_reason), "much said": _edited(much_said), "says close": _edited(says_close, close=True),
        "closes unsaid": _edited(lambda answer: None, close=True), "early hints": early_hints, "HTTP/1.0": old_protocol, "in drops": in_drops,
        "breaks off": breaks_off, "redirects": redirects, "chunked": chunked, "size unknown": _edited(size_unknown), "no ranges": no_ranges}
MAY_REFUSE = {"chunked", "size unknown", "no ranges"}
