"""`python -m emulator` as a person starts it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from emulator.access import KEYS_ENV
from harness.wait import until
from tests.emulator.client import answers, endpoint
from tests.emulator.launched import REPO, container_pids


def emulator(*flags):
    """Run to its end what does not serve."""
    command = [sys.executable, "-m", "emulator", *flags]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=20, check=False)


def sockets_of(pid):
    """Local and remote addresses of a process's sockets, as /proc/net/tcp writes them."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        match = re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))
        inodes |= {match[1]} if match else set()
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return [(row[1], row[2]) for row in rows if row[9] in inodes]


def test_the_launcher_says_one_line_and_ends_cleanly_with_its_containers(launch, tmp_path):
    url_file = tmp_path / "url"
    one = launch("--url-file", str(url_file))
    row = one.vast.running()
    assert one.line == f"emulator ready at {one.vast.url} (runtime stub, time instant, state {tmp_path / 'state'})\n"
    assert url_file.read_text().strip() == one.vast.url
    assert one.end() == ("", "", 0)
    assert container_pids(one.vast, row["id"]) == []


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_boot_ends_it_cleanly(launch, sign):
    one = launch("--boot-s", "10")
    one.vast.wait(one.vast.rent(), "created")
    assert one.end(sign) == ("", "", 0)


def test_it_listens_and_talks_on_loopback_only(launch):
    one = launch()
    row = one.vast.running()
    until(lambda: answers(endpoint(row)))
    pids = [one.process.pid, *container_pids(one.vast, row["id"])]
    addresses = [end.split(":")[0] for pid in pids for pair in sockets_of(pid) for end in pair]
    assert addresses
    assert {one for one in addresses if not one.endswith("7F")} <= {"00000000"}  # 0.0.0.0: nobody at the other end
    assert all(local.split(":")[0].endswith("7F") for pid in pids for local, _ in sockets_of(pid))


def test_it_prints_no_key_and_no_environment_whatever_it_is_asked(launch, monkeypatch):
    monkeypatch.setenv(KEYS_ENV, "key-of-the-account")
    one = launch()
    one.vast.session.headers["Authorization"] = "Bearer key-of-the-account"
    row = one.vast.running(env={"-p 8000:8000": "1", "VLLM_API_KEY": "sesame-street"})
    one.vast.rent(label="sesame-street", env={"A": "sesame-street"})
    headers = {"Authorization": "Bearer sesame-street"}
    requests.get(f"{one.vast.url}/api/v1/instances/", headers=headers, timeout=5)
    requests.put(f"{one.vast.url}/api/v0/asks/x/", data="{sesame-street", headers=headers, timeout=5)
    one.vast.call("PUT", f"0/asks/{one.vast.offer()['id']}/", {"image": "i", "disk": "sesame-street"})
    one.vast.destroy(row["id"])
    assert one.end() == ("", "", 0)
    assert "key-of-the-account" not in one.line


def test_without_a_folder_it_leaves_none():
    command = [sys.executable, "-m", "emulator", "--runtime", "none", "--hub", "offline"]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = Path(process.stdout.readline().rpartition("state ")[2].rstrip(")\n"))
    assert folder.is_dir()
    process.terminate()
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0
    assert not folder.exists()


def test_help_names_every_flag():
    done = emulator("--help")
    flags = {"--host", "--port", "--runtime", "--state", "--time", "--seed", "--pacing", "--models", KEYS_ENV}
    assert done.returncode == 0
    assert [flag for flag in flags if flag not in done.stdout] == []


def test_what_keeps_it_from_starting_is_one_line(launch, tmp_path):
    one = launch()
    port = one.vast.url.rpartition(":")[2]
    for flags, said in [
        (
            ["--port", port, "--hub", "offline"],
            "address already in use; choose another port: --port N, or EMULATOR_PORT=N",
        ),
        (["--state", str(tmp_path / "state")], "another emulator uses"),
        (["--models", str(tmp_path / "none.json")], "No such file"),
        (["--runtime", "vllm"], "--runtime vllm needs --vllm-python"),
    ]:
        done = emulator(*flags)
        assert done.returncode != 0
        assert said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
