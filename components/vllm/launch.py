"""The launch of a server: image, command, environment, ports, from model and image. The command contains no secret.

Called by components.reranker. Form "script": bash writes the needed files and then runs the guard, which starts vLLM,
or runs vLLM itself. Form "plain": the image's own entrypoint, as in Vast.ai's guide. The flags are the same for vLLM
0.19.1 and 0.32.0 (catalog/flags.yaml).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from components.container_files import ENV_PREFIX, GUARD, TEMPLATE_FILE, UNPACK, digests, packed_env
from components.errors import ConfigError
from components.vast.identity import CERT_ENVS
from components.vast.identity import KEY_ENV as KEY_ENV_TLS
from components.vllm.catalog import Image, Model
from components.vllm.extra_args import problems_with_flags

Form = Literal["script", "plain"]

# vLLM's API key; vLLM checks it only on /v1 and /v2 (measured: /rerank and /score answer without a key).
KEY_ENV = "VLLM_API_KEY"
# The guard's management key. vLLM then has no key and listens on a socket that only the guard can reach.
GUARD_KEY_ENV = "GUARD_KEY"
GUARD_OPTIONS_ENV = "GUARD"  # JSON, see components/guard/rules.py
# Vast.ai API, create instance: args, args_str and onstart share 4,096 characters; an env value may be cut at 256; names
# and values of env share 32,768. Of these the user has 8,000, and the stack's own variables fit into the rest.
COMMAND_LIMIT_CHARS = 4096
ENV_VALUE_LIMIT_CHARS = 256
USER_ENV_LIMIT_CHARS = 8000
# Variables that the stack sets, or that would load other code than the image's.
RESERVED_ENV = (KEY_ENV, "HF_TOKEN", "TMPDIR", "PATH", "HOME", KEY_ENV_TLS, *CERT_ENVS)
RESERVED_ENV_PREFIXES = (ENV_PREFIX, GUARD_OPTIONS_ENV, "PYTHON", "LD_", "BASH_", "VAST_", "CONTAINER_")
# Log lines (regular expressions) of errors in the command: another machine would fail as well. From vLLM's argument
# parser and model config, and from transformers' hub access.
SPEC_FAULT_LOGS = (
    r"error: unrecognized arguments: .*",
    r"error: argument .*: (invalid|expected|not allowed).*",
    r"User-specified max_model_len .* is greater than the derived max_model_len.*",
    r"max_num_batched_tokens .* is smaller than max_model_len.*",
    r"Model architectures .* are not supported for now.*",
    r".* is not a local folder and is not a valid model identifier.*",
    r".*(RepositoryNotFoundError|GatedRepoError).*",
    r"The model does not support (Score|Rerank \(Score\)) API.*",
)


@dataclass(frozen=True)
class Launch:
    """The launch of a container. `ports`: "external:internal" as in docker's -p. `env`: the values are secret.
    `files`: names in components.container_files; the container gets these files in its environment.
    """

    image: str
    onstart: str | None
    args: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    ports: tuple[str, ...]
    files: tuple[str, ...] = ()

    @property
    def container_env(self) -> dict[str, str]:
        return self.env | packed_env(digests(self.files))


def plan_launch(
    model: Model,
    image: Image,
    *,
    port: int = 8000,
    api_key: str | None,
    dtype: str | None = None,
    aliases: Sequence[str] = (),
    extra_args: Sequence[str] = (),
    form: Form = "script",
    guard: bool = False,
    guard_options: Mapping[str, object] | None = None,
    tls: bool = False,
) -> Launch:
    """Return the launch of `model` on `image`, listening on `port` inside the container.

    `dtype` None means a dtype for every GPU that the image supports. `aliases`: further names of the model.
    `extra_args` come last, so they override other flags.
    With `guard` every route needs a key; see components/guard for `guard_options`. With `tls` the server uses the
    certificate in its environment, see components.vast.identity. Both need the script form.
    Raises ConfigError if extra_args contains a refused flag, or if the result exceeds Vast.ai's limits.
    """
    if problems := problems_with_flags(extra_args):
        raise ConfigError(problems)
    flags = serve_flags(model, dtype=dtype or dtype_for(model))
    if aliases:
        flags += ["--served-model-name", model.name, *aliases]
    flags += extra_args
    if form == "plain" and (guard or tls):
        raise ConfigError(["form plain does not support guard and TLS: set guard and tls to false, or form to script"])
    if form == "plain":
        onstart = None
        args = ["--model", model.name, *address_flags(port), *flags]
        files: list[str] = []
        if model.chat_template is not None:
            args += ["--chat-template", model.chat_template]  # vLLM takes the text as well as a path
    else:
        onstart = "bash"
        args = ["-c", boot_script(model, flags, port=port, guard=guard, tls=tls)]
        files = boot_files(model, guard=guard)
    env = {} if api_key is None else {key_env(guard=guard): api_key}
    if guard and guard_options:
        env[GUARD_OPTIONS_ENV] = json.dumps(dict(guard_options), separators=(",", ":"))
    _check_limits(onstart, args, env)
    return Launch(image.ref, onstart, tuple(args), env, (f"{port}:{port}",), tuple(files))


def dtype_for(model: Model) -> str:
    """Return vLLM's --dtype for a model, on any GPU.

    Encoders always use half precision, so that scores do not depend on the machine. Language models were trained in
    bfloat16: "auto" uses it on GPUs that support it, and half precision on others.
    """
    return "auto" if model.kind == "decoder-reranker" else "half"


def address_flags(port: int) -> list[str]:
    """Return the listen flags of the guard or vLLM. The container's port is public on purpose."""
    return ["--host", "0.0.0.0", "--port", str(port)]  # noqa: S104


