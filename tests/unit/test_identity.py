"""Certificates: small enough for Vast's environment, strict enough for strict verifiers, for one address only."""

import datetime
import socket
import ssl
import threading

import pytest
import requests
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from components.credentials import CertificateAuthorityProvider
from components.vast.identity import CERT_ENVS, SERVER_NAME, Authority, expiry, served_expiry
from components.vast.rental_spec import Spec
from components.vllm.encryption import check_encryption, judge_plain
from harness.certificates import ca_file
from reranker.http import Answer, Unanswered

VAST_ENV_LIMIT = 256


@pytest.fixture(scope="module")
def authority():
    return Authority.make("vast-reranker test reranker")


@pytest.fixture(scope="module")
def server(authority, tmp_path_factory):
    """A TLS server at 127.0.0.1 with a certificate of the authority; it says one HTTP answer and hangs up."""
    folder, identity = tmp_path_factory.mktemp("tls"), authority.issue("127.0.0.1")
    (folder / "cert.pem").write_text(ssl.DER_cert_to_PEM_cert(identity.certificate))
    key = "-----BEGIN PRIVATE KEY-----\n" + identity.secret + "\n-----END PRIVATE KEY-----\n"
    (folder / "key.pem").write_text(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as secured:
                        secured.recv(4096)
                        secured.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
                except OSError:
                    continue

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("ip", ["203.0.113.77", "255.255.255.255", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"])
def test_an_identity_fits_into_the_environment_that_vast_takes(authority, ip):
    env = authority.issue(ip).env()
    assert set(env) <= {"TLS_KEY", *CERT_ENVS}
    assert all(len(value) <= VAST_ENV_LIMIT for value in env.values())


def test_the_chain_holds_by_the_rules_of_the_web_for_ip_and_name_and_nothing_else(authority):
    root = x509.load_pem_x509_certificate(authority.certificate.encode())
    leaf = x509.load_der_x509_certificate(authority.issue("203.0.113.77").certificate)
    leaf.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["203.0.113.77"]
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME]
    verifier = PolicyBuilder().store(Store([root])).build_server_verifier(x509.DNSName(SERVER_NAME))
    assert verifier.verify(leaf, [])


def test_requests_trusts_the_server_by_the_ca_alone_and_not_without_it(authority, server):
    url = f"https://127.0.0.1:{server}/"
    assert requests.get(url, verify=ca_file(authority.certificate), timeout=10).status_code == 200
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(url, timeout=10)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(url, verify=ca_file(Authority.make("another").certificate), timeout=10)


def test_a_strict_context_of_a_newer_python_takes_the_chain(authority, server):
    context = ssl.create_default_context(cadata=authority.certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_connection(("127.0.0.1", server)) as plain:
        context.wrap_socket(plain, server_hostname="127.0.0.1").close()


def test_the_checks_hold_for_the_servers_own_ca_and_fail_for_another(authority, server):
    url = f"https://127.0.0.1:{server}"
    good = check_encryption(url, authority.certificate)
    assert [check.name for check in good if not check.passed] == []
    bad = check_encryption(url, Authority.make("another").certificate)
    assert {check.name for check in bad if not check.passed} == {
        "certificate for 127.0.0.1",
        f"certificate for {SERVER_NAME}",
    }


def test_a_port_that_speaks_plain_http_fails_the_check():
    assert not judge_plain(Answer(401)).passed
    assert judge_plain(Unanswered("the connection is cut off", sent=True)).passed
    assert judge_plain(Answer(400)).passed


def test_what_a_server_shows_says_when_it_ends(authority, server):
    year_s = served_expiry("127.0.0.1", server, authority.certificate) - datetime.datetime.now().timestamp()
    assert 396 < year_s / 86400 < 398
    assert served_expiry("127.0.0.1", server, Authority.make("another").certificate) is None
    assert expiry(authority.certificate) > datetime.datetime.now().timestamp() + 3649 * 86400


def test_an_offer_without_an_ip_gets_no_certificate(authority):
    with pytest.raises(ValueError, match="does not appear to be"):
        authority.issue("")


def test_an_authority_stays_when_its_stack_is_renamed():
    outs = CertificateAuthorityProvider().create({"common_name": "project dev reranker"}).outs
    found = CertificateAuthorityProvider().diff("1", outs, {"common_name": "project renamed reranker"})
    assert (found.changes, found.replaces) == (False, [])


def test_no_private_key_is_in_a_repr(authority):
    identity = authority.issue("127.0.0.1")
    spec = Spec(image="i", disk_gb=8, authority=authority)
    for shown in (repr(authority), repr(identity), repr(spec)):
        assert "PRIVATE" not in shown
        assert identity.secret not in shown
        assert authority.private_key.splitlines()[1] not in shown


def test_another_authority_is_another_container_and_another_key_of_the_same_one_is_not(authority):
    other = Authority.make("another")
    digests = [
        Spec(image="i", disk_gb=8, authority=one).digest()
        for one in (authority, Authority(authority.certificate, "x"), other, None)
    ]
    assert digests[0] == digests[1]
    assert len({*digests}) == 3
