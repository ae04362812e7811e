"""The `rerank` command as people run it: a process, with real standard streams and a terminal where that matters."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reranker.command import COMMANDS
from reranker.errors import RerankerError
from reranker.output import EXIT_CODES
from tests.client.guarded import KEY, MODEL, certificates, refusal

REPO = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "reranker"]
QUERY = "What is deep learning?"
DOCUMENTS = ["I like pizza.", "Deep learning is machine learning."]


def environment(server, **changes):
    named = {"RERANKER_URL": server.url, "RERANKER_API_KEY": KEY, "RERANKER_CA": str(server.ca_file)}
    env = {"PATH": "/nowhere", "HOME": "/", "PYTHONPATH": str(REPO), "TERM": "xterm", "COLUMNS": "60"} | named | changes
    return {name: value for name, value in env.items() if value is not None}


@pytest.fixture
def rerank(server):
    def run(*args, given="", **changes):
        return subprocess.run(
            [*COMMAND, *args],
            input=given,
            env=environment(server, **changes),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def on_a_terminal(server, *args, **changes):
    """Run with a terminal as standard output, and return what it showed."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([*COMMAND, *args], env=environment(server, **changes), stdout=follower, stdin=follower)
    os.close(follower)
    shown, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([leader], [], [], 0.1)[0]:
            continue
        try:
            shown += os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
    os.close(leader)
    assert process.wait(30) == 0, shown
    return shown.decode()


# ---- documents and results -------------------------------------------------------------------------------------------


def test_documents_as_arguments_come_back_best_first(rerank):
    done = rerank(QUERY, *DOCUMENTS)
    assert (done.returncode, done.stderr) == (0, "")
    best, worst = done.stdout.splitlines()
    assert re.fullmatch(r" 0\.9\d{5}  \[1\]  Deep learning is machine learning\.", best)
    assert worst.endswith("[0]  I like pizza.")


def test_json_lines_on_standard_input_come_back_as_they_were_with_index_and_score(rerank):
    given = [{"id": 7, "text": DOCUMENTS[0]}, {"id": 9, "text": DOCUMENTS[1], "é": None}]
    done = rerank(QUERY, "--json", given="\n\n".join(map(json.dumps, given)))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["index"], one["document"]) for one in lines] == [(1, given[1]), (0, given[0])]
    assert lines[0]["score"] > lines[1]["score"]


def test_a_file_of_strings_and_of_objects_with_another_field(rerank, tmp_path):
    file = tmp_path / "documents.jsonl"
    file.write_text('{"body": "deep learning"}\n"pizza"\n')
    done = rerank(QUERY, "--file", str(file), "--field", "body", "--top-n", "1")
    assert done.stdout.rstrip().endswith("[0]  deep learning")
    assert len(done.stdout.splitlines()) == 1


def test_min_score_leaves_out_and_says_when_nothing_is_left(rerank):
    assert len(rerank(QUERY, *DOCUMENTS, "--min-score", "0.5").stdout.splitlines()) == 1
    none = rerank(QUERY, *DOCUMENTS, "--min-score", "0.9999")
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr == "rerank: none of 2 documents has a score of at least 0.9999\n"


def test_a_long_document_is_cut_on_request(rerank):
    refused = rerank("q", "word " * 1000)
    assert refused.returncode == 7
    assert refused.stderr.endswith("; if a text is too long: --truncate -1 cuts it\n")
    assert rerank("q", "word " * 1000, "--truncate", "-1").returncode == 0


def test_no_document_on_standard_input_is_no_error(rerank):
    done = rerank(QUERY)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "rerank: no documents\n")


def test_what_a_terminal_would_obey_is_not_printed(rerank):
    done = rerank(QUERY, "deep\x1b]0;owned\x07 learning\r\nover lines")
    assert done.stdout.endswith("deep ]0;owned learning over lines\n")


