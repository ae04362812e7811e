"""Containers as processes: what they run, what they see, how they end, and what outlives the emulator."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from emulator.server import EmulatorServer
from emulator.vllm_shim import command
from tests.emulator.client import IMAGE, MODEL, Client, answers, endpoint, until

REPO = Path(__file__).resolve().parents[2]
SHELL = {"onstart": "bash", "args": ["-c", "env; echo ready; exec sleep 100"]}
GATE = """
class Gate:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/score":
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"gate"})
        else:
            await self.app(scope, receive, send)
"""


def log_with(vast, instance_id, text):
    return until(lambda: log if text in (log := vast.log(instance_id)) else None)


def processes_in(folder):
    """Processes of containers whose home is in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(one.startswith(f"HOME={folder}/".encode()) or one == f"HOME={folder}".encode() for one in variables):
            found.append(int(entry.name))
    return found


def processes_of(vast, instance_id):
    """Processes of one container."""
    return processes_in(vast.folder / "containers" / str(instance_id))


def test_a_stub_serves_through_the_images_own_entrypoint(stub):
    row = stub.running()
    until(lambda: answers(endpoint(row)))
    models = requests.get(endpoint(row) + "/v1/models", timeout=5).json()
    assert models["data"][0]["id"] == MODEL
    log_with(stub, row["id"], "Application startup complete.")


def test_a_stub_serves_through_a_boot_script_with_middleware_and_a_key(stub):
    script = f'cat >"$TMPDIR/gate.py" <<\'END\'\n{GATE}END\nexport PYTHONPATH="$TMPDIR"\n'
    script += f"exec vllm serve {MODEL} --port 8000 --host 0.0.0.0 --dtype half --middleware gate.Gate"
    env = {"-p 8000:8000": "1", "VLLM_API_KEY": "sesame"}
    row = stub.running(onstart="bash", args=["-c", script], env=env)
    url = until(lambda: endpoint(row) if answers(endpoint(row)) else None)
    assert requests.post(url + "/score", json={}, timeout=5).text == "gate"
    body = {"query": "a", "documents": ["b"]}
    assert requests.post(url + "/rerank", json=body, timeout=5).status_code == 200
    assert requests.post(url + "/v1/rerank", json=body, timeout=5).status_code == 401
    with_key = requests.post(url + "/v2/rerank", json=body, headers={"Authorization": "Bearer sesame"}, timeout=5)
    assert with_key.status_code == 200


