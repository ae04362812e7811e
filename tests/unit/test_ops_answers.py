"""What a command of ops/ answers: headline, table and exit code say one thing; on a terminal it can be read."""

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from rich.console import Console

from emulator.server import EmulatorServer
from harness.stack import REPO
from ops import exits
from ops.command import draw
from ops.outputs import Replica, StackOutputs
from ops.status import Bill, ServerStatus, summarize

KEY = "key-of-this-test"
TWO = [Replica(36895117 + n, 20196 + n, 5, "RTX 4060 Ti", "Japan, JP", f"https://203.0.113.{n}:1") for n in (0, 1)]
OUTPUTS = StackOutputs("https://gateway:8443", "m", TWO, True, 30, "w", 0.2)
ALIVE, DEAD = (
    ServerStatus("https://a", 31.2, "", 0.0863, "running"),
    ServerStatus("https://b", None, "refused", 0.0863, "exited"),
)
SINCE = datetime(2026, 1, 2, tzinfo=UTC)
BILL = Bill(24.42, 0.4837)


@pytest.mark.parametrize(
    ("servers", "gateway", "since", "headline"),
    [
        ([ALIVE, ALIVE], None, None, "every server answers"),
        ([ALIVE, ALIVE], ALIVE, None, "every server answers"),
        ([ALIVE, DEAD], ALIVE, None, "1 of 2 servers dead"),
        ([ALIVE, ALIVE], DEAD, None, "the gateway is dead"),
        ([ALIVE, ALIVE], None, SINCE, "drift since 2026-01-02 00:00 UTC, by the last check"),
        ([DEAD, DEAD], DEAD, None, "2 of 2 servers dead; the gateway is dead"),
    ],
)
def test_status_ends_with_the_code_of_drift_exactly_where_its_headline_names_what_is_wrong(
    servers, gateway, since, headline
):
    found = summarize("prod", OUTPUTS, servers, gateway, bill=BILL, since=since)
    assert found.headline == headline
    assert found.code == (exits.OK if headline == "every server answers" else exits.DRIFT)
    text = "\n".join(found.parts)
    assert ("| NO |" in text) == ("dead" in headline)
    assert ("`python -m ops heal`" in text) == (found.code != exits.OK)
    assert "none found" not in text
    assert "Credit $24.42, 50 h 29 min at $0.4837/h for all instances of the account." in text


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_on_a_terminal_a_status_is_a_table_whose_ids_and_states_are_whole(columns):
    console = Console(width=columns, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    found = summarize("prod", OUTPUTS, [ALIVE, DEAD], ServerStatus("https://g", 9.0), bill=BILL, since=SINCE)
    draw("status", "prod", found, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("prod status: 1 of 2 servers dead")
    shown = [" ".join(line.split()) for line in lines]
    for start in ("36895117 running yes,", "36895118 exited NO $0.0863", "gateway - yes,", "• 36895118: refused"):
        assert any(line.startswith(start) for line in shown), (start, shown)
    assert not any(mark in line for line in lines for mark in ("###", "|", "**", "…"))


# ---- orphans -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market():
    with EmulatorServer(runtime="none", time="instant", keys=[KEY]) as server:
        yield server


@pytest.fixture
def orphan(market):
    """Rent something with a label of this project, past our own code; give its id."""
    headers = {"Authorization": f"Bearer {KEY}"}
    offers = requests.post(f"{market.url}/api/v0/bundles/", json={}, headers=headers, timeout=10).json()["offers"]
    body = {"image": "busybox:1.36", "disk": 10, "label": "vast-reranker/old/reranker@0a1b2c3d:abcdef"}
    offer = next(one["id"] for one in offers if one["disk_space"] > 50)
    rented = requests.put(f"{market.url}/api/v0/asks/{offer}/", json=body, headers=headers, timeout=10).json()
    yield rented["new_contract"]
    url = f"{market.url}/api/v0/instances/{rented['new_contract']}/"
    requests.delete(url, json={}, headers=headers, timeout=10)


@pytest.fixture
def export(tmp_path):
    """A state with one instance, which is not among those of the market."""
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"deployment": {"resources": [{"type": "x:y:Instance", "id": "1"}]}}))
    return str(path)


def command(market, *args, key=KEY, stdin=subprocess.DEVNULL):
    words = [sys.executable, "-m", "ops", "orphans", "--api-url", market.url, *args]
    # the ledger is beside the export, and not in this checkout
    env = {"PATH": os.environ["PATH"], "VAST_API_KEY": key, "PULUMI_BACKEND_URL": Path(args[0]).parent.as_uri()}
    return subprocess.Popen(
        words, cwd=REPO, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process):
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in out + err
    return process.returncode, out, err


