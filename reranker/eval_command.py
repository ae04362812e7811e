"""`rerank eval`: how well, how fast and at what price stacks rank the user's own queries. Called by `command`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from reranker.arguments import endpoint_from
from reranker.client import Reranker
from reranker.documents import read_file
from reranker.errors import InvalidInput
from reranker.output import Output
from reranker.patience import Patience
from reranker.relevance import ndcg, recall, reciprocal_rank
from reranker.stack import Stack
from reranker.table import bars, columns

ABOUT = """\
Rank your own queries on one stack or on several, and compare: nDCG@k, MRR and recall@k by trec_eval's definitions, the
time that a query takes, pairs per second, and dollars per 1,000 queries at the price and the speed of that stack."""
EPILOG = """\
A line of the file is a query, its documents, and which of them are relevant, by index or id, with grades or without:

  {"query": "...", "documents": ["...", "..."], "relevant": [1]}
  {"query": "...", "documents": [{"id": "a", "text": "..."}], "relevant": {"a": 2, "b": 1}}

  rerank eval --queries queries.jsonl --stack dev --stack prod

examples/queries.jsonl is such a file. Dollars are by the output hourly_cost_usd, as if the stack did only this."""


@dataclass(frozen=True)
class Query:
    """A query, its documents by id (or index), and the grades of those that are relevant."""

    text: str
    documents: Mapping[Hashable, str]
    grades: Mapping[Hashable, float]


@dataclass(frozen=True)
class Measured:
    """What one stack made of all queries. None where the price is not known."""

    stack: str
    model: str
    ndcg: float
    mrr: float
    recall: float
    p50_ms: float
    p95_ms: float
    pairs_per_s: float
    usd_per_1000_queries: float | None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--queries", required=True, metavar="FILE", help="queries as JSON lines, see below")
    parser.add_argument("--k", type=int, default=10, metavar="N", help="of nDCG@k and recall@k; default: 10")
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="queries under way; default: 4")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for a query; default: 60")
    parser.add_argument("--json", action="store_true", help="a JSON line for each stack")
    group = parser.add_argument_group("where the rerankers are; each may be repeated")
    for name, metavar, text in (
        ("--stack", "NAME", "a Pulumi stack (default: the selected one)"),
        ("--outputs", "FILE|URL", "a copy of its outputs"),
        ("--url", "URL", "its address; the key is in RERANKER_API_KEY"),
    ):
        group.add_argument(name, action="append", default=[], metavar=metavar, help=text)
    group.add_argument("-C", "--cwd", metavar="DIR", help="with --stack: the project's folder")
    group.add_argument("--ca", metavar="FILE", help="with --url: the CA to trust, PEM")


def run(args: argparse.Namespace, out: Output) -> int:
    """Measure each stack in turn, and print a table and bars."""
    if args.k < 1 or args.at_once < 1 or args.timeout <= 0:
        raise InvalidInput("--k, --at-once and --timeout are numbers above 0")
    queries = read_file(args.queries, lambda file: read_queries(file, args.queries))
    named = [(kind, place) for kind in ("stack", "outputs", "url") for place in getattr(args, kind)]
    stacks = [(place, _stack(args, kind, place)) for kind, place in named] or [
        ("selected", _stack(args, "stack", None))
    ]
    measured = []
    for name, stack in stacks:
        with Reranker(stack.endpoint, patience=Patience(deadline_s=args.timeout)) as reranker:
            measured.append(measure(name, stack.hourly_cost_usd, reranker, queries, k=args.k, at_once=args.at_once))
    if args.json:
        out.lines(json.dumps(asdict(one)) for one in measured)
        return 0
    out.lines(_table(measured, args.k))
    plots: list[tuple[str, str, float, list[float | None]]] = [
        (f"nDCG@{args.k}, 1 is best", "{:.3f}", 1.0, [one.ndcg for one in measured]),
        ("p50 ms, less is better", "{:.1f}", 0.0, [one.p50_ms for one in measured]),
        ("$ per 1,000 queries, less is better", "{:.4f}", 0.0, [one.usd_per_1000_queries for one in measured]),
    ]
    for title, shown, full, values in plots:
        rows = [(one.stack, value) for one, value in zip(measured, values, strict=True) if value is not None]
        if rows:
            out.lines(["", title, *bars(rows, shown, out.width, full)])
    out.say(f"{len(queries)} queries, {sum(len(one.documents) for one in queries)} pairs, {args.at_once} at once")
    return 0


def _stack(args: argparse.Namespace, kind: str, place: str | None) -> Stack:
    given: dict[str, Any] = {"stack": None, "outputs": None, "url": None} | {kind: place}
    return endpoint_from(argparse.Namespace(**given, cwd=args.cwd, ca=args.ca if kind == "url" else None, model=None))


def read_queries(lines: Iterable[bytes], source: str) -> list[Query]:
    """Return the queries of JSON lines. Raises InvalidInput, with the line's number."""
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_query(json.loads(line)))
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                what = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise InvalidInput(
                    f"{source}, line {number} is no query as `rerank eval --help` says: {what}"
                ) from None
    if not found:
        raise InvalidInput(f"{source} holds no query")
    return found


