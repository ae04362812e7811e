"""What all resources of one plugin process use: API client, pacing, instance cache, which rental has which machine.

Made by `VastProvider.configure` from the stack's config and the environment; asked by the resources' verbs.
"""

from __future__ import annotations

import ipaddress
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from components.errors import VastError
from components.vast.assignment import FleetState
from components.vast.client import DEFAULT_API_URL, VastClient
from components.vast.instance_cache import InstanceCache
from components.vast.market import Search
from components.vast.models import Account
from components.vast.pacing import OFF, PUBLISHED, Pacer
from components.vast.probe import ProbeResult
from components.vast.ranking import Candidate

KEY_ENV = "VAST_API_KEY"
FRESH_S = 120.0  # a search this recent is not repeated within one process


@dataclass
class Session:
    """One account at one API address."""

    client: VastClient
    instance_cache: InstanceCache
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _claimed: dict[int, str] = field(default_factory=dict)
    _known: dict[str, set[int]] = field(default_factory=dict)
    _adopted: dict[int, str] = field(default_factory=dict)
    _failed: dict[str, set[int]] = field(default_factory=dict)
    _prices: Mapping[int, float] = field(default_factory=dict)
    _prices_at: float = float("-inf")
    _searches: dict[str, tuple[float, Sequence[Candidate]]] = field(default_factory=dict)
    _search_locks: dict[str, threading.Lock] = field(default_factory=dict)
    _fleet_states: dict[str, tuple[float, FleetState]] = field(default_factory=dict)
    _account: tuple[float, Account] | None = None
    heard: bool = False

    def claim(self, machine_id: int, owner: str) -> bool:
        """Reserve a machine for one rental; False when another rental of this process has it."""
        with self._lock:
            return self._claimed.setdefault(machine_id, owner) == owner

    def knows(self, resource_key: str, instance_id: int) -> None:
        """Remember that the state has this instance for the resource of `resource_key` (a label without its digest)."""
        with self._lock:
            self._known.setdefault(resource_key, set()).add(instance_id)

    def known(self, resource_key: str) -> set[int]:
        with self._lock:
            return set(self._known.get(resource_key, ()))

    def note_adopted(self, instance_id: int, mark: str) -> None:
        """Remember which entry of the state, by its `adopted` mark, has adopted this instance."""
        with self._lock:
            self._adopted[instance_id] = mark

    def is_adopted_from(self, instance_id: int, mark: str) -> bool:
        """Whether another entry of the state than the one with this mark has adopted this instance."""
        with self._lock:
            return self._adopted.get(instance_id, mark) != mark

    def heard_from(self, probed: ProbeResult) -> ProbeResult:
        """Remember that some rented host was heard from here: then another's silence is that host's own."""
        self.heard = self.heard or probed.verdict != "no_answer"
        return probed

    def price_increases(self) -> Mapping[int, float]:
        """Return announced prices by contract ($/h), read once for all instances of a refresh."""
        with self._lock:
            if time.monotonic() - self._prices_at > FRESH_S:
                try:
                    self._prices = self.client.price_increases()
                except VastError:  # advisory: a preview does not fail for want of it
                    self._prices = {}
                self._prices_at = time.monotonic()
            return self._prices

    def failed(self, resource_key: str, machine_id: int) -> None:
        """Remember that this machine has just failed the resource of `resource_key`, so that a heal looks elsewhere."""
        with self._lock:
            self._failed.setdefault(resource_key, set()).add(machine_id)

    def avoid(self, resource_key: str) -> set[int]:
        with self._lock:
            return set(self._failed.get(resource_key, ()))

    def fleet_state(self, base: str, owner: str) -> FleetState:
        """Return what the other replicas of a fleet have, as this process first saw it: all of them assign alike."""
        with self._lock:
            at, found = self._fleet_states.get(f"{base}@{owner}", (float("-inf"), FleetState()))
        if time.monotonic() - at <= FRESH_S:
            return found
        found = FleetState.of(self.instance_cache.contracts(max_age_s=FRESH_S).values(), base, owner)
        with self._lock:
            self._fleet_states[f"{base}@{owner}"] = (time.monotonic(), found)
        return found

    def account(self, *, max_age_s: float = 15.0) -> Account:
        """Return the account, read once for all replicas that rent at the same time."""
        with self._lock:
            if self._account is None or time.monotonic() - self._account[0] > max_age_s:
                self._account = (time.monotonic(), self.client.account())
            return self._account[1]

    def search(self, search: Search, *, again: bool = False) -> Sequence[Candidate]:
        """Return ranked candidates: what this process's last search of the same kind found, when that is recent.

        `again` asks anew, and leaves what was found at first to be assigned to the others.
        """
        key, asked_at = f"{search.key()} {again}", time.monotonic()
        max_age_s = 0.0 if again else FRESH_S
        with self._lock:
            alone = self._search_locks.setdefault(key, threading.Lock())
        with alone:  # whoever asks while a search of the same kind is under way shares its answer
            at, found = self._searches.get(key, (float("-inf"), ()))
            if at >= asked_at - max_age_s:
                return found
            started = time.monotonic()
            found = search.run(self.client)
            self._searches[key] = (started, found)
            return found


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine, as an emulator's is."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def choose_key(api_url: str, configured: str | None) -> str:
    """Return the Vast key: the environment's first, since state may hold an old one; for an emulator the config's
    first, so that a real key is never sent to it by accident."""
    ambient = os.environ.get(KEY_ENV, "").strip()
    mine = (configured or "").strip()
    return (mine or ambient) if is_loopback(api_url) else (ambient or mine)


_SESSIONS: dict[tuple[str, str, bool], Session] = {}
_SESSIONS_LOCK = threading.Lock()


def open_session(config: Callable[[str], str | None]) -> Session:
    """Return this process's session for what `config` names (`emulator`, `vast_api_key`, `timeouts`)."""
    emulator, timeouts = (json.loads(config(key) or "{}") for key in ("emulator", "timeouts"))
    api_url = str(emulator.get("url") or DEFAULT_API_URL).rstrip("/")
    key = choose_key(api_url, config("vast_api_key"))
    paced = api_url == DEFAULT_API_URL or emulator.get("pacing") in (True, "true", "on")
    patience_s = float(timeouts.get("api_s") or 30.0)
    with _SESSIONS_LOCK:
        session = _SESSIONS.get((api_url, key, paced))
        if session is None:
            pacer = Pacer(PUBLISHED if paced else OFF)
            client = VastClient(key, pacer=pacer, api_url=api_url, patience_s=patience_s)
            session = Session(client, InstanceCache(client))
            _SESSIONS[(api_url, key, paced)] = session
        return session
