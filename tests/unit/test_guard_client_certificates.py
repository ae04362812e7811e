"""Client certificates at the guard: a client's key opens nothing without one, the stack's own key needs none."""

import contextlib
import json
import socket
import ssl
from hashlib import sha256

import pytest
from cryptography import x509

from components.guard.__main__ import make_server
from components.vast.identity import Authority
from emulator.scoring import Served
from emulator.stub import Stub
from harness.guard import guarded
from harness.wait import until
from ops import rotate_key, status
from reranker import Reranker, RerankerError
from reranker.http import HttpTransport, Unanswered, bearer
from tests.client_ca import ClientCa

OWN, KEY = "management-key-0123456789", "a-clients-key-0123456789"
IP = "127.0.0.1"
BODY = b'{"query": "q", "documents": ["d"]}'


class Site:
    """A guard by TLS, which has one client's key, and asks for certificates by a CA of the client's."""

    def __init__(self, guard, authority, folder):
        self.guard, self.authority, self.folder = guard, authority, folder
        self.url = f"https://{IP}:{guard.port}"
        self.ca = ClientCa()
        assert self.told(self.ca.pem) == 200

    def told(self, client_ca):
        keys = [{"name": "search", "sha256": sha256(KEY.encode()).hexdigest()}]
        body = json.dumps({"keys": keys, "client_ca": client_ca}).encode()
        return self.transport()("PUT", f"{self.url}/guard/keys", body=body, headers=bearer(OWN)).status

    def shown(self, **options):
        """Return certificate and key, PEM, as the clients' CA gives them."""
        return "".join(file.read_text() for file in self.ca.issue(self.folder, **options))

    def transport(self, certificate="", keep=0):
        return HttpTransport(ca=self.authority.certificate, client_certificate=certificate, keep=keep)

    def ask(self, key=KEY, certificate="", send=None):
        send = send or self.transport(certificate)
        return send("POST", f"{self.url}/rerank", body=BODY, headers=bearer(key), timeout_s=10)

    @contextlib.contextmanager
    def connected(self, context, session=None):
        """A TLS connection by a context, in which one request is asked at a time: returns a function that does it."""
        with (
            socket.create_connection(self.guard.address, timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=IP, session=session) as secured,
        ):

            def ask(key=KEY):
                head = f"POST /rerank HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n".encode()
                head += b"Content-Type: application/json\r\n"
                secured.sendall(head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
                return int((secured.recv(65536) or b"HTTP/1.1 0")[9:12])

            yield secured, ask

    def context(self, files=None, version=ssl.TLSVersion.TLSv1_3):
        made = ssl.create_default_context(cadata=self.authority.certificate)
        made.minimum_version = made.maximum_version = version
        if files:
            made.load_cert_chain(*files)
        return made


@pytest.fixture
def site(tmp_path):
    authority = Authority.make("the stack's CA", [IP])
    identity = authority.issue(IP).pem()
    with guarded(Stub(Served(("m",))), OWN, identity=identity) as guard:
        yield Site(guard, authority, tmp_path)


def test_a_clients_key_needs_a_certificate_beside_it_and_the_stacks_own_key_none(site):
    refused = site.ask()
    assert refused.status == 403
    assert "a client certificate by a CA of client_ca is needed" in refused.message()
    assert site.ask(certificate=site.shown()).status == 200
    assert (site.ask("x" * 30).status, site.ask("x" * 30, site.shown()).status) == (401, 401)
    assert site.ask(OWN).status == 200
    by_gateway = {**bearer(OWN), "X-Guard-Client": "search"}
    assert site.transport()("POST", f"{site.url}/rerank", body=BODY, headers=by_gateway).status == 200


def test_it_is_refused_before_a_byte_of_its_body_comes(site):
    with site.connected(site.context()) as (secured, _):
        secured.sendall(f"POST /rerank HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\n".encode())
        secured.sendall(b"Content-Length: 1000\r\n\r\n")
        assert secured.recv(65536).startswith(b"HTTP/1.1 403 ")


def test_a_certificate_that_does_not_verify_fails_the_handshake_and_the_client_reads_why(site):
    own = "".join(site.authority.issue(IP).pem())  # what a host has
    another = "".join(file.read_text() for file in ClientCa().issue(site.folder))  # by a CA of the same name
    for certificate, why in (
        (own, "UNKNOWN_CA"),
        (another, "DECRYPT_ERROR"),
        (site.shown(usage=x509.OID_SERVER_AUTH), "CERT"),
        (site.shown(ends_in_s=-60), "EXPIRED"),
    ):
        with pytest.raises(Unanswered, match=why) as caught:
            site.ask(certificate=certificate)
        assert caught.value.kind == "uncertified"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_that_is_resumed_has_shown_what_its_first_connection_showed(site, version):
    for files, expected in ((None, 403), (site.ca.issue(site.folder), 200)):
        context = site.context(files, version)
        with site.connected(context) as (secured, ask):
            assert ask() == expected
            session = secured.session
        with site.connected(context, session) as (secured, ask):
            assert secured.session_reused
            assert ask() == expected
    site.told(ClientCa().pem)
    with contextlib.suppress(OSError), site.connected(context, session) as (secured, ask):  # 1.2 ends in the handshake
        assert not secured.session_reused
        assert ask() == 0


def test_a_connection_is_good_until_the_end_of_its_certificate(site):
    files = site.ca.issue(site.folder, ends_in_s=2.5)
    context = site.context(files)
    with site.connected(context) as (secured, ask):
        assert ask() == 200
        session = secured.session
        until(lambda: ask() == 403, within_s=5)
    with contextlib.suppress(OSError), site.connected(context, session) as (_, ask):
        assert ask() in (0, 403)


def test_another_ca_counts_at_once_for_connections_that_are_open_too(site):
    kept, shown = site.transport(site.shown(), keep=1), site.shown()
    assert site.ask(send=kept).status == 200
    before, site.ca = site.ca, ClientCa()
    files = before.issue(site.folder)
    with site.connected(site.context(files)) as (_, ask):
        assert ask() == 200
        assert site.told(before.pem) == 200  # the same
        assert ask() == 200
        assert site.told(site.ca.pem) == 200
        with contextlib.suppress(OSError):
            assert ask() == 0
    with pytest.raises(Unanswered):
        site.ask(certificate=shown)
    with pytest.raises(Unanswered) as caught:
        site.ask(send=kept)
    assert caught.value.kind == "uncertified", "the connection that was kept has been closed"
    both = site.shown()
    assert site.ask(certificate=both).status == 200
    assert site.told("") == 200
    assert [site.ask(certificate=one).status for one in ("", both, shown)] == [200] * 3


@pytest.mark.parametrize("used", [(), ("x" * 30,), (OWN,), (KEY, OWN)], ids=["new", "no key", "own key", "both"])
def test_a_connection_that_was_opened_before_a_change_of_ca_gets_one_more_answer(site, used):
    files, before = site.ca.issue(site.folder), site.ca
    for ca in (ClientCa(), before, None):
        with contextlib.ExitStack() as stack:
            asks = [stack.enter_context(site.connected(site.context(files)))[1] for _ in range(3)]
            for key in used:
                assert [ask(key) for ask in asks] == [401 if key.startswith("x") else 200] * 3
            assert site.told(ca.pem if ca else "") == 200
            expected = [401, 403 if ca else 200, 200]
            assert [ask(key) for ask, key in zip(asks, ("x" * 30, KEY, OWN), strict=True)] == expected
            for ask in asks:
                with contextlib.suppress(OSError):
                    assert ask(OWN) == 0, "it was not closed after the answer"
        if ca:
            site.ca = ca
            files = ca.issue(site.folder)


def test_what_is_no_ca_is_refused_and_changes_nothing(site):
    for wrong in ("nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 1, None):
        assert site.told(wrong) == 400
    assert (site.ask().status, site.ask(certificate=site.shown()).status) == (403, 200)
    assert site.told(f"# Zürich\n{site.ca.pem}") == 200
    assert site.ask(certificate=site.shown()).status == 200


def test_a_restart_of_the_container_asks_as_before(tmp_path):
    for name, text in zip(("cert.pem", "key.pem"), Authority.make("test").issue(IP).pem(), strict=True):
        (tmp_path / name).write_text(text)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [], "client_ca": ClientCa().pem}))
    server = make_server({}, tmp_path, tls=True, log=print)
    assert server.gate.tls.verify_mode is ssl.CERT_OPTIONAL
    assert len(server.gate.tls.get_ca_certs()) == 1


