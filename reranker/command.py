"""The command `rerank` and `python -m reranker`: ranks documents, prints the status. COMMANDS are its subcommands."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any, BinaryIO, NoReturn, Protocol, TextIO

from reranker import env_command, eval_command, proxy_command
from reranker.answers import Ranked, Ranking
from reranker.arguments import ENVIRONMENT, endpoint_arguments, endpoint_from
from reranker.client import Reranker
from reranker.documents import Document, read_file, read_lines, read_results
from reranker.errors import InvalidInput, RerankerError, ServerError
from reranker.output import EXIT_CODES, INCOMPLETE, Output
from reranker.patience import Patience
from reranker.table import facts_lines, failed_lines, ranking_json, ranking_lines

UNWRITABLE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
USAGE = """rerank [options] QUERY DOCUMENT...
       rerank [options] QUERY --file documents.jsonl    (default: standard input)
       rerank [options] --query QUERY [DOCUMENT...]
       rerank [options] status
       rerank proxy|env|eval --help"""
ABOUT = """\
Rank documents by relevance to a query, best first. Documents are arguments or JSON lines; each line is a string or an
object with a text field. `status` sends a test request and prints model, latency and price."""
EPILOG = f"""`status` as the only word is a command, and so are the following as the first word. To use such a word as
the query: rerank --query status DOCUMENT...

  proxy   serve the stack to applications on this machine, with the APIs of other rerankers
  env     print the configuration of an application, or write a copy of the outputs
  eval    compare stacks with your own queries: quality, speed and price

{ENVIRONMENT}  NO_COLOR   no colours on a terminal

exit codes:
  0  success; with status: the server answers
""" + "".join(f"  {code}  {meaning}\n" for code, meaning, _ in EXIT_CODES)


class Command(Protocol):
    """The interface of a subcommand's module."""

    ABOUT: str
    EPILOG: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace, out: Output) -> int:
        """Run the command; return the exit code. Raises RerankerError."""


COMMANDS: Mapping[str, Command] = {"proxy": proxy_command, "env": env_command, "eval": eval_command}
TEST_REQUEST = ("ready?", ["yes"])
TEST_COUNT = 3


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rerank",
        usage=USAGE,
        description=ABOUT,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("words", nargs="*", help=argparse.SUPPRESS)
    add("--query", help="the query; all other words are documents")
    add("--file", metavar="FILE", help="documents as JSON lines; - is standard input")
    add("--field", default="text", metavar="NAME", help="field of an object with the text (default: text)")
    add("--top-n", type=int, metavar="N", help="print only the N best documents")
    add("--min-score", type=float, metavar="SCORE", help="omit documents with a lower score")
    add("--truncate", type=int, metavar="TOKENS", help="cut long documents; -1: to the model's length")
    add("--resume", metavar="FILE", help="--json results of an earlier run: score only the other documents")
    add("--json", action="store_true", help="JSON lines instead of a table")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds for the whole command (default: 60)")
    endpoint_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        if argv and argv[0] in COMMANDS:
            return run_command(argv[0], argv[1:], sys.stdout, sys.stderr)
        return run(build_parser().parse_intermixed_args(argv), sys.stdin.buffer, sys.stdout, sys.stderr)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # otherwise Python raises again at exit, when it flushes the buffer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        sys.stderr.write(f"rerank: the output cannot be written: {error.strerror}\n")
        return UNWRITABLE


