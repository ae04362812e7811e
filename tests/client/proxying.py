"""`rerank proxy` as a process, in front of a guarded TLS server."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[2]


@dataclass
class RunningProxy:
    url: str
    process: subprocess.Popen
    stderr_lines: list


def write_outputs(file, server, **changes):
    """Write a stack's outputs, in one step as `rerank env --write` does."""
    outputs = {"url": server.url, "api_key": server.key, "ca_certificate": server.ca, "model": server.model} | changes
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(outputs))
    draft.replace(file)
    return file


@contextlib.contextmanager
def running_proxy(*args, listen="127.0.0.1:0", **env):
    """Run the proxy during a block. After SIGTERM, its exit code must be 0."""
    command = [sys.executable, "-m", "reranker", "proxy", "--listen", listen, *map(str, args)]
    environ = {"PATH": os.environ["PATH"], "HOME": "/", "PYTHONPATH": str(REPO)} | env
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")), daemon=True)
    reader.start()
    try:
        url = process.stdout.readline().strip()
        assert url, "".join(lines)
        yield RunningProxy(url, process, lines)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, "".join(lines)
    finally:
        process.kill()
        process.wait()
        reader.join(5)
