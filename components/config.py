"""The config keys of a stack as one pydantic model: type, default, bounds and description.

Used by `components.config_reading`, and by `scripts.configuration`, which writes the `config:` section of Pulumi.yaml
and docs/configuration.md from it. The provider's plugin process never imports it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from components.caddy.spec import GatewayPolicy
from components.client_options import ClientName, ClientOptions
from components.client_options import form as _form
from components.config_keys import Keys, groups_of, has_secret
from components.scaling import LoadTarget
from components.vast.assignment import Spread
from components.vast.drift import HealOn
from components.vast.identity import LEAF_DAYS
from components.vast.ranking import Prefer
from components.vast.rental_spec import Deadlines
from components.vllm.launch import (
    ENV_VALUE_LIMIT_CHARS,
    RESERVED_ENV,
    RESERVED_ENV_PREFIXES,
    USER_ENV_LIMIT_CHARS,
    Form,
)
from reranker.errors import InvalidInput
from reranker.secret import RULE, read_secret

VAST_MIN_DISK_GB = 8
DAY_S = 86400
MAX_REPLICAS = 256
YAML_WORD = "; YAML reads NO, no, off and on without quotes as a boolean: write them in quotes"


def _check_not_zero(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("form", "accepted: refuse, -1 or a whole number of at least 1")
    return value


def _read_secret(value: SecretStr) -> SecretStr:
    try:
        return SecretStr(read_secret(value.get_secret_value(), ""))
    except InvalidInput:
        raise PydanticCustomError("form", f"accepted: {RULE}") from None


def _check_not_reserved(name: str) -> str:
    if name in RESERVED_ENV or name.startswith(RESERVED_ENV_PREFIXES):
        raise PydanticCustomError("form", f"{name} is set by the stack, or would run other code than the image's")
    return name


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise PydanticCustomError("form", "accepted: a name of the time zone database, such as Europe/Oslo") from None
    return name


def _expand_replicas(value: object) -> object:
    """Return a number of replicas as an object with min and max."""
    if isinstance(value, Mapping | Replicas):
        return value
    if not re.fullmatch(r"\d{1,3}", str(value)) or int(str(value)) > MAX_REPLICAS:
        raise PydanticCustomError("form", f"accepted: {Replicas.also}, or an object of min, max")
    return {"min": value, "max": value}


def _as_text(value: object) -> object:
    """Return a number or boolean of YAML as text for an environment variable."""
    return json.dumps(value) if isinstance(value, bool | int | float) else value


Country = Annotated[str, _form("[A-Za-z]{2}", "two-letter codes such as US or SE"), AfterValidator(str.upper)]
Address = Annotated[
    str,
    _form(r"(https?://[^/\s].*)?", "an http(s) address such as http://127.0.0.1:8585"),
    AfterValidator(lambda address: address.rstrip("/")),
]
GpuName = Annotated[str, AfterValidator(lambda name: name.replace("_", " "))]
Bare = AfterValidator(lambda value: SecretStr(value.get_secret_value().strip()))
Secret = Annotated[SecretStr, AfterValidator(_read_secret)]
# the guard separates keys by commas
ClientKey = Annotated[Secret, _form(r"[^,]{16,}", f"at least 16 characters without a comma; {RULE}")]
ServedName = Annotated[str, _form(r"[^\s,]+", "names without blanks, such as rerank-v3.5")]
HostName = Annotated[
    str, _form(r"([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z][A-Za-z0-9-]*", "host names, without a wildcard")
]
Pem = Annotated[str, _form("|.*-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----", "text: certificates in PEM")]
Revision = Annotated[str, _form(r"|[0-9A-Za-z][\w./-]*", "text: a commit, tag or branch")]
EnvName = Annotated[str, _form(r"[A-Z_][A-Z0-9_]*", "names such as HF_ENDPOINT"), AfterValidator(_check_not_reserved)]
EnvText = _form(
    rf"[^\x00-\x1f\x7f]{{1,{ENV_VALUE_LIMIT_CHARS}}}", f"1 to {ENV_VALUE_LIMIT_CHARS} characters in one line"
)
EnvValue = Annotated[str, BeforeValidator(_as_text), EnvText]
ImageLogin = Annotated[
    SecretStr, Bare, _form(r"-u [!-~]+ -p [!-~]+ [!-~]+", f"-u USER -p TOKEN REGISTRY; in each {RULE}")
]
Truncation = Literal["refuse"] | Annotated[int, Field(ge=-1), AfterValidator(_check_not_zero)]
Dtype = Literal["auto", "half", "float16", "bfloat16", "float32"]
Hosting = Literal["datacenter"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Clock = Annotated[str, _form(r"([01]\d|2[0-3]):[0-5]\d", 'a time in quotes, such as "08:00"')]
TimeZone = Annotated[str, AfterValidator(_check_zone)]


class AcmeConfig(Keys):
    """Certificates that Caddy obtains and renews by ACME."""

    names: tuple[HostName, ...] = Field(min_length=1, description="Host names; their port 443 must lead to `listen`")
    email: str = Field("", description="Contact for the ACME server")
    directory: Address = Field("https://acme-v02.api.letsencrypt.org/directory", description="The ACME directory's URL")
    directory_ca_file: str = Field("", description="PEM file on Caddy's machine with the CA of a private directory")


class RequestLimits(Keys):
    """Limits of one request, checked by the guard."""

    max_documents: int = Field(1000, ge=1, description="Maximum number of documents")
    max_body_mb: float = Field(2.0, ge=0.01, le=64, description="Maximum body size, in MiB")
    truncate_prompt_tokens: Truncation = Field(
        -1,
        description="Default for requests without it: truncate query and document to this many tokens, -1: to the "
        "model's length, refuse: reject longer ones. For decoder rerankers only documents, with vLLM 0.32 or later",
    )
    open_health: bool = Field(False, description="GET /health works without a key; it shows only that the process runs")


class GatewayConfig(Keys):
    """The proxy in front of the servers."""

    kind: Literal["off", "rent", "caddy"] = Field(
        "off", description="off, rent (a small machine of Vast.ai) or caddy (your Caddy, used only by this stack)"
    )
    admin_url: str = Field("", description="caddy: address of its admin API (http://, https:// or unix://)")
    admin_key: Secret | None = Field(None, description="caddy: key of its admin API, if it needs one")
    listen: str = Field(":8443", description="caddy: listen address")
    url: Address = Field("", description="caddy: URL for clients, https://HOST:PORT; the certificate is for this host")
    certificate: str = Field("", description="caddy: your own certificate for that host, PEM, followed by its chain")
    private_key: Annotated[SecretStr, Bare] | None = Field(None, description="caddy: private key of `certificate`, PEM")
    acme: AcmeConfig | None = Field(None, description="caddy: certificates that it obtains and renews by ACME")
    ca_certificate: str = Field("", description="caddy: CA for clients, PEM, if no public CA signs its certificate")
    check_every_s: float = Field(
        GatewayPolicy.check_every_s, ge=0.1, description="Interval of the check that scores a pair on each server"
    )
    retry_for_s: float = Field(
        GatewayPolicy.retry_for_s, ge=0, description="How long a request is retried on other servers, in seconds"
    )

    @property
    def has_other_certificate(self) -> bool:
        """Whether clients get a certificate that the stack's CA has not signed: a custom one, ACME's, or a proxy's."""
        return self.kind == "caddy" and bool(self.certificate or self.acme or self.listen.startswith("unix/"))


