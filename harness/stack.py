"""A stack of this project, run by the real Pulumi engine with a separate folder, home and backend."""

import base64
import functools
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from components.state_folder import state_folder
from components.vast.identity import own_key

REPO = Path(__file__).resolve().parents[1]
PASSPHRASE = "engine-test"
EMULATOR_KEY = "emulator-key"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class CommandResult:
    rc: int
    text: str

    def __contains__(self, words: str) -> bool:
        return words in self.text


def tool_path(python: Path | None = None) -> str:
    """Return PATH with the pinned engine and a Python folder first; the default is this interpreter's folder."""
    folder = python or Path(sys.executable).parent
    return os.pathsep.join([str(REPO / ".tools" / "bin"), str(folder), os.environ["PATH"]])


@functools.cache
def python_with_cached_pip_list() -> tempfile.TemporaryDirectory[str]:
    """Return a folder with a `python` that answers `pip list` from a file and otherwise runs this interpreter.

    Pulumi's language host runs `pip list` in every preview and up. With the packages of the tests, it takes a third of
    a preview. `python -m bench hot-path` runs the real command.
    """
    temporary = tempfile.TemporaryDirectory(prefix="vast-reranker-python-")
    folder = Path(temporary.name)
    command = [sys.executable, "-m", "pip", "list", "-v", "--format", "json"]
    (folder / "packages.json").write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    for name in ("python", "python3"):
        script = folder / name
        packages = shlex.quote(f"{folder}/packages.json")
        pip_list = f'if [ "$1 $2 $3" = "-m pip list" ]; then exec cat {packages}; fi'
        script.write_text(f'#!/bin/sh\n{pip_list}\nexec {shlex.quote(sys.executable)} "$@"\n')
        script.chmod(0o755)
    return temporary


@functools.cache
def state_key(salt: str, passphrase: str) -> AESGCM:
    """Return the key of the secrets in a state (pulumi/sdk, common/resource/config/crypt.go)."""
    return AESGCM(hashlib.pbkdf2_hmac("sha256", passphrase.encode(), base64.b64decode(salt), 1_000_000))


SECRET_MARK = "4dabf18193072939515e22adb298388d"  # pulumi/sdk, common/resource/sig.go


def decrypt(value: Any, key: AESGCM) -> Any:
    """Return a value of a state with its secrets decrypted."""
    if isinstance(value, list):
        return [decrypt(item, key) for item in value]
    if not isinstance(value, dict):
        return value
    if SECRET_MARK not in value:
        return {name: decrypt(item, key) for name, item in value.items()}
    nonce, text = (base64.b64decode(part) for part in value["ciphertext"].split(":")[1:])
    return json.loads(key.decrypt(nonce, text, None))


