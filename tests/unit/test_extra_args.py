"""Flags of vLLM that are refused, each with its reason, and numbers that no server of the model would start with."""

import pytest

from components.errors import ConfigError
from components.settings import load
from components.vllm.catalog import load_catalog
from components.vllm.extra_args import REFUSED, context_len, flag_number, problems_with_flags, problems_with_numbers
from components.vllm.gpu_requirements import load_flags
from components.vllm.launch import plan_launch
from tests.unit.test_settings import problems

CATALOG = load_catalog()
BGE = CATALOG.model("BAAI/bge-reranker-base")
QWEN3 = CATALOG.model("Qwen/Qwen3-Reranker-0.6B")
REASONS = {
    "--api-key": "give the key as config api_key",
    "--hf-token": "give it as config hub_token",
    "--served-model-name": "name aliases in served_model_names",
    "--host": "is set by the stack",
    "--port": "is set by the stack",
    "--uds": "is set by the stack",
    "--model": "is set by the stack",
    "--chat-template": "is set by the stack",
    "--root-path": "is set by the stack",
    "--headless": "is set by the stack",
    "--grpc": "is set by the stack",
    "--config": "a file that the container does not have",
    "--ssl-keyfile": "the key tls turns them off",
    "--ssl-certfile": "the key tls turns them off",
    "--ssl-ca-certs": "the key tls turns them off",
    "--ssl-cert-reqs": "the key tls turns them off",
    "--ssl-ciphers": "the key tls turns them off",
    "--enable-ssl-refresh": "the key tls turns them off",
    "--data-parallel-size": "for which no GPUs are counted; use replicas",
    "--data-parallel-external-lb": "for which no GPUs are counted; use replicas",
    "-dp": "for which no GPUs are counted; use replicas",
    "-dpl": "for which no GPUs are counted; use replicas",
    "--disable-fastapi-docs": "from which the guard reads the routes and fields",
    "--nnodes": "here a server has one",
    "--node-rank": "here a server has one",
    "--middleware": "sees every key and document",
    "--trust-remote-code": "runs code of the model's repository",
    "--trust-request-chat-template": "send a template, which is code",
    "--allowed-origins": "a browser first sends a request without a key",
    "--allowed-methods": "a browser first sends a request without a key",
    "--allowed-headers": "a browser first sends a request without a key",
    "--allow-credentials": "a browser first sends a request without a key",
    "--allowed-local-media-path": "read files",
    "--allowed-media-domains": "read files",
    "--enable-log-requests": "writes queries and documents to a log",
    "--enable-log-outputs": "writes queries and documents to a log",
    "--enable-log-deltas": "writes queries and documents to a log",
}


@pytest.mark.parametrize(("flag", "reason"), REASONS.items(), ids=REASONS)
def test_a_flag_that_breaks_a_promise_of_the_stack_is_refused_with_the_reason_however_it_is_written(flag, reason):
    for spelling in ([flag, "x"], [f"{flag}=x"], ["--max-num-seqs", "8", "--" + flag[2:].replace("-", "_"), "x"]):
        if flag.startswith("--") or spelling[0].startswith(flag):
            [problem] = problems_with_flags(spelling)
            assert problem.startswith(f"{flag} ")
            assert reason in problem
            with pytest.raises(ConfigError, match=flag):
                plan_launch(BGE, CATALOG.default_image, api_key=None, extra_args=spelling)
    assert any(one.startswith(f"extra_args: {flag} ") and reason in one for one in problems(extra_args=[flag, "x"]))


def test_every_pattern_of_the_table_has_a_test_of_its_own():
    for pattern, reason in REFUSED:
        assert [flag for flag in REASONS if reason in problems_with_flags([flag])[0]], pattern


def test_a_value_is_no_flag_and_is_never_shown():
    assert problems_with_flags(["--override-generation-config", "--", "api-key", "host"]) == []
    assert "s3cret" not in "".join(problems_with_flags(["--api-key=s3cret", "--hf-token", "s3cret"]))


def test_what_people_tune_is_not_refused():
    tuned = "--max-num-seqs --max-num-batched-tokens --max-model-len --gpu-memory-utilization --enforce-eager --dtype"
    tuned += " --tensor-parallel-size -tp --quantization --disable-log-stats --no-enable-log-requests --revision"
    assert problems_with_flags(tuned.split()) == []