def test_colour_and_width_only_on_a_terminal(server, rerank):
    long = "deep learning " * 20
    shown = on_a_terminal(server, QUERY, long)
    assert "\x1b[1m" in shown
    assert len(re.sub(r"\x1b\[\dm", "", shown).strip()) < 60
    assert "…" in shown
    plain = rerank(QUERY, long).stdout
    assert "\x1b" not in plain
    assert plain.rstrip().endswith(long.rstrip())
    assert "\x1b" not in on_a_terminal(server, QUERY, long, NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(server, QUERY, long, TERM="dumb")
    assert "\x1b" not in on_a_terminal(server, "--json", QUERY, long)


def test_a_reader_that_leaves_early_is_no_traceback(server):
    env = environment(server)
    command = f"{sys.executable} -m reranker --query deep --file - --json | head -n 1"
    lines = "\n".join(json.dumps(f"deep {n} " + "x" * 300) for n in range(900))
    done = subprocess.run(
        ["bash", "-c", command], env=env | {"PATH": os.environ["PATH"]}, input=lines, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_an_output_that_cannot_be_written_is_one_line(server):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, QUERY, *DOCUMENTS], env=environment(server), stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert done.stderr == "rerank: the output cannot be written: No space left on device\n"
    assert done.returncode == 2


# ---- documents without a score ---------------------------------------------------------------------------------------


@pytest.fixture
def file_with_two_long_lines(tmp_path):
    """1,500 documents, in more than one request; lines 8 and 1203 of the file are longer than the model reads."""
    lines = [json.dumps({"id": n, "text": f"deep number {n}"}) for n in range(1500)]
    lines[6] = lines[1201] = json.dumps({"id": 0, "text": "word " * 1000})
    file = tmp_path / "documents.jsonl"
    file.write_text("\n".join(["", *lines]))  # a blank line before them
    return file


def test_long_lines_are_listed_with_number_and_remedy_and_the_others_are_ranked(rerank, file_with_two_long_lines):
    done = rerank(QUERY, "--file", str(file_with_two_long_lines), "--json")
    assert done.returncode == 8
    assert len(done.stdout.splitlines()) == 1498
    *listed, last = done.stderr.splitlines()
    assert [line.partition(": POST")[0] for line in listed] == ["rerank: line 8", "rerank: line 1203"]
    assert all("maximum context length is 512 tokens" in line for line in listed)
    assert last.startswith("rerank: 2 of 1500 documents have no score. --truncate -1 cuts long texts")


def test_resume_scores_only_what_the_earlier_output_lacks_and_prints_all(
    server, rerank, file_with_two_long_lines, tmp_path
):
    arguments = (QUERY, "--file", str(file_with_two_long_lines), "--json")
    before = tmp_path / "before.jsonl"
    before.write_text(rerank(*arguments).stdout)
    server.faulty.bodies.clear()
    done = rerank(*arguments, "--truncate", "-1", "--resume", str(before))
    assert (done.returncode, done.stderr) == (0, "")
    [(_, body)] = server.requests()
    assert len(body["documents"]) == 2
    whole = rerank(*arguments, "--truncate", "-1")
    assert done.stdout == whole.stdout
    best = rerank(*arguments, "--resume", str(before), "--truncate", "-1", "--top-n", "3").stdout
    assert best.splitlines() == whole.stdout.splitlines()[:3]


@pytest.mark.parametrize(
    "line", ['{"index": 0, "score": 1, "document": "other"}', '{"index": -1, "score": 1, "document": "d"}', "{}", "x"]
)
def test_resuming_from_another_runs_output_is_refused(rerank, tmp_path, line):
    (tmp_path / "before.jsonl").write_text(line)
    done = rerank("q", "d", "--resume", str(tmp_path / "before.jsonl"))
    assert done.returncode == 2
    assert "before.jsonl, line 1 is not a --json result for these documents" in done.stderr


def test_where_the_request_itself_is_refused_no_document_is_blamed(server, rerank):
    done = rerank("word " * 1000, *DOCUMENTS * 200)
    assert done.returncode == 7
    assert len(done.stderr.splitlines()) == 1
    assert len(server.requests()) == 2


def test_a_request_that_fails_leaves_those_that_were_answered(server, rerank, tmp_path):
    file = tmp_path / "documents.jsonl"
    file.write_text('"deep"\n' * 1500)
    server.fail(refusal(500, "engine is dead"))
    done = rerank(QUERY, "--file", str(file))
    assert done.returncode == 8
    assert re.match(r"rerank: lines \d+ to \d+ \((500|1000)\): POST .* engine is dead", done.stderr)
    assert len(done.stdout.splitlines()) in (500, 1000)


# ---- status ----------------------------------------------------------------------------------------------------------


def test_status_says_what_serves_and_how_fast(rerank):
    done = rerank("status")
    assert done.returncode == 0, done.stderr
    shown = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert (shown["serving"], shown["model"], shown["max_model_len"]) == ("yes", MODEL, "512")
    assert float(shown["latency_ms"]) > 0


def test_status_of_a_stack_says_instance_and_price_even_when_nothing_serves(rerank, tmp_path, server):
    outputs = {
        "url": "http://127.0.0.1:1",
        "api_key": KEY,
        "instance_id": 4711.0,
        "machine_id": "m22",
        "gpu": "RTX 4090",
        "hourly_cost_usd": {"gpu": 0.2, "disk": 0.01, "total": 0.21},
    }
    (tmp_path / "pulumi").write_text(f"#!{sys.executable}\nprint({json.dumps(outputs)!r})\n")
    (tmp_path / "pulumi").chmod(0o755)
    done = rerank("status", "--stack", "dev", "--json", "--timeout", "0.3", PATH=str(tmp_path))
    facts = json.loads(done.stdout)
    assert done.returncode == 4
    assert "refused" in done.stderr
    assert (facts["serving"], facts["stack"]) == (False, "dev")
    assert facts["replicas"] == [{"instance_id": "4711", "machine_id": "m22", "gpu": "RTX 4090"}]
    assert facts["hourly_cost_usd"] == 0.21
    rows = [{"instance_id": 1, "machine_id": 5, "gpu": "L4"}, {"instance_id": 2, "machine_id": 6, "gpu": "T4"}]
    outputs |= {"url": server.url, "ca_certificate": server.ca, "model": MODEL, "replicas": rows}
    (tmp_path / "pulumi").write_text(f"#!{sys.executable}\nprint({json.dumps(outputs)!r})\n")
    lines = rerank("status", "--stack", "dev", PATH=str(tmp_path)).stdout.splitlines()
    shown = dict(line.split(None, 1) for line in lines)
    assert (shown["serving"], shown["instance_id"], shown["gpu"]) == ("yes", "1, 2", "L4, T4")


def test_status_is_a_command_by_itself_a_query_by_name_and_never_a_guess(server, rerank):
    assert rerank("--timeout", "30", "status", given='"a document"').stdout.startswith("url")
    guess = rerank("status", *DOCUMENTS)
    assert guess.returncode == 2
    assert "rerank --query status DOCUMENT..." in guess.stderr
    assert rerank("status", "--file", "x").returncode == 2
    server.faulty.bodies.clear()
    assert rerank("--query", "status", *DOCUMENTS).returncode == 0
    assert server.requests() == [("/rerank", {"query": "status", "documents": DOCUMENTS})]


# ---- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "given", "words"),
    [
        ((), "", "no query"),
        (("q", "d", "--top-n", "0"), "", "top_n must be a whole number from 1"),
        (("q", "d", "--top-n", "x"), "", "invalid int value"),
        (("q", "d", "--nonsense"), "", "unrecognized arguments"),
        (("q", "d", "--truncate", "-5"), "", "must be a number of tokens, or -1 for the model's length"),
        (("q", "d", "--min-score", "nan"), "", "--min-score must be a number"),
        (("q",), '["a", "b"]', "line 1 is an array: each line is one document (to convert an array: jq -c '.[]')"),
        (("q", "d", "--timeout", "0"), "", "--timeout must be a number of seconds above 0"),
        (("q", "d", "--file", "x"), "", "given twice"),
        (("q", "--file", "/nowhere"), "", "cannot read /nowhere: No such file"),
        (("q",), '"a"\nplain words\n', 'standard input, line 2 is not JSON in UTF-8: each line is "a string"'),
        (
            ("q",),
            '"a"\n{"id": 1, "body": "b"}\n',
            "line 2 is not a string or an object with a string in 'text' (--field)",
        ),
        (("q", "--field", "body"), '{"body": 7}\n', "it has 'body'"),
        (("q", "d", "--ca", "/nowhere.pem", "--url", "https://127.0.0.1:1"), "", "cannot read the CA certificate"),
        (("q", "d", "--stack", "a", "--url", "https://b"), "", "not allowed with"),
        (("q", "d", "--stack", "a", "--ca", "b"), "", "a stack has its own CA"),
    ],
)
def test_a_wrong_command_is_2_and_says_what_is_wrong(rerank, args, given, words):
    done = rerank(*args, given=given)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_the_first_word_and_as_a_query_goes_by_name(rerank, name):
    assert rerank(name, "--help").stdout.startswith(f"usage: rerank {name}")
    misplaced = rerank("--timeout", "5", name, "d")
    assert (misplaced.returncode, f"`{name}` must come first" in misplaced.stderr) == (2, True)
    assert rerank("--query", name, "d").returncode == 0


