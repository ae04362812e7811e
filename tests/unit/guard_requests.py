"""Random requests for the guard, and what may come in, said independently of it. Used by the guard's fuzz tests."""

import json
import re
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from components.vllm import guard as source
from components.vllm.guard import ALLOW, ROUTES

KEYS = ["first-key-0123456789", "second-key-0123456789"]
KEY = KEYS[0].encode()
OPTIONS = {"max_bytes": 2000, "max_documents": 5, "open_health": True}
DIGESTS = [sha256(key.encode()).hexdigest() for key in KEYS]
REFUSALS = {400, 401, 404, 413}
LISTS = ("documents", "text_1", "text_2", "queries", "data_1", "data_2")


def fuzz(cases, *, fixed=False):
    """Return settings for a number of cases, the same each time if `fixed`: few could miss an outcome by chance."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=cases,
        derandomize=fixed,
        deadline=None,
        database=None,
        suppress_health_check=checks,
        print_blob=not fixed,
    )


def short_and(cases):
    """Parametrize a test by its settings: a third of the cases in `make test`, all of them in `make test-all`."""
    short, full = fuzz(cases // 3, fixed=True), pytest.param(fuzz(cases), marks=pytest.mark.all)
    return pytest.mark.parametrize("drawn", [short, full], ids=["fixed", "random"])


# ---- what may come in, said independently of the guard ---------------------------------------------------------------


def may_come_in(scope):
    """Whether a request may reach the server: by its key, or as the open liveness answer."""
    path, raw = scope["path"], scope.get("raw_path")
    if raw is not None and raw.split(b"?")[0] != path.encode("utf-8", "surrogatepass"):
        return False
    if path == "/health" and scope["method"] in ("GET", "HEAD"):
        return True
    given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    keyed = any(re.fullmatch(rb"(?i:bearer) " + key.encode(), value) for value in given for key in KEYS)
    return path in ALLOW and len(given) == 1 and keyed


def is_for_the_guard(scope):
    """Whether a request is one that the guard answers itself: the list of routes, or the keys to the stack's own."""
    as_if = may_come_in(scope | {"path": "/rerank", "raw_path": None})
    plain = scope.get("raw_path") is None or scope["raw_path"].split(b"?")[0] == scope["path"].encode(
        "utf-8", "replace"
    )
    first = any(value.endswith(KEY) for name, value in scope["headers"] if name.lower() == b"authorization")
    return as_if and plain and (scope["path"] == ROUTES or (scope["path"] == source.KEYS and first))


