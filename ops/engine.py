"""Pulumi operations on one stack of this project, by the Automation API. All commands of ops/ use it.

The output of an operation goes to a log file or, with --verbose, to stderr, without secrets; its events are typed.
SIGINT and SIGTERM are forwarded to the engine once. The engine then stops cleanly: a half-rented instance is destroyed
or recorded in the state.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from pulumi import automation
from pulumi.automation.errors import create_command_error
from pulumi.automation.events import EngineEvent
from rich.console import Console
from rich.text import Text

from components.redaction import MASK, plain, scrub
from components.replica_count import REPLICAS_ENV
from components.vast.json_values import Json
from ops.exits import BUSY, ERROR, POLICY, USAGE, OpsError, from_messages
from ops.plan import INSTANCE, Run
from ops.state_check import foreign_code

T = TypeVar("T")
SECRET_ENV = (
    "VAST_API_KEY", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_ACCESS_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_KEY", "AZURE_CLIENT_SECRET", "GITHUB_TOKEN", "GH_TOKEN", "GITLAB_TOKEN", "CI_JOB_TOKEN", "HF_TOKEN",
)  # fmt: skip
OPTIONAL_ENV = ("PULUMI_BACKEND_URL", "AWS_ACCESS_KEY_ID", "AWS_REGION", "PULUMI_CONFIG_PASSPHRASE_FILE")
LEAST_SECRET_CHARS = 6  # the local stack's public passphrase, "local", is also an ordinary word
OPERATIONS = ("preview", "up", "destroy", "refresh")  # have no time limit
SHORT_S = 120  # time limit of any other command: these only read or write the backend
# All replicas boot at once: a boot needs no CPU here, and the engine's default is four operations per core. The plugin
# process has the same limit (components.plugin.verbs).
PARALLEL = 128


def prepare_environment() -> None:
    """Remove empty variables, because a pipeline passes a missing secret as an empty text. Exclude loopback from
    proxies, because Pulumi's processes communicate over loopback."""
    for name in (*SECRET_ENV, *OPTIONAL_ENV):
        if os.environ.get(name) == "":
            del os.environ[name]
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [*filter(None, os.environ.get(name, "").split(",")), "127.0.0.1", "localhost"]
        os.environ[name] = ",".join(dict.fromkeys(hosts))


def secrets() -> list[str]:
    """Return this environment's secrets, without surrounding whitespace."""
    return [value for name in SECRET_ENV if len(value := os.environ.get(name, "").strip()) >= LEAST_SECRET_CHARS]


def without_secrets(text: str) -> str:
    """Return plain text without this environment's secrets."""
    for secret in secrets():
        text = text.replace(secret, MASK)
    return plain(text)


