"""Another certificate for a server that runs: who is asked to show it, and what it is."""

import contextlib
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from components.certificate_renewal import renew_certificate
from components.errors import ServerError, ServerUnreachable
from components.vast.identity import Authority, fetch_certificate, own_key, server_name
from components.vast.rental_spec import Spec

IP, ELSEWHERE, PATH = "127.0.0.1", "192.0.2.1", "/guard/certificate"
SECRET, NONCE = "s" * 64, "0123456789abcdef"


class Server:
    """Shows a certificate, and takes another by PUT and its own key, as the guard does."""

    def __init__(self, folder, identity, *, takes=True):
        self.folder, self.takes, self.asked = folder, takes, []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (folder / "key.pem").write_text(identity.pem()[1])
        self.show(context, identity.pem()[0])
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.asked.append((self.path, self.headers["Authorization"]))
                if outer.takes:
                    outer.show(context, body)
                self.send_response(200 if outer.takes else 404)
                self.end_headers()
                self.wfile.write(b"" if outer.takes else self.headers["Authorization"].encode())

            def log_message(self, *_):
                pass

        class Listener(ThreadingHTTPServer):
            def get_request(self):
                plain, address = super().get_request()
                return context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

            def handle_error(self, *_):
                pass

        self.http = Listener((IP, 0), Handler)
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def show(self, context, pem):
        (self.folder / "cert.pem").write_text(pem)
        context.load_cert_chain(self.folder / "cert.pem", self.folder / "key.pem")


@pytest.fixture
def authority():
    return Authority.make("ours", ["127.0.0.0/8"])


@pytest.fixture
def serve(tmp_path):
    with contextlib.ExitStack() as ends:

        def start(identity, **options):
            one = Server(tmp_path, identity, **options)
            ends.callback(one.http.server_close)
            ends.callback(one.http.shutdown)
            return one

        yield start


def spec(authority):
    return Spec(image="i", disk_gb=8, key_env="KEY", stack_secret=SECRET, authority=authority, certificate_path=PATH)


def test_a_server_shows_what_is_signed_for_its_own_key_and_the_ip_that_it_has_now(authority, serve):
    first = authority.issue(ELSEWHERE, server_name(NONCE), days=5)
    server = serve(first)
    before = fetch_certificate(IP, server.port, authority.certificate, server_name(NONCE))
    assert fetch_certificate(IP, server.port, authority.certificate) is None  # it moved here
    ends_at = renew_certificate(IP, server.port, spec(authority), NONCE)
    assert server.asked == [(PATH, f"Bearer {own_key(SECRET, NONCE)}")]
    for name in ("", server_name(NONCE)):
        shown = fetch_certificate(IP, server.port, authority.certificate, name)
        assert shown.ends_at == ends_at > before.ends_at + 24 * 86400


def test_a_server_is_handed_over_to_the_authority_that_follows_in_what_clients_trust(authority, serve):
    server = serve(authority.issue(IP, server_name(NONCE), days=5))
    following = Authority.make("ours", ["127.0.0.0/8"])
    both = Authority(following.certificate + authority.certificate, following.private_key)
    renew_certificate(IP, server.port, spec(both), NONCE)
    assert fetch_certificate(IP, server.port, following.certificate)
    assert fetch_certificate(IP, server.port, authority.certificate) is None


@pytest.mark.parametrize("whose", ["another instance's", "another authority's"])
def test_a_server_that_is_another_one_is_given_neither_key_nor_certificate(whose, authority, serve):
    other = authority.issue(IP, server_name("f" * 16))
    if whose == "another authority's":
        other = Authority.make("another").issue(IP, server_name(NONCE))
    server = serve(other)
    with pytest.raises(ServerUnreachable, match="no certificate of 0123456789abcdef"):
        renew_certificate(IP, server.port, spec(authority), NONCE)
    assert server.asked == []


def test_a_server_that_takes_none_is_an_error_without_its_key(authority, serve):
    server = serve(authority.issue(IP, server_name(NONCE)), takes=False)
    with pytest.raises(ServerError, match="refuses the new certificate: HTTP 404: ") as refused:
        renew_certificate(IP, server.port, spec(authority), NONCE)
    assert own_key(SECRET, NONCE) not in str(refused.value)