def is_good_body(body):
    """Whether a body is one that vLLM can answer: strict JSON in UTF-8, within the limits."""

    def never(name):
        raise ValueError(name)

    try:
        asked = json.loads(body, parse_constant=never)  # UTF-16 and a mark of byte order are read, and sent on as UTF-8
        json.dumps(asked, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    lists = [asked[name] for name in LISTS if isinstance(asked.get(name), list)] if isinstance(asked, dict) else []
    return all(len(one) <= OPTIONS["max_documents"] for one in lists)


class App:
    """The server behind the guard: answers everything and remembers what reached it."""

    def __init__(self):
        self.reached = []

    async def __call__(self, scope, receive, send):
        body = b""
        if scope["type"] == "http":
            while True:
                message = await receive()
                body += message.get("body", b"")
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    break
        self.reached.append((scope, body))
        await send({"type": "http.response.start", "status": 299, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})


def run(coroutine):
    """Run a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the guard waits for something that is not there")


def ask_guard(cls, scope, messages=(), options=OPTIONS):
    """Return what one request made of: what reached the server, what was sent."""
    app, sent, left = App(), [], list(messages)

    async def receive():
        return left.pop(0) if left else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    run(cls(app, options, KEYS)(scope, receive, send))
    return app.reached, sent


def refused_properly(sent):
    """Return the status of a refusal, which has to be one answer, complete, in vLLM's form, without a key in it."""
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
    start, end = sent
    headers = dict(start["headers"])
    assert not end.get("more_body")
    assert int(headers[b"content-length"]) == len(end["body"])
    error = json.loads(end["body"])["error"]
    assert error["code"] == start["status"] in REFUSALS
    assert error.keys() == {"message", "type", "param", "code"}
    assert (b"www-authenticate" in headers) == (start["status"] == 401)
    assert not any(key.encode() in end["body"] for key in KEYS)
    return start["status"]


# ---- requests --------------------------------------------------------------------------------------------------------

words = st.sampled_from(["rerank", "score", "v1", "v2", "models", "metrics", "health", "docs", "..", ".", "", "RERANK"])
joints = st.sampled_from(["/", "/", "//", "/./", "/../", "\\", ";", "?", "#", "%2F", "%00", "\x00", " ", "\r\n", "%2e"])
exact_paths = st.sampled_from([*ALLOW, "/health", source.KEYS, ROUTES])
made_paths = st.lists(st.tuples(joints, words).map("".join), min_size=1, max_size=4).map("".join)
MANGLED = ["{}/", "/{}", "//{}", "{}//", "{};x", "{}%00", "{}\x00", "{}.", "{} ", " {}", "x{}", "{}x", "/./{}"]
MANGLED += ["/x/..{}", "http://h{}", "{}?", "{}#", "\ufeff{}", "{}\u200b", "\\{}"]
mangled_paths = st.tuples(exact_paths, st.sampled_from(MANGLED)).map(lambda pair: pair[1].format(pair[0]))
odd_paths = st.one_of(made_paths, mangled_paths, exact_paths.map(str.upper), st.text(max_size=20), st.just("*"))


@st.composite
def places(draw):
    """Return path and raw path: mostly the same thing, sometimes written in another way, sometimes at odds."""
    if draw(st.integers(0, 2)):
        path = draw(exact_paths)
        return path, draw(st.sampled_from([path.encode(), path.encode() + b"?api_key=" + KEY, None]))
    path = draw(st.one_of(exact_paths, odd_paths))
    plain = path.encode("utf-8", "surrogatepass")
    how = draw(st.sampled_from(["plain", "encoded", "other"]))
    if how == "encoded":
        letter = draw(st.integers(0, max(len(plain) - 1, 0)))
        hidden = b"".join(b"%%%02x" % each for each in plain[letter : letter + 1])
        return path, plain[:letter] + hidden + plain[letter + 1 :]
    return path, plain if how == "plain" else draw(odd_paths).encode("utf-8", "surrogatepass")


KNOWN_NAMES = b"authorization authorization Authorization AUTHORIZATION".split()
OTHER_NAMES = b"x-api-key cookie proxy-authorization authorisation x-authorization api-key authorization_".split()
names = st.sampled_from([*KNOWN_NAMES, *OTHER_NAMES, b"authorization "])
SCHEMES = [b"Bearer", b"Bearer  ", b" Bearer ", b"Bearer\t", b"Bearer,", b"Basic ", b"Token ", b"", b"Bearer Bearer "]
schemes = st.sampled_from([*[b"Bearer ", b"bearer ", b"BEARER "] * 2, *SCHEMES, b"\xc2\xa0Bearer "])
right = st.sampled_from([key.encode() for key in KEYS])
wrong = st.one_of(
    right.map(lambda key: key[:-1]),
    right.map(lambda key: key + b" "),
    right.map(lambda key: b" " + key),
    right.map(lambda key: key + b"\x00"),
    right.map(bytes.upper),
    st.just(",".join(KEYS).encode()),
    st.binary(max_size=30),
    st.just(b""),
)
credentials = st.tuples(names, st.tuples(schemes, st.one_of(right, right, wrong)).map(b"".join))
good_credential = right.map(lambda key: (b"authorization", b"Bearer " + key))
noise = st.tuples(st.sampled_from([b"host", b"x-forwarded-for", b"connection", b"upgrade"]), st.binary(max_size=12))
header_lists = st.one_of(
    good_credential.map(lambda one: [one]),
    st.lists(credentials, min_size=1, max_size=2),
    st.tuples(good_credential, noise, noise).map(list),
    st.lists(st.one_of(credentials, noise, good_credential), max_size=4),
)
METHODS = [
    "POST",
    "POST",
    "GET",
    "HEAD",
    "OPTIONS",
    "PUT",
    "DELETE",
    "PATCH",
    "TRACE",
    "CONNECT",
    "post",
    "Post",
    "QUERY",
]


@st.composite
def scopes(draw):
    """Return an ASGI scope of an HTTP request."""
    path, raw = draw(places())
    scope = {
        "type": "http",
        "http_version": draw(st.sampled_from(["1.1", "1.0", "2"])),
        "method": draw(st.sampled_from([*METHODS, "", "POST "])),
        "path": path,
        "raw_path": raw,
        "root_path": draw(st.sampled_from(["", "", "/v1", "/rerank", "/health", "/x", "/"])),
        "query_string": draw(st.sampled_from([b"", b"authorization=Bearer " + KEY])),
        "headers": draw(header_lists),
    }
    if draw(st.booleans()) and raw is None:
        del scope["raw_path"]  # optional in ASGI
    return scope


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("\ud800")),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)
fields = st.sampled_from([*LISTS, "query", "model", "top_n", "truncate_prompt_tokens", "Documents"])
requests_ = st.dictionaries(fields, st.one_of(json_values, st.lists(st.just("d"), max_size=8)), max_size=4)
LITERAL = [
    b"",
    b"{",
    b"null",
    b'"a"',
    b"{} {}",
    b"{}\x00",
    b"\xff\xfe",
    b"NaN",
    b"[1e999]",
    b'{"top_n": Infinity}',
    b"1" * 1999,
    b"x" * 2001,
    b"[" * 1900,
    b"[" * 200 + b"]" * 200,
    b'{"a":' * 300,
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    b'{"query": "\\ud800"}',
    b'{"query": "\xed\xa0\x80"}',
    b'{"documents": [1], "documents": [1,2,3,4,5,6]}',
    b'{"documents": [1,2,3,4,5,6], "documents": []}',
    b'{"documents": [' + b"1," * 900 + b"1]}",
]
made_bodies = st.one_of(requests_, json_values).map(lambda value: json.dumps(value).encode())
bodies = st.one_of(made_bodies, made_bodies, st.sampled_from(LITERAL), st.binary(max_size=40))


@st.composite
def streams(draw):
    """Return a body and the messages that carry it, which may be many, empty in places, or stop half-way."""
    body = draw(bodies)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
    chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False
    if draw(st.booleans()):
        messages[-1].pop("more_body")
    broken = draw(st.integers(0, 7)) == 0
    return body, messages[: len(messages) // 2] if broken else messages, broken


LENGTHS = [b"0", b"1", b"2001", b"-1", b"+3", b"1e9", b"9" * 40, b"\xb2", b"", b" 5", b"5, 5", b"0x10"]
lengths = st.one_of(st.none(), st.none(), st.sampled_from(LENGTHS))
