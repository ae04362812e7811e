"""State that all resources of one plugin process share: API client, pacing, instance cache, claimed machines.

`VastProvider.configure` opens the session from the stack's config and the environment; the resources' verbs use it.
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

FRESH_S = 120.0  # one process does not repeat a search within this time


class Session:
    """One account at one API address. Each change of its maps is one atomic operation, so threads need no lock."""

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
        """Reserve a machine for one rental; False if another rental of this process has it."""
        return self._claimed.setdefault(machine_id, owner) == owner

    def add_instance_id(self, resource_key: str, instance_id: int) -> None:
        """Record that the state has this instance for the resource of `resource_key` (a label without its digest)."""
        self._known[resource_key].add(instance_id)

    def instance_ids(self, resource_key: str) -> set[int]:
        return self._known[resource_key].copy()

    def owner_instance_ids(self, owner: str) -> set[int]:
        """Return all known instances of the state with this mark."""
        return {id_ for key, ids in list(self._known.items()) if key.endswith(f"@{owner}") for id_ in ids}

    def note_probe(self, result: ProbeResult) -> ProbeResult:
        """Record whether any host has answered: then this network works, and a silent host is itself the problem."""
        self.has_host_answered = self.has_host_answered or result.verdict != "no_answer"
        return result

    def add_failed_machine(self, resource_key: str, machine_id: int) -> None:
        """Record that this machine has failed the resource, so that its replacement uses another machine."""
        self._failed[resource_key].add(machine_id)

    def failed_machines(self, resource_key: str) -> set[int]:
        return self._failed[resource_key].copy()

    def note_adopted(self, instance_id: int, mark: str) -> None:
        """Record the state's entry, by its `adopted` mark, that has adopted this instance."""
        self._adopted[instance_id] = mark

    def is_adopted_from(self, instance_id: int, mark: str) -> bool:
        """Whether an entry of the state with another mark has adopted this instance."""
        return self._adopted.get(instance_id, mark) != mark

    def price_increases(self) -> Mapping[int, float]:
        """Return announced prices by contract ($/h); all instances of a refresh share one read."""
        return self._prices.get(max_age_s=FRESH_S)

    def _price_increases(self) -> Mapping[int, float]:
        try:
            return self.client.price_increases()
        except VastError:  # optional: a preview must not fail without it
            return {}

    def fleet_state(self, base: str, owner: str) -> FleetState:
        """Return the machines of a fleet's other replicas. All replicas use the same read, so they assign alike."""

        def read() -> FleetState:
            return FleetState.of(self.instance_cache.contracts(max_age_s=FRESH_S).values(), base, owner)

        return self._fleet_states.setdefault(f"{base}@{owner}", SharedRead(read)).get(max_age_s=FRESH_S)

    def account(self, *, max_age_s: float = 15.0) -> Account:
        """Return the account; replicas that rent at the same time share one read."""
        return self._account.get(max_age_s=max_age_s)

    def search(self, search: Search, *, again: bool = False) -> Sequence[Candidate]:
        """Return ranked candidates, from this process's last equal search if it is recent.

        `again` repeats the search; the first result stays for the assignment to other replicas.
        """

        def read() -> Sequence[Candidate]:
            return search.run(self.client, measured=rates_of_model(search.model))

        same = self._searches.setdefault(f"{search.key()} {again}", SharedRead(read))
        return same.get(max_age_s=0.0 if again else FRESH_S)

    def on_demand_usd(self, search: Search) -> float | None:
        """Return the lowest on-demand price of the same search, in $/h; None without offers."""
        try:
            candidates = self.search(replace(search, offer_type="on-demand"))
        except NoOffer:
            return None
        return min(candidate.offer.dph_total_usd for candidate in candidates)


_SESSIONS: dict[tuple[str, str, bool], Session] = {}
_SESSIONS_LOCK = threading.Lock()


def open_session(config: Callable[[str], str | None]) -> Session:
    """Return this process's session for the config keys `emulator`, `vast_api_key` and `timeouts`."""
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