class Replicas(Keys):
    """Number of servers, or the range for `ops scale`."""

    also: ClassVar[str] = f"a whole number from 0 to {MAX_REPLICAS}"
    min: int = Field(1, ge=0, le=MAX_REPLICAS, description="Minimum; 0 needs a gateway")
    max: int = Field(1, ge=0, le=MAX_REPLICAS, description="Maximum")
    pairs_in_flight: float = Field(
        LoadTarget.in_flight,
        ge=1,
        description="For `ops scale`: target of pairs in flight per server, about those of one request",
    )


Span = Annotated[Replicas, BeforeValidator(_expand_replicas)]


class Window(Keys):
    """Other numbers of replicas at some hours of some days."""

    days: tuple[Day, ...] = Field(min_length=1)
    start: Clock = Field(alias="from")
    to: Clock
    replicas: Span


class Schedule(Keys):
    """Other numbers of replicas by the clock, for `ops scale`."""

    time_zone: TimeZone = Field("UTC", description="Time zone of the windows, such as Europe/Oslo")
    windows: tuple[Window, ...] = Field(
        (),
        description='Each {days: [mon, tue], from: "22:00", to: "06:00", replicas: 0}; the first match applies. '
        "`days` (mon to sun): when it starts; `replicas` during the window: a number or {min, max}",
    )


