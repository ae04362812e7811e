"""Pulumi's engine on one stack of this project, by its Automation API; every command of ops/ works through it.

An operation's text goes to a log or, verbose, to stderr as it comes, without secrets; its events come typed. A signal
that ends this process is passed on to the engine once, which then stops in good order: what it was renting is destroyed
or recorded.
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
OPERATIONS = ("preview", "up", "destroy", "refresh")  # take as long as they take
SHORT_S = 120  # any other command: those only read or write the backend
# All replicas boot at once: a boot is waiting, not work, and the engine's default is four per core. The plugin process
# runs as many (components.plugin.verbs).
PARALLEL = 128


def prepare_environment() -> None:
    """Take empty values out of the environment, since a pipeline gives a secret that is not there as an empty text; and
    keep proxies from what is on this machine: Pulumi's own parts talk over loopback."""
    for name in (*SECRET_ENV, *OPTIONAL_ENV):
        if os.environ.get(name) == "":
            del os.environ[name]
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [*filter(None, os.environ.get(name, "").split(",")), "127.0.0.1", "localhost"]
        os.environ[name] = ",".join(dict.fromkeys(hosts))


def secrets() -> list[str]:
    """Return this environment's secrets, as they are used: without the blanks around them."""
    return [value for name in SECRET_ENV if len(value := os.environ.get(name, "").strip()) >= LEAST_SECRET_CHARS]


def without_secrets(text: str) -> str:
    """Return plain text without this environment's secrets."""
    for secret in secrets():
        text = text.replace(secret, MASK)
    return plain(text)


class Command(automation.PulumiCommand):
    """The CLI, started in a session of its own, so that it hears of SIGINT and SIGTERM once, from here.

    `options` are added to each command; `stdin`: what the next one reads there; `last`: the last one's result;
    `interrupted`: whether a signal was passed on to the engine.
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
            raise OpsError(ERROR, str(error), "`make setup` brings the one that goes with the SDK") from None

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: Callable[[str], Any] | None = None,
        on_error: Callable[[str], Any] | None = None,
    ) -> automation.CommandResult:
        """Run it to its end. Raises automation.CommandError, and OpsError for a short one that does not end."""
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
        with self._signals_passed_on(process):
            try:
                out, err = process.communicate(stdin, SHORT_S) if is_short else _follow(process, on_output)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise OpsError(BUSY, f"`pulumi {' '.join(args[:2])}` did not end within {SHORT_S} s") from None
        self.last = automation.CommandResult(out, err, process.returncode)
        if process.returncode != 0:
            raise create_command_error(self.last)
        return self.last

    @contextmanager
    def _signals_passed_on(self, process: subprocess.Popen[str]) -> Iterator[None]:
        forwarded = False

        def forward(number: int, _frame: FrameType | None) -> None:
            nonlocal forwarded
            if forwarded:
                print("already stopping: what was being rented is destroyed or recorded first", file=sys.stderr)
                return
            forwarded = self.interrupted = True
            print(f"signal {number}: pulumi stops in good order, which may take a minute", file=sys.stderr)
            process.send_signal(signal.SIGINT)

        here = threading.current_thread() is threading.main_thread()
        before = {one: signal.signal(one, forward) for one in (signal.SIGINT, signal.SIGTERM)} if here else {}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()


def _follow(process: subprocess.Popen[str], show: Callable[[str], Any] | None) -> tuple[str, str]:
    """Show a long operation's lines as they come; all of them count as its errors too, among which the SDK looks."""
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if show:
            show(line.rstrip("\n"))
    process.wait()
    return ("".join(lines),) * 2


class Workspace(automation.LocalWorkspace):
    """The project's folder. A stack is named in every command, so the one that a person has selected stays selected."""

    def select_stack(self, stack_name: str) -> None:
        """Change nothing."""


