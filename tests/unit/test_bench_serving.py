"""The serving bench: what its cells add up to, and real loads on a listening server."""

import base64
import json
import subprocess
import sys
import threading
import time

import pytest
import uvicorn
from click.testing import CliRunner

from bench.__main__ import main
from bench.load import BenchTarget, Measurement
from bench.serving import Workload, interval, quantile, summarize, table
from components.measurements import read_rates
from components.vast.identity import Authority
from emulator.scoring import Served
from emulator.stub import Stub
from harness.stack import REPO
from tests.unit.fake_vllm import KEY, FakeVllm

PLAIN, GUARD = BenchTarget("plain", "http://a", "m"), BenchTarget("guard", "http://b", "m", dph=0.36)


def cell(target, number, count, took_s=1.0, failures=(), pairs=10, users=8):
    return Measurement(target, pairs, users, number, took_s, tuple(float(n) for n in range(1, count + 1)), failures)


def serving(*words, **env):
    return CliRunner().invoke(main, ["serving", *words], env=env)


def swept():
    """Two batch sizes at two widths: the guard's rate is 90 % of plain with the small batch, 80 % with the large."""
    rates = {(10, 1): (100, 90), (10, 8): (200, 180), (40, 1): (50, 40), (40, 8): (60, 48)}
    cells = [
        cell(name, 0, count, pairs=pairs, users=users)
        for (pairs, users), counts in rates.items()
        for name, count in zip(("plain", "guard"), counts, strict=True)
    ]
    return summarize(cells, [PLAIN, GUARD], Workload(pairs=(10, 40), users=(1, 8), rounds=1))


def test_a_target_is_compared_within_each_round_and_the_median_of_rounds_counts():
    cells = [cell("plain", 0, 100), cell("guard", 0, 99), cell("plain", 1, 50), cell("guard", 1, 48)]
    cells += [cell("plain", 2, 200), cell("guard", 2, 196, failures=("HTTP 503",))]
    plain, guard = summarize(cells, [PLAIN, GUARD], Workload(pairs=(10,), users=(8,), rounds=3))
    assert (plain.ratio, plain.requests_per_s, plain.pairs_per_s) == (1.0, 100, 1000)
    assert (guard.ratio, guard.ratio_low, guard.ratio_high) == (0.98, 0.96, 0.99)
    assert (guard.requests, guard.failed) == (343, 1)
    assert (guard.added_ms, guard.added_low_ms, guard.added_high_ms) == (-1.0, -2.0, -0.5)
    assert guard.usd_per_million_pairs == pytest.approx(0.36 / 3600 / 990 * 1e6)
    assert "| guard | 10 | 8 | 99.0 | 990 |" in table([plain, guard])
    assert "1 of 344" in table([plain, guard])


def test_quantiles_are_values_that_were_seen():
    assert [quantile(list(range(100)), share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert quantile([7.0], 0.99) == 7.0
    assert str(quantile([], 0.5)) == "nan"


@pytest.mark.parametrize(
    ("count", "bounds"), [(1, (1, 1)), (5, (1, 5)), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9)), (20, (6, 15))]
)
def test_the_median_lies_within_its_interval_in_19_of_20_cases_from_six_rounds_on(count, bounds):
    """The published order statistics of the sign test at 95 %."""
    assert interval(range(count, 0, -1)) == bounds


def test_each_batch_size_is_compared_with_the_first_target_at_the_same_batch_size_and_width():
    found = swept()
    assert [(one.pairs, one.users, one.target) for one in found[::2]] == [
        (10, 1, "plain"),
        (10, 8, "plain"),
        (40, 1, "plain"),
        (40, 8, "plain"),
    ]
    assert [one.ratio for one in found if one.target == "guard"] == [0.9, 0.9, 0.8, 0.8]
    assert [one.pairs_per_s for one in found if one.target == "guard"] == [900, 1800, 1600, 1920]


def test_a_million_pairs_are_priced_by_the_rate_of_their_own_batch_size():
    small, large = (one for one in swept() if (one.target, one.users) == ("guard", 8))
    assert small.usd_per_million_pairs == pytest.approx(0.36 / 3600 / 1800 * 1e6)
    assert large.usd_per_million_pairs == pytest.approx(0.36 / 3600 / 1920 * 1e6)
    lines = table(swept()).splitlines()
    assert lines[0].startswith("| target | pairs a request | in flight |")
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    [row] = [line for line in lines if line.startswith("| guard | 40 | 8 |")]
    assert row.endswith(f"| 0.800 (0.800 to 0.800) | -6.00 ms (-6.00 to -6.00) | {large.usd_per_million_pairs:.4f} |")


@pytest.mark.parametrize("wrong", [["--pairs", "0"], ["--in-flight", "a"]])
def test_a_wrong_command_line_is_an_error_of_use(wrong):
    assert serving(*wrong).exit_code == 2


def test_a_load_says_how_long_it_takes():
    assert Workload(pairs=(8, 32), users=(1, 8, 32), rounds=3, seconds=10).describe(4) == (
        "72 measurements of 10 s, 12.0 minutes or more"
    )


