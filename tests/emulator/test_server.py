"""The server around the world: what it takes to start, what it survives, what it leaves behind."""

import json
import os
import subprocess
import sys

import pytest
import requests

from emulator.server import EmulatorServer
from emulator.store import StoreInUse
from harness.wait import until
from tests.emulator.client import KEY, Client
from tests.emulator.launched import REPO

# The life of an emulator in a process of its own, twice: what is open after the first is still open after the second.
TWO_LIVES = """
import json, os, tempfile
from pathlib import Path
from emulator.server import EmulatorServer
from tests.emulator.client import Client

BUSY = {"onstart": "bash", "args": ["-c", "touch $TMPDIR/x; exec sleep 100"]}
open_files = []
seen = 0
for life in range(2):
    for runtime in ("none", "stub"):
        with EmulatorServer(runtime=runtime) as server:
            vast = Client(server.url)
            rows = [vast.running(**BUSY) for _ in range(3)]
            vast.destroy(rows[0]["id"])
            vast.control(f"instances/{rows[1]['id']}/kill")
            vast.session.close()
            seen += len(list(Path(tempfile.gettempdir()).glob("vast-*")))
    open_files.append(len(os.listdir("/proc/self/fd")))
children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
print(json.dumps([*open_files, children, seen]))
"""
BUSY = {"onstart": "bash", "args": ["-c", "touch $TMPDIR/x; exec sleep 100"]}


def test_an_emulator_leaves_neither_open_files_nor_folders_nor_processes(tmp_path):
    env = os.environ | {"TMPDIR": str(tmp_path)}
    program = [sys.executable, "-c", TWO_LIVES]
    done = subprocess.run(program, cwd=REPO, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    files_before, files_after, children, seen = json.loads(done.stdout)
    assert files_after == files_before
    assert children == []
    assert seen > 0
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_taken_is_an_error_and_the_other_emulator_goes_on(tmp_path):
    with EmulatorServer(state_dir=tmp_path / "a") as server:
        with pytest.raises(OSError, match="address already in use"):
            EmulatorServer(port=server.port, state_dir=tmp_path / "b").start()
        assert Client(server.url).get_control("health")["ok"]


def test_two_emulators_do_not_share_a_folder(tmp_path):
    with EmulatorServer(state_dir=tmp_path) as server:
        row = Client(server.url).running()
        with pytest.raises(StoreInUse, match=str(tmp_path)):
            EmulatorServer(state_dir=tmp_path).start()
        assert Client(server.url).status(row["id"]) == "running"
    with EmulatorServer(state_dir=tmp_path) as server:
        assert Client(server.url).status(row["id"]) == "running"


def test_an_emulator_starts_again_at_its_old_address(tmp_path):
    server = EmulatorServer(state_dir=tmp_path).start()
    url = server.url
    row = Client(url).running()
    server.stop()
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=2)
    with server:
        assert server.url == url
        assert Client(url).status(row["id"]) == "running"


def test_a_contract_that_breaks_the_heartbeat_is_told_of_and_stops_nothing_else(tmp_path, caplog):
    with EmulatorServer(runtime="stub", state_dir=tmp_path) as server:
        vast = Client(server.url)
        row = vast.running(**BUSY)
        assert vast.get_control("health")["ok"]
        vast.control(f"instances/{row['id']}/args", args=5)
        vast.call("PUT", f"0/instances/reboot/{row['id']}/", {})
        until(lambda: not vast.get_control("health")["ok"])
        assert "TypeError" in vast.get_control("health")["error"]
        assert vast.running(**BUSY)
        assert vast.destroy(row["id"]).json() == {"success": True}
        vast.control("reset")
        assert vast.get_control("health")["ok"]
    assert [one.message for one in caplog.records] == ["a heartbeat failed; the emulator goes on"]


def test_what_containers_are_given_is_for_its_owner_only(tmp_path):
    with EmulatorServer(state_dir=tmp_path) as server:
        Client(server.url).rent(env={"VLLM_API_KEY": "sesame"})
        files = [one for one in tmp_path.rglob("*") if one.is_file() and b"sesame" in one.read_bytes()]
        assert files
        assert [one for one in files if one.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("value", [KEY, f"bearer {KEY}", f"Bearer {KEY}x", "Bearer", f"Basic {KEY}"])
def test_a_key_counts_as_a_bearers_only(vast, value):
    headers = {"Authorization": value}
    assert requests.get(f"{vast.url}/api/v0/users/current", headers=headers, timeout=5).status_code == 401


def test_only_the_newest_logs_can_be_fetched_and_their_names_cannot_be_guessed(vast):
    instance_id = vast.running()["id"]
    path = f"0/instances/request_logs/{instance_id}/"
    urls = [vast.call("PUT", path, {"tail": "5"}).json()["result_url"] for _ in range(102)]
    assert len(set(urls)) == 102
    assert requests.get(urls[0], timeout=5).status_code == 404
    assert requests.get(urls[-1], timeout=5).status_code == 200
    assert requests.get(f"{vast.url}/blob/nothing.log", timeout=5).status_code == 404


def test_a_destroyed_contract_is_remembered_after_a_restart(tmp_path):
    with EmulatorServer(state_dir=tmp_path) as server:
        vast = Client(server.url)
        instance_id = vast.running(label="gone")["id"]
        vast.destroy(instance_id)
        vast.rent()
        told = vast.ledger(instance_id)
    with EmulatorServer(state_dir=tmp_path) as server:
        vast = Client(server.url)
        assert vast.ledger(instance_id) == told
        assert vast.show(instance_id) is None