class Require(Keys):
    """Conditions added to `query`."""

    min_reliability: float | None = Field(None, ge=0, le=1, description="Minimum reliability of a host, 0 to 1")
    min_duration_h: float | None = Field(None, ge=0, description="Minimum duration of the offer, in hours")
    gpu_names: tuple[GpuName, ...] = Field((), description="Allowed GPU models, by Vast.ai's names, such as RTX 4090")
    countries: tuple[Country, ...] = Field((), description="Allowed countries, as two-letter codes")
    hosting: Hosting | None = Field(None, description="datacenter: no machine in a private home")


class Timeouts(Keys):
    """Timeouts, in seconds."""

    rented_s: float = Field(Deadlines.rented_s, ge=1, le=DAY_S, description="Until a host reacts to the contract")
    pulling_s: float = Field(Deadlines.pulling_s, ge=1, le=DAY_S, description="Until the host has pulled the image")
    starting_s: float = Field(Deadlines.starting_s, ge=1, le=DAY_S, description="Until the container runs")
    port_s: float = Field(Deadlines.port_s, ge=1, le=DAY_S, description="Until a running container's port is reachable")
    serving_s: float = Field(Deadlines.serving_s, ge=1, le=DAY_S, description="Until the server's first good answer")
    stall_s: float = Field(Deadlines.stall_s, ge=1, le=DAY_S, description="Without any progress, at any stage")
    poll_s: float = Field(5, ge=0.05, le=DAY_S, description="Maximum interval of reads of a booting instance")
    probe_timeout_s: float = Field(15, ge=0.1, le=DAY_S, description="Of one probe")
    probe_window_s: float = Field(20, ge=0, le=DAY_S, description="How long failed probes are repeated")
    answer_s: float = Field(
        120,
        ge=1,
        le=DAY_S,
        description="Maximum wait of the gateway for an answer; a server that accepts connections and does not answer "
        "in this time counts as hung",
    )
    drain_s: float = Field(300, ge=0, le=DAY_S, description="For requests in flight at servers that leave the gateway")
    api_s: float = Field(30, ge=1, le=DAY_S, description="How long idempotent calls to an unreachable API are repeated")


class Renew(Keys):
    """Renewal of instances and certificates before they end."""

    before_h: float = Field(
        0,
        ge=0,
        le=4380,
        description="Replace an instance this many hours before its contract ends; 0: never. Offers must last longer",
    )
    certificate_before_d: float = Field(
        10,
        ge=0,
        le=LEAF_DAYS,
        description="Renew a certificate this many days before its end, in place; without guard by a new instance",
    )


class Emulator(Keys):
    """The local emulator of Vast.ai; without `url` the stack rents on the real Vast.ai."""

    url: Address = Field("", description="Address of its API")
    offline_model: str = Field("", description="Model to serve if its containers cannot reach the model hub")
    pacing: bool = Field(False, description="Keep Vast.ai's rate limits per endpoint, as on the real Vast.ai")


