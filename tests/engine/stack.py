"""A stack of this very project, run by the real Pulumi engine in a folder, home and backend of its own."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]
PASSPHRASE = "engine-test"
EMULATOR_KEY = "emulator-key"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class Done:
    """What a command came to."""

    rc: int
    text: str

    def __contains__(self, words: str) -> bool:
        return words in self.text


def tool_path() -> str:
    """PATH with the pinned engine and this interpreter's own folder first."""
    return os.pathsep.join([str(REPO / ".tools" / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])


@dataclass
class EngineStack:
    """One stack; `config` is its config without the namespace."""

    folder: Path
    api_url: str
    name: str = "test"
    config: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.project = self.folder / "project"
        for part in ("project", "home", "state", "pulumi-home"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        for part in ("Pulumi.yaml", "__main__.py", "components", "policy", ".venv"):
            link = self.project / part
            if not link.exists():
                link.symlink_to(REPO / part)
        self.env = {
            "PATH": tool_path(),
            "HOME": str(self.folder / "home"),
            "PULUMI_HOME": str(self.folder / "pulumi-home"),
            "PULUMI_BACKEND_URL": f"file://{self.folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "VAST_API_KEY": EMULATOR_KEY,
            "PYTHONDONTWRITEBYTECODE": "1",
        } | self.env
        self.config = {
            "model": MODEL,
            "api_url": self.api_url,
            "api_pacing": "off",
            "api_patience_s": "3",
            "poll_s": "0.1",
            "probe_window_s": 1,
            "prefer": "cheapest",
        } | self.config
        self.write_config()

    def write_config(self, **changes: Any) -> None:
        """Change config values (None removes one) and write the stack's file."""
        self.config |= changes
        path = self.project / f"Pulumi.{self.name}.yaml"
        kept = yaml.safe_load(path.read_text()) if path.exists() else {}
        secrets = {key: value for key, value in (kept.get("config") or {}).items() if isinstance(value, dict)}
        plain = {f"vast-reranker:{key}": value for key, value in self.config.items() if value is not None}
        kept["config"] = secrets | plain
        path.write_text(yaml.safe_dump(kept))

    def set_secret(self, key: str, value: str) -> None:
        """Set a secret config value, as a user would."""
        done = self.run("config", "set", "--secret", key, value)
        assert done.rc == 0, done.text

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """Start a pulumi command on this stack without waiting for it."""
        return subprocess.Popen(
            ["pulumi", *args, "--stack", self.name, "--non-interactive", "--color", "never"],
            cwd=self.project,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            **options,
        )

    def run(self, *args: str, timeout_s: float = 300) -> Done:
        """Run a pulumi command on this stack."""
        process = self.start(*args)
        try:
            text, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
            raise AssertionError(f"pulumi {args[0]} did not end within {timeout_s:g} s:\n{text[-3000:]}") from None
        return Done(process.returncode, text)

    def init(self) -> "EngineStack":
        """Create the stack in its backend."""
        done = subprocess.run(
            ["pulumi", "stack", "init", self.name, "--non-interactive"],
            cwd=self.project,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return self

    def up(self, *args: str) -> Done:
        return self.run("up", "--yes", "--skip-preview", *args)

    def preview(self, *args: str) -> Done:
        return self.run("preview", *args)

    def drift(self) -> Done:
        """Look for drift as a pipeline does."""
        return self.run("preview", "--expect-no-changes", "--diff")

    def destroy(self) -> Done:
        return self.run("destroy", "--yes", "--skip-preview")

    def outputs(self) -> dict[str, Any]:
        done = self.run("stack", "output", "--json", "--show-secrets")
        assert done.rc == 0, done.text
        return dict(json.loads(done.text))

    def export(self) -> str:
        """Return the state as it is stored, secrets encrypted."""
        done = self.run("stack", "export")
        assert done.rc == 0, done.text
        return done.text

    def instances(self) -> set[int]:
        """Return the ids of the instances that the state knows."""
        resources = json.loads(self.export())["deployment"].get("resources") or []
        return {int(one["id"]) for one in resources if one["type"].endswith("vast:Instance")}
