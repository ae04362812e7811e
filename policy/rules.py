"""The rules of the policy: condition, message and remedy of each. Pure functions of facts and limits.

One source for the program's guards (components/settings.py before anything is planned, components/instance.py before
anything is rented) and for the policy pack (policy/__main__.py). A fact that is not known is None and is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Tags that name another image every few days.
MOVING_TAG = re.compile(r"(^|[-_.])(latest|nightly|main|dev)($|[-_.])")
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")  # of a model's repository; a branch or a tag can be moved
DATACENTER = 1  # Vast.ai's hosting_type of a datacenter host (API reference, "search offers")
LABEL = re.compile(r"[^/@\s]+/[^/@\s]+/[^@\s]+")  # <project>/<stack>/<name>


@dataclass(frozen=True)
class PolicyLimits:
    """What binds a stack. `rules` names those that have no limit; the others bind where their limit is given."""

    rules: tuple[str, ...] = ()
    max_hourly_usd: float | None = None
    max_disk_gb: float | None = None
    countries: tuple[str, ...] = ()
    hosting: Literal["", "datacenter"] = ""
    flags: tuple[str, ...] = ()
    pins: tuple[Literal["image", "model"], ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a stack is, or asks for. None: not known, or not said.

    `asks_hourly_usd`: the most that its own config lets it cost. `asks_countries`, `asks_hosting`: what its own config
    and query name. `flags`: of vLLM, that its config adds; `revision`: the model's, "" for the newest. `offers`:
    Vast.ai's fields of the offers it may rent, or of the machine it has; `machines`: how many at once, replicas and
    hedge together. `validated`: whether a validation with pairs to judge covers the instance.
    """

    image: str | None = None
    tls: bool | None = None
    guard: bool | None = None
    interruptible: bool | None = None
    label: str | None = None
    disk_gb: float | None = None
    validated: bool | None = None
    asks_hourly_usd: float | None = None
    asks_countries: Sequence[str] | None = None
    asks_hosting: str | None = None
    flags: Sequence[str] | None = None
    revision: str | None = None
    offers: Sequence[Mapping[str, Any]] = ()
    machines: int = 1


Demand = tuple[str, str, Any]  # a field of Vast.ai's search, its operator, its value
Judge = Callable[["Facts", PolicyLimits], str | None]


@dataclass(frozen=True)
class Rule:
    """A rule. `limit`: the field of PolicyLimits that it reads; "" for a rule that `rules` switches on by its name.
    `demands`: the condition on offers, for a number of machines, that leaves out what the rule would refuse."""

    name: str
    asks: str
    remedy: str
    judge: Judge
    limit: str = ""
    demands: Callable[[PolicyLimits, int], Demand] | None = None

    def binds(self, limits: PolicyLimits) -> bool:
        return bool(getattr(limits, self.limit)) if self.limit else self.name in limits.rules


def violations(facts: Facts, limits: PolicyLimits) -> list[str]:
    """Return a line for each broken rule that binds, in the order of RULES: its name, what was seen, what to do."""
    judged = [(rule, rule.judge(facts, limits)) for rule in RULES if rule.binds(limits)]
    return [f"policy: {rule.name}: {message}; {rule.remedy}" for rule, message in judged if message]


def demands(limits: PolicyLimits, machines: int) -> list[tuple[str, str, Any, str]]:
    """Return the conditions on offers of every rule that binds: field, operator, value, reason."""
    bound = [(rule.demands, rule.limit) for rule in RULES if rule.demands and rule.binds(limits)]
    return [(*demand(limits, machines), f"policy {limit}") for demand, limit in bound]


RULES: list[Rule] = []  # in the order of their functions below


def rule(
    remedy: str, *, limit: str = "", demands: Callable[[PolicyLimits, int], Demand] | None = None
) -> Callable[[Judge], Judge]:
    """Make a rule of a function that says what is wrong: its name is the rule's, its docstring what the rule asks."""

    def register(judge: Judge) -> Judge:
        name = judge.__name__.replace("_", "-")
        RULES.append(Rule(name, judge.__doc__ or "", remedy, judge, limit, demands))
        return judge

    return register


# ---- the rules ----------------------------------------------------------------------------------------------------


@rule(
    "lower max_dph_usd, max_hourly_usd, replicas or hedge, or have max_hourly_usd of policy/limits.yaml raised",
    limit="max_hourly_usd",
    demands=lambda limits, machines: ("dph_total", "lte", (limits.max_hourly_usd or 0.0) / machines),
)
def hourly_price(facts: Facts, limits: PolicyLimits) -> str | None:
    """The stack costs no more per hour than max_hourly_usd of policy/limits.yaml."""
    allowed = limits.max_hourly_usd or 0.0
    if facts.asks_hourly_usd is not None and facts.asks_hourly_usd > allowed:
        return f"the config lets the stack cost ${facts.asks_hourly_usd:g}/h; ${allowed:g}/h is allowed"
    dear = [one for one in facts.offers if float(one.get("dph_total") or 0.0) * facts.machines > allowed]
    if not dear:
        return None
    first = dear[0]
    times = f"{facts.machines} x " if facts.machines > 1 else ""
    return f"{_where(first)} costs {times}${float(first['dph_total']):.4f}/h; ${allowed:g}/h is allowed"


@rule("name a version, such as vllm/vllm-openai:v0.19.1, or a digest")
def pinned_image(facts: Facts, _limits: PolicyLimits) -> str | None:
    """The image is pinned by a tag that does not move, or by digest."""
    return None if facts.image is None else pin_problem(facts.image)


