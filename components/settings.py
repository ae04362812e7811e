"""The stack's config as one frozen record. Called by `__main__.py`; every bad value is reported at once, by its key.

The keys, their types and defaults are declared in Pulumi.yaml; what is checked here is what a type cannot say.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast, get_args
from urllib.parse import urlsplit

from components.errors import ConfigError, QueryError
from components.vast.assignment import SPREADS
from components.vast.drift import HEAL_ON
from components.vast.query import Constraint, Filters, parse
from components.vast.ranking import PREFERENCES
from components.vllm.catalog import Catalog, Image, Model
from components.vllm.gpu_requirements import MB_PER_GB, compute_cap_floor, load_flags, vram_needed_gb
from components.vllm.launch import Form, problems_with_extra_args
from policy.rules import HOSTINGS, NAMED, Facts, Limits, violations

NAMESPACE = "vast-reranker"
KEYS = (
    "model", "offline_model", "image", "form", "guard", "tls", "tls_renew_before_d", "api_key_generation",
    "keep_previous_key", "max_documents", "max_body_mb", "truncate_prompt_tokens", "open_health", "replicas",
    "spread", "gateway", "gateway_listen", "gateway_url", "gateway_admin_url", "gateway_admin_key",
    "drain_timeout_s", "dtype", "extra_args", "query", "disk_gb", "max_dph_usd", "min_reliability",
    "min_duration_h", "gpu_names", "countries", "prefer", "api_url", "api_pacing", "api_patience_s", "vast_api_key",
    "api_key", "api_key_previous", "hub_token", "image_login", "max_tries", "poll_s", "rented_s", "pulling_s",
    "starting_s", "port_s", "serving_s", "stall_s", "probe_window_s", "probe_timeout_s", "heal_on",
    "renew_before_h", "replace", "hedge", "bid", "bid_factor", "max_hourly_usd", "min_runway_h",
    "adopt_instance_id", "hosting", "protect", "max_latency_ms", "policy", "policy_max_hourly_usd",
    "policy_max_disk_gb", "policy_countries", "policy_hosting",
)  # fmt: skip
SECRET_KEYS = ("vast_api_key", "api_key", "api_key_previous", "hub_token", "image_login", "gateway_admin_key")
FORMS: tuple[str, ...] = get_args(Form)
REPLACES = ("blue_green", "in_place")
STAGE_DEADLINES = ("rented_s", "pulling_s", "starting_s", "port_s", "serving_s", "stall_s")
MAX_HEDGE = 4
DTYPES = ("auto", "half", "float16", "bfloat16", "float32")
GATEWAYS = ("off", "caddy", "rent")
VAST_MIN_DISK_GB = 8
MIN_KEY_CHARS = 16


@dataclass(frozen=True)
class Access:
    """Who may come in, and how: keys, TLS, what the guard takes. Keys are not in the repr."""

    guard: bool
    tls: bool
    generation: int
    keep_previous: bool
    guard_options: Mapping[str, Any]
    key: str | None = field(default=None, repr=False)
    previous_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Fleet:
    """How many rerankers, how they are spread, and what stands in front of them. The admin key is not in the repr."""

    replicas: int
    spread: str
    gateway: str
    listen: str
    url: str
    admin_url: str
    drain_timeout_s: float
    admin_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Settings:
    """What one stack wants. Keys and tokens are not in the repr."""

    model: Model
    image: Image
    form: Form
    access: Access
    fleet: Fleet
    dtype: str | None
    extra_args: tuple[str, ...]
    query: str
    constraints: tuple[Constraint, ...]
    disk_gb: float
    prefer: str
    max_tries: int
    poll_s: float
    probe_timeout_s: float
    deadlines: Mapping[str, float]
    watch: Mapping[str, Any]
    replace: str
    hedge: int
    money: Mapping[str, float]
    offer_type: str
    bid: Mapping[str, float] | None
    adopt_instance_id: int | None
    protect: bool
    max_latency_ms: float
    policy: Mapping[str, Any]
    hub_token: str | None = field(default=None, repr=False)
    image_login: str | None = field(default=None, repr=False)


def stack_config() -> dict[str, str]:
    """Return the running program's config, its namespace taken off; defaults come from Pulumi.yaml."""
    from pulumi.runtime.config import get_config_env  # noqa: PLC0415 - tests of `load` need no Pulumi

    prefix = f"{NAMESPACE}:"
    return {key.removeprefix(prefix): value for key, value in get_config_env().items() if key.startswith(prefix)}


