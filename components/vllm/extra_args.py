"""Validates extra_args: refused flags with their reasons, and numbers that must fit the model.

Pure. Called by settings, before the offer search, and by launch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from components.vllm.catalog import Model

# regular expressions of the refused flags, and the reasons
REFUSED = (
    (r"--api-key", "is set by the stack; give the key as config api_key, never in a command"),
    (r"--hf-token", "would be visible to the host in the command; give it as config hub_token"),
    (r"--served-model-name", "is set by the stack; name aliases in served_model_names"),
    (r"--(host|port|uds|model|chat-template|root-path|headless|grpc|grpc-port)", "is set by the stack"),
    (r"--config", "needs a file that the container does not have; put its flags into extra_args"),
    (r"--ssl-.+|--enable-ssl-refresh", "is set by the stack, which makes the certificates; the key tls turns them off"),
    (r"--data-parallel-.+|-dp[a-z]?", "starts several engines, for which no GPUs are counted; use replicas"),
    (r"--disable-fastapi-docs", "removes /openapi.json, from which the guard reads the routes and fields of this vLLM"),
    (r"--nnodes|-n|--node-rank|-r|--master-(addr|port)", "is for a server on several machines; here a server has one"),
    (r"--middleware", "is code that sees every key and document; the container has no middleware"),
    (r"--trust-remote-code", "runs code of the model's repository near the keys; no model of the catalog needs it"),
    (r"--trust-request-.+", "lets every client send a template, which is code"),
    (
        r"--allowed-(origins|methods|headers)|--allow-credentials",
        "has no effect: a browser first sends a request without a key and gets 401; call it from your own server",
    ),
    (r"--allowed-(local-media-path|media-domains)", "lets every client read files or addresses from the machine"),
    (r"--enable-log-(requests|outputs|deltas)", "writes queries and documents to a log on the host's machine"),
)
SIZE = re.compile(r"(\d+(?:\.\d+)?)([kmgKMG]?)")


def flag_name(arg: str) -> str:
    """Return a flag in vLLM's form: --a_b becomes --a-b; --a=1 (with a value) and --a.b (a JSON field) become --a."""
    name = arg.partition("=")[0]
    return name.partition(".")[0].replace("_", "-") if name.startswith("--") else name


def problems_with_flags(args: Sequence[str]) -> list[str]:
    """Return a line for each refused flag, without its value."""
    flags = dict.fromkeys(flag_name(arg) for arg in args if arg.startswith("-"))
    return [f"{flag} {reason}" for flag in flags for pattern, reason in REFUSED if re.fullmatch(pattern, flag)]


def problems_with_numbers(model: Model, args: Sequence[str]) -> list[str]:
    """Return a line for each number that prevents vLLM from starting with this model."""
    longest, context = model.longest_len or model.max_model_len, context_len(model, args)
    batched, share, sequences = (
        flag_number(args, flag) for flag in ("--max-num-batched-tokens", "--gpu-memory-utilization", "--max-num-seqs")
    )
    # only decoders support chunked prefill
    whole_prompts = model.kind != "decoder-reranker" or "--no-enable-chunked-prefill" in map(flag_name, args)
    checks = (
        (
            0 < context <= longest,
            f"--max-model-len: is {context}; accepted: 1 to {longest}, the context of {model.name}",
        ),
        (
            batched is None or batched >= (context if whole_prompts else 1),
            f"--max-num-batched-tokens: is {batched}, less than the {context} tokens of a prompt (--max-model-len)",
        ),
        (share is None or 0 < share <= 1, f"--gpu-memory-utilization: is {share}; accepted: more than 0, to 1"),
        (sequences is None or sequences >= 1, f"--max-num-seqs: is {sequences}; accepted: at least 1"),
    )
    return [text for passed, text in checks if not passed]


def gpus_needed(args: Sequence[str]) -> int:
    """Return the number of GPUs per server."""
    sizes = (("--tensor-parallel-size", "-tp"), ("--pipeline-parallel-size", "-pp"))
    tensor, pipeline = (next((size for flag in flags if (size := flag_number(args, flag))), 1) for flags in sizes)
    return int(tensor * pipeline)


def context_len(model: Model, args: Sequence[str]) -> int:
    """Return a server's context: tokens of query and document together."""
    return int(flag_number(args, "--max-model-len") or model.max_model_len)


def flag_value(args: Sequence[str], flag: str) -> str:
    """Return the last value of a flag, or ""."""
    values = [
        arg.partition("=")[2] if "=" in arg else after for arg, after in pairwise([*args, ""]) if flag_name(arg) == flag
    ]
    return values[-1] if values else ""


def flag_number(args: Sequence[str], flag: str) -> float | None:
    """Return the last number of a flag in vLLM's notation (8k is 8000, 8K is 8192), or None."""
    match = SIZE.fullmatch(flag_value(args, flag))
    if match is None:
        return None
    power = " kmg".find(match[2].lower()) if match[2] else 0
    size = float(match[1]) * (1000 if match[2].islower() else 1024) ** power
    return int(size) if size.is_integer() else size