def test_operations_that_ask_as_a_client_show_the_certificate_of_the_environment(site, monkeypatch):
    ca = site.authority.certificate
    assert "a client certificate" in status.probe(site.url, KEY, ca).error
    assert rotate_key.key_status(site.url, KEY, ca) == 403
    for name, file in zip(("RERANKER_CLIENT_CERT", "RERANKER_CLIENT_KEY"), site.ca.issue(site.folder), strict=True):
        monkeypatch.setenv(name, str(file))
    assert status.probe(site.url, KEY, ca).took_ms
    assert rotate_key.key_status(site.url, KEY, ca) == 200


def test_without_tls_there_is_nothing_to_ask_by():
    with guarded(Stub(Served(("m",))), OWN) as guard:
        body = json.dumps({"keys": [], "client_ca": ClientCa().pem}).encode()
        answer = HttpTransport()("PUT", f"http://{IP}:{guard.port}/guard/keys", body=body, headers=bearer(OWN))
    assert (answer.status, "has no TLS" in answer.message()) == (400, True)


def test_the_library_shows_one_and_without_one_says_what_is_needed(site):
    certificate, key = site.ca.issue(site.folder)
    with Reranker.from_url(
        site.url, KEY, site.authority.certificate, client_certificate=certificate, client_key=key
    ) as client:
        assert len(client.rerank("q", ["a", "b"])) == 2
    with (
        Reranker.from_url(site.url, KEY, site.authority.certificate) as client,
        pytest.raises(RerankerError, match="a client certificate"),
    ):
        client.models()
    with pytest.raises(RerankerError, match="pass client_certificate"):
        Reranker.from_url(
            site.url, KEY, site.authority.certificate, client_certificate=site.shown(ends_in_s=-60)
        ).models()
