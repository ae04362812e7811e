"""The rules of the policy: condition, message and remedy. Pure functions of facts and limits.

Used by the program (components/settings.py before planning, components/instance.py before renting) and by the policy
pack (policy/__main__.py). An unknown fact is None and is not checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Registries move these tags to a new image every few days.
MOVING_TAG = re.compile(r"(^|[-_.])(latest|nightly|main|dev)($|[-_.])")
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")  # of a model's repository
DATACENTER = 1  # Vast.ai's hosting_type of a datacenter host (API reference, "search offers")
LABEL = re.compile(r"[^/@\s]+/[^/@\s]+/[^@\s]+")  # <project>/<stack>/<name>


@dataclass(frozen=True)
class PolicyLimits:
    """The limits of a stack. `rules`: active rules without a limit; a rule with a limit is active if it is set."""

    rules: tuple[str, ...] = ()
    max_hourly_usd: float | None = None
    max_disk_gb: float | None = None
    countries: tuple[str, ...] = ()
    hosting: Literal["", "datacenter"] = ""
    flags: tuple[str, ...] = ()
    pins: tuple[Literal["image", "model"], ...] = ()


@dataclass(frozen=True)
class Facts:
    """Facts of a stack and its config. None: unknown.

    `config_hourly_usd`: maximum cost by the config; `config_countries`, `config_hosting`: from the config and query.
    `flags`: vLLM flags of its config; `revision`: the model's, "" for the newest. `offers`: Vast.ai's fields of
    candidates, or of the rented machine; `machines`: number of machines at once, replicas times hedge. `validated`:
    whether a validation with golden pairs covers the instance.
    """

    image: str | None = None
    tls: bool | None = None
    guard: bool | None = None
    interruptible: bool | None = None
    label: str | None = None
    disk_gb: float | None = None
    validated: bool | None = None
    config_hourly_usd: float | None = None
    config_countries: Sequence[str] | None = None
    config_hosting: str | None = None
    flags: Sequence[str] | None = None
    revision: str | None = None
    offers: Sequence[Mapping[str, Any]] = ()
    machines: int = 1


Demand = tuple[str, str, Any]  # a field of Vast.ai's search, its operator, its value
Judge = Callable[["Facts", PolicyLimits], str | None]


@dataclass(frozen=True)
class Rule:
    """A rule. `limit`: its field of PolicyLimits; "" for a rule that `rules` activates by name. `demands`: returns the
    condition that excludes refused offers, for a number of machines."""

    name: str
    summary: str
    remedy: str
    judge: Judge
    limit: str = ""
    demands: Callable[[PolicyLimits, int], Demand] | None = None

    def binds(self, limits: PolicyLimits) -> bool:
        return bool(getattr(limits, self.limit)) if self.limit else self.name in limits.rules


def violations(facts: Facts, limits: PolicyLimits) -> list[str]:
    """Return a line for each broken active rule, in the order of RULES: its name, the problem, the remedy."""
    messages = [(rule, rule.judge(facts, limits)) for rule in RULES if rule.binds(limits)]
    return [f"policy: {rule.name}: {message}; {rule.remedy}" for rule, message in messages if message]


def demands(limits: PolicyLimits, machines: int) -> list[tuple[str, str, Any, str]]:
    """Return the conditions of all active rules on offers: field, operator, value, reason."""
    active = [(rule.demands, rule.limit) for rule in RULES if rule.demands and rule.binds(limits)]
    return [(*demand(limits, machines), f"policy {limit}") for demand, limit in active]


RULES: list[Rule] = []  # in the order of the functions below


def rule(
    remedy: str, *, limit: str = "", demands: Callable[[PolicyLimits, int], Demand] | None = None
) -> Callable[[Judge], Judge]:
    """Register a function that returns a problem as a rule: with its name, and its docstring as the summary."""

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
    if facts.config_hourly_usd is not None and facts.config_hourly_usd > allowed:
        return f"the config lets the stack cost ${facts.config_hourly_usd:g}/h; ${allowed:g}/h is allowed"
    factor = f"{facts.machines} x " if facts.machines > 1 else ""
    for offer in facts.offers:
        if (price := float(offer.get("dph_total") or 0.0)) * facts.machines > allowed:
            return f"{_machine(offer)} costs {factor}${price:.4f}/h; ${allowed:g}/h is allowed"
    return None


@rule("name a version, such as vllm/vllm-openai:v0.19.1, or a digest")
def pinned_image(facts: Facts, _limits: PolicyLimits) -> str | None:
    """The image is pinned by a version tag or by digest."""
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
    """The machine is in one of the countries of policy/limits.yaml."""
    allowed = ", ".join(limits.countries)
    refused = [code for code in facts.config_countries or () if code.upper() not in limits.countries]
    if refused:
        return f"the config asks for {', '.join(refused)}; {allowed} are allowed"
    for offer in facts.offers:
        # the end of Vast.ai's `geolocation`, such as "Stockholm, SE"
        if (country := str(offer.get("geolocation") or "").strip()[-2:].upper()) not in limits.countries:
            return f"{_machine(offer)} is in {country or 'an unknown country'}; {allowed} are allowed"
    return None


@rule(
    "set require.hosting to datacenter and leave datacenter=false out of the query",
    limit="hosting",
    demands=lambda _limits, _machines: ("datacenter", "eq", True),
)
def hosting(facts: Facts, limits: PolicyLimits) -> str | None:
    """The host is of the kind `hosting` of policy/limits.yaml."""
    if facts.config_hosting not in (None, "", limits.hosting):
        return f"the config asks for {facts.config_hosting} hosts; {limits.hosting} is required"
    for offer in facts.offers:
        if offer.get("hosting_type") != DATACENTER:
            return f"{_machine(offer)} is not in a datacenter, according to Vast.ai"
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


@rule("remove them from extra_args, or have flags of policy/limits.yaml extended", limit="flags")
def flags(facts: Facts, limits: PolicyLimits) -> str | None:
    """The config adds only vLLM flags of `flags` of policy/limits.yaml."""
    others = dict.fromkeys(flag for flag in facts.flags or () if flag not in limits.flags)
    return f"extra_args has {', '.join(others)}; {', '.join(limits.flags)} are allowed" if others else None


@rule(
    "set image to repository:tag@sha256:... with the registry's digest, and revision to a commit of the model",
    limit="pins",
)
def pins(facts: Facts, limits: PolicyLimits) -> str | None:
    """If `pins` of policy/limits.yaml names them, the image is pinned by digest and the model by commit."""
    image = facts.image is not None and not DIGEST.fullmatch(facts.image.partition("@")[2])
    model = facts.revision is not None and not COMMIT.fullmatch(facts.revision)
    broken = [name for name, unpinned in (("image", image), ("model", model)) if unpinned and name in limits.pins]
    return f"{' and '.join(broken)} not pinned by digest or commit" if broken else None


@rule("deploy with a RerankValidation, for a model whose catalog entry has golden pairs")
def validation(facts: Facts, _limits: PolicyLimits) -> str | None:
    """A validation with golden pairs covers the instance."""
    return "no check validates the server's answers" if facts.validated is False else None


def image_tag(image: str) -> str:
    """Return the tag of an image's reference; a colon before the last slash is a registry's port."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def pin_problem(image: str) -> str | None:
    """Return why a reference may name a different image later, or None."""
    tag, digest = image_tag(image), image.partition("@")[2]
    if digest:
        return None if DIGEST.fullmatch(digest) else f"the digest of image {image} is not sha256: and 64 hex digits"
    if not tag:
        return f"image {image} has no tag, which means latest"
    if MOVING_TAG.search(tag):
        return f"image {image} has a tag that moves"
    return None if TAG.fullmatch(tag) else f"image {image} has a malformed tag"


def _machine(offer: Mapping[str, Any]) -> str:
    return f"{offer.get('gpu_name') or 'the GPU'} on machine {float(offer.get('machine_id') or 0):.0f}"


NAMED = tuple(rule.name for rule in RULES if not rule.limit)