def serve_flags(model: Model, *, dtype: str) -> list[str]:
    """Return the flags of `vllm serve` for a model, without chat template and address."""
    flags = ["--max-model-len", str(model.max_model_len), "--dtype", dtype]
    if model.revision:
        flags += ["--revision", model.revision, "--tokenizer-revision", model.revision]
    flags += model.flags
    if model.hf_overrides is not None:
        flags += ["--hf-overrides", json.dumps(model.hf_overrides, separators=(",", ":"))]
    return flags


def key_env(*, guard: bool) -> str:
    return GUARD_KEY_ENV if guard else KEY_ENV


def boot_script(model: Model, flags: Sequence[str], *, port: int, guard: bool = False, tls: bool = False) -> str:
    """Return the bash script that writes the server's files and then runs the guard or vLLM."""
    lines = ["set -eu"]
    command = shlex.join(["vllm", "serve", model.name, *([] if guard else address_flags(port)), *flags])
    files = boot_files(model, guard=guard)
    if model.chat_template is not None:
        command += f' --chat-template "$files/{TEMPLATE_FILE}"'
    if guard:
        flag = " --tls" if tls else ""
        command = f'{shlex.join(["python3", "-m", "guard", *address_flags(port)])} --files "$files"{flag} -- {command}'
        command += ' --uds "$files/vllm.sock"'
    elif tls:
        command += ' --ssl-certfile "$files/cert.pem" --ssl-keyfile "$files/key.pem"'
    if files or tls:
        lines += ['export files="${TMPDIR:-/tmp}/reranker"', 'mkdir -p "$files"']
    if files:
        lines += [shlex.join(["python3", "-c", UNPACK]), f"unset ${{!{ENV_PREFIX}@}}"]
    if guard:
        lines += ['export PYTHONPATH="$files${PYTHONPATH:+:$PYTHONPATH}"', "umask 077"]
    if tls:
        lines += WRITE_IDENTITY
    return "\n".join([*lines, f"exec {command}", ""])


def boot_files(model: Model, *, guard: bool) -> list[str]:
    return [*([GUARD] if guard else []), *([model.name] if model.chat_template is not None else [])]


# removes the private key from the environment before the server starts
WRITE_IDENTITY = (
    'pem() { printf -- "-----BEGIN $1-----\\n$2\\n-----END $1-----\\n" >"$files/$3"; }',
    "umask 077",
    f'pem CERTIFICATE "{"".join("${" + name + ":-}" for name in CERT_ENVS)}" cert.pem',
    f'pem "PRIVATE KEY" "${KEY_ENV_TLS}" key.pem',
    f"unset {KEY_ENV_TLS}",
)


def _check_limits(onstart: str | None, args: Sequence[str], env: Mapping[str, str]) -> None:
    size = sum(map(len, args)) + len(onstart or "")
    problems = []
    if size > COMMAND_LIMIT_CHARS:
        over = size - COMMAND_LIMIT_CHARS
        problems.append(
            f"the command is {size} characters, {over} more than the {COMMAND_LIMIT_CHARS} that Vast.ai takes "
            "(args and onstart together); shorten extra_args"
        )
    problems += [
        f"the value of environment variable {name} is {len(value)} characters; Vast.ai takes {ENV_VALUE_LIMIT_CHARS}"
        for name, value in env.items()
        if len(value) > ENV_VALUE_LIMIT_CHARS
    ]
    problems += [f"{name} is not a valid environment variable name" for name in env if not re.fullmatch(r"\w+", name)]
    if problems:
        raise ConfigError(problems)
