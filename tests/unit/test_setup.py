"""What `make setup` refuses to install: archives and wheels whose SHA-256 is not the one that was stated."""

import contextlib
import hashlib
import http.server
import io
import os
import platform
import ssl
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from components.vast.identity import Authority

REPO = Path(__file__).resolve().parents[2]
PROGRAM = b"#!/bin/sh\necho v9.9.9\n"


@contextlib.contextmanager
def mirror(folder, served):
    """Serve a file under every name, over https, by a CA of its own; give its address, CA file and what was asked."""
    authority, asked = Authority.make("mirror"), []
    certificate, key = authority.issue("127.0.0.1").pem()
    (folder / "ca.pem").write_text(authority.certificate)
    (folder / "server.pem").write_text(certificate + key)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(served)))
            self.end_headers()
            self.wfile.write(served)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{server.server_port}", folder / "ca.pem", asked
    finally:
        server.shutdown()


def archive():
    """An archive as Pulumi's are: programs in a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        member = tarfile.TarInfo("pulumi/pulumi")
        member.size = len(PROGRAM)
        tar.addfile(member, io.BytesIO(PROGRAM))
    return out.getvalue()


def fetch(folder, url, **env):
    target = folder / "programs"
    target.mkdir()
    command = [str(REPO / "scripts" / "fetch_pulumi.sh"), "v9.9.9", str(target)]
    env = {"PATH": os.environ["PATH"], "PULUMI_ARCHIVE_URL": url, **env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done, sorted(one.name for one in target.iterdir())


def test_an_archive_with_the_stated_sum_is_unpacked(tmp_path):
    body = archive()
    with mirror(tmp_path, body) as (url, ca, _):
        env = {"SSL_CERT_FILE": str(ca), "PULUMI_ARCHIVE_SHA256": hashlib.sha256(body).hexdigest()}
        done, programs = fetch(tmp_path, url, **env)
    assert (done.returncode, programs) == (0, ["pulumi"]), done.stderr
    assert (tmp_path / "programs" / "pulumi").read_bytes() == PROGRAM


def test_a_tampered_archive_is_refused_and_nothing_of_it_is_kept(tmp_path):
    with mirror(tmp_path, archive() + b"\0") as (url, ca, _):
        env = {"SSL_CERT_FILE": str(ca), "PULUMI_ARCHIVE_SHA256": hashlib.sha256(archive()).hexdigest()}
        done, programs = fetch(tmp_path, url, **env)
    assert (done.returncode, programs) == (1, [])
    assert "refused" in done.stderr


def test_no_sum_is_taken_from_the_server_of_the_archive(tmp_path):
    name = f"pulumi-v9.9.9-{platform.system().lower()}-x64.tar.gz"
    sums = "".join(f"{hashlib.sha256(b'').hexdigest()}  {one}\n" for one in (name, name.replace("x64", "arm64")))
    with mirror(tmp_path, sums.encode()) as (url, ca, asked):
        done, programs = fetch(tmp_path, url, SSL_CERT_FILE=str(ca))
    assert (done.returncode, programs, asked) == (3, [], [])
    assert "set PULUMI_ARCHIVE_SHA256" in done.stdout


def test_an_archive_over_plain_http_is_refused_whatever_its_sum(tmp_path):
    done, programs = fetch(tmp_path, "http://127.0.0.1:9", PULUMI_ARCHIVE_SHA256=hashlib.sha256(b"").hexdigest())
    assert (done.returncode, programs) == (1, [])
    assert "not https" in done.stderr


# ---- wheels --------------------------------------------------------------------------------------------------------


def wheel(folder, content):
    """Write a wheel of a package `offered` 1.0 and return it."""
    path = folder / "offered-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("offered.py", content)
        out.writestr("offered-1.0.dist-info/METADATA", metadata)
        out.writestr("offered-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr("offered-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def install(tmp_path):
    """Run scripts/install.sh with a lock of the test's own, and wheels from a folder only."""
    locks, wheels, venv = tmp_path / "locks", tmp_path / "wheels", tmp_path / "venv"
    locks.mkdir()
    wheels.mkdir()
    (locks / "pip.lock").write_text("")
    (locks / "offered.lock").write_text(
        f"offered==1.0 --hash=sha256:{hashlib.sha256(wheel(wheels, 'GOOD = 1').read_bytes()).hexdigest()}\n"
    )

    def run(*parts):
        env = {
            "PATH": os.environ["PATH"],
            "PYTHON": sys.executable,
            "LOCKS": str(locks),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
        }
        command = [str(REPO / "scripts" / "install.sh"), str(venv), "offered", *parts]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        return done, list(venv.glob("lib/*/site-packages/offered.py"))

    return run, wheels, venv


def test_a_wheel_with_the_locked_hash_is_installed_once(install):
    run, wheels, _ = install
    done, installed = run()
    assert (done.returncode, len(installed)) == (0, 1), done.stderr
    next(iter(wheels.iterdir())).unlink()
    assert run()[0].returncode == 0


def test_a_part_whose_lock_alone_has_changed_counts_as_installed_again(install):
    run, _, venv = install
    part = venv.parent / "locks" / "part.lock"
    for lock in ("", "# another\n"):
        part.write_text(lock)
        assert run("part")[0].returncode == 0
        assert (venv / ".installed-part").read_text() == f"{venv}\n{lock}"


def test_a_tampered_wheel_is_refused_and_the_set_does_not_count_as_installed(install):
    run, wheels, venv = install
    wheel(wheels, "EVIL = 1")
    done, installed = run()
    assert (done.returncode, installed) == (1, []), done.stdout
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (venv / ".installed-offered").exists()
