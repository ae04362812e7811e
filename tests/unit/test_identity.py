"""Certificates: small enough for Vast's environment, strict enough for strict verifiers, for one address only."""

import contextlib
import datetime
import socket
import ssl
import tempfile
import threading
import time

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store

from components.credentials import CertificateAuthorityProvider, advance_authority, authority_step, new_authority
from components.vast.identity import (
    AUTHORITY_DAYS,
    CERT_ENVS,
    DOMAIN,
    Authority,
    Identity,
    expiry,
    fetch_certificate,
    server_name,
)
from components.vast.rental_spec import Spec
from components.vllm.encryption import check_encryption, judge_plain
from harness.certificates import ca_file
from reranker.http import Answer, Unanswered

VAST_ENV_LIMIT = 256
NAME = server_name(16 * "a")
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def authority():
    return Authority.make("vast-reranker test reranker", ["127.0.0.0/8"])


@pytest.fixture(scope="module")
def server(authority, tmp_path_factory):
    """A TLS server at 127.0.0.1 with a certificate of the authority; it says one HTTP answer and hangs up."""
    folder, identity = tmp_path_factory.mktemp("tls"), authority.issue("127.0.0.1", NAME)
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
    env = authority.issue(ip, NAME).env()
    assert set(env) <= {"TLS_KEY", *CERT_ENVS}
    assert all(len(value) <= VAST_ENV_LIMIT for value in env.values())


def test_the_chain_holds_by_the_rules_of_the_web_for_ip_and_name_and_nothing_else(authority):
    root = x509.load_pem_x509_certificate(authority.certificate.encode())
    leaf = x509.load_der_x509_certificate(authority.issue("203.0.113.77", NAME).certificate)
    leaf.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["203.0.113.77"]
    assert names.get_values_for_type(x509.DNSName) == [NAME]
    verifier = PolicyBuilder().store(Store([root])).build_server_verifier(x509.DNSName(NAME))
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
    good = check_encryption(url, authority.certificate, NAME)
    assert [check.name for check in good if not check.passed] == []
    bad = check_encryption(url, Authority.make("another").certificate, NAME)
    assert {check.name for check in bad if not check.passed} == {
        "certificate for 127.0.0.1",
        "certificate for its own name",
    }
    other = check_encryption(url, authority.certificate, f"of-another.{DOMAIN}")
    assert [check.name for check in other if not check.passed] == ["certificate for its own name"]


def test_a_port_that_speaks_plain_http_fails_the_check():
    assert not judge_plain(Answer(401)).passed
    assert judge_plain(Unanswered("the connection is cut off", sent=True)).passed
    assert judge_plain(Answer(400)).passed


def test_what_a_server_shows_says_when_it_ends(authority, server):
    shown = fetch_certificate("127.0.0.1", server, authority.certificate)
    assert 29 < (shown.ends_at - datetime.datetime.now().timestamp()) / 86400 <= 30
    assert shown == fetch_certificate("127.0.0.1", server, authority.certificate, NAME)
    assert fetch_certificate("127.0.0.1", server, authority.certificate, f"another.{DOMAIN}") is None
    assert fetch_certificate("127.0.0.1", server, Authority.make("another").certificate) is None
    assert expiry(authority.certificate) > datetime.datetime.now().timestamp() + 3649 * 86400


def test_an_offer_without_an_ip_gets_no_certificate(authority):
    with pytest.raises(ValueError, match="does not appear to be"):
        authority.issue("")


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        (NAME, True),
        ("203.0.113.7", True),
        ("2001:4860::1", True),
        ("gateway.example.com", True),
        ("127.0.0.1", True),
        ("www.example.com", False),
        (f"{DOMAIN}.example.com", False),
        ("10.1.2.3", False),
        ("192.168.1.1", False),
        ("fd00::1", False),
    ],
)
def test_what_the_authority_signs_is_good_for_its_own_names_and_the_internet_only_whoever_has_its_key(name, holds):
    """By OpenSSL; tests/gateway has the same by Go."""
    made = Authority.make("p s n", ["gateway.example.com", "127.0.0.0/8"])
    leaf = made.issue(name)
    client = ssl.create_default_context(cadata=made.certificate)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    assert handshake(client, leaf, name) is holds
    free = Authority.make("p s n")
    assert handshake(ssl.create_default_context(cadata=free.certificate), free.issue(name), name)


