"""What a Grafana dashboard asks of Prometheus, and what a scrape has. Pure; used to hold the one against the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# A metric's name in PromQL: before { or [ or an operator, not a function's (before a parenthesis) nor a label's.
_NAME = re.compile(r"(?<![\w:\"$.])([a-zA-Z_:][\w:]*)(?=\s*[{\[)]|\s*$|\s+(?:[<>=!+*/-]|or\b|and\b|unless\b))(?!\s*\()")
_STRINGS, _BRACES, _GROUPING = (
    re.compile(r'"[^"]*"'),
    re.compile(r"\{[^}]*\}"),
    re.compile(r"\b(by|without)\s*\([^)]*\)"),
)
_SELECTION, _LABEL = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}"), re.compile(r"(\w+)(?:=~|!~|!=|=)\"")
_SUFFIXES = {
    "histogram": ("_bucket", "_count", "_sum"),
    "summary": ("_count", "_sum", ""),
    "gauge": ("",),
    "counter": ("",),
}


def expressions(dashboard: Mapping[str, Any]) -> list[str]:
    """Return every PromQL expression of a dashboard's panels."""
    return [str(one["expr"]) for panel in dashboard["panels"] for one in panel.get("targets") or ()]


def metrics_in(expression: str) -> set[str]:
    """Return the names of the metrics in a PromQL expression."""
    bare = _GROUPING.sub(" ", _BRACES.sub("{}", _STRINGS.sub('""', expression)))
    return set(_NAME.findall(bare))


def metrics_of(scrape: str) -> set[str]:
    """Return the names that a scrape (Prometheus' text form) has, by its TYPE lines, histograms with their series."""
    return {name for line in scrape.splitlines() for name in _names(line)}


def _names(line: str) -> Iterator[str]:
    if line.startswith("# TYPE "):
        _, _, name, kind = line.split()[:4]
        yield from (name + suffix for suffix in _SUFFIXES.get(kind, ("",)))


def labels_in(expression: str) -> dict[str, set[str]]:
    """Return the labels that a PromQL expression selects by, for each metric."""
    found: dict[str, set[str]] = {}
    for name, selectors in _SELECTION.findall(expression):
        found.setdefault(name, set()).update(_LABEL.findall(selectors))
    return found


def absent(dashboard: Mapping[str, Any], scrape: str, *, prefix: str, given: set[str]) -> list[str]:
    """Return what a dashboard asks for under a job's metrics that a scrape of it does not have.

    `prefix` is a regular expression of the names that this scrape is to answer for; `given` are labels that Prometheus
    adds. A label is missing where no sample of the metric has it.
    """
    names, missing = metrics_of(scrape), set()
    for expression in expressions(dashboard):
        mine = {name for name in metrics_in(expression) if re.match(prefix, name)}
        missing |= mine - names
        for name, labels in labels_in(expression).items():
            lines = [line for line in scrape.splitlines() if line.startswith(name + "{")]
            shown = {label for line in lines for label in _LABEL.findall(line)}
            if name in mine and name in names:
                missing |= {f"{name}{{{label}}}" for label in labels - given - shown}
    return sorted(missing)