@rule("set tls and guard to true (form: script)")
def tls_and_guard(facts: Facts, _limits: PolicyLimits) -> str | None:
    """TLS and the guard are on."""
    off = [name for name, on in (("tls", facts.tls), ("guard", facts.guard)) if on is False]
    return f"{' and '.join(off)} off" if off else None


@rule("remove bid")
def no_bid(facts: Facts, _limits: PolicyLimits) -> str | None:
    """The instance is not interruptible."""
    return "the instance is interruptible (bid is set)" if facts.interruptible else None


@rule(
    "choose among those in require.countries and query, or have countries of policy/limits.yaml extended",
    limit="countries",
    demands=lambda limits, _machines: ("geolocation", "in", list(limits.countries)),
)
def countries(facts: Facts, limits: PolicyLimits) -> str | None:
    """The machine stands in a country of countries of policy/limits.yaml."""
    allowed = ", ".join(limits.countries)
    refused = [code for code in facts.asks_countries or () if code.upper() not in limits.countries]
    if refused:
        return f"the config asks for {', '.join(refused)}; {allowed} are allowed"
    for offer in facts.offers:
        if (place := country_of(offer)) not in limits.countries:
            return f"{_where(offer)} stands in {place or 'a place that is not said'}; {allowed} are allowed"
    return None


@rule(
    "set require.hosting to datacenter and leave datacenter=false out of the query",
    limit="hosting",
    demands=lambda _limits, _machines: ("datacenter", "eq", True),
)
def hosting(facts: Facts, limits: PolicyLimits) -> str | None:
    """The machine stands with a host of the kind hosting of policy/limits.yaml."""
    if facts.asks_hosting not in (None, "", limits.hosting):
        return f"the config asks for {facts.asks_hosting} hosts; {limits.hosting} is demanded"
    for offer in facts.offers:
        if offer.get("hosting_type") != DATACENTER:
            return f"{_where(offer)} is not in a datacenter, as far as Vast.ai says"
    return None


@rule("leave the label to the stack")
def label(facts: Facts, _limits: PolicyLimits) -> str | None:
    """The instance's label is <project>/<stack>/<name>."""
    if facts.label is None:
        return None
    return None if LABEL.fullmatch(facts.label) else f"the label {facts.label!r} is not <project>/<stack>/<name>"


@rule("lower disk_gb, or have max_disk_gb of policy/limits.yaml raised", limit="max_disk_gb")
def disk(facts: Facts, limits: PolicyLimits) -> str | None:
    """The disk is no larger than max_disk_gb of policy/limits.yaml."""
    allowed = limits.max_disk_gb or 0.0
    if facts.disk_gb is None or facts.disk_gb <= allowed:
        return None
    return f"disk_gb is {facts.disk_gb:g}; {allowed:g} are allowed"


@rule("take them out of extra_args, or have flags of policy/limits.yaml extended", limit="flags")
def flags(facts: Facts, limits: PolicyLimits) -> str | None:
    """The config adds no flag of vLLM but those of flags of policy/limits.yaml."""
    others = dict.fromkeys(flag for flag in facts.flags or () if flag not in limits.flags)
    return f"extra_args has {', '.join(others)}; {', '.join(limits.flags)} are allowed" if others else None


@rule(
    "set image to repository:tag@sha256:..., as its registry says, and revision to a commit of the model's repository",
    limit="pins",
)
def pins(facts: Facts, limits: PolicyLimits) -> str | None:
    """What pins of policy/limits.yaml names, image or model, is pinned by what cannot be moved: digest or commit."""
    image = facts.image is not None and not DIGEST.fullmatch(facts.image.partition("@")[2])
    model = facts.revision is not None and not COMMIT.fullmatch(facts.revision)
    loose = [name for name, is_loose in (("image", image), ("model", model)) if is_loose and name in limits.pins]
    return f"{' and '.join(loose)} not pinned by digest or commit" if loose else None


@rule("deploy with a RerankValidation, for a model whose catalog entry has golden pairs")
def validation(facts: Facts, _limits: PolicyLimits) -> str | None:
    """A validation with pairs to judge covers the instance."""
    return None if facts.validated is not False else "nothing judges what the server answers"


def image_tag(image: str) -> str:
    """Return the tag of an image's reference; a colon before the last slash is a registry's port."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def pin_problem(image: str) -> str | None:
    """Return why a reference may name another image one day, or None."""
    tag, digest = image_tag(image), image.partition("@")[2]
    if digest:
        return None if DIGEST.fullmatch(digest) else f"the digest of image {image} is not sha256: and 64 hex digits"
    if not tag:
        return f"image {image} has no tag, which means latest"
    if MOVING_TAG.search(tag):
        return f"image {image} has a tag that moves"
    return None if TAG.fullmatch(tag) else f"image {image} has a malformed tag"


def country_of(offer: Mapping[str, Any]) -> str:
    """Return the two letters at the end of Vast.ai's `geolocation` ("Stockholm, SE"), or "" where it says none."""
    place = str(offer.get("geolocation") or "").strip()
    return place[-2:].upper()


def _where(offer: Mapping[str, Any]) -> str:
    return f"{offer.get('gpu_name') or 'the GPU'} on machine {float(offer.get('machine_id') or 0):.0f}"


NAMED = tuple(rule.name for rule in RULES if not rule.limit)
