"""Each fault of a server, seen by clients that know nothing of it: requests, curl, a bare socket."""

import socket
import ssl
import subprocess
import time

import pytest
import requests

from components.vast.identity import Authority
from emulator.faults import SERVER
from emulator.server_faults import check
from harness.wait import until
from tests.emulator.client import answers, endpoint
from tests.emulator.test_containers import log_with

PAIR = {"query": "deep learning", "documents": ["pizza", "deep learning", "weather"]}
WRITES = 'trap "" XFSZ; while sleep 0.02; do date >>"$HOME/file" || : >"$HOME/failed"; done'


def rerank(row, path="/rerank", timeout=0.3, body=PAIR, **kwargs):
    return requests.post(endpoint(row) + path, json=body, timeout=timeout, **kwargs)


def connected(row):
    host, port = endpoint(row).removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=0.3)


def is_well(row):
    return rerank(row, timeout=2).json()["results"][0]["index"] == 1


def fails_by(error, row):
    """Whether a request fails so, and not otherwise."""
    try:
        rerank(row, timeout=0.15)
    except error:
        return True
    except requests.RequestException:
        pass
    return False


def off(vast):
    assert vast.session.delete(f"{vast.url}/_emulator/faults", timeout=5).ok


@pytest.fixture
def row(vast):
    return vast.running()


def test_a_firewall_lets_no_connection_come_about(vast, row):
    other = vast.running()
    vast.fault("firewall")
    for one in (row, other):
        until(lambda one=one: fails_by(requests.ConnectTimeout, one))
    assert vast.status(row["id"]) == "running"
    off(vast)
    for one in (row, other):
        until(lambda one=one: not fails_by(requests.RequestException, one))


@pytest.mark.parametrize("kind", ["hang_after_accept", "hang_after_request", "frozen"])
def test_a_server_takes_the_connection_and_says_nothing(vast, row, kind):
    vast.fault(kind)
    with pytest.raises(requests.ReadTimeout):
        rerank(row)
    off(vast)
    assert is_well(row)


def test_a_server_shakes_hands_and_says_nothing(vast):
    offer = vast.offer()
    authority = Authority.make("test")
    env = authority.issue(offer["public_ipaddr"].strip()).env()
    row = vast.running(ask_id=offer["id"], env={"-p 8000:8000": "1", **env})
    tls = ssl.create_default_context(cadata=authority.certificate)
    host = row["public_ipaddr"].strip()

    def status_line():
        with tls.wrap_socket(connected(row), server_hostname=host) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            return connection.recv(15)

    assert status_line() == b"HTTP/1.1 200 OK"
    vast.fault("hang_after_tls")
    with pytest.raises(TimeoutError):
        status_line()
    vast.control("reset")


def test_answers_are_late(vast, row):
    vast.fault("slow_answer", seconds=0.4)
    with pytest.raises(requests.ReadTimeout):
        rerank(row, timeout=0.2)
    assert is_well(row)


def test_answers_are_late_behind_a_queue_of_one(vast, row):
    vast.fault("slow_answer", seconds=5, queue=True)
    assert is_well(row)
    with connected(row) as first:
        first.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        until(lambda: fails_by(requests.ReadTimeout, row))


def test_a_dripping_answer_outlasts_a_patience_per_read(vast, row):
    vast.fault("drip", every_s=0.1)
    start, got = time.monotonic(), b""
    with rerank(row, timeout=0.2, stream=True) as answer:
        for byte in answer.iter_content(1):
            got += byte
            if time.monotonic() - start > 0.5:
                break
    assert 3 <= len(got) <= 6


def test_a_header_does_not_end(vast, row):
    vast.fault("endless_header", every_s=0.1)
    done = subprocess.run(["curl", "-sS", "-m", "0.5", endpoint(row)], capture_output=True, text=True, check=False)
    assert (done.returncode, "timed out" in done.stderr) == (28, True)
    off(vast)
    vast.fault("endless_header", every_s=0.0001)
    with pytest.raises(requests.ConnectionError, match="100 headers"):
        rerank(row)


@pytest.mark.parametrize(("kind", "encoding", "most"), [("huge_answer", None, 9 << 20), ("gzip_bomb", "gzip", 1 << 16)])
def test_an_answer_is_huge(vast, row, kind, encoding, most):
    vast.fault(kind, mb=8)
    answer = rerank(row, timeout=5, stream=True)
    assert answer.headers.get("Content-Encoding") == encoding
    assert sum(len(part) for part in answer.raw.stream(1 << 20, decode_content=False)) < most
    assert len(rerank(row, timeout=5).content) == (8 << 20) + 2


