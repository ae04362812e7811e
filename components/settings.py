"""What one stack wants: its config, with what catalog, policy and query say about it. Called by `__main__.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.runtime.config import get_config_env, get_config_secret_keys_env

from components.config import Config, read, secret_keys
from components.errors import ApiUnreachable, ConfigError, QueryError
from components.records import structure
from components.vast.client import DEFAULT_API_URL
from components.vast.drift import Watch
from components.vast.query import Constraint, Filters, parse
from components.vast.rental_spec import Bid
from components.vast.spec import Deadlines
from components.vllm.catalog import Catalog, Image, Model
from components.vllm.extra_args import context_len, gpus_needed, problems_with_flags, problems_with_numbers
from components.vllm.gpu_requirements import MB_PER_GB, compute_cap_floor, load_flags, vram_needed_gb
from components.vllm.launch import ENV_VALUE_LIMIT_CHARS
from policy.rules import Facts, Limits, demands, violations
from reranker.http import HttpTransport, Unanswered

NO_LIMITS = Limits()


@dataclass(frozen=True)
class Settings:
    """What one stack wants: its config, and what follows from it. No secret is in the repr.

    `constraints`: on offers for a server, among them `policy_constraints`, which bind a gateway's machine too.
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
    policy: Limits


def stack_config() -> dict[str, str]:
    """Return the running program's config, its namespace, the project's name, taken off."""
    prefix = f"{pulumi.get_project()}:"
    return {key.removeprefix(prefix): value for key, value in get_config_env().items() if key.startswith(prefix)}


def keys_in_clear() -> list[str]:
    """Return the config keys that are stored in clear although they are secrets."""
    encrypted = {key.rpartition(":")[2] for key in get_config_secret_keys_env()}
    stored = stack_config()

    def is_set(key: str) -> bool:
        group, _, inner = key.rpartition(".")
        return bool(json.loads(stored.get(group) or "{}").get(inner)) if group else key in stored

    return [key for key in secret_keys() if key.partition(".")[0] not in encrypted and is_set(key)]


def load(
    raw: Mapping[str, str],
    catalog: Catalog,
    *,
    hub_reachable: Callable[[str], bool],
    limits: Limits = NO_LIMITS,
    in_clear: Sequence[str] = (),
) -> Settings:
    """Read `raw`, the project's config with its namespace taken off. Raises ConfigError with every problem found.

    `hub_reachable` is asked, with the API's address, only where `emulator.offline_model` is set. `limits`: the policy's
    for this stack. `in_clear` names keys that are secrets but stored in clear.
    """
    config, problems = read(raw)
    problems += [
        f"{key}: is a secret but stored in clear; set it with `pulumi config set --secret --path {key}`"
        for key in in_clear
    ]
    name, named_by = config.model, "model"
    if (offline := config.emulator.offline_model) and not hub_reachable(config.emulator.url or DEFAULT_API_URL):
        name, named_by = offline, "emulator.offline_model"
    ref = config.image or catalog.default_image.ref
    found = {
        named_by: catalog.problems_with_model(name),
        "image": catalog.problems_with_image(ref),
        "extra_args": problems_with_flags(config.extra_args),
    }
    filters: Filters = {}
    try:
        filters = parse(config.query)
    except QueryError as error:
        found["query"] = [str(error).removeprefix("query ")]
    if not any(found.values()):
        model, image = catalog.model(name), catalog.image(ref)
        found["extra_args"] = [
            *load_flags().problems(image.vllm_version, config.extra_args),
            *problems_with_numbers(model, config.extra_args),
            *_gpu_problems(filters, config),
        ]
        told = json.dumps(_guard_options(config, model), separators=(",", ":"))
        if (over := len(told) - ENV_VALUE_LIMIT_CHARS) > 0:
            found["served_model_names"] = [f"are {over} characters too long in all: Vast.ai takes no more"]
        found["limits.truncate_prompt_tokens"] = _truncation_problems(config, model)
        if config.disk_gb < (needed := catalog.disk_needed_gb(image, model)):
            found["disk_gb"] = [f"is {config.disk_gb:g}, but {ref} with {name} needs {math.ceil(needed)} GB at least"]
    problems += [f"{key}: {text}" for key, texts in found.items() for text in texts]
    problems += _contradictions(config)
    machines = config.hedge * config.replicas
    bid = _bid(config, limits, machines)
    facts = Facts(
        image=ref,
        tls=config.tls,
        guard=config.guard,
        interruptible=bid is not None,
        disk_gb=config.disk_gb,
        validated=name not in catalog.models or bool(catalog.models[name].golden),
        asks_hourly_usd=_price_bound(config, machines),
        asks_countries=[*config.require.countries, *_countries(filters)],
        asks_hosting="private" if filters.get("datacenter", {}).get("eq") is False else config.require.hosting,
    )
    problems += [str(one) for one in violations(facts, limits)]
    if problems:
        raise ConfigError(problems)
    demanded = tuple(Constraint(*one) for one in demands(limits, machines))
    timeouts, renew = config.timeouts, config.renew
    return Settings(
        config=config,
        model=model,
        image=image,
        guard_options=_guard_options(config, model),
        constraints=(*_required(config), *demanded, *_imposed(image, model, config.dtype, config.disk_gb)),
        policy_constraints=demanded,
        deadlines=structure(Deadlines, timeouts.model_dump()),
        watch=Watch(config.heal_on, timeouts.probe_window_s, renew.before_h, renew.certificate_before_d),
        bid=bid,
        policy=limits,
    )


