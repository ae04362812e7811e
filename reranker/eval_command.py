"""`rerank eval`: compares quality, speed and price of stacks with the user's queries. Called by `command`."""

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
Rank your own queries on one or more stacks, and compare nDCG@k, MRR and recall@k (as defined by trec_eval), time per
query, pairs per second, and USD per 1,000 queries at the price and the speed of the stack."""
EPILOG = """\
Each line of the file has a query, its documents, and the relevant documents by index or id, optionally with grades:

  {"query": "...", "documents": ["...", "..."], "relevant": [1]}
  {"query": "...", "documents": [{"id": "a", "text": "..."}], "relevant": {"a": 2, "b": 1}}

  rerank eval --queries queries.jsonl --stack dev --stack prod

Example: examples/queries.jsonl. The price is the output hourly_cost_usd, for a stack with no other load."""


@dataclass(frozen=True)
class Query:
    """A query, its documents by id or index, and the grades of the relevant documents."""

    text: str
    documents: Mapping[Hashable, str]
    grades: Mapping[Hashable, float]


@dataclass(frozen=True)
class Measurement:
    """The results of one stack for all queries. The price is None if unknown."""

    stack: str
    model: str
    ndcg: float
    mrr: float
    recall: float
    p50_ms: float
    p95_ms: float
    pairs_per_s: float
    usd_per_1000_queries: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queries", required=True, metavar="FILE", help="queries as JSON lines, see below")
    parser.add_argument("--k", type=int, default=10, metavar="N", help="k of nDCG@k and recall@k (default: 10)")
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="concurrent queries (default: 4)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for a query (default: 60)")
    parser.add_argument("--json", action="store_true", help="a JSON line for each stack")
    group = parser.add_argument_group("locations of the rerankers; the first three may be repeated")
    for name, metavar, text in (
        ("--stack", "NAME", "Pulumi stack (default: the selected stack)"),
        ("--outputs", "FILE|URL", "copy of the outputs of a stack"),
        ("--url", "URL", "address of a server; the key is in RERANKER_API_KEY"),
    ):
        group.add_argument(name, action="append", default=[], metavar=metavar, help=text)
    group.add_argument("-C", "--cwd", metavar="DIR", help="with --stack: the project folder")
    group.add_argument("--ca", metavar="FILE", help="with --url: the CA to trust, PEM")


def run(args: argparse.Namespace, out: Output) -> int:
    """Measure the stacks one after the other; print a table and bars, or JSON."""
    if args.k < 1 or args.at_once < 1 or args.timeout <= 0:
        raise InvalidInput("--k, --at-once and --timeout must be above 0")
    queries = read_file(args.queries, lambda file: read_queries(file, args.queries))
    sources = [(option, value) for option in ("stack", "outputs", "url") for value in getattr(args, option)]
    stacks = [(value or "selected", _stack(args, option, value)) for option, value in sources or [("stack", None)]]
    measurements = []
    for name, stack in stacks:
        with Reranker(stack.endpoint, patience=Patience(deadline_s=args.timeout)) as reranker:
            measurements.append(measure(name, stack.hourly_cost_usd, reranker, queries, k=args.k, at_once=args.at_once))
    if args.json:
        out.print_lines(json.dumps(asdict(measurement)) for measurement in measurements)
        return 0
    out.print_lines(_table(measurements, args.k))
    for title, field, value_format, full in (
        (f"nDCG@{args.k}, 1 is best", "ndcg", "{:.3f}", 1.0),
        ("p50 ms, less is better", "p50_ms", "{:.1f}", 0.0),
        ("$ per 1,000 queries, less is better", "usd_per_1000_queries", "{:.4f}", 0.0),
    ):
        rows = [(measurement.stack, getattr(measurement, field)) for measurement in measurements]
        rows = [(name, value) for name, value in rows if value is not None]
        if rows:
            out.print_lines(["", title, *bars(rows, value_format, out.width, full)])
    out.log(f"{len(queries)} queries, {sum(len(query.documents) for query in queries)} pairs, {args.at_once} at once")
    return 0


def _stack(args: argparse.Namespace, option: str, value: str | None) -> Stack:
    options: dict[str, Any] = {"stack": None, "outputs": None, "url": None} | {option: value}
    ca = args.ca if option == "url" else None
    return endpoint_from(argparse.Namespace(**options, cwd=args.cwd, ca=ca, model=None))


def read_queries(lines: Iterable[bytes], source: str) -> list[Query]:
    """Return the queries of JSON lines. Raises InvalidInput with the line number."""
    queries = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                queries.append(_query(json.loads(line)))
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                detail = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise InvalidInput(
                    f"{source}, line {number} is not a query, see `rerank eval --help`: {detail}"
                ) from None
    if not queries:
        raise InvalidInput(f"{source} contains no query")
    return queries


def _query(raw: Any) -> Query:
    documents: dict[Hashable, str] = {}
    for index, document in enumerate(raw["documents"]):
        key, text = (document["id"], document["text"]) if isinstance(document, dict) else (index, document)
        if not isinstance(text, str) or key in documents:
            raise ValueError(f"document {index} has no text or a duplicate id")
        documents[key] = text
    relevant = raw["relevant"]
    pairs = relevant.items() if isinstance(relevant, dict) else ((key, 1) for key in relevant)
    keys = {str(key): key for key in documents}  # keys of a JSON object are strings, even if the ids are numbers
    grades = {keys.get(str(key), key): float(grade) for key, grade in pairs}
    if not isinstance(raw["query"], str) or not any(grade > 0 for grade in grades.values()):
        raise ValueError("the query is not a string, or no document is relevant")
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
) -> Measurement:
    """Return the results of a stack; long texts are cut. Raises RerankerError."""

    def rank(query: Query) -> tuple[list[Hashable], float, str]:
        keys, started = list(query.documents), clock()
        ranking = reranker.rerank(query.text, list(query.documents.values()), truncate_prompt_tokens=-1)
        return [keys[result.index] for result in ranking], clock() - started, ranking.model

    rank(queries[0])  # not measured: the first request also connects
    started = clock()
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(rank, queries))
    wall_s = clock() - started
    rankings = [(keys, query.grades) for (keys, _, _), query in zip(answers, queries, strict=True)]
    times_ms = sorted(1000 * seconds for _, seconds, _ in answers)
    return Measurement(
        stack=name,
        model=answers[0][2],
        ndcg=fmean(ndcg(keys, grades, k) for keys, grades in rankings),
        mrr=fmean(reciprocal_rank(keys, grades) for keys, grades in rankings),
        recall=fmean(recall(keys, grades, k) for keys, grades in rankings),
        p50_ms=times_ms[len(times_ms) // 2],
        p95_ms=times_ms[int(0.95 * (len(times_ms) - 1))],
        pairs_per_s=sum(len(query.documents) for query in queries) / wall_s,
        usd_per_1000_queries=None if hourly_usd is None else hourly_usd / 3600 * wall_s / len(queries) * 1000,
    )


def _table(measurements: list[Measurement], k: int) -> Iterable[str]:
    head = ["stack", "model", f"nDCG@{k}", "MRR", f"recall@{k}", "p50 ms", "p95 ms", "pairs/s", "$/1,000 queries"]
    rows = [
        [
            row.stack,
            row.model,
            *(f"{value:.3f}" for value in (row.ndcg, row.mrr, row.recall)),
            *(f"{value:.1f}" for value in (row.p50_ms, row.p95_ms, row.pairs_per_s)),
            "unknown" if row.usd_per_1000_queries is None else f"{row.usd_per_1000_queries:.4f}",
        ]
        for row in measurements
    ]
    return columns([head, *rows])