class Pulumi:
    """One stack of the project in `cwd`. All methods raise OpsError."""

    def __init__(self, cwd: Path, stack: str, *, verbose: bool = True) -> None:
        if not (cwd / "Pulumi.yaml").exists():
            raise OpsError(USAGE, f"no Pulumi.yaml in {cwd}", "--cwd names the project's folder")
        self.cwd = cwd
        self.name = stack
        self.log = None if verbose else cwd / ".local" / "log" / f"{stack.replace('/', '-')}.log"
        self._logged = False
        self.command = Command()
        self.workspace = Workspace(work_dir=str(cwd), pulumi_command=self.command)
        self.stack = automation.Stack.select(stack, self.workspace)
        self._config: dict[str, Mapping[str, Json]] | None = None
        self.project = self.workspace.project_settings().name

    def other(self, name: str) -> Pulumi:
        """Return another stack of the same project."""
        return Pulumi(self.cwd, name, verbose=self.log is None)

    # ---- operations ------------------------------------------------------------------------------------------------

    def preview(self, *, refresh: bool = True) -> Run:
        """Plan; without `refresh` against what the state recorded last, so that only what is declared can differ."""
        return self._operation(self.stack.preview, () if refresh else ("--refresh=false",))

    def up(self, targets: Sequence[str] = (), *, replicas: int | None = None) -> Run:
        """Deploy what is declared, or only the URNs in `targets`; with so many `replicas`, where the config leaves it.

        Of a stack that has nothing yet as much comes up as can, whichever replica fails. Later that would do harm:
        after an error the engine goes on to delete what was replaced, while a gateway that depends on the failed
        replica is skipped (pulumi 3.259, deployment_executor.go: performDeletes), and still sends requests there.

        What an update was making when it was cut off, and is no more declared, is then in the state no more.
        """
        stored = self.export()
        first = not targets and not any(str(one["type"]).endswith(INSTANCE) for one in stored.get("resources") or [])
        options: dict[str, Any] = {"target": list(targets) or None, "continue_on_error": first, "show_secrets": False}
        self.workspace.env_vars = {} if replicas is None else {REPLICAS_ENV: str(replicas)}
        try:
            run = self._operation(self.stack.up, **options)
        finally:
            self.workspace.env_vars = {}
        if stored.get("pending_operations") and not targets:
            self._operation(self.stack.refresh, clear_pending_creates=True, show_secrets=False)
        return run

    def destroy(self) -> Run:
        """Destroy every resource that can be destroyed."""
        return self._operation(self.stack.destroy, continue_on_error=True, show_secrets=False)

    def _operation(self, operation: Callable[..., Any], flags: Sequence[str] = (), **options: Any) -> Run:
        events: list[EngineEvent] = []

        def keep(event: EngineEvent) -> None:
            for one in (event.diagnostic_event, event.policy_event):
                if one:
                    one.message = scrub(one.message, secrets())
            events.append(event)

        self._refuse_foreign_code()
        self.command.options = flags
        try:
            with self._shown() as show:
                operation(
                    on_event=keep, on_output=show, on_error=show, color="never", suppress_outputs=True,
                    parallel=PARALLEL, **options,
                )  # fmt: skip
        except automation.CommandError as error:
            run = Run(events)
            if broken := run.policies():
                raise OpsError(POLICY, "; and ".join(broken)) from None
            failed = self._failed(error, run.messages("error"))
            failed.remedy = failed.remedy or f"its output is {f'in {self.log}' if self.log else 'above'}"
            raise failed from None
        finally:
            self.command.options = ()
        return Run(events)

    def _refuse_foreign_code(self) -> None:
        """Raise OpsError where the state would have the engine run what this checkout does not have."""
        stored = self.export(show_secrets=True)
        pending = [one["resource"] for one in stored.get("pending_operations") or []]
        if found := foreign_code([*(stored.get("resources") or []), *pending]):
            raise OpsError(
                POLICY,
                f"the state of {self.name} would run code that is not of this checkout: {'; '.join(found)}",
                "nothing was run. Find out who could write the state, and put an earlier one back "
                "(docs/state.md, The state was changed)",
            )

    @contextmanager
    def _shown(self) -> Iterator[Callable[[str], None]]:
        """Give what takes the engine's text: to stderr, or to the log, with its last line on a terminal meanwhile."""
        if self.log is None:
            yield lambda line: print(scrub(line, secrets()), file=sys.stderr, flush=True)
            return
        console, mode = Console(stderr=True), "a" if self._logged else "w"
        if not self._logged:
            self._logged = True
            self.log.parent.mkdir(parents=True, exist_ok=True)
            print(f"pulumi's output is in {self.log}; -v shows it here", file=sys.stderr, flush=True)
        with self.log.open(mode) as log, console.status("pulumi") as status:

            def write(line: str) -> None:
                line = scrub(line, secrets())
                print(line, file=log, flush=True)
                if words := line.split():
                    status.update(Text(" ".join(words)[: max(console.width - 4, 1)]))

            yield write

    def _failed(self, error: automation.CommandError, messages: Sequence[str] = ()) -> OpsError:
        last = self.command.last
        lines = [scrub(line, secrets()) for line in f"{last.stdout}\n{last.stderr}".splitlines()]
        found = from_messages([*messages, *(one for one in lines if one.startswith("error: "))], last.code)
        if isinstance(error, automation.ConcurrentUpdateError):
            remedy = "wait for the other run; if none is running, remove its lock with `pulumi cancel --stack NAME`"
            return OpsError(BUSY, found.text, remedy)
        if isinstance(error, automation.StackNotFoundError):
            remedy = "`pulumi stack ls` lists the stacks of this backend; make it with `pulumi stack init NAME`"
            return OpsError(USAGE, found.text, remedy)
        return found

    # ---- the backend -----------------------------------------------------------------------------------------------

    def ask(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """Return what a method of the workspace or the stack returns; the stack is theirs to name."""
        try:
            return call(*args, **options)
        except automation.CommandError as error:
            raise self._failed(error) from None

    def _run(self, *words: str) -> str:
        """Return what a command of the CLI prints, on this stack."""
        at = words.index("--") if "--" in words else len(words)
        named = [*words[:at], "--stack", self.name, *words[at:]]
        return self.ask(self.command.run, named, str(self.cwd), {}).stdout

    def outputs(self) -> dict[str, Json]:
        """Return the stack's outputs, secrets in clear: for this process only."""
        return {name: one.value for name, one in self.ask(self.stack.outputs).items()}

    def export(self, *, show_secrets: bool = False) -> dict[str, Json]:
        """Return the deployment as it is stored, secrets encrypted; or in clear, for this process only."""
        shown = ["--show-secrets"] if show_secrets else []
        return json.loads(self._run("stack", "export", *shown)).get("deployment") or {}

    def resources(self, *, show_secrets: bool = False) -> list[dict[str, Json]]:
        """Return the resources of the state; with secrets in clear for this process only."""
        return list(self.export(show_secrets=show_secrets).get("resources") or [])

    def all_config(self) -> dict[str, Mapping[str, Json]]:
        """Return value, objectValue and secret by full key, secrets in clear, defaults of Pulumi.yaml included."""
        return dict(json.loads(self._run("config", "--json", "--show-secrets") or "{}"))  # get_all_config: no objects

    def config(self, key: str) -> str:
        """Return a config value in clear, or "" if neither the stack's config nor Pulumi.yaml sets it."""
        if self._config is None:
            self._config = self.all_config()
        return str((self._config.get(f"{self.project}:{key}") or {}).get("value") or "")

    def set_secret(self, key: str, value: str) -> None:
        """Set a secret of the stack's config; it passes through stdin."""
        self.command.stdin = value
        self.set_config("--secret", key)

    def set_config(self, *words: str) -> None:
        """Set a config value by the words of `pulumi config set`."""
        self._run("config", "set", *words)
        self._config = None

    def set_all_config(self, entries: Mapping[str, Mapping[str, Json]]) -> None:
        """Set config values by full key, as `pulumi config --json` has them."""
        self.ask(self.workspace.set_all_config_json, self.name, json.dumps(entries))
        self._config = None

    def remove_config(self, key: str) -> None:
        """Set a config key no longer, if it is set."""
        self.ask(self.stack.remove_config, key)
        self._config = None

    def stacks(self) -> list[str]:
        """Return the names of this project's stacks in the backend."""
        return [one.name.rpartition("/")[2] for one in self.ask(self.workspace.list_stacks)]

    def ensure(self) -> None:
        """Make the stack if it is not there; only one that has a config file."""
        if self.name.rpartition("/")[2] in self.stacks():
            return
        if not (self.cwd / f"Pulumi.{self.name}.yaml").exists():
            there = ", ".join(sorted(path.name for path in self.cwd.glob("Pulumi.*.yaml")))
            raise OpsError(USAGE, f"no stack named {self.name!r} and no Pulumi.{self.name}.yaml", f"there are {there}")
        self.ask(self.workspace.create_stack, self.name)
