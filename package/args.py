"""The arguments of the component, made from components/config.py by `make docs`. Imported by __main__.py."""

from typing import TypedDict


class AcmeArgs(TypedDict, total=False):
    """Certificates that Caddy obtains and renews by ACME."""

    names: list[str]
    """Host names; their port 443 must lead to `listen`."""
    email: str
    """Contact for the ACME server."""
    directory: str
    """The ACME directory's URL."""
    directory_ca_file: str
    """PEM file on Caddy's machine with the CA of a private directory."""


class ClientKeysArgs(TypedDict, total=False):
    """Limits and rotation of one client's key."""

    expires: str
    """The key is refused from the start of this day, in UTC."""
    requests_per_s: float
    """Requests per second and server; above it: 429."""
    pairs_per_min: float
    """Pairs per minute and server; above it: 429."""
    routes: list[str]
    """Allowed routes; default: all client routes."""
    generation: int
    """Number of the key of this name; a new number makes a new key."""
    keep_previous: bool
    """Keep the key of the previous generation valid."""


class LimitsArgs(TypedDict, total=False):
    """Limits of one request, checked by the guard."""

    max_documents: int
    """Maximum number of documents."""
    max_body_mb: float
    """Maximum body size, in MiB."""
    truncate_prompt_tokens: str
    """Default for requests without it: truncate query and document to this many tokens, -1: to the model's length, refuse: reject longer ones. For decoder rerankers only documents, with vLLM 0.32 or later."""
    open_health: bool
    """GET /health works without a key; it shows only that the process runs."""


class GatewayArgs(TypedDict, total=False):
    """The proxy in front of the servers."""

    kind: str
    """off, rent (a small machine of Vast.ai) or caddy (your Caddy, used only by this stack)."""
    admin_url: str
    """caddy: address of its admin API (http://, https:// or unix://)."""
    listen: str
    """caddy: listen address."""
    url: str
    """caddy: URL for clients, https://HOST:PORT; the certificate is for this host."""
    certificate: str
    """caddy: your own certificate for that host, PEM, followed by its chain."""
    acme: AcmeArgs
    """caddy: certificates that it obtains and renews by ACME."""
    ca_certificate: str
    """caddy: CA for clients, PEM, if no public CA signs its certificate."""
    check_every_s: float
    """Interval of the check that scores a pair on each server."""
    retry_for_s: float
    """How long a request is retried on other servers, in seconds."""


class RequireArgs(TypedDict, total=False):
    """Conditions added to `query`."""

    min_reliability: float
    """Minimum reliability of a host, 0 to 1."""
    min_duration_h: float
    """Minimum duration of the offer, in hours."""
    gpu_names: list[str]
    """Allowed GPU models, by Vast.ai's names, such as RTX 4090."""
    countries: list[str]
    """Allowed countries, as two-letter codes."""
    hosting: str
    """datacenter: no machine in a private home."""


class RenewArgs(TypedDict, total=False):
    """Renewal of instances and certificates before they end."""

    before_h: float
    """Replace an instance this many hours before its contract ends; 0: never. Offers must last longer."""
    certificate_before_d: float
    """Renew a certificate this many days before its end, in place; without guard by a new instance."""


class RerankerArgs(TypedDict, total=False):
    """What the component takes; see docs/configuration.md."""

    model: str
    """Hub name of a model in components/catalog/models.yaml or models.yaml."""
    revision: str
    """Commit, tag or branch of the model's repository; default: the newest."""
    image: str
    """vLLM image with a pinned tag or digest; default: the catalog's image."""
    form: str
    """script (boot script) or plain (the image's entrypoint, as in Vast.ai's guide)."""
    dtype: str
    """vLLM's --dtype; default: the catalog's choice."""
    served_model_names: list[str]
    """More accepted names of the model in requests, for clients with a fixed name."""
    extra_args: list[str]
    """More vLLM flags, as on its command line."""
    env: dict[str, str]
    """Environment of the server, such as HF_ENDPOINT, VLLM_...; 8,000 characters, with `secret_env`."""
    guard: bool
    """Every route needs the key; false: only vLLM's own key, which leaves /rerank open."""
    tls: bool
    """TLS with certificates of the stack's own CA; false: no encryption."""
    limits: LimitsArgs
    """Limits of one request."""
    api_key_generation: int
    """Number of the generated API key; a new number makes a new key."""
    keep_previous_key: bool
    """Keep the key of the previous generation valid."""
    client_keys: dict[str, ClientKeysArgs]
    """More generated keys, one for each client name; logs and metrics show the names."""
    replicas: int
    """Number of servers, each on its own machine; with {min, max} `ops scale` chooses."""
    spread: str
    """Place replicas on different hosts or in different countries if possible; none: anywhere."""
    gateway: GatewayArgs
    """One address for all servers."""
    client_ca: str
    """PEM of CAs for client certificates; then clients need a certificate and a key."""
    query: str
    """Query for offers, in the syntax of `vastai search offers`."""
    require: RequireArgs
    """Conditions added to `query`."""
    disk_gb: float
    """Disk of an instance, in GB; a change replaces the instance."""
    max_dph_usd: float
    """Maximum dollars per hour of a machine, GPU and disk."""
    prefer: str
    """cheapest, fastest (shortest boot), balanced, or value: dollars per million pairs."""
    adopt_instance_id: int
    """Id of an existing instance to adopt instead of renting."""
    max_tries: int
    """Maximum number of machines to try."""
    heal_on: str
    """When to replace an instance: dead (proved), unreachable (also if it does not answer) or never."""
    renew: RenewArgs
    """Renewal before contracts and certificates end."""
    replace: str
    """blue_green (the new instance serves first) or in_place (no double cost, but a gap)."""
    hedge: int
    """Machines to rent at once; the first that serves is kept, the others are destroyed."""
    bid: str
    """Rent interruptible: dollars per hour, or auto (1.25 times the floor, up to max_dph_usd)."""
    max_hourly_usd: float
    """Maximum dollars per hour of the stack, checked first."""
    budget_usd_month: float
    """Warn if a calendar month (UTC) will cost more, by the forecast of `ops cost`."""
    budget_refuses: bool
    """`ops scale` adds no server that would exceed budget_usd_month."""
    min_runway_h: float
    """Warn if the account's credit lasts for fewer hours."""
    max_latency_ms: float
    """Limit for the validation's median request; 0: no limit."""
    protect: bool
    """Refuse a destroy until this is false and deployed; healing still works."""