def run_command(name: str, argv: Sequence[str], stdout: TextIO, stderr: TextIO) -> int:
    """Run the subcommand `name`; return its exit code."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"rerank {name}",
        description=command.ABOUT,
        epilog=f"{command.EPILOG}\n\n{ENVIRONMENT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    args = parser.parse_args(argv)
    out = Output(stdout, stderr, as_json=False)
    try:
        return command.run(args, out)
    except RerankerError as error:
        return out.fail(error)


def run(args: argparse.Namespace, stdin: BinaryIO, stdout: TextIO, stderr: TextIO) -> int:
    """Rank documents or print the status; return the exit code. An error is one line on `stderr`."""
    out = Output(stdout, stderr, as_json=args.json)
    try:
        if args.timeout <= 0:
            raise InvalidInput("--timeout must be a number of seconds above 0")
        if args.min_score is not None and math.isnan(args.min_score):
            raise InvalidInput("--min-score must be a number")
        if is_status(args):
            return status(args, out)
        query, documents = query_and_documents(args, stdin)
        ranking = rank(args, query, documents)
        out.print_lines(
            ranking_json(ranking, documents)
            if args.json
            else ranking_lines(ranking, width=out.width, colour=out.colour)
        )
        if ranking.failed:
            for line in failed_lines(ranking.failed, documents):
                out.log(line)
            out.log(
                f"{len(ranking.failed)} of {len(documents)} documents have no score. --truncate -1 cuts long texts, "
                "--timeout waits longer, --resume FILE keeps the results of --json"
            )
            return INCOMPLETE
        if not documents:
            out.log("no documents")
        elif not len(ranking):
            out.log(f"none of {len(documents)} documents has a score of at least {args.min_score:g}")
        return 0
    except RerankerError as error:
        is_too_long = isinstance(error, ServerError) and error.status == 400 and args.truncate is None
        return out.fail(error, "; if a text is too long: --truncate -1 cuts it" if is_too_long else "")


def rank(args: argparse.Namespace, query: str, documents: list[Document]) -> Ranking:
    """Return the ranking of all documents; the documents in --resume are not sent again."""
    scores: dict[int, float] = {}
    if args.resume:
        scores = read_file(args.resume, lambda file: read_results(file, args.resume, documents))
    missing = [index for index in range(len(documents)) if index not in scores]
    with Reranker(endpoint_from(args).endpoint, patience=Patience(deadline_s=args.timeout)) as reranker:
        ranking = reranker.rerank(
            query,
            [documents[index].text for index in missing],
            args.top_n,
            min_score=args.min_score,
            truncate_prompt_tokens=args.truncate,
            partial=True,
        )
    results = [replace(result, index=missing[result.index]) for result in ranking]
    results += [
        Ranked(index, score, documents[index].text)
        for index, score in scores.items()
        if args.min_score is None or score >= args.min_score
    ]
    return replace(
        ranking,
        results=tuple(sorted(results, key=lambda result: (-result.score, result.index))[: args.top_n]),
        failed=tuple(replace(failure, index=missing[failure.index]) for failure in ranking.failed),
    )


def is_status(args: argparse.Namespace) -> bool:
    """Whether the command is `status`. Raises InvalidInput if the word may also be a query."""
    if args.query is None and args.words and args.words[0] in COMMANDS:
        name = args.words[0]
        raise InvalidInput(f"`{name}` must come first: rerank {name} ...; as query: rerank --query {name} DOCUMENT...")
    if args.query is not None or args.words[:1] != ["status"]:
        return False
    if len(args.words) > 1 or args.file:
        raise InvalidInput("`status` takes no documents; as query: rerank --query status DOCUMENT...")
    return True


def query_and_documents(args: argparse.Namespace, stdin: BinaryIO) -> tuple[str, list[Document]]:
    """Return query and documents from arguments, file or standard input. Raises InvalidInput."""
    words = list(args.words)
    if args.query is None and not words:
        raise InvalidInput("no query: rerank QUERY DOCUMENT..., or rerank --help")
    query = words.pop(0) if args.query is None else args.query
    if words and args.file:
        raise InvalidInput("documents are given twice, as arguments and by --file")
    if words:
        return query, [Document(word, word) for word in words]
    if args.file is None and stdin.isatty():
        raise InvalidInput("no documents: give them as arguments, by --file, or as JSON lines on standard input")
    if args.file in (None, "-"):
        return query, read_lines(stdin, "standard input", args.field)
    return query, read_file(args.file, lambda file: read_lines(file, args.file, args.field))


def status(args: argparse.Namespace, out: Output) -> int:
    """Send test requests and print the facts of the stack. /health does not prove that scoring works."""
    stack = endpoint_from(args)
    facts: dict[str, Any] = {"stack": stack.name or None, "url": stack.endpoint.url, "serving": False}
    failure: RerankerError | None = None
    with Reranker(stack.endpoint, patience=Patience(deadline_s=args.timeout)) as reranker:
        try:
            times_ms = []
            for _ in range(TEST_COUNT):
                started = time.monotonic()
                facts["model"] = reranker.rerank(*TEST_REQUEST).model
                times_ms.append((time.monotonic() - started) * 1000)
            facts |= {"serving": True, "latency_ms": round(median(times_ms), 1)}
            first = next(iter(reranker.models()), None)
            facts |= {"weights": first.root, "max_model_len": first.max_model_len} if first else {}
        except RerankerError as error:
            failure = error
    replicas = [asdict(replica) for replica in stack.replicas]
    if args.json:
        facts["replicas"] = replicas
    else:
        for name in ("instance_id", "machine_id", "gpu"):
            facts[name] = ", ".join(replica[name] for replica in replicas if replica[name]) or None
    facts["hourly_cost_usd"] = stack.hourly_cost_usd
    out.print_lines([json.dumps(facts)] if args.json else facts_lines(facts, colour=out.colour))
    return out.fail(failure) if failure else 0


def entry() -> NoReturn:
    """Run as a program, and exit without waiting for the threads of unfinished requests."""
    code = main()
    sys.stdout.flush()
    os._exit(code)