def test_a_stub_serves_tls(stub, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    made += ["-keyout", str(key), "-out", str(cert), "-subj", "/CN=test"]
    subprocess.run(made, check=True, capture_output=True)
    row = stub.running(args=[MODEL, "--ssl-certfile", str(cert), "--ssl-keyfile", str(key)])
    host, port = endpoint(row).removeprefix("http://").split(":")

    def certificate():
        try:
            return ssl.get_server_certificate((host, int(port)))
        except OSError:
            return None

    assert until(certificate).strip() == cert.read_text().strip()


@pytest.mark.parametrize(
    ("args", "said", "code"),
    [
        ([MODEL, "--no-such-flag"], "error: unrecognized arguments: --no-such-flag", 2),
        ([MODEL, "--dtype", "int3"], "argument --dtype: invalid choice", 2),
        ([MODEL, "--middleware", "nowhere.Nothing"], "No module named 'nowhere'", 1),
    ],
)
def test_what_vllm_would_refuse_ends_the_container_with_a_reason_in_the_log(stub, args, said, code):
    row = stub.wait(stub.rent(args=args), "exited")
    assert row["status_msg"] == f"exited ({code})\n"
    log_with(stub, row["id"], said)


def test_an_entrypoint_is_one_executable_not_a_line_for_a_shell(stub):
    instance_id = stub.rent(onstart="env | grep x", args=[])
    row = until(lambda: now if "OCI runtime create failed" in (now := stub.show(instance_id))["status_msg"] else None)
    assert (row["actual_status"], row["cur_state"]) == ("created", "stopped")
    assert 'exec: "env | grep x": executable file not found' in row["status_msg"]


def test_a_container_sees_what_vast_gives_it_and_nothing_of_the_emulators_environment(stub, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1")
    row = stub.running(**SHELL, env={"-p 8000:8000": "1", "MINE": "a b"})
    log = log_with(stub, row["id"], "ready")
    names = {line.partition("=")[0] for line in log.splitlines() if "=" in line}
    given = {"MINE", "CONTAINER_ID", "PUBLIC_IPADDR", "VAST_TCP_PORT_8000", "HOME", "TMPDIR", "PATH", "LANG"}
    assert names - {"PWD", "SHLVL", "_"} == given
    assert f"CONTAINER_ID={row['id']}" in log
    assert f"VAST_TCP_PORT_8000={row['ports']['8000/tcp'][0]['HostPort']}" in log
    assert "MINE=a b" in log


def test_secrets_of_the_environment_are_in_no_command_line(stub):
    row = stub.running(env={"-p 8000:8000": "1", "VLLM_API_KEY": "sesame-street"})
    until(lambda: answers(endpoint(row)))
    pids = processes_of(stub, row["id"])
    assert pids
    assert all(b"sesame-street" not in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


def test_destroying_returns_once_everything_in_the_container_is_dead(stub):
    nested = "sleep 100 & set -m; sleep 100 & exec sleep 100"
    row = stub.running(onstart="bash", args=["-c", nested])
    until(lambda: len(processes_of(stub, row["id"])) == 3)
    stub.destroy(row["id"])
    assert processes_of(stub, row["id"]) == []


def test_a_process_that_dies_is_seen_as_exited_and_takes_its_children_along(stub):
    row = stub.running(onstart="bash", args=["-c", "sleep 100 & sleep 100"])
    pids = until(lambda: found if len(found := processes_of(stub, row["id"])) == 3 else None)
    os.kill(min(pids), signal.SIGKILL)
    assert stub.wait(row["id"], "exited")["status_msg"] == "exited (-9)\n"
    until(lambda: not processes_of(stub, row["id"]))


def test_a_server_that_listens_inside_only_cannot_be_reached(stub):
    row = stub.running(args=[MODEL, "--host", "127.0.0.1"])
    log_with(stub, row["id"], "Application startup complete.")
    assert not answers(endpoint(row))


# ---- the shim --------------------------------------------------------------------------------------------------------

SHIM = {"python": "py", "ip": "127.0.1.9", "ports": {"8000": 40123}, "models": {"a/model": "/weights"}}


@pytest.mark.parametrize("argv", [["serve", "a/model"], ["--model", "a/model"], ["serve", "--model=a/model"]])
def test_the_shim_serves_local_weights_under_the_name_asked_for(argv):
    found = command([*argv, "--port", "8000"], SHIM | {"runtime": "vllm"})
    assert found[:5] == ["py", "-m", "vllm.entrypoints.openai.api_server", "--model", "/weights"]
    assert " ".join(found).endswith("--host 127.0.1.9 --port 40123 --served-model-name a/model --dtype float32")


def test_the_shim_drops_what_a_cpu_cannot_take_and_keeps_the_rest():
    given = "--gpu-memory-utilization 0.9 --tensor-parallel-size 2 --dtype half --max-model-len 512 --middleware g.G"
    found = command(["serve", "b/model", *given.split(), "--seed", "-1"], SHIM | {"runtime": "vllm"})
    text = " ".join(found)
    assert "--max-model-len 512 --middleware g.G --seed -1" in text
    assert "gpu-memory" not in text
    assert "tensor-parallel" not in text
    assert text.endswith("--dtype float32")


def test_the_shim_sends_an_unmapped_port_where_nobody_finds_it():
    found = command(["serve", "m", "--port", "9000"], SHIM | {"runtime": "stub"})
    assert " ".join(found).endswith("--host 127.0.0.1 --port 0")


# ---- restarts --------------------------------------------------------------------------------------------------------


class Launched:
    """An emulator in a process of its own, as `python -m emulator` starts it."""

    def __init__(self, state, *flags):
        argv = [
            sys.executable,
            "-m",
            "emulator",
            "--runtime",
            "stub",
            "--state",
            str(state),
            "--hub",
            "offline",
            *flags,
        ]
        self.process = subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()
        self.vast = Client(self.line.split()[3], folder=state)

    def end(self, sign=signal.SIGTERM):
        self.process.send_signal(sign)
        out, err = self.process.communicate(timeout=20)
        return out, err, self.process.returncode


@pytest.fixture
def launch(tmp_path):
    """Starts emulators over one state folder, and ends what is left of them."""
    launched = []

    def start(*flags):
        launched.append(Launched(tmp_path / "state", *flags))
        return launched[-1]

    yield start
    for one in launched:
        if one.process.poll() is None:
            one.end()
    for pid in processes_in(tmp_path):
        os.kill(pid, signal.SIGKILL)


def test_the_launcher_says_one_line_and_ends_cleanly_with_its_containers(launch, tmp_path):
    url_file = tmp_path / "url"
    one = launch("--url-file", str(url_file))
    row = one.vast.running()
    assert one.line == f"emulator ready at {one.vast.url} (runtime stub, time instant, state {tmp_path / 'state'})\n"
    assert url_file.read_text().strip() == one.vast.url
    assert one.end() == ("", "", 0)
    assert processes_of(one.vast, row["id"]) == []


def test_what_is_rented_survives_a_restart_as_after_a_power_cut(launch):
    first = launch()
    row = first.vast.running(label="mine")
    first.vast.fault("http_500", {"endpoint": "prices"})
    first.vast.control("credit", credit=7)
    first.end()
    second = launch()
    again = second.vast.wait(row["id"])
    assert (again["label"], again["ports"], again["start_date"]) == ("mine", row["ports"], row["start_date"])
    until(lambda: answers(endpoint(again)))
    assert row["machine_id"] not in [one["machine_id"] for one in second.vast.offers()]
    assert second.vast.call("GET", "0/users/current/").json()["credit"] == pytest.approx(7, abs=0.01)
    assert [one["kind"] for one in second.vast.look("faults")["rules"]] == ["http_500"]
    second.end()


def test_kept_containers_run_on_and_are_found_again(launch):
    first = launch("--keep-containers")
    row = first.vast.running()
    until(lambda: answers(endpoint(row)))
    pids = processes_of(first.vast, row["id"])
    first.end()
    assert answers(endpoint(row))
    second = launch()
    assert second.vast.status(row["id"]) == "running"
    assert processes_of(second.vast, row["id"]) == pids
    second.vast.destroy(row["id"])
    assert processes_of(second.vast, row["id"]) == []
    second.end()


def test_a_container_that_died_while_the_emulator_was_dead_has_exited(launch):
    first = launch()
    dead, alive = first.vast.running(), first.vast.running()
    until(lambda: answers(endpoint(alive)))
    first.end(signal.SIGKILL)
    os.kill(min(processes_of(first.vast, dead["id"])), signal.SIGKILL)
    second = launch()
    assert second.vast.status(dead["id"]) == "exited"
    assert second.vast.status(alive["id"]) == "running"
    assert answers(endpoint(alive))
    second.end()


def test_a_rent_that_was_answered_is_not_forgotten_by_a_killed_emulator(launch):
    first = launch()
    instance_id = first.vast.rent()
    first.end(signal.SIGKILL)
    second = launch()
    assert second.vast.wait(instance_id)["image_uuid"] == IMAGE
    second.end()


def test_bookkeeping_serves_on_after_a_restart_at_the_same_address(tmp_path):
    with EmulatorServer(runtime="none", state_dir=tmp_path) as server:
        row = Client(server.url).running()
    assert not answers(endpoint(row))
    with EmulatorServer(runtime="none", state_dir=tmp_path) as server:
        assert Client(server.url).status(row["id"]) == "running"
        assert answers(endpoint(row))


def test_ports_are_on_the_machines_own_address(stub):
    row = stub.running()
    until(lambda: answers(endpoint(row)))
    port = int(row["ports"]["8000/tcp"][0]["HostPort"])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
        pass