def _query(raw: Any) -> Query:
    documents: dict[Hashable, str] = {}
    for index, one in enumerate(raw["documents"]):
        key, text = (one["id"], one["text"]) if isinstance(one, dict) else (index, one)
        if not isinstance(text, str) or key in documents:
            raise ValueError(f"document {index} has no text, or the id of another")
        documents[key] = text
    given = raw["relevant"]
    pairs = given.items() if isinstance(given, dict) else ((key, 1) for key in given)
    by_name = {str(key): key for key in documents}  # an object's keys are text, also where ids are numbers
    grades = {by_name.get(str(key), key): float(grade) for key, grade in pairs}
    if not isinstance(raw["query"], str) or not any(grade > 0 for grade in grades.values()):
        raise ValueError("the query is no text, or nothing is relevant")
    return Query(raw["query"], documents, grades)


def measure(
    name: str,
    hourly_usd: float | None,
    reranker: Reranker,
    queries: list[Query],
    *,
    k: int = 10,
    at_once: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Return what a stack makes of the queries; texts that are too long are cut. Raises RerankerError."""

    def ask(query: Query) -> tuple[list[Hashable], float, str]:
        keys, began = list(query.documents), clock()
        ranking = reranker.rerank(query.text, list(query.documents.values()), truncate_prompt_tokens=-1)
        return [keys[one.index] for one in ranking], clock() - began, ranking.model

    ask(queries[0])  # the first request also connects
    began = clock()
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(ask, queries))
    wall_s = clock() - began
    judged = [(ranked, query.grades) for (ranked, _, _), query in zip(answers, queries, strict=True)]
    taken_ms = sorted(1000 * took_s for _, took_s, _ in answers)
    return Measured(
        stack=name,
        model=answers[0][2],
        ndcg=fmean(ndcg(ranked, grades, k) for ranked, grades in judged),
        mrr=fmean(reciprocal_rank(ranked, grades) for ranked, grades in judged),
        recall=fmean(recall(ranked, grades, k) for ranked, grades in judged),
        p50_ms=taken_ms[len(taken_ms) // 2],
        p95_ms=taken_ms[int(0.95 * (len(taken_ms) - 1))],
        pairs_per_s=sum(len(one.documents) for one in queries) / wall_s,
        usd_per_1000_queries=None if hourly_usd is None else hourly_usd / 3600 * wall_s / len(queries) * 1000,
    )


def _table(measured: list[Measured], k: int) -> Iterable[str]:
    head = ["stack", "model", f"nDCG@{k}", "MRR", f"recall@{k}", "p50 ms", "p95 ms", "pairs/s", "$/1,000 queries"]
    rows = [
        [
            one.stack,
            one.model,
            *(f"{value:.3f}" for value in (one.ndcg, one.mrr, one.recall)),
            *(f"{value:.1f}" for value in (one.p50_ms, one.p95_ms, one.pairs_per_s)),
            "not known" if one.usd_per_1000_queries is None else f"{one.usd_per_1000_queries:.4f}",
        ]
        for one in measured
    ]
    return columns([head, *rows])