def handshake(client, leaf, name):
    """Whether a client takes a server that shows this identity for one of this name."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as pem:
        pem.write("".join(leaf.pem()))
        pem.flush()
        server.load_cert_chain(pem.name)
    ask, tell = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(tell, ask, server_hostname=name), server.wrap_bio(ask, tell, server_side=True)]
    try:
        for end in ends * 4:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError:
        return False
    return True


def test_a_renewed_certificate_is_of_the_same_key_for_the_name_and_ip_of_now(authority):
    now, moved = datetime.datetime.now(datetime.UTC), "203.0.113.78"
    first = authority.issue("203.0.113.77", NAME, now=now - 20 * DAY)
    later = ssl.PEM_cert_to_DER_cert(authority.renew(first.certificate, moved, NAME, now=now))
    before, after = (x509.load_der_x509_certificate(one) for one in (first.certificate, later))
    assert before.public_key() == after.public_key()
    assert after.not_valid_after_utc - before.not_valid_after_utc == 20 * DAY
    for name in (moved, NAME):
        client = ssl.create_default_context(cadata=authority.certificate)
        assert handshake(client, Identity(later, first.key), name)


def test_a_server_that_takes_a_new_certificate_gets_one_for_days_and_another_one_for_a_year(authority):
    for path, days in (("/renew", 30), ("", 397)):
        spec = Spec(image="i", disk_gb=8, authority=authority, certificate_path=path)
        leaf = x509.load_der_x509_certificate(spec.identity("203.0.113.77", "0" * 16).certificate)
        assert days - 0.1 < (leaf.not_valid_after_utc - datetime.datetime.now(datetime.UTC)) / DAY < days
    assert Spec(image="i", disk_gb=8).identity("", "") is None


# ---- the authority's own renewal


PROPS = {"common_name": "c", "permitted": ["127.0.0.0/8"]}


def ending_in(days):
    """Return an authority that ends so many days from now."""
    return new_authority(PROPS, time.time() - (AUTHORITY_DAYS - days) * 86400)


def after(outs, days, **news):
    """Return what is due in so many days, and the outputs after it."""
    now = time.time() + days * 86400
    return authority_step(outs, PROPS | news, now), advance_authority(outs, PROPS | news, now)


def certificates(outs):
    return [
        one.public_bytes(Encoding.PEM).decode() for one in x509.load_pem_x509_certificates(outs["certificate"].encode())
    ]


def test_the_next_authority_is_trusted_long_before_it_signs_and_the_one_before_for_as_long_as_it_lasts():
    assert after(ending_in(491), 0)[0] == ""
    first = ending_in(489)
    [old] = certificates(first)
    step, both = after(first, 0)
    assert (step, certificates(both)[0], both["private_key"]) == ("announce", old, first["private_key"])
    _, new = certificates(both)
    leaf = Authority(first["certificate"], first["private_key"]).issue("127.0.0.1")
    for outs in (first, both):  # who has yet to fetch the new file, and who has it
        assert handshake(ssl.create_default_context(cadata=outs["certificate"]), leaf, "127.0.0.1")

    assert after(both, 88)[0] == ""
    step, switched = after(both, 90)
    assert (step, certificates(switched)) == ("switch", [new, old])
    later = Authority(switched["certificate"], switched["private_key"]).issue("127.0.0.1")
    for outs, served, holds in ((both, later, True), (switched, leaf, True), (first, later, False)):
        assert handshake(ssl.create_default_context(cadata=outs["certificate"]), served, "127.0.0.1") is holds

    assert after(switched, 488)[0] == ""
    step, alone = after(switched, 490)
    assert (step, certificates(alone)) == ("forget", [new])
    assert after(alone, 490)[0] == ""


def test_an_authority_that_nobody_looked_after_is_followed_before_what_it_signs_would_outlast_it():
    first = ending_in(399)
    step, outs = after(first, 0)
    assert (step, certificates(outs)[1:]) == ("switch", certificates(first))
    assert after(outs, 0)[0] == ""


def test_an_authority_that_may_not_sign_a_gateways_new_host_is_followed_at_once_by_one_that_may():
    first = ending_in(3000)
    assert after(first, 0, permitted=[])[0] == ""
    wider = {"permitted": ["127.0.0.0/8", "gateway.example.com"]}
    step, outs = after(first, 0, **wider)
    assert (step, certificates(outs)[1:]) == ("switch", certificates(first))
    leaf = Authority(outs["certificate"], outs["private_key"]).issue("gateway.example.com")
    assert handshake(ssl.create_default_context(cadata=outs["certificate"]), leaf, "gateway.example.com")
    assert after(outs, 0, **wider)[0] == after(outs, 0)[0] == ""


def test_an_authority_stays_when_its_stack_is_renamed():
    outs = CertificateAuthorityProvider().create({"common_name": "project dev reranker", "permitted": []}).outs
    news = {"common_name": "project renamed reranker", "permitted": []}
    assert not CertificateAuthorityProvider().diff("1", outs, news).changes


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