def test_a_url_without_a_key_says_which_variable_to_set(rerank):
    done = rerank("q", "d", RERANKER_API_KEY=None)
    assert (done.returncode, done.stderr) == (2, "rerank: no API key: set RERANKER_API_KEY\n")


def test_no_pulumi_is_3(rerank):
    done = rerank("q", "d", "--stack", "dev")
    assert done.returncode == 3
    assert "put Pulumi on PATH, or give a URL" in done.stderr


def test_nothing_that_answers_is_4(rerank):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    done = rerank("q", "d", "--url", url, "--timeout", "0.3")
    assert done.returncode == 4
    assert "refused" in done.stderr


def test_a_certificate_that_is_not_trusted_is_5(rerank, tmp_path):
    (tmp_path / "other.pem").write_text(certificates("127.0.0.1")[0])
    assert rerank("q", "d", "--ca", str(tmp_path / "other.pem")).returncode == 5
    assert rerank("q", "d", RERANKER_CA=None).returncode == 5


def test_a_wrong_key_is_6_and_is_not_shown(rerank):
    done = rerank("q", "d", RERANKER_API_KEY="another-key")
    assert done.returncode == 6
    assert "another-key" not in done.stdout + done.stderr


def test_a_server_that_cannot_is_7(server, rerank):
    server.fail(refusal(500, "engine is dead"))
    done = rerank("q", "d")
    assert done.returncode == 7
    assert "HTTP 500: engine is dead" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("count", [1, 2500], ids=["one request", "batches"])
def test_an_interrupt_is_130_at_once_and_no_traceback(server, tmp_path, count):
    file = tmp_path / "documents.jsonl"
    file.write_text('"d"\n' * count)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [*COMMAND, "q", "--file", str(file), "--url", url, "--timeout", "600"]
        process = subprocess.Popen(command, env=environment(server), stderr=subprocess.PIPE, text=True)
        try:
            silent.settimeout(30)
            connection, _ = silent.accept()
            connection.recv(1 << 16)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
            connection.close()
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "")


def test_every_error_has_an_exit_code_of_its_own_kind():
    kinds = [RerankerError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    leaves = [kind for kind in kinds if kind is not RerankerError]
    assert all(any(issubclass(kind, of) for _, _, of in EXIT_CODES) for kind in leaves)


def test_help_documents_every_exit_code(rerank):
    shown = rerank("--help").stdout
    assert all(f"  {code}  {meaning}" in shown for code, meaning, _ in EXIT_CODES)