def keys_in_clear() -> list[str]:
    """Return the config keys that are stored in clear although they are secrets."""
    from pulumi.runtime.config import get_config_secret_keys_env  # noqa: PLC0415

    encrypted = {key.rpartition(":")[2] for key in get_config_secret_keys_env()}
    return [key for key in SECRET_KEYS if key in stack_config() and key not in encrypted]


def load(
    raw: Mapping[str, str],
    catalog: Catalog,
    *,
    hub_reachable: Callable[[str], bool],
    in_clear: Sequence[str] = (),
) -> Settings:
    """Read `raw`, the project's config with its namespace taken off. Raises ConfigError with every problem found.

    `hub_reachable` is asked, with the API's address, only where `offline_model` is set. `in_clear` names keys that are
    secrets but stored in clear.
    """
    reader = _Reader(raw)
    reader.unknown_keys()
    for key in in_clear:
        reader.problem(key, f"is a secret but stored in clear; set it with `pulumi config set --secret {key} ...`")
    asked = reader.text("model")
    name = asked
    offline = reader.text("offline_model")
    api_url = reader.url("api_url")
    if offline and api_url and not hub_reachable(api_url):
        name = offline
    reader.add("offline_model" if name != asked else "model", catalog.problems_with_model(name))
    ref = reader.text("image") or catalog.default_image.ref
    reader.add("image", catalog.problems_with_image(ref))
    query, filters = reader.query()
    access = reader.access(form_is_plain=reader.text("form") == "plain")
    fleet = reader.fleet(access)
    prefer = reader.one_of("prefer", PREFERENCES)
    form = cast(Form, reader.one_of("form", FORMS))
    reader.one_of("api_pacing", ("published", "off"))
    reader.one_of("dtype", ("", *DTYPES))
    reader.number("api_patience_s", least=1)
    disk_gb = reader.number("disk_gb", least=VAST_MIN_DISK_GB)
    deadlines = {key: reader.number(key, least=1) for key in STAGE_DEADLINES}
    poll_s = reader.number("poll_s", least=0.05)
    watch = reader.watch()
    probe_timeout_s = reader.number("probe_timeout_s", least=0.1)
    replaced = reader.one_of("replace", REPLACES)
    hedge = reader.hedge()
    money = reader.money()
    bid = reader.bid()
    adopt = int(reader.number("adopt_instance_id", least=0)) or None
    max_tries = int(reader.number("max_tries", least=1))
    protect = reader.switch("protect")
    max_latency_ms = reader.number("max_latency_ms", least=0)
    constraints = reader.constraints()
    extra_args = reader.items("extra_args")
    reader.add("extra_args", problems_with_extra_args(extra_args))
    limits = reader.limits()
    facts = Facts(
        image=ref,
        tls=access.tls,
        guard=access.guard,
        interruptible=bid is not None,
        disk_gb=disk_gb,
        validated=name not in catalog.models or bool(catalog.models[name].golden),
    )
    reader.check_policy(limits, facts, filters, bid, hedge * fleet.replicas)
    if not reader.problems:
        reader.add("extra_args", load_flags().problems(catalog.image(ref).vllm_version, extra_args))
        needed = catalog.disk_needed_gb(catalog.image(ref), catalog.model(name))
        if disk_gb < needed:
            reader.problem("disk_gb", f"is {disk_gb:g}, but {ref} with {name} needs {math.ceil(needed)} GB at least")
    if reader.problems:
        raise ConfigError(reader.problems)
    model, image = catalog.model(name), catalog.image(ref)
    return Settings(
        model=model,
        image=image,
        form=form,
        access=access,
        fleet=fleet,
        dtype=reader.text("dtype") or None,
        extra_args=extra_args,
        query=query,
        constraints=(
            *constraints,
            *_demanded(limits, hedge * fleet.replicas),
            *_imposed(image, model, reader.text("dtype") or None, disk_gb),
        ),
        disk_gb=disk_gb,
        prefer=prefer,
        max_tries=max_tries,
        poll_s=poll_s,
        probe_timeout_s=probe_timeout_s,
        deadlines=deadlines,
        watch=watch,
        replace=replaced,
        hedge=hedge,
        money=money,
        offer_type="on-demand" if bid is None else "bid",
        bid=bid,
        adopt_instance_id=adopt,
        protect=protect,
        max_latency_ms=max_latency_ms,
        policy=limits.record(),
        hub_token=reader.text("hub_token") or None,
        image_login=reader.image_login(),
    )