def _gpu_problems(filters: Filters, config: Config) -> list[str]:
    there, needed = filters.get("num_gpus", {}).get("eq"), gpus_needed(config.extra_args)
    asked = there is not None and needed > float(str(there))
    return [f"split the model over {needed} GPUs, and the query asks for {there}"] if asked else []


def _truncation_problems(config: Config, model: Model) -> list[str]:
    limit, context = config.limits.truncate_prompt_tokens, context_len(model, config.extra_args)
    least = 1 if model.chat_template is None else len(model.chat_template) + 1
    if limit in ("refuse", -1) or least <= int(limit) <= context:
        return []
    return [f"is {limit}; accepted: refuse, -1 or {least} to {context}, the tokens that {model.name} reads"]


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
    gateway, found = config.gateway, []
    if config.form == "plain":  # has no place for what sees to these two
        found += [
            f"{key}: is true, but form plain has no place for it; accepted: {key} false, or form script"
            for key in ("guard", "tls")
            if getattr(config, key)
        ]
    if gateway.kind != "off" and not config.guard:
        found.append("guard: is false, but the gateway has a key of its own for the servers; accepted: guard true")
    if gateway.kind == "caddy" and not gateway.admin_url:
        found.append("gateway.admin_url: is empty; with gateway.kind caddy it is the address of Caddy's admin API")
    if gateway.kind == "caddy" and not gateway.url:
        found.append("gateway.url: is empty; accepted: where clients reach the gateway, such as https://HOST:8443")
    return found


def _bid(config: Config, limits: Limits, machines: int) -> Bid | None:
    if config.bid is None:
        return None
    caps = [config.max_dph_usd, limits.max_hourly_usd and limits.max_hourly_usd / machines]
    cap_usd = min((one for one in caps if one is not None), default=None)
    return Bid(None if config.bid == "auto" else config.bid, cap_usd=cap_usd)


def _price_bound(config: Config, machines: int) -> float | None:
    bounds = [config.max_hourly_usd, config.max_dph_usd and config.max_dph_usd * machines]
    if isinstance(config.bid, float):
        bounds.append(config.bid * machines)
    return min((one for one in bounds if one is not None), default=None)


def _countries(filters: Filters) -> list[str]:
    place = filters.get("geolocation", {})
    return [str(one) for one in (place.get("eq"), *(place.get("in") or ())) if one is not None]


def _required(config: Config) -> list[Constraint]:
    require = config.require
    hours = require.min_duration_h
    wanted = (
        ("dph_total", "lte", config.max_dph_usd, "max_dph_usd"),
        ("reliability", "gte", require.min_reliability, "require.min_reliability"),
        ("duration", "gte", None if hours is None else hours * 3600.0, "require.min_duration_h"),
        ("gpu_name", "in", list(require.gpu_names) or None, "require.gpu_names"),
        ("geolocation", "in", list(require.countries) or None, "require.countries"),
        ("datacenter", "eq", True if require.hosting else None, "require.hosting"),
    )
    return [Constraint(field, op, value, why) for field, op, value, why in wanted if value is not None]


def _imposed(image: Image, model: Model, dtype: str | None, disk_gb: float) -> list[Constraint]:
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


def emulator_hub_reachable(api_url: str) -> bool:
    """Ask an emulator whether its containers reach the model hub; a real Vast.ai host does, so the answer is True."""
    try:
        answer = HttpTransport()("GET", f"{api_url}/_emulator/hub", timeout_s=5.0)
        if answer.status != 200:
            return True
        if isinstance(found := answer.json(), dict):
            return bool(found.get("reachable"))
        reason = "its answer is no JSON"
    except Unanswered as error:
        reason = str(error)
    raise ApiUnreachable(
        f"emulator.url: cannot reach {api_url} ({reason}); start the local emulator with `make emulator`"
    )
