"""Containers as processes: what they run, what they see, how they end."""

import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import requests

from components.vllm.catalog import load_catalog
from components.vllm.launch import plan_launch
from harness.wait import until
from tests.emulator.client import MODEL, SERVER, answers, endpoint
from tests.emulator.launched import container_pids

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


def test_the_emulators_own_servers_run_the_guard_that_a_launch_brings(vast):
    model = load_catalog().model(MODEL)
    options = {"max_documents": 2}
    launch = plan_launch(model, load_catalog().default_image, api_key="sesame", guard=True, guard_options=options)
    env = {f"-p {launch.ports[0]}": "1", **launch.container_env}
    row = vast.running(onstart=launch.onstart, args=list(launch.args), env=env)

    def ask(path, documents=("b",), key="sesame"):
        body, headers = {"query": "a", "documents": documents}, {"Authorization": f"Bearer {key}"}
        return requests.post(endpoint(row) + path, json=body, headers=headers, timeout=5)

    assert [ask("/rerank").status_code, ask("/rerank", key="x").status_code] == [200, 401]
    assert ask("/docs").json()["error"]["message"] == "Not Found"
    assert "at most 2 are allowed" in ask("/rerank", documents=["b"] * 3).text


def test_a_server_answers_at_once_on_a_connection_that_is_kept(vast):
    url, session = endpoint(vast.running()), requests.Session()
    took = [session.post(f"{url}/rerank", json={"query": "a", "documents": ["b"]}, timeout=5).elapsed for _ in range(5)]
    assert min(took[1:]).total_seconds() < 0.03, "40 ms are an acknowledgement that is waited for"


def test_a_stub_has_as_many_processes_as_vllm_would_at_one_port(stub):
    row = stub.running(args=[MODEL, "--api-server-count", "3"])
    until(lambda: answers(endpoint(row)))
    until(lambda: len(container_pids(stub, row["id"])) == 3)


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
    pids = container_pids(stub, row["id"])
    assert pids
    assert all(b"sesame-street" not in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


def test_destroying_returns_once_everything_in_the_container_is_dead(stub):
    nested = "sleep 100 & set -m; sleep 100 & exec sleep 100"
    row = stub.running(onstart="bash", args=["-c", nested])
    until(lambda: len(container_pids(stub, row["id"])) == 3)
    stub.destroy(row["id"])
    assert container_pids(stub, row["id"]) == []


def test_a_process_that_dies_is_seen_as_exited_and_takes_its_children_along(stub):
    row = stub.running(onstart="bash", args=["-c", "sleep 100 & sleep 100"])
    pids = until(lambda: found if len(found := container_pids(stub, row["id"])) == 3 else None)
    os.kill(min(pids), signal.SIGKILL)
    assert stub.wait(row["id"], "exited")["status_msg"] == "exited (-9)\n"
    until(lambda: not container_pids(stub, row["id"]))


def test_a_server_that_listens_inside_only_cannot_be_reached(stub):
    row = stub.running(args=[MODEL, "--host", "127.0.0.1"])
    log_with(stub, row["id"], "Application startup complete.")
    assert not answers(endpoint(row))


def test_ports_are_on_the_machines_own_address(stub):
    row = stub.running()
    until(lambda: answers(endpoint(row)))
    port = int(row["ports"]["8000/tcp"][0]["HostPort"])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
        pass


def test_a_container_without_ports_runs_and_is_found_nowhere(stub):
    row = stub.running(env={})
    assert row["ports"] == {}
    log_with(stub, row["id"], "Application startup complete.")


@pytest.mark.parametrize(
    "body",
    [
        {"env": {"A=B": "1"}},
        {"env": {"": "1"}},
        {"env": {"A": "x\0y"}},
        {"args": ["--model", "x\0y"]},
        {"onstart": "x\0y"},
    ],
)
def test_what_no_process_can_be_given_is_refused_at_once(stub, body):
    answer = stub.call("PUT", f"0/asks/{stub.offer()['id']}/", SERVER | body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_args")
    assert stub.get_control("health")["ok"]


def test_an_exit_code_is_known_while_other_containers_start(stub):
    for _ in range(3):
        rows = [stub.rent(onstart="bash", args=["-c", "exit 7"]) for _ in range(4)]
        assert {stub.wait(one, "exited")["status_msg"] for one in rows} == {"exited (7)\n"}
        stub.control("reset")


def test_a_container_keeps_nothing_in_tmp_once_it_is_gone(stub):
    row = stub.running(onstart="bash", args=["-c", 'echo "at $TMPDIR"; touch "$TMPDIR/x"; exec sleep 100'])
    folder = Path(log_with(stub, row["id"], "at /").split()[1])
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0
    stub.destroy(row["id"])
    assert not folder.exists()
