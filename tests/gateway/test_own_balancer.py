"""The Caddyfile in docs/gateway.md, for people with a balancer of their own, in front of two replicas."""

import json
import re
import subprocess

import requests

from emulator.runtime import free_port
from harness.caddy import caddy_program, running
from harness.load import BODY
from harness.wait import until
from tests.gateway.conftest import REPO

KEY = "k" * 32


def test_the_caddyfile_of_the_docs_balances_verifies_and_sends_again(tmp_path, rerankers, authority):
    two, port = rerankers(2, KEY, "127.0.0.1"), free_port("127.0.0.1")
    [text] = re.findall(r"```caddyfile\n(.*?)```", (REPO / "docs" / "gateway.md").read_text(), re.DOTALL)
    text = text.replace("reranker.example.com", f"http://127.0.0.1:{port}")
    for documented, one in zip(re.findall(r"203\.0\.113\.\d+:\d+", text), two, strict=True):
        text = text.replace(documented, one.address)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "ca.pem").write_text(authority.certificate)
    (folder / "Caddyfile").write_text(text)
    adapt = [caddy_program(), "adapt", "--config", "Caddyfile"]
    config = json.loads(subprocess.run(adapt, cwd=folder, capture_output=True, check=True).stdout)
    headers = {"Authorization": f"Bearer {KEY}"}

    def ask(**changes):
        return requests.post(f"http://127.0.0.1:{port}/rerank", json=BODY, headers=headers | changes, timeout=20)

    with running(folder, config):
        names = {one.name for one in two}
        until(lambda: {ask().headers.get("x-upstream") for _ in range(8)} == names)
        assert ask(Authorization="Bearer wrong").status_code == 401
        two[0].kill()
        assert {ask().headers["x-upstream"] for _ in range(8)} == {two[1].name}