def _imposed(image: Image, model: Model, dtype: str | None, disk_gb: float) -> list[Constraint]:
    """Return what image, model, dtype and disk demand of a machine."""
    floor = compute_cap_floor(image, dtype)
    for_floor = f"image {image.ref}" if floor == image.compute_cap_min else f"dtype {dtype}"
    imposed = [
        Constraint("cuda_max_good", "gte", image.cuda_min, f"image {image.ref}"),
        Constraint("compute_cap", "gte", floor, for_floor),
        Constraint("gpu_ram", "gte", vram_needed_gb(model, dtype) * MB_PER_GB, f"model {model.name}"),
        Constraint("disk_space", "gte", disk_gb, "disk_gb"),
    ]
    if image.compute_cap_max is not None:
        imposed.append(Constraint("compute_cap", "lte", image.compute_cap_max, f"image {image.ref}"))
    return imposed


def _demanded(limits: Limits, hedge: int) -> list[Constraint]:
    """Return what the policy demands of a machine, so that none is offered that it would refuse."""
    demanded = []
    if limits.max_hourly_usd is not None:
        demanded.append(Constraint("dph_total", "lte", limits.max_hourly_usd / hedge, "policy_max_hourly_usd"))
    if limits.countries:
        demanded.append(Constraint("geolocation", "in", list(limits.countries), "policy_countries"))
    if limits.hosting:
        demanded.append(Constraint("datacenter", "eq", True, "policy_hosting"))
    return demanded


def emulator_hub_reachable(api_url: str) -> bool:
    """Ask an emulator whether its containers reach the model hub; a real Vast.ai host does, so the answer is True."""
    try:
        with urllib.request.urlopen(f"{api_url}/_emulator/hub", timeout=5) as answer:
            return bool(json.load(answer).get("reachable"))
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            [
                f"{NAMESPACE}:api_url: cannot reach {api_url} ({reason}); "
                "if it is the local emulator, start it with `make emulator`"
            ]
        ) from None


