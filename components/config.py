"""The config keys of a stack, each declared once: type, default, bounds and text, as one pydantic model.

Read by `components.config_reading`, and by `scripts.configuration`, which writes the `config:` section of
Pulumi.yaml and docs/configuration.md from it. Never imported by the provider's plugin process.
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
from components.vllm.launch import ENV_VALUE_LIMIT_CHARS, RESERVED_ENV, RESERVED_ENV_PREFIXES, Form
from reranker.errors import InvalidInput
from reranker.secret import RULE, read_secret

VAST_MIN_DISK_GB = 8
DAY_S = 86400
MOST_REPLICAS = 256
YAML_WORD = "; YAML reads NO, no, off and on without quotes as a truth value: write them in quotes"


def _not_zero(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("form", "accepted: refuse, -1 or a whole number of at least 1")
    return value


def _secret(value: SecretStr) -> SecretStr:
    try:
        return SecretStr(read_secret(value.get_secret_value(), ""))
    except InvalidInput:
        raise PydanticCustomError("form", f"accepted: {RULE}") from None


def _not_reserved(name: str) -> str:
    if name in RESERVED_ENV or name.startswith(RESERVED_ENV_PREFIXES):
        raise PydanticCustomError("form", f"{name} is set by the stack, or would run other code than the image's")
    return name


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise PydanticCustomError("form", "accepted: a name of the time zone database, such as Europe/Oslo") from None
    return name


def _span(value: object) -> object:
    """Return one number of replicas as the object that it stands for."""
    if isinstance(value, Mapping | Replicas):
        return value
    if not re.fullmatch(r"\d{1,3}", str(value)) or int(str(value)) > MOST_REPLICAS:
        raise PydanticCustomError("form", f"accepted: {Replicas.also}, or an object of min, max")
    return {"min": value, "max": value}


def _as_text(value: object) -> object:
    """Return a number or a truth value of YAML as the text that an environment has."""
    return json.dumps(value) if isinstance(value, bool | int | float) else value


Country = Annotated[str, _form("[A-Za-z]{2}", "two-letter codes such as US or SE"), AfterValidator(str.upper)]
Address = Annotated[
    str,
    _form(r"(https?://[^/\s].*)?", "an http(s) address such as http://127.0.0.1:8585"),
    AfterValidator(lambda address: address.rstrip("/")),
]
GpuName = Annotated[str, AfterValidator(lambda name: name.replace("_", " "))]
Bare = AfterValidator(lambda value: SecretStr(value.get_secret_value().strip()))
Secret = Annotated[SecretStr, AfterValidator(_secret)]
# a comma would end it in the guard's list
ClientKey = Annotated[Secret, _form(r"[^,]{16,}", f"at least 16 characters without a comma; {RULE}")]
ServedName = Annotated[str, _form(r"[^\s,]+", "names without blanks, such as rerank-v3.5")]
HostName = Annotated[
    str, _form(r"([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z][A-Za-z0-9-]*", "host names, without a wildcard")
]
Pem = Annotated[str, _form("|.*-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----", "text: certificates in PEM")]
Revision = Annotated[str, _form(r"|[0-9A-Za-z][\w./-]*", "text: a commit, tag or branch")]
EnvName = Annotated[str, _form(r"[A-Z_][A-Z0-9_]*", "names such as HF_ENDPOINT"), AfterValidator(_not_reserved)]
EnvText = _form(
    rf"[^\x00-\x1f\x7f]{{1,{ENV_VALUE_LIMIT_CHARS}}}", f"1 to {ENV_VALUE_LIMIT_CHARS} characters in one line"
)
EnvValue = Annotated[str, BeforeValidator(_as_text), EnvText]
ImageLogin = Annotated[
    SecretStr, Bare, _form(r"-u [!-~]+ -p [!-~]+ [!-~]+", f"-u USER -p TOKEN REGISTRY; in each {RULE}")
]
Truncation = Literal["refuse"] | Annotated[int, Field(ge=-1), AfterValidator(_not_zero)]
Dtype = Literal["auto", "half", "float16", "bfloat16", "float32"]
Hosting = Literal["datacenter"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Clock = Annotated[str, _form(r"([01]\d|2[0-3]):[0-5]\d", 'a time in quotes, such as "08:00"')]
TimeZone = Annotated[str, AfterValidator(_zone)]


class AcmeConfig(Keys):
    """Certificates that Caddy gets and renews by itself."""

    names: tuple[HostName, ...] = Field(min_length=1, description="The host names, whose port 443 leads to `listen`")
    email: str = Field("", description="Whom the ACME server may write to")
    directory: Address = Field(
        "https://acme-v02.api.letsencrypt.org/directory", description="The ACME server's directory"
    )
    directory_ca_file: str = Field(
        "", description="Where Caddy runs, a PEM file with the CA of a directory of your own"
    )


class RequestLimits(Keys):
    """What the guard takes of one request."""

    max_documents: int = Field(1000, ge=1, description="Most documents in one request")
    max_body_mb: float = Field(2.0, ge=0.01, le=64, description="Largest body of a request, in MiB")
    truncate_prompt_tokens: Truncation = Field(
        -1,
        description="Where a request does not say: cut query and document to so many tokens, -1 for the model's own "
        "length, or refuse what is too long. Of a decoder-reranker only documents are cut, by a vLLM that can (0.32)",
    )
    open_health: bool = Field(False, description="GET /health answers without a key, and says that the process lives")


class GatewayConfig(Keys):
    """What stands in front of the servers."""

    kind: Literal["off", "rent", "caddy"] = Field(
        "off", description="off, rent (a small machine of Vast.ai) or caddy (a running one that is this stack's alone)"
    )
    admin_url: str = Field("", description="caddy: the address of its admin API (http://, https:// or unix://)")
    admin_key: Secret | None = Field(None, description="caddy: what its admin API asks for, if it is behind a key")
    listen: str = Field(":8443", description="caddy: where it listens")
    url: Address = Field(
        "", description="caddy: where clients reach it, https://HOST:PORT; its certificate is for this host"
    )
    certificate: str = Field("", description="caddy: a certificate of your own for that host, PEM, its chain after it")
    private_key: Annotated[SecretStr, Bare] | None = Field(None, description="caddy: that certificate's key, PEM")
    acme: AcmeConfig | None = Field(None, description="caddy: certificates that it gets and renews by itself, by ACME")
    ca_certificate: str = Field(
        "", description="caddy: what clients trust, PEM, where the certificate that they see is by no public CA"
    )
    check_every_s: float = Field(
        GatewayPolicy.check_every_s, ge=0.1, description="How often each server has to score a pair"
    )
    retry_for_s: float = Field(
        GatewayPolicy.retry_for_s, ge=0, description="How long a request is tried on other servers, in seconds"
    )

    @property
    def has_other_certificate(self) -> bool:
        """Whether clients see a certificate that is not by the stack's CA: their own, ACME's, or that of a front."""
        is_own = bool(self.certificate or self.acme or self.listen.startswith("unix/"))
        return self.kind == "caddy" and is_own


class Replicas(Keys):
    """How many servers: a number, or the least and the most between which `ops scale` chooses."""

    also: ClassVar[str] = f"a whole number from 0 to {MOST_REPLICAS}"
    min: int = Field(1, ge=0, le=MOST_REPLICAS, description="The least that there are; 0 needs a gateway")
    max: int = Field(1, ge=0, le=MOST_REPLICAS, description="The most")
    pairs_in_flight: float = Field(
        LoadTarget.in_flight,
        ge=1,
        description="For `ops scale`: how many pairs one of them should have in flight, about those of one request",
    )


Span = Annotated[Replicas, BeforeValidator(_span)]


class Window(Keys):
    """Other numbers of replicas at some hours of some days."""

    days: tuple[Day, ...] = Field(min_length=1)
    start: Clock = Field(alias="from")
    to: Clock
    replicas: Span


class Schedule(Keys):
    """Other numbers of replicas by the clock, for `ops scale`."""

    time_zone: TimeZone = Field("UTC", description="The zone of the times, such as Europe/Oslo")
    windows: tuple[Window, ...] = Field(
        (),
        description='The first that holds counts, each {days: [mon, tue], from: "22:00", to: "06:00", replicas: 0}: '
        "days (mon to sun) on which it begins, and what `replicas` is meanwhile, a number or {min, max}",
    )


class Require(Keys):
    """Conditions added to `query`, so that environments differ by a line."""

    min_reliability: float | None = Field(None, ge=0, le=1, description="Least reliability of a host, 0 to 1")
    min_duration_h: float | None = Field(None, ge=0, description="How many hours the offer has to last at least")
    gpu_names: tuple[GpuName, ...] = Field((), description="GPU models to choose from, as Vast.ai names them: RTX 4090")
    countries: tuple[Country, ...] = Field((), description="Two-letter country codes to choose from")
    hosting: Hosting | None = Field(None, description="datacenter: no machine in a private home")


class Timeouts(Keys):
    """How long each thing may take, in seconds."""

    rented_s: float = Field(Deadlines.rented_s, ge=1, le=DAY_S, description="A host reacts to the contract")
    pulling_s: float = Field(Deadlines.pulling_s, ge=1, le=DAY_S, description="A host pulls the image")
    starting_s: float = Field(Deadlines.starting_s, ge=1, le=DAY_S, description="A host starts the container")
    port_s: float = Field(Deadlines.port_s, ge=1, le=DAY_S, description="A running container has no reachable port yet")
    serving_s: float = Field(Deadlines.serving_s, ge=1, le=DAY_S, description="The server's start, to its first answer")
    stall_s: float = Field(Deadlines.stall_s, ge=1, le=DAY_S, description="Progress stands still, at any stage")
    poll_s: float = Field(5, ge=0.05, le=DAY_S, description="Longest time between two looks at a booting instance")
    probe_timeout_s: float = Field(15, ge=0.1, le=DAY_S, description="One probe waits for its answer")
    probe_window_s: float = Field(20, ge=0, le=DAY_S, description="A server that does not answer is asked again")
    answer_s: float = Field(
        120,
        ge=1,
        le=DAY_S,
        description="A server may be busy before it answers: the gateway waits so long, and one that took "
        "the connection counts as hung after it",
    )
    drain_s: float = Field(300, ge=0, le=DAY_S, description="Servers that leave the gateway finish their requests")
    api_s: float = Field(
        30, ge=1, le=DAY_S, description="A call that is safe to repeat is repeated while the API is silent"
    )


class Renew(Keys):
    """What is renewed before it ends."""

    before_h: float = Field(
        0,
        ge=0,
        le=4380,
        description="Its contract ends within this many hours; 0 for never. Offers have to last longer",
    )
    certificate_before_d: float = Field(
        10,
        ge=0,
        le=LEAF_DAYS,
        description="Its certificate ends within this many days: another one, in place; without guard another instance",
    )


class Emulator(Keys):
    """The local Vast.ai; without `url` the stack rents on the real one."""

    url: Address = Field("", description="The address of its API")
    offline_model: str = Field("", description="Served where it says that its containers cannot reach the model hub")
    pacing: bool = Field(False, description="Keep to Vast.ai's own limits per endpoint, as on the real one")


class Notify(Keys):
    """Who is told of drift, repairs, failed deploys and bills."""

    webhook: Secret | None = Field(None, description="An address, https://..., that takes a POST of JSON")
    format: Literal["slack", "json"] = Field("slack", description="slack (its incoming webhooks' form) or json")


def _of(section: str, default: Any, description: str, **bounds: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"section": section}, **bounds)


SERVED, FLEET, WHERE = "what is served", "how many, and what stands in front", "where it runs"
PATIENCE, MONEY, KEPT = "patience", "money", "what is good enough, and what is kept"
SECRETS = "secrets"


class Config(Keys):
    """All keys of a stack."""

    model: str = _of(
        SERVED, "BAAI/bge-reranker-base", "A model of components/catalog/models.yaml or models.yaml, by its hub name"
    )
    revision: Revision = _of(SERVED, "", "Commit, tag or branch of the model's repository; without it the newest")
    image: str = _of(SERVED, "", "A vLLM image with a pinned tag or digest; without it the catalog's default")
    form: Form = _of(SERVED, "script", "script (boot script) or plain (the image's entrypoint, as in Vast.ai's guide)")
    dtype: Dtype | None = _of(SERVED, None, "vLLM's --dtype; without it the catalog chooses")
    served_model_names: tuple[ServedName, ...] = _of(
        SERVED, (), "More names that a request may give the model, for clients that insist on one of their own"
    )
    extra_args: tuple[str, ...] = _of(SERVED, (), "More flags for vLLM, as written on its command line")
    env: Mapping[EnvName, EnvValue] = _of(
        SERVED, {}, "Environment of the server, such as HF_ENDPOINT, HF_HUB_DISABLE_XET, VLLM_..."
    )
    guard: bool = _of(SERVED, True, "Every route needs the key; false: vLLM's own key, which leaves /rerank open")
    tls: bool = _of(SERVED, True, "Encrypted, by a certificate of the stack's own CA; false: all crosses in clear")
    limits: RequestLimits = _of(SERVED, RequestLimits(), "What one request may be")
    api_key_generation: int = _of(SERVED, 1, "Counts the keys made for clients; another number: another key", ge=1)
    keep_previous_key: bool = _of(SERVED, False, "The key of the generation before is valid too")
    client_keys: Mapping[ClientName, ClientOptions] = _of(
        SERVED, {}, "More keys, made here: each client's by a name, which logs and metrics show"
    )
    replicas: Span = _of(
        FLEET,
        Replicas(),
        "How many servers, each on a machine of its own: a number, or between which `ops scale` chooses",
    )
    schedule: Schedule = _of(FLEET, Schedule(), "Other numbers of replicas by the clock, for `ops scale`")
    spread: Spread = _of(FLEET, "host", "What replicas do not share while there is choice: host, country, or none")
    gateway: GatewayConfig = _of(FLEET, GatewayConfig(), "One address for all of them")
    client_ca: Pem = _of(
        FLEET, "", "PEM of the CAs by which clients have certificates: a client's key alone opens nothing then"
    )
    query: str = _of(
        WHERE,
        "compute_cap>=750 gpu_ram>=16 num_gpus=1 static_ip=true direct_port_count>=1 verified=true rentable=true",
        "What to rent, in the syntax of `vastai search offers`",
    )
    require: Require = _of(WHERE, Require(), "Conditions added to `query`")
    disk_gb: float = _of(WHERE, 40, "Disk of the instance, in GB; fixed for its life", ge=VAST_MIN_DISK_GB)
    max_dph_usd: float | None = _of(WHERE, None, "The most an hour of one may cost, GPU and disk, in dollars", ge=0.001)
    prefer: Prefer = _of(
        WHERE, "balanced", "cheapest, fastest (to be ready), balanced, or value: dollars per million pairs"
    )
    adopt_instance_id: int = _of(WHERE, 0, "Take over an existing instance, by its id, instead of renting", ge=0)
    emulator: Emulator = _of(WHERE, Emulator(), "The local Vast.ai")
    timeouts: Timeouts = _of(PATIENCE, Timeouts(), "How long things may take")
    max_tries: int = _of(PATIENCE, 5, "How many machines are tried before giving up", ge=1)
    heal_on: HealOn = _of(
        PATIENCE, "dead", "dead (what is proved dead is replaced), unreachable (silence too) or never"
    )
    renew: Renew = _of(PATIENCE, Renew(), "Renew what ends")
    replace: Literal["blue_green", "in_place"] = _of(
        PATIENCE, "blue_green", "blue_green (the new one serves first) or in_place (no double cost, a gap)"
    )
    hedge: int = _of(MONEY, 1, "How many machines race to serve first; the others are destroyed", ge=1, le=4)
    bid: Literal["auto"] | Annotated[float, Field(ge=0.001)] | None = _of(
        MONEY, None, "Rent interruptible: dollars per hour, or auto (1.25 times the floor, up to max_dph_usd)"
    )
    max_hourly_usd: float | None = _of(MONEY, None, "The most the stack may cost per hour; checked first", ge=0.001)
    budget_usd_month: float | None = _of(
        MONEY, None, "Warn when a month of the calendar (UTC) will have cost more, by `ops cost`", ge=0.01
    )
    budget_refuses: bool = _of(MONEY, False, "`ops scale` adds no server for which budget_usd_month would not do")
    min_runway_h: float = _of(MONEY, 24, "Warn when the account's credit lasts for fewer hours", ge=0)
    max_latency_ms: float = _of(KEPT, 0, "The validation's median request takes no longer; 0: no bound", ge=0)
    protect: bool = _of(KEPT, False, "A destroy is refused until it is false and deployed; healing goes on")
    notify: Notify = _of(KEPT, Notify(), "Tell somebody what happened")
    vast_api_key: Secret | None = _of(
        SECRETS, None, "The Vast.ai key; VAST_API_KEY in the environment comes first (for an emulator, last)"
    )
    api_key: ClientKey | None = _of(SECRETS, None, "What clients of the reranker present; made at random if not given")
    api_key_previous: ClientKey | None = _of(SECRETS, None, "A second key that is valid, for the time of a change")
    secret_env: Mapping[EnvName, Annotated[SecretStr, Bare, EnvText]] = _of(
        SECRETS, {}, "Environment of the server, of values that are secrets"
    )
    hub_token: Secret | None = _of(SECRETS, None, "The model hub's token, for gated models")
    image_login: ImageLogin | None = _of(SECRETS, None, 'The login of a private registry: "-u USER -p TOKEN REGISTRY"')

    def span(self) -> tuple[int, int]:
        """Return the least and the most replicas that there may ever be, the schedule's among them."""
        spans = [self.replicas, *(one.replicas for one in self.schedule.windows)]
        return min(one.min for one in spans), max(one.max for one in spans)


def groups() -> dict[str, type[Keys]]:
    """Return the keys that are objects, with their models."""
    return groups_of(Config)


def inner_groups() -> dict[str, type[Keys]]:
    """Return the keys of groups that are objects themselves, with their models."""
    return {key: kind for group in groups().values() for key, kind in groups_of(group).items()}


def secret_keys() -> list[str]:
    """Return the keys, with those of groups as group.key, that are secrets."""
    fields = [("", Config.model_fields), *((f"{group}.", kind.model_fields) for group, kind in groups().items())]
    return [f"{group}{key}" for group, of in fields for key, field in of.items() if has_secret(field)]
