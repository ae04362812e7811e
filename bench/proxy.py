"""`python -m bench proxy`: the cost of `rerank proxy` in front of a guarded server. Called by `bench.__main__`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.guard import running_server
from bench.load import BenchTarget
from harness.stack import REPO
from reranker.endpoint import Endpoint
from reranker.env_command import client_outputs, write_private


@contextmanager
def running() -> Iterator[list[BenchTarget]]:
    """Start the server, and the proxy in front of it."""
    with running_server("TLS", "--guard", "--tls") as direct, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        outputs = Path(folder) / "outputs.json"
        write_private(outputs, json.dumps(client_outputs(Endpoint(direct.url, direct.key, direct.ca, direct.model))))
        command = [sys.executable, "-m", "reranker", "proxy", "--listen", "127.0.0.1:0", "--outputs", str(outputs)]
        with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield [direct, replace(direct, name="proxy", url=process.stdout.readline().strip(), ca="")]
            finally:
                process.terminate()
