"""The gateway that the bench puts in front of rerankers."""

import socket

import pytest

from bench.load import BenchTarget
from bench.local_vllm import MODEL, gateway
from components.vllm.client import RerankClient
from harness.certificates import ca_file
from harness.wait import until
from tests.gateway.conftest import scores

KEY = "k" * 32


def test_a_gateway_stands_in_front_of_a_reranker_for_the_length_of_a_block(rerankers, authority):
    [reranker] = rerankers(1, KEY, ip="127.0.0.1")
    upstream = BenchTarget("reranker", f"https://{reranker.address}", MODEL, KEY, ca_file(authority.certificate))
    with gateway("gateway", upstream) as target:
        client = RerankClient(target.url, target.key, ca=target.ca, timeout_s=10)
        until(lambda: scores(client))
        assert client.models()[0].id == MODEL
        assert target.key not in repr(target)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(target.url.rpartition(":")[2])), 5)