def test_no_key_goes_in_clear_to_another_machine():
    command = [sys.executable, "-m", "ops", "orphans", "--api-url", "http://192.0.2.1"]
    env = {**os.environ, "VAST_API_KEY": KEY}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == exits.USAGE
    assert "VAST_URL or --api-url: http://192.0.2.1 would get the Vast.ai key in clear" in done.stderr


def test_orphans_that_are_too_young_are_named_and_counted(market, orphan, export):
    code, out, _ = ended(command(market, export))
    assert code == exits.OK
    assert out.startswith("### orphans: none, and 1 too young to tell\n")
    assert f"- instance {orphan}: " in out
    code, out, _ = ended(command(market, export, "--min-age-min", "0"))
    assert code == exits.ORPHANS
    assert out.startswith("### orphans: 1\n")


def test_without_anybody_to_ask_orphans_are_left_and_the_error_says_what_to_do(market, orphan, export):
    code, out, err = ended(command(market, export, "--min-age-min", "0", "--destroy"))
    assert (code, out.splitlines()[0]) == (exits.USAGE, "### orphans: failed")
    assert err.splitlines()[-1].endswith("; add --yes")


@pytest.mark.parametrize(("typed", "code"), [("yes\n", exits.OK), ("y\n", exits.USAGE), ("\n", exits.USAGE)])
def test_orphans_are_destroyed_where_yes_is_typed_and_nowhere_else(market, orphan, export, typed, code):
    here, there = pty.openpty()
    process = command(market, export, "--min-age-min", "0", "--destroy", stdin=there)
    os.close(there)
    os.write(here, typed.encode())
    assert (got := ended(process))[0] == code, got
    os.close(here)
    assert ("### orphans: 1: all destroyed" in got[1]) == (code == exits.OK)
    assert ("not confirmed: nothing was destroyed" in got[2]) == (code != exits.OK)


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}\r\n"])
def test_a_key_with_blanks_around_it_is_read_without_them(market, export, around):
    assert ended(command(market, export, key=around.format(KEY)))[0] == exits.OK


@pytest.mark.parametrize("spoilt", ["{} {}", "{}\nX: y", "{}\x7f"])
def test_a_key_that_cannot_be_one_is_refused_by_the_rule_and_shown_nowhere(market, export, spoilt):
    code, out, err = ended(command(market, export, key=spoilt.format(KEY, KEY)))
    assert code == exits.SECRET
    assert "printable ASCII" in err
    assert KEY not in out + err


# ---- Pulumi's own text ---------------------------------------------------------------------------------------------

PULUMI = r"""#!/bin/bash
case "$*" in
  version) echo v3.200.0 ;;  # whose events come by a file
  *"tag ls"* | *"stack export"*) echo '{}' ;;
  *preview*)
    log=$(sed 's/.*--event-log \([^ ]*\).*/\1/' <<<"$*")
    summary='{"maybeCorrupt": false, "durationSeconds": 1, "resourceChanges": {}}'
    echo '{"sequence": 1, "timestamp": 1, "summaryEvent": '"$summary"'}' >"$log"
    for number in $(seq 37); do echo "  ~ pulumi-python:dynamic:ApiKey reranker-key refreshing $number"; done
    ;;
esac
"""


def drift(folder, *words, **env):
    (folder / "Pulumi.yaml").write_text("name: p\nruntime: yaml\n")
    program = folder / "bin" / "pulumi"
    program.parent.mkdir(exist_ok=True)
    program.write_text(PULUMI)
    program.chmod(0o755)
    words = [sys.executable, "-m", "ops", "drift", "--stack", "dev", "--cwd", str(folder), *words]
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}", **env}
    done = subprocess.run(words, cwd=REPO, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "### `dev` drift: in sync\n"), done.stderr
    return done.stderr


def test_an_answer_stands_alone_and_pulumis_output_is_in_a_log_that_is_named(tmp_path):
    err = drift(tmp_path)
    (log,) = re.findall(r"\S+\.log", err)
    assert len(err.splitlines()) == 1
    assert (tmp_path / log).read_text().count("refreshing") == 37


@pytest.mark.parametrize(("words", "env"), [(["-v"], {}), ([], {"CI": "true"})])
def test_pulumis_output_is_shown_on_request_and_in_a_pipeline(tmp_path, words, env):
    assert drift(tmp_path, *words, **env).count("refreshing") == 37
    assert not list(tmp_path.rglob("*.log"))
