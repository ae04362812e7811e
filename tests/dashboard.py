"""Metrics and labels of a Grafana dashboard and of a Prometheus scrape, for tests that compare them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# the name of a metric in PromQL: before { or [ or an operator; not that of a function (before a parenthesis) or label
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
    return [str(target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets") or ()]


def metrics_in(expression: str) -> set[str]:
    """Return the names of the metrics in a PromQL expression."""
    bare = _GROUPING.sub(" ", _BRACES.sub("{}", _STRINGS.sub('""', expression)))
    return set(_NAME.findall(bare))


def metrics_in_scrape(scrape: str) -> set[str]:
    """Return the names in a scrape (Prometheus' text format) by its TYPE lines, with the series of histograms."""
    return {name for line in scrape.splitlines() for name in _names(line)}


def _names(line: str) -> Iterator[str]:
    if line.startswith("# TYPE "):
        _, _, name, kind = line.split()[:4]
        yield from (name + suffix for suffix in _SUFFIXES.get(kind, ("",)))


def labels_in(expression: str) -> dict[str, set[str]]:
    """Return the label selectors of a PromQL expression: metric -> labels."""
    labels: dict[str, set[str]] = {}
    for name, selectors in _SELECTION.findall(expression):
        labels.setdefault(name, set()).update(_LABEL.findall(selectors))
    return labels


def find_missing(dashboard: Mapping[str, Any], scrape: str, *, prefix: str, job_labels: set[str]) -> list[str]:
    """Return the metrics and labels of a dashboard that a scrape does not have.

    `prefix`: a regular expression for the names of this scrape; `job_labels`: labels that Prometheus adds. A label is
    missing if no sample of the metric has it.
    """
    scraped, missing = metrics_in_scrape(scrape), set()
    for expression in expressions(dashboard):
        names = {name for name in metrics_in(expression) if re.match(prefix, name)}
        missing |= names - scraped
        for name, labels in labels_in(expression).items():
            lines = [line for line in scrape.splitlines() if line.startswith(name + "{")]
            scraped_labels = {label for line in lines for label in _LABEL.findall(line)}
            if name in names & scraped:
                missing |= {f"{name}{{{label}}}" for label in labels - job_labels - scraped_labels}
    return sorted(missing)
