"""The settings of a stack: its config, completed and checked by catalog, policy and query. Called by `__main__.py`."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from components.caddy.certificate import certificate_problems
from components.caddy.spec import der_certificates
from components.config import Config, GatewayConfig
from components.config_reading import read
from components.errors import ApiUnreachable, ConfigError, QueryError
from components.guard.keys import MAX_KEYS
from components.program_config import stack_config
from components.records import structure
from components.vast.address import choose_api_url, choose_key
from components.vast.drift import Watch
from components.vast.market import Search
from components.vast.query import Constraint, Filters, parse
from components.vast.ranking import pull_mbps
from components.vast.rental_spec import Bid, Deadlines
from components.vllm.catalog import Catalog, Image, Model
from components.vllm.extra_args import (
    context_len,
    flag_name,
    flag_value,
    gpus_needed,
    problems_with_flags,
    problems_with_numbers,
)  # fmt: skip
from components.vllm.gpu_requirements import MB_PER_GB, compute_cap_floor, load_flags, vram_needed_gb
from components.vllm.launch import ENV_VALUE_LIMIT_CHARS, USER_ENV_LIMIT_CHARS
from policy.rules import Facts, PolicyLimits, demands, violations
from reranker.http import HttpTransport, Unanswered, bearer

NO_LIMITS = PolicyLimits()
MAX_CLIENT_CA_CHARS = 8192
SPARE_OFFERS = 8  # offers that are ranked in addition to one for each replica


@dataclass(frozen=True)
class Settings:
    """The settings of a stack: its config, and values derived from it. The repr contains no secret.

    `constraints`: on offers for a server, with `policy_constraints`, which also apply to a gateway's machine.
    `replicas`: the current number of servers; price checks use the maximum.
    """

    config: Config
    model: Model
    image: Image
    guard_options: Mapping[str, Any]
    constraints: tuple[Constraint, ...]
    policy_constraints: tuple[Constraint, ...]
    deadlines: Deadlines
    watch: Watch
    bid: Bid | None
    policy: PolicyLimits
    replicas: int

    def search(self) -> Search:
        return Search(
            query=self.config.query,
            constraints=self.constraints,
            disk_gb=self.config.disk_gb,
            pull_gb=self.image.download_gb + self.model.weights_gb,
            prefer=self.config.prefer,
            offer_type="bid" if self.bid else "on-demand",
            keep=max(self.replicas, 1) + SPARE_OFFERS - 1,
            model=self.model.name,
            parameters_m=self.model.parameters_m,
        )


def load(
    raw: Mapping[str, str],
    catalog: Catalog,
    *,
    hub_reachable: Callable[[str], bool],
    limits: PolicyLimits = NO_LIMITS,
    in_clear: Sequence[str] = (),
    misplaced: Sequence[str] = (),
    present: Callable[[], int | None] = lambda: None,
) -> Settings:
    """Read `raw`, the project's config without the namespace. Raises ConfigError with all problems.

    `hub_reachable` is called with the API's address, only if `emulator.offline_model` is set. `limits`: of the policy
    for this stack. `in_clear`: secret keys that are stored unencrypted; `misplaced`: see misplaced_keys. `present`
    returns the current number of replicas if the config allows a range; None if unknown.
    """
    config, problems = read(raw)
    problems += misplaced
    problems += [
        f"{key}: is a secret but stored unencrypted; set it with `pulumi config set --secret --path {key}`"
        for key in in_clear
    ]
    name, named_by = config.model, "model"
    try:
        api_url = choose_api_url(config.emulator.url)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if (offline := config.emulator.offline_model) and not hub_reachable(api_url):
        name, named_by = offline, "emulator.offline_model"
    ref = config.image or catalog.default_image.ref
    problems_by_key = {
        named_by: catalog.problems_with_model(name),
        "image": catalog.problems_with_image(ref),
        "extra_args": problems_with_flags(config.extra_args),
    }
    filters: Filters = {}
    try:
        filters = parse(config.query)
    except QueryError as error:
        problems_by_key["query"] = [str(error).removeprefix("query ")]
    known = catalog.models.get(name)
    revision = (config.revision if name == config.model else "") or (known.revision if known else "")
    if not any(problems_by_key.values()):
        model, image = replace(catalog.model(name), revision=revision), catalog.image(ref)
        problems_by_key["extra_args"] = [
            *load_flags().problems(image.vllm_version, config.extra_args),
            *problems_with_numbers(model, config.extra_args),
            *_gpu_problems(filters, config),
        ]
        options = json.dumps(_guard_options(config, model), separators=(",", ":"))
        if (over := len(options) - ENV_VALUE_LIMIT_CHARS) > 0:
            problems_by_key["served_model_names"] = [
                f"are too long in total for Vast.ai: remove at least {over} characters"
            ]
        problems_by_key["limits.truncate_prompt_tokens"] = _truncation_problems(config, model)
        if config.disk_gb < (needed := catalog.disk_needed_gb(image, model)):
            problems_by_key["disk_gb"] = [
                f"is {config.disk_gb:g}, but {ref} with {name} needs at least {math.ceil(needed)} GB"
            ]
    problems += [f"{key}: {text}" for key, texts in problems_by_key.items() for text in texts]
    problems += _contradictions(config)
    least, most = config.span()
    machines = config.hedge * max(most, 1)
    bid = _bid(config, limits, machines)
    facts = Facts(
        image=ref,
        tls=config.tls,
        guard=config.guard,
        interruptible=bid is not None,
        disk_gb=config.disk_gb,
        validated=name not in catalog.models or bool(catalog.models[name].golden),
        config_hourly_usd=_price_bound(config, machines),
        config_countries=[*config.require.countries, *_countries(filters)],
        flags=[flag_name(arg) for arg in config.extra_args if arg.startswith("-")],
        revision=flag_value(config.extra_args, "--revision") or revision,
        config_hosting="private" if filters.get("datacenter", {}).get("eq") is False else config.require.hosting,
    )
    problems += violations(facts, limits)
    if problems:
        raise ConfigError(problems)
    policy_constraints = tuple(Constraint(*demand) for demand in demands(limits, machines))
    timeouts, renew = config.timeouts, config.renew
    return Settings(
        config=config,
        model=model,
        image=image,
        guard_options=_guard_options(config, model),
        constraints=(*_config_constraints(config), *policy_constraints, *_implied_constraints(image, model, config)),
        policy_constraints=policy_constraints,
        deadlines=structure(Deadlines, timeouts.model_dump()),
        watch=Watch(
            config.heal_on, timeouts.probe_window_s, timeouts.answer_s, renew.before_h, renew.certificate_before_d
        ),
        bid=bid,
        policy=limits,
        replicas=most if least == most else _clamp_replicas(present(), config),
    )


def _clamp_replicas(present: int | None, config: Config) -> int:
    least, most = config.span()
    return min(max(config.replicas.min if present is None else present, least), most)


def _gpu_problems(filters: Filters, config: Config) -> list[str]:
    count, needed = filters.get("num_gpus", {}).get("eq"), gpus_needed(config.extra_args)
    too_few = count is not None and needed > float(str(count))
    return [f"need {needed} GPUs for each server, but the query has num_gpus={count}"] if too_few else []


def _truncation_problems(config: Config, model: Model) -> list[str]:
    limit, context = config.limits.truncate_prompt_tokens, context_len(model, config.extra_args)
    least = 1 if model.chat_template is None else len(model.chat_template) + 1
    if limit in ("refuse", -1) or least <= int(limit) <= context:
        return []
    return [f"is {limit}; accepted: refuse, -1 or {least} to {context}, the context length of {model.name}"]


def _guard_options(config: Config, model: Model) -> dict[str, Any]:
    limits = config.limits
    options: dict[str, Any] = {
        "models": [model.name, *config.served_model_names],
        "max_documents": limits.max_documents,
        "max_bytes": int(limits.max_body_mb * (1 << 20)),
    }
    if limits.open_health:
        options["open_health"] = True
    if limits.truncate_prompt_tokens != "refuse":
        options["truncate"] = limits.truncate_prompt_tokens
    if model.chat_template is not None:
        options |= {"context": context_len(model, config.extra_args), "template": len(model.chat_template)}
    return options


def _contradictions(config: Config) -> list[str]:
    gateway, problems = config.gateway, []
    windows = config.schedule.windows
    spans = [("replicas", config.replicas), *(("schedule.windows", window.replicas) for window in windows)]
    problems += [
        f"{key}: min is {span.min} and max {span.max}; accepted: a max of at least min"
        for key, span in spans
        if span.max < span.min
    ]
    if gateway.kind == "off" and config.span()[0] == 0:
        problems.append(
            "replicas: the minimum, or that of a window of schedule, is 0, and then nothing answers; accepted: at "
            "least 1, or gateway.kind caddy or rent"
        )
    if config.form == "plain":
        problems += [
            f"{key}: is true, but form plain does not support it; accepted: {key} false, or form script"
            for key in ("guard", "tls")
            if getattr(config, key)
        ]
    if gateway.kind != "off" and not config.guard:
        problems.append("guard: is false, but the gateway uses the servers' own keys; accepted: guard true")
    if gateway.kind == "rent" and not config.tls:
        problems.append("tls: is false, but a rented gateway presents a certificate; accepted: tls true")
    if gateway.kind == "caddy" and not gateway.admin_url:
        problems.append("gateway.admin_url: is empty; with gateway.kind caddy it is the address of Caddy's admin API")
    if gateway.kind == "off":
        problems += [
            f"gateway.{key}: is for a gateway, but gateway.kind is off; accepted: gateway.kind caddy or rent"
            for key, field in type(gateway).model_fields.items()
            if getattr(gateway, key) != field.default
        ]
    problems += _gateway_certificate_problems(gateway)
    size = sum(len(name) + len(value) for name, value in config.server_env().items())
    if size > USER_ENV_LIMIT_CHARS:
        problems.append(
            f"env: has {size} characters of names and values, with secret_env and hub_token; accepted: "
            f"{USER_ENV_LIMIT_CHARS} at most, since Vast.ai limits a container's environment"
        )
    if config.budget_refuses and config.budget_usd_month is None:
        problems.append("budget_refuses: is true, but budget_usd_month is not set")
    if config.keep_previous_key and config.api_key_generation == 1 and config.api_key is None:
        problems.append("keep_previous_key: is true, but api_key_generation 1 has no previous key")
    if config.client_ca:
        problems += _client_ca_problems(config)
    count = sum(2 if options.keep_previous else 1 for options in config.client_keys.values())
    if config.client_keys and not config.guard:
        problems.append("client_keys: are set, but vLLM itself accepts only one key; accepted: guard true")
    if (most := MAX_KEYS - 2) < count:
        problems.append(f"client_keys: are {count} keys, with those of keep_previous; accepted: {most} at most")
    problems += [
        f"client_keys.{name}.keep_previous: is true, but generation 1 has no previous key"
        for name, options in config.client_keys.items()
        if options.keep_previous and options.generation == 1
    ]
    if gateway.kind == "caddy" and not gateway.url:
        problems.append("gateway.url: is empty; accepted: the clients' URL of the gateway, such as https://HOST:8443")
    return problems


def _client_ca_problems(config: Config) -> list[str]:
    gateway = config.gateway
    size = len(config.client_ca)
    checks = (
        (size <= MAX_CLIENT_CA_CHARS, f"is {size} characters; accepted: {MAX_CLIENT_CA_CHARS} at most"),
        (der_certificates(config.client_ca), "holds no certificates in PEM that can be read"),
        (config.tls, "is set, but tls is false, so there are no certificates; accepted: tls true"),
        (config.guard or gateway.kind != "off", "is set, but vLLM itself checks no certificate; accepted: guard true"),
        (
            not gateway.listen.startswith("unix/"),
            "is set, but gateway.listen is a socket: the proxy before it ends clients' TLS and must check certificates",
        ),
    )
    return [f"client_ca: {text}" for good, text in checks if not good]


def _gateway_certificate_problems(gateway: GatewayConfig) -> list[str]:
    if gateway.kind == "rent":
        why = (
            "is for gateway.kind caddy: a rented machine has random ports, which no ACME server uses, and its owner "
            "could read a private key that all clients trust"
        )
        keys = ("certificate", "private_key", "acme", "ca_certificate")
        return [f"gateway.{key}: {why}" for key in keys if getattr(gateway, key)]
    pair = gateway.certificate, gateway.private_key
    if gateway.kind == "off" or not (any(pair) or gateway.acme):
        return []
    host = urlsplit(gateway.url).hostname or ""
    if gateway.listen.startswith("unix/"):
        return ["gateway.listen: is a socket, so the proxy before it has the certificate; accepted: a port"]
    if gateway.acme:
        has_host = host in gateway.acme.names
        return [
            *(["gateway.acme: cannot be set together with gateway.certificate"] if any(pair) else []),
            *([] if has_host else [f"gateway.acme: names must contain the host of gateway.url, {host}"]),
        ]
    if gateway.private_key is None:
        return ["gateway.private_key: is empty, but gateway.certificate is not"]
    now, key = datetime.datetime.now(datetime.UTC), gateway.private_key.get_secret_value()
    return certificate_problems(gateway.certificate, key, gateway.ca_certificate, host, now)


def _bid(config: Config, limits: PolicyLimits, machines: int) -> Bid | None:
    if config.bid is None:
        return None
    cap_usd = _least(config.max_dph_usd, limits.max_hourly_usd and limits.max_hourly_usd / machines)
    return Bid(None if config.bid == "auto" else config.bid, cap_usd=cap_usd)


def _price_bound(config: Config, machines: int) -> float | None:
    bid = config.bid * machines if isinstance(config.bid, float) else None
    return _least(config.max_hourly_usd, config.max_dph_usd and config.max_dph_usd * machines, bid)


def _least(*bounds: float | None) -> float | None:
    return min((bound for bound in bounds if bound is not None), default=None)


def _countries(filters: Filters) -> list[str]:
    geolocation = filters.get("geolocation", {})
    return [str(code) for code in (geolocation.get("eq"), *(geolocation.get("in") or ())) if code is not None]


def _config_constraints(config: Config) -> list[Constraint]:
    require = config.require
    hours, renew_h = require.min_duration_h, config.renew.before_h
    rows = (
        ("dph_total", "lte", config.max_dph_usd, "max_dph_usd"),
        ("reliability", "gte", require.min_reliability, "require.min_reliability"),
        ("duration", "gte", None if hours is None else hours * 3600.0, "require.min_duration_h"),
        # an offer that ends sooner would be due for renewal at once
        ("duration", "gte", (renew_h + 24) * 3600.0 if renew_h else None, "renew.before_h"),
        ("gpu_name", "in", list(require.gpu_names) or None, "require.gpu_names"),
        ("geolocation", "in", list(require.countries) or None, "require.countries"),
        ("datacenter", "eq", True if require.hosting else None, "require.hosting"),
    )
    return [Constraint(field, op, value, reason) for field, op, value, reason in rows if value is not None]


def _implied_constraints(image: Image, model: Model, config: Config) -> list[Constraint]:
    dtype = config.dtype
    floor = compute_cap_floor(image, dtype)
    min_mbps = pull_mbps(image.download_gb + model.weights_gb, config.timeouts.pulling_s)
    reason = f"image {image.ref}" if floor == image.compute_cap_min else f"dtype {dtype}"
    constraints = [
        Constraint("cuda_max_good", "gte", image.cuda_min, f"image {image.ref}"),
        Constraint("compute_cap", "gte", floor, reason),
        Constraint("gpu_ram", "gte", vram_needed_gb(model, dtype) * MB_PER_GB, f"model {model.name}"),
        Constraint("disk_space", "gte", config.disk_gb, "disk_gb"),
        Constraint("inet_down", "gte", math.ceil(min_mbps), "timeouts.pulling_s"),
    ]
    if image.compute_cap_max is not None:
        constraints.append(Constraint("compute_cap", "lte", image.compute_cap_max, f"image {image.ref}"))
    return constraints


def emulator_hub_reachable(api_url: str) -> bool:
    """Return whether an emulator's containers reach the model hub; True for the real Vast.ai. Raises ApiUnreachable."""
    try:
        key = choose_key(api_url, stack_config().get("vast_api_key"))
        answer = HttpTransport()("GET", f"{api_url}/_emulator/hub", headers=bearer(key), timeout_s=5.0)
        if answer.status != 200:
            return True
        if isinstance(body := answer.json(), dict):
            return bool(body.get("reachable"))
        reason = "its answer is no JSON"
    except Unanswered as error:
        reason = str(error)
    raise ApiUnreachable(
        f"emulator.url: cannot reach {api_url} ({reason}); start the local emulator with `make emulator`"
    )
