"""What all resources of one plugin process use: API client, pacing, instance cache, which rental has which machine.

Made by `VastProvider.configure` from the stack's config and the environment; asked by the resources' verbs.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from components.errors import NoOffer, VastError
from components.measurements import rates_of_model
from components.vast.address import choose_api_url, choose_key
from components.vast.assignment import FleetState
from components.vast.client import DEFAULT_API_URL, VastClient
from components.vast.instance_cache import InstanceCache, SharedRead
from components.vast.market import Search
from components.vast.models import Account
from components.vast.pacing import OFF, PUBLISHED, Pacer
from components.vast.probe import ProbeResult
from components.vast.ranking import Candidate

FRESH_S = 120.0  # a search this recent is not repeated within one process


class Session:
    """One account at one API address. Each step on its maps is one operation, so threads need no lock for them."""

    def __init__(self, client: VastClient, instance_cache: InstanceCache) -> None:
        self.client = client
        self.instance_cache = instance_cache
        self._claimed: dict[int, str] = {}
        self._known: defaultdict[str, set[int]] = defaultdict(set)
        self._failed: defaultdict[str, set[int]] = defaultdict(set)
        self._adopted: dict[int, str] = {}
        self._account = SharedRead(client.account)
        self._prices = SharedRead(self._price_increases)
        self._searches: dict[str, SharedRead[Sequence[Candidate]]] = {}
        self._fleet_states: dict[str, SharedRead[FleetState]] = {}
        self.has_host_answered = False

    def claim(self, machine_id: int, owner: str) -> bool:
        """Reserve a machine for one rental; False when another rental of this process has it."""
        return self._claimed.setdefault(machine_id, owner) == owner

    def add_instance_id(self, resource_key: str, instance_id: int) -> None:
        """Remember that the state has this instance for the resource of `resource_key` (a label without its digest)."""
        self._known[resource_key].add(instance_id)

    def instance_ids(self, resource_key: str) -> set[int]:
        return self._known[resource_key].copy()

    def owner_instance_ids(self, owner: str) -> set[int]:
        """Return all instances that the state with this mark is known to have."""
        return {one for key, ids in list(self._known.items()) if key.endswith(f"@{owner}") for one in ids}

    def note_probe(self, probed: ProbeResult) -> ProbeResult:
        """Remember that some rented host was heard from here: then another's silence is that host's own."""
        self.has_host_answered = self.has_host_answered or probed.verdict != "no_answer"
        return probed

    def add_failed_machine(self, resource_key: str, machine_id: int) -> None:
        """Remember that this machine has just failed the resource of `resource_key`, so that a heal looks elsewhere."""
        self._failed[resource_key].add(machine_id)

    def failed_machines(self, resource_key: str) -> set[int]:
        return self._failed[resource_key].copy()

    def note_adopted(self, instance_id: int, mark: str) -> None:
        """Remember which entry of the state, by its `adopted` mark, has adopted this instance."""
        self._adopted[instance_id] = mark

    def is_adopted_from(self, instance_id: int, mark: str) -> bool:
        """Whether another entry of the state than the one with this mark has adopted this instance."""
        return self._adopted.get(instance_id, mark) != mark

    def price_increases(self) -> Mapping[int, float]:
        """Return announced prices by contract ($/h), read once for all instances of a refresh."""
        return self._prices.get(max_age_s=FRESH_S)

    def _price_increases(self) -> Mapping[int, float]:
        try:
            return self.client.price_increases()
        except VastError:  # advisory: a preview does not fail for want of it
            return {}

    def fleet_state(self, base: str, owner: str) -> FleetState:
        """Return what the other replicas of a fleet have, as this process first saw it: all of them assign alike."""

        def read() -> FleetState:
            return FleetState.of(self.instance_cache.contracts(max_age_s=FRESH_S).values(), base, owner)

        return self._fleet_states.setdefault(f"{base}@{owner}", SharedRead(read)).get(max_age_s=FRESH_S)

    def account(self, *, max_age_s: float = 15.0) -> Account:
        """Return the account, read once for all replicas that rent at the same time."""
        return self._account.get(max_age_s=max_age_s)

    def search(self, search: Search, *, again: bool = False) -> Sequence[Candidate]:
        """Return ranked candidates: what this process's last search of the same kind found, when that is recent.

        `again` asks anew, and leaves what was found at first to be assigned to the others.
        """

        def read() -> Sequence[Candidate]:
            return search.run(self.client, measured=rates_of_model(search.model))

        same = self._searches.setdefault(f"{search.key()} {again}", SharedRead(read))
        return same.get(max_age_s=0.0 if again else FRESH_S)

    def on_demand_usd(self, search: Search) -> float | None:
        """Return the least, in $/h, that the same search finds on demand; None where it finds nothing."""
        try:
            found = self.search(replace(search, offer_type="on-demand"))
        except NoOffer:
            return None
        return min(one.offer.dph_total_usd for one in found)


_SESSIONS: dict[tuple[str, str, bool], Session] = {}
_SESSIONS_LOCK = threading.Lock()


def open_session(config: Callable[[str], str | None]) -> Session:
    """Return this process's session for what `config` names (`emulator`, `vast_api_key`, `timeouts`)."""
    emulator, timeouts = (json.loads(config(key) or "{}") for key in ("emulator", "timeouts"))
    api_url = choose_api_url(str(emulator.get("url") or "").rstrip("/"))
    key = choose_key(api_url, config("vast_api_key"))
    paced = api_url == DEFAULT_API_URL or emulator.get("pacing") in (True, "true", "on")
    patience_s = float(timeouts.get("api_s") or 30.0)
    with _SESSIONS_LOCK:
        if (api_url, key, paced) not in _SESSIONS:
            pacer = Pacer(PUBLISHED if paced else OFF)
            client = VastClient(key, pacer=pacer, api_url=api_url, patience_s=patience_s)
            _SESSIONS[(api_url, key, paced)] = Session(client, InstanceCache(client))
        return _SESSIONS[(api_url, key, paced)]