class _Reader:
    """Takes values out of the raw config and collects what is wrong with them."""

    def __init__(self, raw: Mapping[str, str]) -> None:
        self._raw = raw
        self.problems: list[str] = []

    def problem(self, key: str, text: str) -> None:
        line = f"{NAMESPACE}:{key}: {text}"
        if line not in self.problems:  # a key may be read more than once
            self.problems.append(line)

    def add(self, key: str, texts: list[str]) -> None:
        for text in texts:
            self.problem(key, text)

    def unknown_keys(self) -> None:
        for key in self._raw:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, 1)
                self.problem(key, "is not a config key" + (f"; did you mean {near[0]}?" if near else ""))

    def text(self, key: str) -> str:
        return str(self._raw.get(key) or "").strip()

    def one_of(self, key: str, accepted: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in accepted:
            self.problem(key, f"is {value!r}; accepted: {', '.join(one for one in accepted if one)}")
            return accepted[0]
        return value

    def number(self, key: str, *, least: float) -> float:
        value = self.text(key)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= least):
            self.problem(key, f"is {value!r}; accepted: a number of at least {least:g}")
            return least
        return number

    def items(self, key: str) -> tuple[str, ...]:
        value = self._raw.get(key) or "[]"
        try:
            parsed = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            parsed = None
        if not isinstance(parsed, list):
            self.problem(key, f"is {value!r}; accepted: a list")
            return ()
        return tuple(str(one) for one in parsed)

    def url(self, key: str) -> str:
        value = self.text(key).rstrip("/")
        if not value.startswith(("https://", "http://")):
            self.problem(key, f"is {value!r}; accepted: an http(s) address such as https://console.vast.ai")
            return ""
        return value

    def switch(self, key: str) -> bool:
        return self.one_of(key, ("on", "off")) == "on"

    def access(self, *, form_is_plain: bool) -> Access:
        """Read who may come in, and how; the plain form has no place for what sees to that."""
        guard, tls = self.switch("guard"), self.switch("tls")
        for key, on in (("guard", guard), ("tls", tls)):
            if on and form_is_plain:
                self.problem(key, f"is on, but form plain has no place for it; accepted: {key} off, or form script")
        options: dict[str, Any] = {
            "max_documents": int(self.number("max_documents", least=1)),
            "max_bytes": int(self.number("max_body_mb", least=0.01) * (1 << 20)),
        }
        if self.switch("open_health"):
            options["open_health"] = True
        if self.text("truncate_prompt_tokens"):
            options["truncate"] = int(self.number("truncate_prompt_tokens", least=-1))
        return Access(
            guard=guard,
            tls=tls,
            generation=int(self.number("api_key_generation", least=1)),
            keep_previous=self.switch("keep_previous_key"),
            guard_options=options,
            key=self.client_key("api_key"),
            previous_key=self.client_key("api_key_previous"),
        )

    def fleet(self, access: Access) -> Fleet:
        """Read how many rerankers there are and what stands in front of them."""
        fleet = Fleet(
            replicas=int(self.number("replicas", least=1)),
            spread=self.one_of("spread", SPREADS),
            gateway=self.one_of("gateway", GATEWAYS),
            listen=self.text("gateway_listen"),
            url=self.text("gateway_url").rstrip("/"),
            admin_url=self.text("gateway_admin_url"),
            drain_timeout_s=self.number("drain_timeout_s", least=0),
            admin_key=self.text("gateway_admin_key") or None,
        )
        if fleet.gateway != "off" and not access.guard:
            self.problem("guard", "is off, but the gateway has a key of its own for the servers; accepted: guard on")
        if fleet.gateway == "caddy" and not fleet.admin_url:
            self.problem("gateway_admin_url", "is empty; with gateway caddy it is the address of Caddy's admin API")
        if fleet.gateway == "caddy" and not urlsplit(fleet.url).hostname:
            self.problem("gateway_url", f"is {fleet.url!r}; accepted: where clients reach it, https://HOST:PORT")
        return fleet

    def client_key(self, key: str) -> str | None:
        """Read a key that clients present; a comma would end it in the guard's list."""
        value = self.text(key)
        if value and (len(value) < MIN_KEY_CHARS or "," in value or not value.isascii() or not value.isprintable()):
            self.problem(
                key, f"needs at least {MIN_KEY_CHARS} printable ASCII characters, no comma (its value is not shown)"
            )
        return value or None

    def image_login(self) -> str | None:
        """Read the login of a private registry, in the form that Vast.ai takes."""
        value = self.text("image_login")
        if value and not re.fullmatch(r"-u \S+ -p \S+ \S+", value):
            self.problem("image_login", "is not of the form: -u USER -p TOKEN REGISTRY (its value is not shown)")
        return value or None

    def query(self) -> tuple[str, Filters]:
        """Read what to rent, as it is written and as conditions."""
        query = self.text("query")
        try:
            return query, parse(query)
        except QueryError as error:
            self.problem("query", str(error).removeprefix("query "))
            return query, {}

    def hedge(self) -> int:
        """Read how many machines race."""
        hedge = int(self.number("hedge", least=1))
        if hedge > MAX_HEDGE:
            self.problem("hedge", f"is {hedge}; accepted: 1 to {MAX_HEDGE}")
        return hedge

    def watch(self) -> dict[str, Any]:
        """Read how strictly the instance is watched."""
        return {
            "heal_on": self.one_of("heal_on", HEAL_ON),
            "probe_window_s": self.number("probe_window_s", least=0),
            "renew_before_h": self.number("renew_before_h", least=0),
            "renew_certificate_before_d": self.number("tls_renew_before_d", least=0),
        }

    def money(self) -> dict[str, float]:
        """Read the cap and how long the credit should last."""
        money = {"min_runway_h": self.number("min_runway_h", least=0)}
        if self.text("max_hourly_usd"):
            money["max_hourly_usd"] = self.number("max_hourly_usd", least=0.001)
        return money

    def bid(self) -> dict[str, float] | None:
        """Read `bid` (empty, auto or $/h) with its factor, bounded by max_dph_usd."""
        asked = self.text("bid")
        if not asked:
            return None
        bid = {"factor": self.number("bid_factor", least=1)}
        if asked != "auto":
            bid["price_usd"] = self.number("bid", least=0.001)
        if self.text("max_dph_usd"):
            bid["cap_usd"] = self.number("max_dph_usd", least=0.001)
        return bid

    def limits(self) -> Limits:
        """Read which rules of the policy bind, and their limits."""
        rules = self.items("policy")
        for unknown in (one for one in rules if one not in NAMED):
            near = difflib.get_close_matches(unknown, NAMED, 1)
            self.problem(
                "policy", f"has {unknown!r}; accepted: {', '.join(NAMED)}" + (f" ({near[0]}?)" if near else "")
            )
        price = self.number("policy_max_hourly_usd", least=0.001) if self.text("policy_max_hourly_usd") else None
        return Limits(
            rules=rules,
            max_hourly_usd=price,
            max_disk_gb=self.number("policy_max_disk_gb", least=0) or None,
            countries=self.codes("policy_countries"),
            hosting=self.one_of("policy_hosting", HOSTINGS),
        )

    def check_policy(
        self, limits: Limits, facts: Facts, filters: Filters, bid: dict[str, float] | None, hedge: int
    ) -> None:
        """Note what breaks the policy: `facts`, and what price, countries and hosting this config and query ask for.

        A bid is bounded by the policy's price.
        """
        bounds = [self.number("max_hourly_usd", least=0.001)] if self.text("max_hourly_usd") else []
        if self.text("max_dph_usd"):
            bounds.append(self.number("max_dph_usd", least=0.001) * hedge)
        if bid is not None and "price_usd" in bid:
            bounds.append(bid["price_usd"] * hedge)
        place = filters.get("geolocation", {})
        named = [one for one in (place.get("eq"), *(place.get("in") or ())) if one is not None]
        asked = replace(
            facts,
            asks_hourly_usd=min(bounds, default=None),
            asks_countries=[*self.items("countries"), *(str(one) for one in named)],
            asks_hosting="private" if filters.get("datacenter", {}).get("eq") is False else self.text("hosting"),
        )
        self.problems += [str(one) for one in violations(asked, limits)]
        if bid is not None and limits.max_hourly_usd is not None:
            bid["cap_usd"] = min(bid.get("cap_usd", math.inf), limits.max_hourly_usd / hedge)

    def codes(self, key: str) -> tuple[str, ...]:
        """Read a list of two-letter country codes."""
        codes = self.items(key)
        wrong = [code for code in codes if not (len(code) == 2 and code.isalpha())]
        if wrong:
            self.problem(key, f"has {', '.join(wrong)}; accepted: two-letter codes such as US or SE")
        return tuple(code.upper() for code in codes)

    def constraints(self) -> list[Constraint]:
        found = []
        if self.text("max_dph_usd"):
            price = self.number("max_dph_usd", least=0.001)
            found.append(Constraint("dph_total", "lte", price, "max_dph_usd"))
        if self.text("min_reliability"):
            share = self.number("min_reliability", least=0)
            if share > 1:
                self.problem("min_reliability", f"is {share:g}; accepted: 0 to 1")
            found.append(Constraint("reliability", "gte", share, "min_reliability"))
        if self.text("min_duration_h"):
            hours = self.number("min_duration_h", least=0)
            found.append(Constraint("duration", "gte", hours * 3600.0, "min_duration_h"))
        if gpus := self.items("gpu_names"):
            found.append(Constraint("gpu_name", "in", [name.replace("_", " ") for name in gpus], "gpu_names"))
        if countries := self.codes("countries"):
            found.append(Constraint("geolocation", "in", list(countries), "countries"))
        if self.one_of("hosting", HOSTINGS):
            found.append(Constraint("datacenter", "eq", True, "hosting"))
        return found