def test_an_answer_sends_elsewhere(vast, row):
    vast.fault("redirect", location="http://example.invalid/rerank")
    answer = rerank(row, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (307, "http://example.invalid/rerank")


def test_an_answer_is_cut_in_the_middle(vast, row):
    vast.fault("cut_answer")
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        rerank(row)


@pytest.mark.parametrize(("kind", "text"), [("nan_scores", "NaN"), ("null_scores", "null")])
def test_scores_are_no_numbers(vast, row, kind, text):
    vast.fault(kind)
    assert rerank(row).text.count(f'"relevance_score":{text}') == 3
    assert rerank(row, "/score", body={"text_1": "a", "text_2": ["b", "c"]}).text.count(f'"score":{text}') == 2
    assert answers(endpoint(row), "/v1/models")


def test_scores_are_in_the_wrong_order(vast, row):
    vast.fault("wrong_order")
    assert [one["index"] for one in rerank(row).json()["results"]][-1] == 1


def test_a_stopped_event_loop_leaves_a_port_that_takes_connections(stub):
    row = stub.running()
    until(lambda: answers(endpoint(row)))
    with connected(row) as kept:
        stub.fault("frozen")
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(TimeoutError):
            kept.recv(1)
        with pytest.raises(requests.ReadTimeout):
            rerank(row)
        off(stub)
        assert kept.recv(15) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("kind", ["frozen", "null_scores"])
def test_a_stub_goes_wrong_from_its_start(stub, kind):
    stub.fault(kind, times=1)
    row = stub.running()
    log_with(stub, row["id"], "Application startup complete.")
    if kind == "frozen":
        until(lambda: fails_by(requests.ReadTimeout, row))
    else:
        assert until(lambda: answers(endpoint(row)))
        assert '"relevance_score":null' in rerank(row).text
    other = stub.running()
    until(lambda: answers(endpoint(other)))
    assert is_well(other)


def test_no_file_can_be_written_once_the_disk_is_full(stub):
    row = stub.running(onstart="bash", args=["-c", WRITES])
    folder = stub.folder / "containers" / str(row["id"])
    until((folder / "file").exists)
    stub.fault("disk_full")
    until((folder / "failed").exists)
    size = (folder / "file").stat().st_size
    off(stub)
    until(lambda: (folder / "file").stat().st_size > size)


@pytest.mark.parametrize("by", ["machine_id", "id", "instance", "host"])
def test_a_fault_is_one_machines_or_one_contracts_and_ends_with_its_rule(vast, row, by):
    other = vast.running()
    if by in ("instance", "host"):
        path = f"instances/{row['id']}" if by == "instance" else f"hosts/{row['machine_id']}"
        vast.control(f"{path}/fault", kind="redirect")
    else:
        vast.fault("redirect", {by: row[by]})
    assert rerank(row, allow_redirects=False).status_code == 307
    assert is_well(other)
    rule = vast.get_control("faults")["rules"][0]["id"]
    assert vast.session.delete(f"{vast.url}/_emulator/faults/{rule}", timeout=5).ok
    assert is_well(row)


def test_a_fault_comes_after_a_while_and_only_to_one_path(vast, row):
    vast.fault("redirect", after_s=600, route="/score")
    assert is_well(row)
    vast.control("time/advance", seconds=601)
    until(lambda: rerank(row, "/score", allow_redirects=False).status_code == 307)
    assert is_well(row)


def test_a_fault_with_a_chance_is_drawn_once_for_each_start(vast, row):
    vast.control("chaos", seed=5, rate=0.75, kinds=["redirect"])
    statuses = [rerank(vast.running(), allow_redirects=False).status_code for _ in range(6)]
    assert statuses == [307, 307, 200, 200, 307, 200]
    assert is_well(row)
    assert vast.get_control("faults")["fired"]["redirect"] == 3


@pytest.mark.parametrize(
    ("kind", "params", "said"),
    [("disk_full", {}, "use --runtime stub"), ("drip", {"speed": 3}, "has no parameter speed")],
)
def test_what_a_server_cannot_do_is_refused(vast, kind, params, said):
    answer = vast.session.post(f"{vast.url}/_emulator/faults", json={"kind": kind, **params}, timeout=5)
    assert (answer.status_code, said in answer.json()["error"]) == (400, True)
    assert set(SERVER) < set(vast.get_control("faults")["kinds"])


@pytest.mark.parametrize("kind", SERVER)
def test_of_real_vllm_only_what_acts_on_processes_is_taken(kind):
    if kind in ("frozen", "disk_full"):
        check(kind, {}, "vllm")
    else:
        with pytest.raises(ValueError, match="--runtime vllm does not support it"):
            check(kind, {}, "vllm")
