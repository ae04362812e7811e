"""The arguments of the component, made from components/config.py by `make docs`. Imported by __main__.py."""

from typing import TypedDict


class AcmeArgs(TypedDict, total=False):
    """Certificates that Caddy gets and renews by itself."""

    names: list[str]
    """The host names, whose port 443 leads to `listen`."""
    email: str
    """Whom the ACME server may write to."""
    directory: str
    """The ACME server's directory."""
    directory_ca_file: str
    """Where Caddy runs, a PEM file with the CA of a directory of your own."""


class ClientKeysArgs(TypedDict, total=False):
    """What the key of one client is good for."""

    expires: str
    """The day, in UTC, from whose beginning on it is refused."""
    requests_per_s: float
    """More get 429; on each server."""
    pairs_per_min: float
    """More get 429; on each server."""
    routes: list[str]
    """The routes that it opens; without them all that clients have."""
    generation: int
    """Counts the keys of this name; another number: another key."""
    keep_previous: bool
    """The key of the generation before is valid too."""


class LimitsArgs(TypedDict, total=False):
    """What the guard takes of one request."""

    max_documents: int
    """Most documents in one request."""
    max_body_mb: float
    """Largest body of a request, in MiB."""
    truncate_prompt_tokens: str
    """Where a request does not say: cut query and document to so many tokens, -1 for the model's own length, or refuse what is too long. Of a decoder-reranker only documents are cut, by a vLLM that can (0.32)."""
    open_health: bool
    """GET /health answers without a key, and says that the process lives."""


class GatewayArgs(TypedDict, total=False):
    """What stands in front of the servers."""

    kind: str
    """off, rent (a small machine of Vast.ai) or caddy (a running one that is this stack's alone)."""
    admin_url: str
    """caddy: the address of its admin API (http://, https:// or unix://)."""
    listen: str
    """caddy: where it listens."""
    url: str
    """caddy: where clients reach it, https://HOST:PORT; its certificate is for this host."""
    certificate: str
    """caddy: a certificate of your own for that host, PEM, its chain after it."""
    acme: AcmeArgs
    """caddy: certificates that it gets and renews by itself, by ACME."""
    ca_certificate: str
    """caddy: what clients trust, PEM, where the certificate that they see is by no public CA."""
    check_every_s: float
    """How often each server has to score a pair."""
    retry_for_s: float
    """How long a request is tried on other servers, in seconds."""


class RequireArgs(TypedDict, total=False):
    """Conditions added to `query`, so that environments differ by a line."""

    min_reliability: float
    """Least reliability of a host, 0 to 1."""
    min_duration_h: float
    """How many hours the offer has to last at least."""
    gpu_names: list[str]
    """GPU models to choose from, as Vast.ai names them: RTX 4090."""
    countries: list[str]
    """Two-letter country codes to choose from."""
    hosting: str
    """datacenter: no machine in a private home."""


class RenewArgs(TypedDict, total=False):
    """What is renewed before it ends."""

    before_h: float
    """Its contract ends within this many hours; 0 for never. Offers have to last longer."""
    certificate_before_d: float
    """Its certificate ends within this many days: another one, in place; without guard another instance."""


class RerankerArgs(TypedDict, total=False):
    """What the component takes; see docs/configuration.md."""

    model: str
    """A model of components/catalog/models.yaml or models.yaml, by its hub name."""
    revision: str
    """Commit, tag or branch of the model's repository; without it the newest."""
    image: str
    """A vLLM image with a pinned tag or digest; without it the catalog's default."""
    form: str
    """script (boot script) or plain (the image's entrypoint, as in Vast.ai's guide)."""
    dtype: str
    """vLLM's --dtype; without it the catalog chooses."""
    served_model_names: list[str]
    """More names that a request may give the model, for clients that insist on one of their own."""
    extra_args: list[str]
    """More flags for vLLM, as written on its command line."""
    env: dict[str, str]
    """Environment of the server, such as HF_ENDPOINT, HF_HUB_DISABLE_XET, VLLM_...."""
    guard: bool
    """Every route needs the key; false: vLLM's own key, which leaves /rerank open."""
    tls: bool
    """Encrypted, by a certificate of the stack's own CA; false: all crosses in clear."""
    limits: LimitsArgs
    """What one request may be."""
    api_key_generation: int
    """Counts the keys made for clients; another number: another key."""
    keep_previous_key: bool
    """The key of the generation before is valid too."""
    client_keys: dict[str, ClientKeysArgs]
    """More keys, made here: each client's by a name, which logs and metrics show."""
    replicas: int
    """How many servers, each on a machine of its own: a number, or between which `ops scale` chooses."""
    spread: str
    """What replicas do not share while there is choice: host, country, or none."""
    gateway: GatewayArgs
    """One address for all of them."""
    client_ca: str
    """PEM of the CAs by which clients have certificates: a client's key alone opens nothing then."""
    query: str
    """What to rent, in the syntax of `vastai search offers`."""
    require: RequireArgs
    """Conditions added to `query`."""
    disk_gb: float
    """Disk of the instance, in GB; fixed for its life."""
    max_dph_usd: float
    """The most an hour of one may cost, GPU and disk, in dollars."""
    prefer: str
    """cheapest, fastest (to be ready), balanced, or value: dollars per million pairs."""
    adopt_instance_id: int
    """Take over an existing instance, by its id, instead of renting."""
    max_tries: int
    """How many machines are tried before giving up."""
    heal_on: str
    """dead (what is proved dead is replaced), unreachable (silence too) or never."""
    renew: RenewArgs
    """Renew what ends."""
    replace: str
    """blue_green (the new one serves first) or in_place (no double cost, a gap)."""
    hedge: int
    """How many machines race to serve first; the others are destroyed."""
    bid: str
    """Rent interruptible: dollars per hour, or auto (1.25 times the floor, up to max_dph_usd)."""
    max_hourly_usd: float
    """The most the stack may cost per hour; checked first."""
    budget_usd_month: float
    """Warn when a month of the calendar (UTC) will have cost more, by `ops cost`."""
    budget_refuses: bool
    """`ops scale` adds no server for which budget_usd_month would not do."""
    min_runway_h: float
    """Warn when the account's credit lasts for fewer hours."""
    max_latency_ms: float
    """The validation's median request takes no longer; 0: no bound."""
    protect: bool
    """A destroy is refused until it is false and deployed; healing goes on."""