def test_the_command_measures_an_endpoint_with_a_key_from_the_environment(tmp_path):
    fake = FakeVllm(context=10_000)
    with fake.listening() as url:
        argv = ["--url", url, "--key-env", "THE_KEY", "--dph", "0.12"]
        argv += ["--pairs", "2", "--pairs", "4", "--in-flight", "2"]
        argv += ["--rounds", "1", "--seconds", "0.7", "--json", str(tmp_path / "x.json")]
        done = subprocess.run(
            [sys.executable, "-m", "bench", "serving", *argv],
            cwd=REPO,
            env={"THE_KEY": KEY, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "x.json").read_text())
    for pairs, figure in zip((2, 4), again["figures"], strict=True):
        assert figure["pairs"] == pairs
        assert figure["requests"] > 5
        assert figure["failed"] == 0
        assert figure["pairs_per_s"] == pytest.approx(pairs * figure["requests_per_s"])
        assert figure["usd_per_million_pairs"] == pytest.approx(0.12 / 3600 / figure["pairs_per_s"] * 1e6)
    assert "$ per million pairs" in done.stdout
    assert "2 measurements of 0.7 s" in done.stderr
    assert "round 1/1, 4 pairs, 2 in flight" in done.stderr
    assert KEY not in done.stdout + done.stderr + json.dumps(again)
    asked = [body for _, path, body, _ in fake.requests if path == "/rerank"]
    assert {len(body["documents"]) for body in asked} == {2, 4}
    assert len({json.dumps(body) for body in asked}) == len(asked), "no cache can answer"


def test_a_request_that_takes_longer_than_the_measurement_is_waited_for(tmp_path):
    fake = FakeVllm(context=10_000)
    taken = threading.Semaphore(2)

    def slow(path, _body, answer):
        if path == "/rerank" and taken.acquire(blocking=False):
            time.sleep(1.5)  # what is tested: the server's own time, longer than warm-up and measurement
        return answer

    fake.fault = slow
    argv = ["--key-env", "THE_KEY", "--pairs", "1", "--in-flight", "2", "--rounds", "1", "--seconds", "0.1"]
    with fake.listening() as url:
        done = serving("--url", url, *argv, "--json", str(tmp_path / "x.json"), THE_KEY=KEY)
    assert done.exit_code == 0, done.output
    [figure] = json.loads((tmp_path / "x.json").read_text())["figures"]
    assert figure["requests"] >= 2


def test_a_measurement_is_kept_as_the_gpus_and_one_with_failures_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeVllm(context=10_000)
    argv = ["--key-env", "THE_KEY", "--pairs", "2", "--in-flight", "2", "--rounds", "1", "--seconds", "0.1"]
    argv += ["--json", "x.json", "--record", "RTX 4090"]
    assert "--record needs --url" in serving(*argv, THE_KEY=KEY).stderr
    with fake.listening() as url:
        fake.fault = lambda path, _body, answer: (503, {"error": "busy"}) if path == "/rerank" else answer
        assert serving("--url", url, *argv, THE_KEY=KEY).exit_code == 1
        assert read_rates() == {}
        fake.fault = lambda _path, _body, answer: answer
        done = serving("--url", url, "--pairs", "8", *argv, THE_KEY=KEY)
    assert done.exit_code == 0, done.output
    best = max(one["pairs_per_s"] for one in json.loads((tmp_path / "x.json").read_text())["figures"])
    assert read_rates() == {"RTX 4090": {fake.model: round(best, 1)}}


def test_an_endpoint_with_tls_is_measured_by_its_ca_and_by_no_other(tmp_path):
    authority, other = Authority.make("bench"), Authority.make("somebody else")
    issued = authority.issue("127.0.0.1")
    for name, label, content in (("cert", "CERTIFICATE", issued.certificate), ("key", "PRIVATE KEY", issued.key)):
        text = base64.encodebytes(content).decode()
        (tmp_path / name).write_text(f"-----BEGIN {label}-----\n{text}-----END {label}-----\n")
    (tmp_path / "ca.pem").write_text(authority.certificate)
    (tmp_path / "other.pem").write_text(other.certificate)
    app = Stub(Served(("m",), "m", 512, (KEY,)))
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="critical", ssl_certfile=tmp_path / "cert", ssl_keyfile=tmp_path / "key")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    argv = ["--url", f"https://127.0.0.1:{port}", "--key-env", "THE_KEY", "--pairs", "4", "--in-flight", "1"]
    argv += ["--rounds", "1", "--seconds", "0.5", "--model", "m", "--json", str(tmp_path / "x.json"), "--ca"]
    try:
        assert serving(*argv, str(tmp_path / "ca.pem"), THE_KEY=KEY).exit_code == 0
        assert serving(*argv, str(tmp_path / "other.pem"), THE_KEY=KEY).exit_code == 1
    finally:
        server.should_exit = True
        thread.join(10)


def test_requests_that_fail_are_counted_and_the_command_says_so(tmp_path):
    fake = FakeVllm(context=10_000)
    fake.fault = lambda path, _body, answer: (503, {"error": "busy"}) if path == "/rerank" else answer
    with fake.listening() as url:
        argv = ["--url", url, "--key-env", "THE_KEY", "--pairs", "4", "--in-flight", "1", "--rounds", "1"]
        argv += ["--seconds", "0.5"]
        done = serving(*argv, "--json", str(tmp_path / "x.json"), THE_KEY=KEY)
    assert done.exit_code == 1
    assert "requests failed" in done.stderr


def test_without_a_key_the_command_says_where_to_put_it():
    done = serving("--url", "http://127.0.0.1:9", "--key-env", "NO_SUCH_VARIABLE")
    assert done.exit_code == 1
    assert "NO_SUCH_VARIABLE is not in the environment" in done.stderr
