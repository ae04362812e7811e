"""Runs the `run` steps of a workflow's job like GitHub: conditions, env, outputs, step summary, bash -e.

Skips `uses` steps (checkout, installation of tools). Expressions use the flat contexts of the test, such as
{"secrets.VAST_API_KEY": ...}; a missing value is empty, as on GitHub. Reference: docs.github.com, "Evaluate expressions
in workflows and actions".
"""

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from harness.stack import REPO

WORKFLOWS = REPO / ".github" / "workflows"
STATUS = re.compile(r"\b(always|cancelled|failure|success)\(\)")
TOKEN = re.compile(r"'(?:[^']|'')*'|&&|\|\||==|!=|!|\(|\)|,|[\w.*-]+")
WORDS = {"&&": "and", "||": "or", "!": "not", "true": "True", "false": "False"}
FUNCTIONS = ("contains", "fromJSON", "always", "cancelled", "failure", "success")


@dataclass
class JobResult:
    ran: bool
    rc: int = 0
    summary: str = ""
    log: str = ""
    outputs: dict = field(default_factory=dict)
    steps: list = field(default_factory=list)


def load(name):
    """Read a workflow file; YAML 1.1 parses the key `on` as a boolean."""
    raw = yaml.safe_load((WORKFLOWS / name).read_text())
    raw["on"] = raw.pop(True)
    return raw


def evaluate(expression, contexts):
    """Evaluate an expression; `contexts` is flat."""
    words = []
    for token in TOKEN.findall(expression):
        if token.startswith("'"):
            words.append(repr(token[1:-1].replace("''", "'")))
        elif token in WORDS or token in ("==", "!=", "(", ")", ",") or token in FUNCTIONS or token.isdigit():
            words.append(WORDS.get(token, token))
        else:
            words.append(f"context({token!r})")
    names = {
        "context": lambda name: contexts.get(name, ""),
        "contains": lambda container, item: item in container,
        "fromJSON": json.loads,
        "always": lambda: True,
        "cancelled": lambda: False,
        "failure": lambda: contexts.get("failed", False),
        "success": lambda: not contexts.get("failed", False),
    }
    return eval(" ".join(words), {"__builtins__": {}}, names)


def fill_in(text, contexts):
    """Return a value of the file with its expressions evaluated."""
    match = re.fullmatch(r"\$\{\{(.*)\}\}", str(text).strip(), re.DOTALL)
    if match and "${{" not in match[1]:
        return evaluate(match[1], contexts)
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: str(evaluate(match[1], contexts)), str(text))


def check_condition(text, contexts):
    """Evaluate an `if`. Without a status function, it is false after a failed step."""
    if text is None:
        return not contexts.get("failed", False)
    bare = re.sub(r"^\$\{\{(.*)\}\}$", r"\1", str(text).strip(), flags=re.DOTALL)
    if not STATUS.search(bare) and contexts.get("failed", False):
        return False
    return bool(evaluate(bare, contexts))


def run_job(workflow, job, *, checkout, env, contexts, matrix=None):
    """Run a job's steps in a checkout. `env`: the environment of the runner."""
    definition = load(workflow)["jobs"][job]
    contexts = {**contexts, **{f"matrix.{key}": value for key, value in (matrix or {}).items()}}
    if not check_condition(definition.get("if"), contexts):
        return JobResult(ran=False)
    for key, value in (definition.get("strategy", {}).get("matrix") or {}).items():
        assert matrix[key] in fill_in(value, contexts), f"{job} does not run for {matrix}"
    result = JobResult(ran=True)
    files = {name: checkout / f".{name.lower()}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for path in files.values():
        path.write_text("")
    for step in definition["steps"]:
        if "uses" in step or not check_condition(step.get("if"), contexts):
            continue
        values = {**(definition.get("env") or {}), **(step.get("env") or {})}
        texts = {key: fill_in(value, contexts) for key, value in values.items()}
        files["GITHUB_OUTPUT"].write_text("")
        process = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=checkout,
            env={**env, **{key: str(value) for key, value in texts.items()}, **{k: str(v) for k, v in files.items()}},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        name = step.get("name") or step["run"]
        result.log += f"--- {name}: exit code {process.returncode}\n{process.stdout}{process.stderr}"
        result.steps.append((name, process.returncode))
        for line in files["GITHUB_OUTPUT"].read_text().splitlines():
            key, _, value = line.partition("=")
            contexts[f"steps.{step.get('id')}.outputs.{key}"] = result.outputs[f"{step.get('id')}.{key}"] = value
        if process.returncode != 0:
            contexts["failed"] = True
            result.rc = result.rc or process.returncode
    result.summary = files["GITHUB_STEP_SUMMARY"].read_text()
    return result


def all_run_steps():
    """Return (file, job, step) of every run step of every workflow."""
    return [
        (path.name, job, step)
        for path in sorted(Path(WORKFLOWS).glob("*.yml"))
        for job, definition in load(path.name)["jobs"].items()
        for step in definition["steps"]
        if "run" in step
    ]
