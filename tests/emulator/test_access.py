"""Who is obeyed: no web page, no other user of the machine."""

import os
import stat
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests

from emulator.access import KEY_FILE, KEYS_ENV, load_keys
from emulator.client import ControlClient
from emulator.server import EmulatorServer

REPO = Path(__file__).resolve().parents[2]
EVIL = {"Origin": "https://evil.example", "Host": "evil.example", "Content-Type": "text/plain"}
ACTIONS = (
    ("POST", "/_emulator/instances/{id}/args", '{"args": ["touch", "/tmp/run-by-a-page"]}'),
    ("POST", "/_emulator/hosts/all/die", "{}"),
    ("POST", "/_emulator/reset", ""),
    ("POST", "/_emulator/faults", '{"kind": "http_500"}'),
    ("GET", "/_emulator/ledger", None),
    ("GET", "/_emulator/health", None),
    ("POST", "/api/v0/bundles/", "{}"),
    ("GET", "/api/v1/instances/", None),
    ("DELETE", "/api/v0/instances/{id}/", None),
)


def send(vast, method, path, body, key, **headers):
    given = {"Authorization": f"Bearer {key}"} if key else {}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.request(method, vast.url + path, data=body, headers=given | named, timeout=5)


@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
@pytest.mark.parametrize("keyed", [False, True], ids=["no key", "the key"])
@pytest.mark.parametrize("name", EVIL)
def test_a_page_of_another_site_runs_nothing_even_with_the_key(vast, method, path, body, keyed, name):
    contract = vast.running()
    before, rules = vast.emulator.ledger(), vast.emulator.get("faults")["rules"]
    headers = {"Content-Type": "application/json"} | {name: EVIL[name]}
    if name == "Content-Type" and body is None:
        return
    if name == "Content-Type":
        body = body or "{}"
    answer = send(vast, method, path.format(id=contract["id"]), body, vast.key if keyed else "", **headers)
    assert answer.status_code == {"Origin": 403, "Host": 421, "Content-Type": 415}[name]
    assert [one["status"] for one in vast.emulator.ledger()] == [one["status"] for one in before]
    assert vast.emulator.get("faults")["rules"] == rules
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(("method", "path", "body"), [one for one in ACTIONS if one[1] != "/api/v0/bundles/"])
@pytest.mark.parametrize("key", ["", "wrong", "emulator-key-", "schlüssel"])
def test_who_has_no_key_or_a_wrong_one_is_refused(vast, method, path, body, key):
    answer = send(
        vast, method, path.format(id=1), body, key.encode().decode("latin-1"), Content_Type="application/json"
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:{port}"}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "[::1]:{port}"}, 200),
        ({"Host": "127.0.0.1"}, 421),
        ({"Host": "localhost:1"}, 421),
        ({"Host": "127.0.0.1:{port}.evil.example"}, 421),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://localhost:{port}.evil.example"}, 403),
    ],
)
def test_it_answers_under_its_own_name_and_port_alone(vast, headers, status):
    port = vast.url.rpartition(":")[2]
    named = {name: value.replace("{port}", port) for name, value in headers.items()}
    assert send(vast, "GET", "/_emulator/health", None, vast.key, **named).status_code == status


@pytest.mark.parametrize("path", ["/_emulator/ledger", "/api/v1/instances/"])
@pytest.mark.parametrize(("headers", "status"), [(1, 200), (2, 401)])
def test_two_keys_are_none(vast, path, headers, status):
    connection = HTTPConnection("127.0.0.1", int(vast.url.rpartition(":")[2]), timeout=5)
    connection.putrequest("GET", path)
    for _ in range(headers):
        connection.putheader("Authorization", f"Bearer {vast.key}")
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()


def test_each_state_has_a_random_key_in_a_file_of_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.delenv(KEYS_ENV)
    keys = []
    for name in ("a", "b", "a"):
        with EmulatorServer(state_dir=tmp_path / name) as server:
            keys.append(server.key)
            path = server.folder / KEY_FILE
            assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (f"{server.key}\n", 0o600)
            assert server.control.ledger() == []
            assert requests.get(f"{server.url}/api/v1/instances/", timeout=5).status_code == 401
    assert keys[0] == keys[2] != keys[1]
    assert len(keys[0]) > 40


def test_keys_that_are_given_are_taken_and_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv(KEYS_ENV, "one,two")
    with EmulatorServer(state_dir=tmp_path) as server:
        assert ControlClient(server.url, "two").ledger() == []
        assert not (server.folder / KEY_FILE).exists()
    with EmulatorServer(state_dir=tmp_path, keys=["three"]) as server:
        assert server.control.ledger() == []
        assert send(server, "GET", "/_emulator/ledger", None, "one").status_code == 401


def test_an_empty_file_of_a_key_is_refused_by_its_name(tmp_path, monkeypatch):
    monkeypatch.delenv(KEYS_ENV)
    (tmp_path / KEY_FILE).touch()
    with pytest.raises(ValueError, match="key is empty: remove it"):
        load_keys(tmp_path)


def shell(repo, mode, *, command='echo "$VAST_API_KEY"', program="bash", **env):
    script = f". {repo}/scripts/env.sh {mode} 2>/dev/null; {command}"
    own = {"PATH": os.environ["PATH"], "HOME": str(repo)} | env
    done = subprocess.run([program, "-c", script], env=own, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def test_a_local_shell_has_the_key_of_its_emulator_and_a_real_one_drops_it(tmp_path):
    (tmp_path / "scripts").mkdir()
    for name in ("env.sh", "environment.sh"):
        (tmp_path / "scripts" / name).write_bytes((REPO / "scripts" / name).read_bytes())
    key = shell(tmp_path, "local")
    path = tmp_path / ".local" / "emulator" / KEY_FILE
    assert len(key) > 40
    assert (path.read_text().strip(), stat.S_IMODE(path.stat().st_mode)) == (key, 0o600)
    assert shell(tmp_path, "local", VAST_API_KEY="a-real-one") == key
    assert shell(tmp_path, "real", VAST_API_KEY=key) == ""
    assert shell(tmp_path, "real", VAST_API_KEY="a-real-one") == "a-real-one"
    start = [sys.executable, "-m", "emulator", "--state", str(path.parent), "--runtime", "none", "--hub", "offline"]
    env = {name: value for name, value in os.environ.items() if name != KEYS_ENV}
    with subprocess.Popen(start, cwd=REPO, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert ControlClient(line.split()[3], key).ledger() == []
            assert key not in line
            assert key not in Path(f"/proc/{process.pid}/cmdline").read_text()
        finally:
            process.terminate()