class Command(automation.PulumiCommand):
    """The Pulumi CLI, started in a new session, so that it gets SIGINT and SIGTERM only from this process.

    `options` are added to each command; `stdin`: the input of the next command; `last`: the last command's result;
    `interrupted`: whether a signal was forwarded to the engine.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.options: Sequence[str] = ()
        self.stdin = ""
        self.last = automation.CommandResult("", "", 0)
        try:
            super().__init__()
        except FileNotFoundError:
            raise OpsError(ERROR, "pulumi is not on PATH", "run `make setup`, then `. scripts/env.sh`") from None
        except automation.InvalidVersionError as error:
            raise OpsError(ERROR, str(error), "`make setup` installs the version that matches the SDK") from None

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: Callable[[str], Any] | None = None,
        on_error: Callable[[str], Any] | None = None,
    ) -> automation.CommandResult:
        """Run a command. Raises automation.CommandError, and OpsError if a short command exceeds its time limit."""
        stdin, self.stdin = self.stdin, ""
        is_short = args[0] not in OPERATIONS
        process = subprocess.Popen(
            [self.command, "--non-interactive", *args, *self.options],
            cwd=cwd,
            env={**os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true", "PULUMI_SKIP_UPDATE_CHECK": "true"},
            stdin=subprocess.PIPE if is_short else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if is_short else subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with self._forward_signals(process):
            try:
                out, err = process.communicate(stdin, SHORT_S) if is_short else _stream_output(process, on_output)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise OpsError(BUSY, f"`pulumi {' '.join(args[:2])}` did not end within {SHORT_S} s") from None
        self.last = automation.CommandResult(out, err, process.returncode)
        if process.returncode != 0:
            raise create_command_error(self.last)
        return self.last

    @contextmanager
    def _forward_signals(self, process: subprocess.Popen[str]) -> Iterator[None]:
        forwarded = False

        def forward(number: int, _frame: FrameType | None) -> None:
            nonlocal forwarded
            if forwarded:
                print("already stopping: half-rented instances are destroyed or recorded first", file=sys.stderr)
                return
            forwarded = self.interrupted = True
            print(f"signal {number}: pulumi stops cleanly; this may take a minute", file=sys.stderr)
            process.send_signal(signal.SIGINT)

        is_main = threading.current_thread() is threading.main_thread()
        handlers = {sig: signal.signal(sig, forward) for sig in (signal.SIGINT, signal.SIGTERM)} if is_main else {}
        try:
            yield
        finally:
            for sig, handler in handlers.items():
                signal.signal(sig, handler)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()


def _stream_output(process: subprocess.Popen[str], show: Callable[[str], Any] | None) -> tuple[str, str]:
    """Show each output line of a long operation. Return the output twice: the SDK searches stderr for errors."""
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if show:
            show(line.rstrip("\n"))
    process.wait()
    return ("".join(lines),) * 2


class Workspace(automation.LocalWorkspace):
    """The project's folder. Every command names its stack, so the user's selected stack stays selected."""

    def select_stack(self, stack_name: str) -> None:
        """Do nothing."""


class Pulumi:
    """One stack of the project in `cwd`. All methods raise OpsError."""

    def __init__(self, cwd: Path, stack: str, *, verbose: bool = True) -> None:
        if not (cwd / "Pulumi.yaml").exists():
            raise OpsError(USAGE, f"no Pulumi.yaml in {cwd}", "--cwd names the project's folder")
        self.cwd = cwd
        self.name = stack
        self.short_name = stack.rpartition("/")[2]  # without organization and project
        self.log = None if verbose else cwd / ".local" / "log" / f"{stack.replace('/', '-')}.log"
        self._logged = False
        self.command = Command()
        self.workspace = Workspace(work_dir=str(cwd), pulumi_command=self.command)
        self.stack = automation.Stack.select(stack, self.workspace)
        self._config: dict[str, Mapping[str, Json]] | None = None
        self.project = self.workspace.project_settings().name

    def other(self, name: str) -> Pulumi:
        return Pulumi(self.cwd, name, verbose=self.log is None)

    # ---- operations ------------------------------------------------------------------------------------------------

    def preview(self, *, refresh: bool = True) -> Run:
        """Plan an `up`. Without `refresh`, the plan contains only changes of the program and its config."""
        return self._operation(self.stack.preview, () if refresh else ("--refresh=false",))

    def up(self, targets: Sequence[str] = (), *, replicas: int | None = None) -> Run:
        """Deploy the stack, or only the URNs in `targets`. `replicas` sets the number if the config allows a range.

        The first deploy continues after a failed replica. A later one must not: after an error the engine would still
        delete the replaced instances but skip the gateway, which depends on the failed replica (pulumi 3.259,
        deployment_executor.go: performDeletes). The gateway would then send requests to deleted instances.

        After an `up` without targets, pending creates of an interrupted update are cleared from the state.
        """
        state = self.export()
        first = not targets and not any(str(row["type"]).endswith(INSTANCE) for row in state.get("resources") or [])
        options: dict[str, Any] = {"target": list(targets) or None, "continue_on_error": first, "show_secrets": False}
        self.workspace.env_vars = {} if replicas is None else {REPLICAS_ENV: str(replicas)}
        try:
            run = self._operation(self.stack.up, **options)
        finally:
            self.workspace.env_vars = {}
        if state.get("pending_operations") and not targets:
            self._operation(self.stack.refresh, clear_pending_creates=True, show_secrets=False)
        return run

    def destroy(self) -> Run:
        """Destroy all resources; continue after errors."""
        return self._operation(self.stack.destroy, continue_on_error=True, show_secrets=False)

    def _operation(self, operation: Callable[..., Any], flags: Sequence[str] = (), **options: Any) -> Run:
        events: list[EngineEvent] = []

        def record(event: EngineEvent) -> None:
            for part in (event.diagnostic_event, event.policy_event):
                if part:
                    part.message = scrub(part.message, secrets())
            events.append(event)

        self._refuse_foreign_code()
        self.command.options = flags
        try:
            with self._open_output() as show:
                operation(
                    on_event=record, on_output=show, on_error=show, color="never", suppress_outputs=True,
                    parallel=PARALLEL, **options,
                )  # fmt: skip
        except automation.CommandError as error:
            run = Run(events)
            if violations := run.policies():
                raise OpsError(POLICY, "; and ".join(violations)) from None
            ops_error = self._ops_error(error, run.messages("error"))
            remedy = ops_error.remedy or f"its output is {f'in {self.log}' if self.log else 'above'}"
            text = ops_error.text
            if rented := run.rented():
                text += f"; this run rented instance {', '.join(rented)}, which the state contains and which is billed"
                remedy += "; the next `up` or `ops deploy` uses it, or destroys it if the stack does not declare it"
            raise OpsError(ops_error.code, text, remedy) from None
        finally:
            self.command.options = ()
        return Run(events)

    def _refuse_foreign_code(self) -> None:
        """Raise OpsError if the state contains code that is not in this checkout."""
        state = self.export(show_secrets=True)
        pending = [operation["resource"] for operation in state.get("pending_operations") or []]
        if problems := foreign_code([*(state.get("resources") or []), *pending]):
            raise OpsError(
                POLICY,
                f"the state of {self.name} contains code that is not in this checkout: {'; '.join(problems)}",
                "nothing was run. Find out who could write the state, and restore an earlier state "
                "(docs/state.md, The state was changed)",
            )

    @contextmanager
    def _open_output(self) -> Iterator[Callable[[str], None]]:
        """Yield a function that writes a line of the engine to stderr, or to the log and the terminal's status line."""
        if self.log is None:
            yield lambda line: print(scrub(line, secrets()), file=sys.stderr, flush=True)
            return
        console, mode = Console(stderr=True), "a" if self._logged else "w"
        if not self._logged:
            self._logged = True
            self.log.parent.mkdir(parents=True, exist_ok=True)
            print(f"pulumi's output goes to {self.log}; -v shows it here", file=sys.stderr, flush=True)
        with self.log.open(mode) as log, console.status("pulumi") as status:

            def write(line: str) -> None:
                line = scrub(line, secrets())
                print(line, file=log, flush=True)
                if words := line.split():
                    status.update(Text(" ".join(words)[: max(console.width - 4, 1)]))

            yield write

    def _ops_error(self, error: automation.CommandError, messages: Sequence[str] = ()) -> OpsError:
        last = self.command.last
        lines = [scrub(line, secrets()) for line in f"{last.stdout}\n{last.stderr}".splitlines()]
        result = from_messages([*messages, *(line for line in lines if line.startswith("error: "))], last.code)
        if isinstance(error, automation.ConcurrentUpdateError):
            remedy = "wait for the other run; if none is running, remove its lock with `pulumi cancel --stack NAME`"
            return OpsError(BUSY, result.text, remedy)
        if isinstance(error, automation.StackNotFoundError):
            remedy = "`pulumi stack ls` lists the stacks of this backend; create it with `pulumi stack init NAME`"
            return OpsError(USAGE, result.text, remedy)
        return result

    # ---- the backend -----------------------------------------------------------------------------------------------

    def call(self, method: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call a method of the workspace or the stack; raise its CommandError as OpsError."""
        try:
            return method(*args, **options)
        except automation.CommandError as error:
            raise self._ops_error(error) from None

    def _run(self, *words: str) -> str:
        """Run a command of the CLI on this stack, and return its stdout."""
        at = words.index("--") if "--" in words else len(words)
        args = [*words[:at], "--stack", self.name, *words[at:]]
        return self.call(self.command.run, args, str(self.cwd), {}).stdout

    def outputs(self) -> dict[str, Json]:
        """Return the stack's outputs, with decrypted secrets: for this process only."""
        return {name: output.value for name, output in self.call(self.stack.outputs).items()}

    def export(self, *, show_secrets: bool = False) -> dict[str, Json]:
        """Return the stored deployment with encrypted secrets, or with decrypted ones for this process only."""
        flags = ["--show-secrets"] if show_secrets else []
        return json.loads(self._run("stack", "export", *flags)).get("deployment") or {}

    def resources(self, *, show_secrets: bool = False) -> list[dict[str, Json]]:
        """Return the resources of the state; see `export` for secrets."""
        return list(self.export(show_secrets=show_secrets).get("resources") or [])

    def all_config(self) -> dict[str, Mapping[str, Json]]:
        """Return value, objectValue and secret by full key, secrets decrypted, defaults of Pulumi.yaml included."""
        return dict(json.loads(self._run("config", "--json", "--show-secrets") or "{}"))  # get_all_config: no objects

    def config(self, key: str) -> str:
        """Return a decrypted config value, or "" if neither the stack's config nor Pulumi.yaml sets it."""
        if self._config is None:
            self._config = self.all_config()
        return str((self._config.get(f"{self.project}:{key}") or {}).get("value") or "")

    def set_secret(self, key: str, value: str) -> None:
        """Set a secret in the stack's config; the CLI reads it from stdin."""
        self.command.stdin = value
        self.set_config("--secret", key)

    def set_config(self, *words: str) -> None:
        """Run `pulumi config set` with these arguments."""
        self._run("config", "set", *words)
        self._config = None

    def set_all_config(self, entries: Mapping[str, Mapping[str, Json]]) -> None:
        """Set config values by full key, in the form of `pulumi config --json`."""
        self.call(self.workspace.set_all_config_json, self.name, json.dumps(entries))
        self._config = None

    def remove_config(self, key: str) -> None:
        """Remove a key from the stack's config, if it is set."""
        self.call(self.stack.remove_config, key)
        self._config = None

    def stacks(self) -> list[str]:
        """Return the names of this project's stacks in the backend."""
        return [stack.name.rpartition("/")[2] for stack in self.call(self.workspace.list_stacks)]

    def ensure(self) -> None:
        """Create the stack if it does not exist. Raises OpsError if it has no config file."""
        if self.short_name in self.stacks():
            return
        if not (self.cwd / f"Pulumi.{self.short_name}.yaml").exists():
            names = ", ".join(sorted(path.name for path in self.cwd.glob("Pulumi.*.yaml")))
            raise OpsError(
                USAGE, f"no stack named {self.name!r} and no Pulumi.{self.short_name}.yaml", f"there are {names}"
            )
        self.call(self.workspace.create_stack, self.name)