def resources_of(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    return list(deployment.get("resources") or [])


@dataclass
class EngineStack:
    """One stack. Keys of `config` have no namespace; the key of a group is "group.key"."""

    folder: Path
    api_url: str
    name: str = "test"
    config: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    cached_pip_list: bool = True  # see python_with_cached_pip_list
    repo: Path = REPO  # checkout with the program
    venv: Path | None = None  # default: that of this interpreter

    def __post_init__(self) -> None:
        self.project = self.folder / "project"
        for part in ("project", "home", "state", "pulumi-home"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.project / "policy").mkdir(exist_ok=True)
        rules = [f"policy/{path.name}" for path in (self.repo / "policy").iterdir() if path.is_file()]
        for part in ("Pulumi.yaml", "__main__.py", "components", "reranker", ".venv", *rules):
            link = self.project / part
            if not link.exists():
                link.symlink_to(self.venv if part == ".venv" and self.venv else self.repo / part)
        path = tool_path(self.venv / "bin" if self.venv else None)
        self.env = {
            "PATH": f"{python_with_cached_pip_list().name}:{path}" if self.cached_pip_list else path,
            "HOME": str(self.folder / "home"),
            "PULUMI_HOME": str(self.folder / "pulumi-home"),
            "PULUMI_BACKEND_URL": f"file://{self.folder / 'state'}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "VAST_API_KEY": EMULATOR_KEY,
            "PYTHONDONTWRITEBYTECODE": "1",
        } | self.env
        self.config = {
            "model": MODEL,
            "emulator.url": self.api_url,
            "timeouts.api_s": 3,
            "timeouts.poll_s": 0.1,
            "timeouts.probe_window_s": 1,
            "prefer": "cheapest",
        } | self.config
        self.write_config()

    def write_config(self, changes: Mapping[str, Any] | None = None, **keywords: Any) -> None:
        """Change config values (None removes a value) and write the stack's file. Secrets in the file stay."""
        self.config |= {**(changes or {}), **keywords}
        path = self.project / f"Pulumi.{self.name}.yaml"
        settings = yaml.safe_load(path.read_text()) if path.exists() else {}
        stored = settings.get("config") or {}
        config = {key: value for key, value in stored.items() if isinstance(value, dict) and "secure" in value}
        for key, value in self.config.items():
            group, _, inner = key.rpartition(".")
            if value is not None:
                (config.setdefault(group, {}) if group else config)[inner] = value
        settings["config"] = config
        path.write_text(yaml.safe_dump(settings))

    def write_limits(self, **limits: Any) -> None:
        """Write a policy with limits for this stack only."""
        path = self.project / "policy" / "limits.yaml"
        path.unlink()
        path.write_text(yaml.safe_dump({self.name: limits}))

    def set_secret(self, key: str, value: str) -> None:
        self.ok("config", "set", "--secret", key, value)

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """Start a pulumi command on this stack, without waiting for its end."""
        flags = ["--non-interactive", "--color", "never"]
        return self._popen(["pulumi", *args, "--stack", self.name, *flags], self.project, **options)

    def start_ops(self, *args: str) -> subprocess.Popen[str]:
        """Start a command of ops/ on this stack, without waiting for its end."""
        argv = [sys.executable, "-m", "ops", *args, "--stack", self.name, "--cwd", str(self.project)]
        return self._popen(argv, self.repo)

    def _popen(self, argv: list[str], folder: Path, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            cwd=folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            **options,
        )

    def run(self, *args: str, timeout_s: float = 300) -> CommandResult:
        process = self.start(*args)
        try:
            text, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
            raise TimeoutError(f"pulumi {args[0]} did not end within {timeout_s:g} s:\n{text[-3000:]}") from None
        return CommandResult(process.returncode, text)

    def ok(self, *args: str, timeout_s: float = 300) -> CommandResult:
        """Run a pulumi command. Raises RuntimeError with its output if it fails."""
        result = self.run(*args, timeout_s=timeout_s)
        if result.rc != 0:
            raise RuntimeError(result.text[-4000:])
        return result

    def init(self) -> "EngineStack":
        self.ok("stack", "init")
        return self

    def up(self, *args: str) -> CommandResult:
        return self.run("up", "--yes", "--skip-preview", *args)

    def preview(self, *args: str) -> CommandResult:
        return self.run("preview", *args)

    def drift(self) -> CommandResult:
        return self.run("preview", "--expect-no-changes", "--diff")

    def destroy(self) -> CommandResult:
        return self.run("destroy", "--yes", "--skip-preview")

    def outputs(self) -> dict[str, Any]:
        """Return the outputs with decrypted secrets, from the state file; `pulumi stack output` takes 0.5 s of CPU."""
        return self._resource_outputs("pulumi:pulumi:Stack", "")

    def own_key(self, name: str = "reranker") -> str:
        """Return the key with which the stack manages the client keys of a server."""
        secret = self._resource_outputs("", "::reranker-own-key")["value"]
        return own_key(str(secret), str(self._resource_outputs(":Instance", f"::{name}")["nonce"]))

    def validation_report(self) -> dict[str, str]:
        """Return the result of each check of the last validation."""
        return dict(self._resource_outputs("", "::reranker-validation")["report"])

    def _resource_outputs(self, kind: str, name: str) -> dict[str, Any]:
        deployment = self.deployment()
        rows = resources_of(deployment)
        [resource] = [row for row in rows if row["type"].endswith(kind) and row["urn"].endswith(name)]
        salt = deployment["secrets_providers"]["state"]["salt"].split(":")[1]
        key = state_key(salt, self.env["PULUMI_CONFIG_PASSPHRASE"])
        return {output: decrypt(value, key) for output, value in resource.get("outputs", {}).items()}

    def deployment(self) -> dict[str, Any]:
        """Return the state from the file of the backend; if that is no folder, from `pulumi stack export`."""
        folder = state_folder(self.env, self.project)
        if folder is None:
            return dict(json.loads(self.export())["deployment"])
        project = yaml.safe_load((self.project / "Pulumi.yaml").read_text())["name"]
        state = json.loads((folder / ".pulumi" / "stacks" / project / f"{self.name}.json").read_text())
        return dict(state["checkpoint"].get("latest") or {})

    def export(self) -> str:
        """Return the state as JSON, with encrypted secrets."""
        return self.ok("stack", "export").text

    def instances(self) -> set[int]:
        """Return the ids of the instances in the state."""
        return {int(row["id"]) for row in resources_of(self.deployment()) if row["type"].endswith(":Instance")}