class Notify(Keys):
    """Notifications of drift, repairs, failed deploys and costs."""

    webhook: Secret | None = Field(None, description="URL, https://..., that accepts a POST of JSON")
    format: Literal["slack", "json"] = Field("slack", description="slack (form of its incoming webhooks) or json")


def _of(section: str, default: Any, description: str, **bounds: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"section": section}, **bounds)


SERVED, FLEET, WHERE = "model and server", "replicas and gateway", "machines"
PATIENCE, MONEY, CHECKS = "timeouts, healing and renewal", "money", "validation, protection and notifications"
SECRETS = "secrets"


class Config(Keys):
    """All keys of a stack."""

    model: str = _of(
        SERVED, "BAAI/bge-reranker-base", "Hub name of a model in components/catalog/models.yaml or models.yaml"
    )
    revision: Revision = _of(SERVED, "", "Commit, tag or branch of the model's repository; default: the newest")
    image: str = _of(SERVED, "", "vLLM image with a pinned tag or digest; default: the catalog's image")
    form: Form = _of(SERVED, "script", "script (boot script) or plain (the image's entrypoint, as in Vast.ai's guide)")
    dtype: Dtype | None = _of(SERVED, None, "vLLM's --dtype; default: the catalog's choice")
    served_model_names: tuple[ServedName, ...] = _of(
        SERVED, (), "More accepted names of the model in requests, for clients with a fixed name"
    )
    extra_args: tuple[str, ...] = _of(SERVED, (), "More vLLM flags, as on its command line")
    env: Mapping[EnvName, EnvValue] = _of(
        SERVED,
        {},
        "Environment of the server, such as HF_ENDPOINT, VLLM_...; "
        f"{USER_ENV_LIMIT_CHARS:,} characters, with `secret_env`",
    )
    guard: bool = _of(SERVED, True, "Every route needs the key; false: only vLLM's own key, which leaves /rerank open")
    tls: bool = _of(SERVED, True, "TLS with certificates of the stack's own CA; false: no encryption")
    limits: RequestLimits = _of(SERVED, RequestLimits(), "Limits of one request")
    api_key_generation: int = _of(SERVED, 1, "Number of the generated API key; a new number makes a new key", ge=1)
    keep_previous_key: bool = _of(SERVED, False, "Keep the key of the previous generation valid")
    client_keys: Mapping[ClientName, ClientOptions] = _of(
        SERVED, {}, "More generated keys, one for each client name; logs and metrics show the names"
    )
    replicas: Span = _of(
        FLEET, Replicas(), "Number of servers, each on its own machine; with {min, max} `ops scale` chooses"
    )
    schedule: Schedule = _of(FLEET, Schedule(), "Other numbers of replicas by time of day, for `ops scale`")
    spread: Spread = _of(
        FLEET, "host", "Place replicas on different hosts or in different countries if possible; none: anywhere"
    )
    gateway: GatewayConfig = _of(FLEET, GatewayConfig(), "One address for all servers")
    client_ca: Pem = _of(FLEET, "", "PEM of CAs for client certificates; then clients need a certificate and a key")
    query: str = _of(
        WHERE,
        "compute_cap>=750 gpu_ram>=16 num_gpus=1 static_ip=true direct_port_count>=1 verified=true rentable=true",
        "Query for offers, in the syntax of `vastai search offers`",
    )
    require: Require = _of(WHERE, Require(), "Conditions added to `query`")
    disk_gb: float = _of(WHERE, 40, "Disk of an instance, in GB; a change replaces the instance", ge=VAST_MIN_DISK_GB)
    max_dph_usd: float | None = _of(WHERE, None, "Maximum dollars per hour of a machine, GPU and disk", ge=0.001)
    prefer: Prefer = _of(
        WHERE, "balanced", "cheapest, fastest (shortest boot), balanced, or value: dollars per million pairs"
    )
    adopt_instance_id: int = _of(WHERE, 0, "Id of an existing instance to adopt instead of renting", ge=0)
    emulator: Emulator = _of(WHERE, Emulator(), "The local emulator of Vast.ai")
    timeouts: Timeouts = _of(PATIENCE, Timeouts(), "Timeouts, in seconds")
    max_tries: int = _of(PATIENCE, 5, "Maximum number of machines to try", ge=1)
    heal_on: HealOn = _of(
        PATIENCE,
        "dead",
        "When to replace an instance: dead (proved), unreachable (also if it does not answer) or never",
    )
    renew: Renew = _of(PATIENCE, Renew(), "Renewal before contracts and certificates end")
    replace: Literal["blue_green", "in_place"] = _of(
        PATIENCE, "blue_green", "blue_green (the new instance serves first) or in_place (no double cost, but a gap)"
    )
    hedge: int = _of(
        MONEY, 1, "Machines to rent at once; the first that serves is kept, the others are destroyed", ge=1, le=4
    )
    bid: Literal["auto"] | Annotated[float, Field(ge=0.001)] | None = _of(
        MONEY, None, "Rent interruptible: dollars per hour, or auto (1.25 times the floor, up to max_dph_usd)"
    )
    max_hourly_usd: float | None = _of(MONEY, None, "Maximum dollars per hour of the stack, checked first", ge=0.001)
    budget_usd_month: float | None = _of(
        MONEY, None, "Warn if a calendar month (UTC) will cost more, by the forecast of `ops cost`", ge=0.01
    )
    budget_refuses: bool = _of(MONEY, False, "`ops scale` adds no server that would exceed budget_usd_month")
    min_runway_h: float = _of(MONEY, 24, "Warn if the account's credit lasts for fewer hours", ge=0)
    max_latency_ms: float = _of(CHECKS, 0, "Limit for the validation's median request; 0: no limit", ge=0)
    protect: bool = _of(CHECKS, False, "Refuse a destroy until this is false and deployed; healing still works")
    notify: Notify = _of(CHECKS, Notify(), "Notifications of events")
    vast_api_key: Secret | None = _of(
        SECRETS, None, "Vast.ai key; VAST_API_KEY in the environment comes first (for an emulator, last)"
    )
    api_key: ClientKey | None = _of(SECRETS, None, "API key of the clients; default: a random key")
    api_key_previous: ClientKey | None = _of(SECRETS, None, "A second valid API key during a rotation")
    secret_env: Mapping[EnvName, Annotated[SecretStr, Bare, EnvText]] = _of(
        SECRETS, {}, "Secret environment variables of the server"
    )
    hub_token: Secret | None = _of(SECRETS, None, "The model hub's token, for gated models")
    image_login: ImageLogin | None = _of(SECRETS, None, 'Login of a private registry: "-u USER -p TOKEN REGISTRY"')

    def span(self) -> tuple[int, int]:
        """Return the minimum and maximum of replicas, with those of the schedule."""
        spans = [self.replicas, *(window.replicas for window in self.schedule.windows)]
        return min(span.min for span in spans), max(span.max for span in spans)

    def server_env(self) -> dict[str, str]:
        """Return the variables of a server's environment that are the user's, with the secret ones."""
        token = {} if self.hub_token is None else {"HF_TOKEN": self.hub_token}
        secrets = {name: value.get_secret_value() for name, value in {**self.secret_env, **token}.items()}
        return {**self.env, **secrets}


def groups() -> dict[str, type[Keys]]:
    """Return the keys that are objects, with their models."""
    return groups_of(Config)


def inner_groups() -> dict[str, type[Keys]]:
    """Return the keys of groups that are themselves objects, with their models."""
    return {key: kind for group in groups().values() for key, kind in groups_of(group).items()}


def secret_keys() -> list[str]:
    """Return the secret keys; those of groups as group.key."""
    models = [("", Config.model_fields), *((f"{group}.", kind.model_fields) for group, kind in groups().items())]
    return [f"{prefix}{key}" for prefix, fields in models for key, field in fields.items() if has_secret(field)]
