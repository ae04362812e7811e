"""Pebble, a real ACME server, on loopback. Used by tests. `scripts/setup.sh all` builds it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.vast.identity import Authority
from emulator.runtime import free_port
from harness.stack import tool_path
from harness.wait import until
from reranker.http import HttpTransport, Unanswered

IP = "127.0.0.1"


@dataclass(frozen=True)
class Pebble:
    """Its directory URL, the CA file for that URL, and the CA (PEM) that signs the certificates of clients."""

    directory: str
    directory_ca_file: str
    ca_certificate: str


@contextlib.contextmanager
def running_pebble(folder: Path, tls_port: int, *, lifetime_s: int = 7_776_000) -> Iterator[Pebble]:
    """Run it during a block. `tls_port`: the port that it validates instead of 443."""
    program = shutil.which("pebble", path=tool_path())
    assert program, "pebble is not installed: run scripts/setup.sh all"
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority.make("Pebble's own", [IP])
    certificate, key = authority.issue(IP).pem()
    for name, text in (("ca.pem", authority.certificate), ("cert.pem", certificate), ("key.pem", key)):
        (folder / name).write_text(text)
    listen, management = f"{IP}:{free_port(IP)}", f"{IP}:{free_port(IP)}"
    config = {
        "listenAddress": listen,
        "managementListenAddress": management,
        "certificate": "cert.pem",
        "privateKey": "key.pem",
        "httpPort": free_port(IP),
        "tlsPort": tls_port,
        "profiles": {"default": {"description": "the only one", "validityPeriod": lifetime_s}},
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    transport = HttpTransport(ca=authority.certificate)

    def root() -> str:
        with contextlib.suppress(Unanswered):
            return transport("GET", f"https://{management}/roots/0").text
        return ""

    with (folder / "pebble.log").open("wb") as log:
        argv, env = [program, "-config", "pebble.json"], {"PEBBLE_VA_NOSLEEP": "1"}
        process = subprocess.Popen(argv, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        yield Pebble(f"https://{listen}/dir", str(folder / "ca.pem"), until(root))
    finally:
        process.kill()
        process.wait()
