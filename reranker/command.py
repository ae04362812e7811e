"""The `rerank` command: ranks documents on a deployed reranker, and says how that is. Also `python -m reranker`.

Its other commands have files of their own: COMMANDS.
"""

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
       rerank [options] QUERY --file documents.jsonl    (- or nothing: standard input)
       rerank [options] --query QUERY [DOCUMENT...]
       rerank [options] status
       rerank proxy|env|eval --help"""
ABOUT = """\
Rank documents by how well they answer a query, best first. Documents are arguments, or JSON lines: a string, or an
object with a text field, on each. `status` says whether it serves, what, how fast and at what price."""
EPILOG = f"""`status` alone is always the command, and so are the words below where they come first. To rank for such
a query: rerank --query status DOCUMENT...

  proxy   serve the stack to applications on this machine, in the dialects of other rerankers
  env     print what to paste into an application, or write a copy of the outputs
  eval    compare stacks on your own queries: how good, how fast, at what price

{ENVIRONMENT}  NO_COLOR   no colour on a terminal

exit codes:
  0  done; with status: it serves
""" + "".join(f"  {code}  {meaning}\n" for code, meaning, _ in EXIT_CODES)


class Command(Protocol):
    """A command beside this one: a module."""

    ABOUT: str
    EPILOG: str

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""

    def run(self, args: argparse.Namespace, out: Output) -> int:
        """Do what they say; return the exit code. Raises RerankerError."""


COMMANDS: Mapping[str, Command] = {"proxy": proxy_command, "env": env_command, "eval": eval_command}
PROBE = ("ready?", ["yes"])
PROBES = 3


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    flags = argparse.ArgumentParser(
        prog="rerank",
        usage=USAGE,
        description=ABOUT,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    flags.add_argument("--query", help="the query; then every other word is a document")
    flags.add_argument("--file", metavar="FILE", help="documents as JSON lines; - is standard input")
    flags.add_argument(
        "--field", default="text", metavar="NAME", help="field of an object with the text (default: text)"
    )
    flags.add_argument("--top-n", type=int, metavar="N", help="the N best only")
    flags.add_argument("--min-score", type=float, metavar="SCORE", help="nothing that scores less")
    flags.add_argument(
        "--truncate", type=int, metavar="TOKENS", help="cut long documents; -1: at the model's own length"
    )
    flags.add_argument(
        "--resume", metavar="FILE", help="results of an earlier --json of these documents: only the others are scored"
    )
    flags.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    flags.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for all of it (default: 60)")
    endpoint_arguments(flags)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        if argv and argv[0] in COMMANDS:
            return run_command(argv[0], argv[1:], sys.stdout, sys.stderr)
        return run(parser().parse_intermixed_args(argv), sys.stdin.buffer, sys.stdout, sys.stderr)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # what is still buffered must not raise again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever read us has gone
            return BROKEN_PIPE
        sys.stderr.write(f"rerank: the output cannot be written: {error.strerror}\n")
        return UNWRITABLE


def run_command(name: str, argv: Sequence[str], stdout: TextIO, stderr: TextIO) -> int:
    """Run one of COMMANDS; return its exit code."""
    command = COMMANDS[name]
    flags = argparse.ArgumentParser(
        prog=f"rerank {name}",
        description=command.ABOUT,
        epilog=f"{command.EPILOG}\n\n{ENVIRONMENT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.arguments(flags)
    args = flags.parse_args(argv)
    out = Output(stdout, stderr, as_json=False)
    try:
        return command.run(args, out)
    except RerankerError as error:
        return out.fail(error)


def run(args: argparse.Namespace, stdin: BinaryIO, stdout: TextIO, stderr: TextIO) -> int:
    """Do what the arguments say. Errors are one line on `stderr`, and an exit code of `EXIT_CODES`."""
    out = Output(stdout, stderr, as_json=args.json)
    try:
        if args.timeout <= 0:
            raise InvalidInput("--timeout is a number of seconds above 0")
        if args.min_score is not None and math.isnan(args.min_score):
            raise InvalidInput("--min-score is a number")
        if is_status(args):
            return status(args, out)
        query, documents = query_and_documents(args, stdin)
        ranking = rank(args, query, documents)
        out.lines(
            ranking_json(ranking, documents)
            if args.json
            else ranking_lines(ranking, width=out.width, colour=out.colour)
        )
        if ranking.failed:
            for line in failed_lines(ranking.failed, documents):
                out.say(line)
            out.say(
                f"{len(ranking.failed)} of {len(documents)} documents have no score. --truncate -1 cuts what is too "
                "long, --timeout waits longer, --resume FILE keeps what --json has printed"
            )
            return INCOMPLETE
        if not len(ranking):
            out.say(
                "no documents" if not documents else f"none of {len(documents)} documents scores {args.min_score:g}"
            )
        return 0
    except RerankerError as error:
        is_too_long = isinstance(error, ServerError) and error.status == 400 and args.truncate is None
        return out.fail(error, "; if a text is too long: --truncate -1 cuts it" if is_too_long else "")


def rank(args: argparse.Namespace, query: str, documents: list[Document]) -> Ranking:
    """Return the ranking of all documents; those in --resume are not asked for again."""
    known: dict[int, float] = {}
    if args.resume:
        known = read_file(args.resume, lambda file: read_results(file, args.resume, documents))
    missing = [index for index in range(len(documents)) if index not in known]
    with Reranker(endpoint_from(args).endpoint, patience=Patience(deadline_s=args.timeout)) as reranker:
        ranking = reranker.rerank(
            query,
            [documents[index].text for index in missing],
            args.top_n,
            min_score=args.min_score,
            truncate_prompt_tokens=args.truncate,
            partial=True,
        )
    scored = [replace(one, index=missing[one.index]) for one in ranking]
    scored += [
        Ranked(index, score, documents[index].text)
        for index, score in known.items()
        if args.min_score is None or score >= args.min_score
    ]
    return replace(
        ranking,
        results=tuple(sorted(scored, key=lambda one: (-one.score, one.index))[: args.top_n]),
        failed=tuple(replace(one, index=missing[one.index]) for one in ranking.failed),
    )


def is_status(args: argparse.Namespace) -> bool:
    """Whether the command is `status`. Raises InvalidInput where it might be a query: there is no guessing."""
    if args.query is None and args.words and args.words[0] in COMMANDS:
        name = args.words[0]
        raise InvalidInput(f"`{name}` comes first: rerank {name} ...; as a query: rerank --query {name} DOCUMENT...")
    if args.query is not None or args.words[:1] != ["status"]:
        return False
    if len(args.words) > 1 or args.file:
        raise InvalidInput("`status` takes no documents; to rank for the query: rerank --query status DOCUMENT...")
    return True


def query_and_documents(args: argparse.Namespace, stdin: BinaryIO) -> tuple[str, list[Document]]:
    """Return query and documents, wherever they are. Raises InvalidInput."""
    words = list(args.words)
    if args.query is None and not words:
        raise InvalidInput("no query: rerank QUERY DOCUMENT..., or rerank --help")
    query = words.pop(0) if args.query is None else args.query
    if words and args.file:
        raise InvalidInput("documents are given twice, as arguments and by --file")
    if words:
        return query, [Document(one, one) for one in words]
    if args.file is None and stdin.isatty():
        raise InvalidInput("no documents: give them as arguments, by --file, or as JSON lines on standard input")
    if args.file in (None, "-"):
        return query, read_lines(stdin, "standard input", args.field)
    return query, read_file(args.file, lambda file: read_lines(file, args.file, args.field))


def status(args: argparse.Namespace, out: Output) -> int:
    """Print what is known of the stack and whether it serves: by a real scored pair, since /health proves nothing."""
    stack = endpoint_from(args)
    facts: dict[str, Any] = {"stack": stack.name or None, "url": stack.endpoint.url, "serving": False}
    failure: RerankerError | None = None
    with Reranker(stack.endpoint, patience=Patience(deadline_s=args.timeout)) as reranker:
        try:
            taken_ms = []
            for _ in range(PROBES):
                started = time.monotonic()
                facts["model"] = reranker.rerank(*PROBE).model
                taken_ms.append((time.monotonic() - started) * 1000)
            facts |= {"serving": True, "latency_ms": round(median(taken_ms), 1)}
            first = next(iter(reranker.models()), None)
            facts |= {"weights": first.root, "max_model_len": first.max_model_len} if first else {}
        except RerankerError as error:
            failure = error
    replicas = [asdict(one) for one in stack.replicas]
    if args.json:
        facts["replicas"] = replicas
    else:
        for name in ("instance_id", "machine_id", "gpu"):
            facts[name] = ", ".join(one[name] for one in replicas if one[name]) or None
    facts["hourly_cost_usd"] = stack.hourly_cost_usd
    out.lines([json.dumps(facts)] if args.json else facts_lines(facts, colour=out.colour))
    return out.fail(failure) if failure else 0


def entry() -> NoReturn:
    """Run as a program, and end at once: Python would wait for batches under way, whose answers nobody wants."""
    code = main()
    sys.stdout.flush()
    os._exit(code)
