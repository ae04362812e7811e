"""The gateway that the bench puts in front of rerankers."""

import socket

import pytest

from bench.local_vllm import MODEL, gateway
from components.vllm.client import RerankClient
from harness.wait import until
from tests.gateway.conftest import scores

KEY = "k" * 32


def test_a_gateway_stands_in_front_of_rerankers_for_the_length_of_a_block(rerankers, authority):
    two = [f"https://{one.address}" for one in rerankers(2, KEY, ip="127.0.0.1")]
    ca = authority.certificate
    with gateway(two, KEY, ca) as at:
        client = RerankClient(at.url, at.key, ca=at.ca, timeout_s=10)
        until(lambda: scores(client))
        assert client.models()[0].id == MODEL
        assert at.key not in repr(at)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(at.url.rpartition(":")[2])), 5)
