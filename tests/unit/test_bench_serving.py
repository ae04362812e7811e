"""The serving bench: what its cells add up to, and a real run of its load generator against a listening server."""

import base64
import json
import subprocess
import sys
import threading

import pytest
import uvicorn

from bench.guard_cost import cpu_ms
from bench.serving import REPO, Cell, Load, Target, figures, main, plot, quantile, table, usd_per_million
from components.vast.identity import Authority
from emulator.scoring import Served
from emulator.stub import Stub
from tests.unit.fake_vllm import KEY, FakeVllm

PLAIN, GUARD = Target("plain", "http://a", "m"), Target("guard", "http://b", "m", dph=0.36)


def cell(target, number, count, took_s=1.0, failures=()):
    return Cell(target, 8, number, took_s, tuple(float(n) for n in range(1, count + 1)), failures)


def test_a_target_is_compared_within_each_round_and_the_median_of_rounds_counts():
    cells = [cell("plain", 0, 100), cell("guard", 0, 99), cell("plain", 1, 50), cell("guard", 1, 48)]
    cells += [cell("plain", 2, 200), cell("guard", 2, 196, failures=("HTTP 503",))]
    plain, guard = figures(cells, [PLAIN, GUARD], Load(pairs=10, users=(8,), rounds=3))
    assert (plain.ratio, plain.requests_per_s, plain.pairs_per_s) == (1.0, 100, 1000)
    assert (guard.ratio, guard.ratio_low, guard.ratio_high) == (0.98, 0.96, 0.99)
    assert (guard.requests, guard.failed) == (343, 1)
    assert guard.usd_per_million_pairs == pytest.approx(0.36 / 3600 / 990 * 1e6)
    assert "| guard | 8 | 99.0 | 990 |" in table([plain, guard])
    assert "1 of 344" in table([plain, guard])


def test_a_million_pairs_cost_what_the_hours_cost_that_they_take():
    assert usd_per_million(0.12, 1e6 / 3600) == pytest.approx(0.12)
    assert usd_per_million(None, 100) is None
    assert usd_per_million(0.12, 0) is None


def test_quantiles_are_values_that_were_seen():
    assert [quantile(list(range(100)), share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert quantile([7.0], 0.99) == 7.0
    assert str(quantile([], 0.5)) == "nan"


def test_the_figures_are_drawn(tmp_path):
    cells = [cell("plain", 0, 100), cell("guard", 0, 99)]
    plot(figures(cells, [PLAIN, GUARD], Load(users=(8,), rounds=1)), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_measures_an_endpoint_with_a_key_from_the_environment(tmp_path):
    fake = FakeVllm(context=10_000)
    with fake.listening() as url:
        argv = ["--url", url, "--key-env", "THE_KEY", "--dph", "0.12", "--pairs", "4", "--in-flight", "2"]
        argv += ["--rounds", "1", "--seconds", "1", "--json", str(tmp_path / "x.json")]
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
    kept = json.loads((tmp_path / "x.json").read_text())
    [figure] = kept["figures"]
    assert figure["requests"] > 5
    assert figure["failed"] == 0
    assert figure["usd_per_million_pairs"] > 0
    assert "$ per million pairs" in done.stdout
    assert "round 1/1, 2 in flight" in done.stderr
    assert KEY not in done.stdout + done.stderr + json.dumps(kept)
    asked = [body for _, path, body, _ in fake.requests if path == "/rerank"]
    assert all(len(body["documents"]) == 4 for body in asked)
    assert len({json.dumps(body) for body in asked}) == len(asked), "no cache can answer"


def test_an_endpoint_with_tls_is_measured_by_its_ca_and_by_no_other(tmp_path, monkeypatch):
    authority, stranger = Authority.make("bench"), Authority.make("somebody else")
    issued = authority.issue("127.0.0.1")
    for name, label, content in (("cert", "CERTIFICATE", issued.certificate), ("key", "PRIVATE KEY", issued.key)):
        text = base64.encodebytes(content).decode()
        (tmp_path / name).write_text(f"-----BEGIN {label}-----\n{text}-----END {label}-----\n")
    (tmp_path / "ca.pem").write_text(authority.certificate)
    (tmp_path / "other.pem").write_text(stranger.certificate)
    monkeypatch.setenv("THE_KEY", KEY)
    app = Stub(Served(("m",), "m", 512, (KEY,)))
    serving = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="critical", ssl_certfile=tmp_path / "cert", ssl_keyfile=tmp_path / "key")
    )
    thread = threading.Thread(target=serving.run, daemon=True)
    thread.start()
    while not serving.started:
        assert thread.is_alive()
    port = serving.servers[0].sockets[0].getsockname()[1]
    argv = ["--url", f"https://127.0.0.1:{port}", "--key-env", "THE_KEY", "--in-flight", "1", "--rounds", "1"]
    argv += ["--seconds", "0.5", "--model", "m", "--json", str(tmp_path / "x.json"), "--ca"]
    try:
        assert main([*argv, str(tmp_path / "ca.pem")]) == 0
        assert main([*argv, str(tmp_path / "other.pem")]) == 1
    finally:
        serving.should_exit = True
        thread.join(10)


def test_requests_that_fail_are_counted_and_the_command_says_so(tmp_path, capsys, monkeypatch):
    fake = FakeVllm(context=10_000)
    fake.fault = lambda path, _body, answer: (503, {"error": "busy"}) if path == "/rerank" else answer
    monkeypatch.setenv("THE_KEY", KEY)
    with fake.listening() as url:
        argv = ["--url", url, "--key-env", "THE_KEY", "--in-flight", "1", "--rounds", "1", "--seconds", "0.5"]
        assert main([*argv, "--json", str(tmp_path / "x.json")]) == 1
    assert "requests failed" in capsys.readouterr().err


def test_without_a_key_the_command_says_where_to_put_it(capsys):
    assert main(["--url", "http://127.0.0.1:9", "--key-env", "NO_SUCH_VARIABLE"]) == 1
    assert "NO_SUCH_VARIABLE is not in the environment" in capsys.readouterr().err


def test_the_guards_own_time_grows_with_the_request():
    few, few_bytes = cpu_ms(4, 30)
    many, many_bytes = cpu_ms(400, 30)
    assert many_bytes > 50 * few_bytes
    assert 0 < few < many
