"""The Pulumi CLI as the commands of ops/ use it: runs, what an operation's event log says, outputs, tags, stacks.

An operation's text goes to stderr as it comes, without secrets; its event log (JSON lines, apitype.EngineEvent of
pulumi/sdk) is read afterwards. A signal that ends this process is passed on to the CLI once, which then stops in good
order: what it was renting is destroyed or recorded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from components.redaction import MASK, scrub
from ops.exits import BUSY, DRIFT, ERROR, USAGE, OpsError, from_pulumi
from ops.project import NAMESPACE
from ops.run import Run

Json = Any
SECRET_ENV = (
    "VAST_API_KEY", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_ACCESS_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_KEY", "AZURE_CLIENT_SECRET", "GITHUB_TOKEN", "GH_TOKEN", "GITLAB_TOKEN", "CI_JOB_TOKEN", "HF_TOKEN",
)  # fmt: skip
OPTIONAL_ENV = ("PULUMI_BACKEND_URL", "AWS_ACCESS_KEY_ID", "AWS_REGION", "PULUMI_CONFIG_PASSPHRASE_FILE")
LEAST_SECRET_CHARS = 6  # the local stack's public passphrase, "local", is also an ordinary word
NOT_OURS = "error: no changes were expected"  # the engine's word for exit code 7
SHORT_S = 120  # for commands that only read or write the backend
# All replicas boot at once: a boot is waiting, not work, and the engine's default is four per core. The plugin process
# runs as many (components.plugin.pool).
PARALLEL = 128
INSTANCE = "vast:Instance"


class Pulumi:
    """The CLI on one stack of the project in `cwd`. `env` is the whole environment (None: this process's)."""

    def __init__(self, cwd: Path, stack: str, *, env: Mapping[str, str] | None = None) -> None:
        self.cwd = cwd
        self.stack = stack
        self._env = dict(os.environ if env is None else env)
        for name in (*SECRET_ENV, *OPTIONAL_ENV):  # a pipeline gives a secret that is not there as an empty text
            if not self._env.get(name):
                self._env.pop(name, None)
        self._env |= {"PULUMI_SKIP_UPDATE_CHECK": "true", "PULUMI_DEBUG_COMMANDS": "true"}  # the latter: --event-log
        self._config: dict[str, Json] | None = None
        self.interrupted = False  # by a signal that was passed on to an operation
        named = (self._env.get(name, "") for name in SECRET_ENV)
        self._secrets = [value for value in named if len(value) >= LEAST_SECRET_CHARS]
        if not (cwd / "Pulumi.yaml").exists():
            raise OpsError(USAGE, f"no Pulumi.yaml in {cwd}", "--cwd names the project's folder")

    def scrub(self, text: str) -> str:
        """Return text without this environment's secrets and without what looks like one."""
        return scrub(text, self._secrets)

    # ---- operations ------------------------------------------------------------------------------------------------

    def preview(self, *args: str) -> Run:
        """Plan; whether anything would change is in the events."""
        return self._operation("preview", *args).raise_if_failed()

    def drift(self) -> Run:
        """Plan with --expect-no-changes: exit code 0 or 7 in the result; anything else raises."""
        return self._operation("preview", "--expect-no-changes").raise_if_failed(accept=(0, DRIFT))

    def up(self, *args: str) -> Run:
        """Deploy what is declared; of a stack that has nothing yet, as much of it as comes up. Raises OpsError."""
        return self._operation("up", "--yes", "--skip-preview", *self._going_on(), *args).raise_if_failed()

    def up_some(self, urns: Sequence[str]) -> Run:
        """Deploy some resources of a stack, and leave the others as they are. Raises OpsError."""
        targets = [word for urn in urns for word in ("--target", urn)]
        return self._operation("up", "--yes", "--skip-preview", *targets).raise_if_failed()

    def destroy(self) -> Run:
        """Destroy every resource, whichever cannot be destroyed. Raises OpsError."""
        return self._operation("destroy", "--yes", "--skip-preview", "--continue-on-error").raise_if_failed()

    def _going_on(self) -> Sequence[str]:
        """Return the flag by which one replica that fails does not stop the others, where it does no harm.

        After an error the engine then goes on to delete what was replaced, while a gateway that depends on the failed
        replica is skipped (pulumi 3.259, deployment_executor.go: performDeletes): it would lose servers that it still
        sends requests to. Without the flag nothing is deleted after an error. So it is for a first deployment only.
        """
        resources = (self.export().get("deployment") or {}).get("resources") or []
        there = any(str(one.get("type")).endswith(INSTANCE) for one in resources)
        return () if there else ("--continue-on-error",)

    def _operation(self, verb: str, *args: str) -> Run:
        with tempfile.TemporaryDirectory(prefix="ops-") as folder:
            log = Path(folder) / "events.json"
            command = [
                "pulumi", verb, *args, "--stack", self.stack, "--non-interactive", "--color", "never",
                "--suppress-outputs", "--parallel", str(PARALLEL), "--event-log", str(log),
            ]  # fmt: skip
            with self._started(command) as process:
                errors = self._follow(process)
            events = self._events(log.read_text()) if log.exists() else []
        return Run(process.returncode, events, errors)

    def _events(self, text: str) -> list[Mapping[str, Json]]:
        events = []
        for line in text.splitlines():
            try:
                events.append(self._clean(json.loads(line)))
            except ValueError:  # a CLI that was killed leaves half a line
                continue
        return events

    def _clean(self, value: Json, key: str = "") -> Json:
        """Return an event without secrets; what looks like one is taken out of messages only, not out of names."""
        if isinstance(value, str):
            return self.scrub(value) if key == "message" else self._without_own(value)
        if isinstance(value, dict):
            return {name: self._clean(one, name) for name, one in value.items()}
        return [self._clean(one) for one in value] if isinstance(value, list) else value

    def _without_own(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def _follow(self, process: subprocess.Popen[str]) -> list[str]:
        """Pass output on to stderr until the process ends; return what stood after "error:"."""
        errors: list[str] = []

        def follow(pipe: IO[str]) -> None:
            for line in pipe:
                clean = self.scrub(line.rstrip("\n"))
                if clean.startswith(NOT_OURS):
                    continue
                print(clean, file=sys.stderr, flush=True)
                if clean.startswith("error: "):
                    errors.append(clean)

        threads = [threading.Thread(target=follow, args=(pipe,)) for pipe in (process.stdout, process.stderr) if pipe]
        for thread in threads:
            thread.start()
        process.wait()
        for thread in threads:
            thread.join()
        return errors

    @contextmanager
    def _started(self, command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """Start the CLI in a session of its own, so that it hears of SIGINT and SIGTERM once, from here."""
        try:
            process = subprocess.Popen(
                command,
                cwd=self.cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise OpsError(ERROR, "pulumi is not on PATH", "run `make setup`, then `. scripts/env.sh`") from None
        told = False

        def forward(number: int, _frame: FrameType | None) -> None:
            nonlocal told
            if told:
                print("already stopping: what was being rented is destroyed or recorded first", file=sys.stderr)
                return
            told = self.interrupted = True
            print(f"signal {number}: pulumi stops in good order, which may take a minute", file=sys.stderr)
            process.send_signal(signal.SIGINT)

        here = threading.current_thread() is threading.main_thread()
        before = {one: signal.signal(one, forward) for one in (signal.SIGINT, signal.SIGTERM)} if here else {}
        try:
            yield process
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()

    # ---- the backend -------------------------------------------------------------------------------------------------

    def outputs(self) -> dict[str, Json]:
        """Return the stack's outputs, secrets in clear: for this process only."""
        return dict(json.loads(self._ask("stack", "output", "--json", "--show-secrets") or "{}"))

    def export(self, *, show_secrets: bool = False) -> dict[str, Json]:
        """Return the state as it is stored, secrets encrypted, or in clear: for this process only."""
        return dict(json.loads(self._ask("stack", "export", *(["--show-secrets"] if show_secrets else []))))

    def config(self, key: str) -> str:
        """Return a config value in clear, or "" if the stack's own config does not set it."""
        if self._config is None:
            self._config = json.loads(self._ask("config", "--json", "--show-secrets") or "{}")
        return str((self._config.get(f"{NAMESPACE}:{key}") or {}).get("value") or "")

    def forget_config(self) -> None:
        """Read the config anew when it is asked for: its file was written by someone else."""
        self._config = None

    def tags(self) -> dict[str, str]:
        """Return the stack's tags."""
        return dict(json.loads(self._ask("stack", "tag", "ls", "--json") or "{}"))

    def tag(self, name: str, value: str) -> None:
        """Set a tag of the stack."""
        self._ask("stack", "tag", "set", name, value)

    def untag(self, name: str) -> None:
        """Remove a tag of the stack."""
        self._ask("stack", "tag", "rm", name)

    def stacks(self) -> list[str]:
        """Return the names of this project's stacks in the backend."""
        return [str(one["name"]) for one in json.loads(self._ask("stack", "ls", "--json", stack=False) or "[]")]

    def create(self) -> None:
        """Make the stack in the backend, with nothing in it."""
        self._ask("stack", "init", self.stack, stack=False)

    def ensure(self) -> None:
        """Make the stack if it is not there; only one that has a config file. Raises OpsError."""
        if self.exists():
            return
        if not (self.cwd / f"Pulumi.{self.stack}.yaml").exists():
            there = ", ".join(sorted(path.name for path in self.cwd.glob("Pulumi.*.yaml")))
            raise OpsError(
                USAGE, f"no stack named {self.stack!r} and no Pulumi.{self.stack}.yaml", f"there are {there}"
            )
        self.create()

    def exists(self) -> bool:
        """Whether the backend has the stack."""
        return self.stack in {name.rpartition("/")[2] for name in self.stacks()} | set(self.stacks())

    def ask(self, *args: str, given: str | None = None) -> str:
        """Run a short command on the stack, with `given` on its stdin; return its stdout. Raises OpsError."""
        if args[0] == "config":
            self._config = None
        return self._ask(*args, given=given)

    def _ask(self, *args: str, stack: bool = True, given: str | None = None) -> str:
        command = [
            "pulumi",
            *args,
            *(("--stack", self.stack) if stack else ()),
            "--non-interactive",
            "--color",
            "never",
        ]
        try:
            done = subprocess.run(
                command, cwd=self.cwd, env=self._env, input=given or "", capture_output=True, text=True,
                timeout=SHORT_S, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise OpsError(ERROR, "pulumi is not on PATH", "run `make setup`, then `. scripts/env.sh`") from None
        except subprocess.TimeoutExpired:
            raise OpsError(BUSY, f"`pulumi {' '.join(args[:2])}` did not end within {SHORT_S} s") from None
        if done.returncode != 0:
            lines = [line for line in self.scrub(done.stderr).splitlines() if line.startswith("error: ")]
            raise from_pulumi(lines or [self.scrub(done.stderr)])
        return done.stdout