@pytest.mark.parametrize(
    ("model", "args", "says"),
    [
        (BGE, "--max-model-len 8192", "--max-model-len: is 8192; accepted: 1 to 512"),
        (BGE, "--max_model_len=8k", "--max-model-len: is 8000; accepted: 1 to 512"),
        (BGE, "--max-num-batched-tokens 256", "--max-num-batched-tokens: is 256, less than the 512 tokens"),
        (BGE, "--max-model-len 256 --max-num-batched-tokens 255", "less than the 256 tokens"),
        (QWEN3, "--max-model-len 64K", "accepted: 1 to 32768"),
        (QWEN3, "--max-num-batched-tokens 4096 --no-enable-chunked-prefill", "is 4096, less than the 8192 tokens"),
        (BGE, "--gpu-memory-utilization 1.5", "--gpu-memory-utilization: is 1.5"),
        (BGE, "--gpu-memory-utilization 0", "--gpu-memory-utilization: is 0"),
        (BGE, "--max-num-seqs 0", "--max-num-seqs: is 0"),
    ],
)
def test_a_number_with_which_no_server_of_this_model_starts_is_refused(model, args, says):
    [problem] = problems_with_numbers(model, args.split())
    assert says in problem
    assert any(says in one for one in problems(model=model.name, extra_args=args.split()))


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (BGE, ""),
        (BGE, "--max-model-len 256 --max-num-batched-tokens 256 --gpu-memory-utilization 0.5 --max-num-seqs 64"),
        (BGE, "--max-model-len auto"),
        (QWEN3, "--max-model-len 32768"),
        (QWEN3, "--max-num-batched-tokens 4096"),
    ],
)
def test_a_number_that_fits_passes(model, args):
    assert problems_with_numbers(model, args.split()) == []


@pytest.mark.parametrize(("text", "value"), [("8k", 8000), ("8K", 8192), ("25.6k", 25600), ("0.9", 0.9), ("x", None)])
def test_a_number_is_read_as_vllm_reads_it_and_the_last_one_counts(text, value):
    assert flag_number(["--max-model-len", "1", "--max_model_len", text], "--max-model-len") == value


def test_a_model_that_is_split_over_more_gpus_than_the_query_asks_for_is_refused():
    assert any(
        "need 4 GPUs for each server, but the query has num_gpus=1" in one
        for one in problems(extra_args=["-tp", "2", "-pp=2"])
    )
    raw = {"query": "num_gpus=2", "extra_args": '["--tensor-parallel-size", "2"]'}
    assert load(raw, CATALOG, hub_reachable=lambda _url: True).config.extra_args


@pytest.mark.parametrize("limit", [9999, "9999", 513])
def test_a_truncation_over_what_the_model_reads_is_refused(limit):
    says = f"limits.truncate_prompt_tokens: is {limit}; accepted: refuse, -1 or 1 to 512"
    assert any(one.startswith(says) for one in problems(limits={"truncate_prompt_tokens": limit}))


@pytest.mark.parametrize("limit", [0, -2, "all"])
def test_a_truncation_to_nothing_is_refused(limit):
    assert any("limits.truncate_prompt_tokens: is" in one for one in problems(limits={"truncate_prompt_tokens": limit}))


def test_the_bound_of_a_truncation_is_the_one_that_extra_args_set():
    changes = {"extra_args": ["--max-model-len", "256"], "limits": {"truncate_prompt_tokens": 300}}
    assert any("1 to 256" in one for one in problems(**changes))
    assert context_len(QWEN3, ["--max-model-len", "16k"]) == 16000


def test_a_decoders_truncation_leaves_room_for_its_prompt():
    changes = {"model": QWEN3.name, "limits": {"truncate_prompt_tokens": 100}}
    assert any(f"{len(QWEN3.chat_template) + 1} to 8192" in one for one in problems(**changes))


def test_the_refused_flags_exist_so_that_none_is_refused_by_a_wrong_name():
    known = load_flags().everywhere.union(*load_flags().only.values())
    assert {flag for flag in REASONS if flag.startswith("--")} - known == set()
