"""What extra_args may hold: flags that are refused, each with its reason, and numbers that must fit the model.

Pure. Called by settings, before anything is searched, and by launch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from components.vllm.catalog import Model

# flags, as regular expressions, and why none of them can be given
REFUSED = (
    (r"--api-key", "is set by the stack; give the key as config api_key, never in a command"),
    (r"--hf-token", "would be in a command that the host reads; give it as config hub_token"),
    (r"--served-model-name", "is set by the stack; name aliases in served_model_names"),
    (r"--(host|port|uds|model|chat-template|root-path|headless|grpc|grpc-port)", "is set by the stack, and relied on"),
    (r"--config", "names a file that the container does not have; write its flags in extra_args"),
    (r"--ssl-.+|--enable-ssl-refresh", "is set by the stack, which makes the certificates; the key tls turns them off"),
    (r"--data-parallel-.+|-dp[a-z]?", "starts several engines, for which no GPUs are counted; use replicas"),
    (r"--disable-fastapi-docs", "takes away the description by which the guard knows what this vLLM has"),
    (r"--nnodes|-n|--node-rank|-r|--master-(addr|port)", "is for a server on several machines; each has one here"),
    (r"--middleware", "is code that sees every key and document, and the container has none"),
    (r"--trust-remote-code", "runs code of the model's repository beside the keys; no model of the catalog needs it"),
    (r"--trust-request-.+", "lets whoever has a key bring a template, which is code"),
    (
        r"--allowed-(origins|methods|headers)|--allow-credentials",
        "can do nothing: a browser asks first, without a key, and the guard answers 401; ask from a server of yours",
    ),
    (r"--allowed-(local-media-path|media-domains)", "lets whoever has a key read files or addresses from the machine"),
    (r"--enable-log-(requests|outputs|deltas)", "writes queries and documents to a log on a machine that is not yours"),
)
SIZE = re.compile(r"(\d+(?:\.\d+)?)([kmgKMG]?)")


def name_of(arg: str) -> str:
    """Return a flag as vLLM reads it: --a_b is --a-b, --a=1 carries its value, --a.b sets a field of a JSON value."""
    name = arg.partition("=")[0]
    return name.partition(".")[0].replace("_", "-") if name.startswith("--") else name


def problems_with_flags(args: Sequence[str]) -> list[str]:
    """Return a line for each flag that is refused. Values are never shown."""
    flags = dict.fromkeys(name_of(arg) for arg in args if arg.startswith("-"))
    return [f"{flag} {reason}" for flag in flags for pattern, reason in REFUSED if re.fullmatch(pattern, flag)]


def problems_with_numbers(model: Model, args: Sequence[str]) -> list[str]:
    """Return a line for each number with which vLLM would not start for this model."""
    longest, context = model.longest_len or model.max_model_len, context_len(model, args)
    batched, share, sequences = (
        number(args, flag) for flag in ("--max-num-batched-tokens", "--gpu-memory-utilization", "--max-num-seqs")
    )
    # only a decoder's prompt can be computed in parts
    whole_prompts = model.kind != "decoder-reranker" or "--no-enable-chunked-prefill" in map(name_of, args)
    checks = (
        (0 < context <= longest, f"--max-model-len: is {context}; accepted: 1 to {longest}, what {model.name} reads"),
        (
            batched is None or batched >= (context if whole_prompts else 1),
            f"--max-num-batched-tokens: is {batched}, less than the {context} tokens of a prompt (--max-model-len)",
        ),
        (share is None or 0 < share <= 1, f"--gpu-memory-utilization: is {share}; accepted: more than 0, to 1"),
        (sequences is None or sequences >= 1, f"--max-num-seqs: is {sequences}; accepted: at least 1"),
    )
    return [text for good, text in checks if not good]


def gpus_needed(args: Sequence[str]) -> int:
    """Return how many GPUs a server is split over."""
    sizes = (("--tensor-parallel-size", "-tp"), ("--pipeline-parallel-size", "-pp"))
    tensor, pipeline = (next((found for flag in flags if (found := number(args, flag))), 1) for flags in sizes)
    return int(tensor * pipeline)


def context_len(model: Model, args: Sequence[str]) -> int:
    """Return how many tokens of query and document together a server reads."""
    return int(number(args, "--max-model-len") or model.max_model_len)


def value(args: Sequence[str], flag: str) -> str:
    """Return a flag's value, the last that is given, or ""."""
    given = [
        arg.partition("=")[2] if "=" in arg else after for arg, after in pairwise([*args, ""]) if name_of(arg) == flag
    ]
    return given[-1] if given else ""


def number(args: Sequence[str], flag: str) -> float | None:
    """Return a flag's number, the last that is given, as vLLM reads it (8k is 8000, 8K 8192); None for none."""
    found = SIZE.fullmatch(value(args, flag))
    if found is None:
        return None
    power = " kmg".find(found[2].lower()) if found[2] else 0
    size = float(found[1]) * (1000 if found[2].islower() else 1024) ** power
    return int(size) if size.is_integer() else size
