"""Instance: a container on a rented machine, as a resource. Generic: image, command, ports, a readiness probe.

Translates between Pulumi's verbs and `components.vast`, which makes the decisions: `rental` (create), `drift` (read),
`change` (diff). A created instance serves. If `create` raises, it has destroyed what it rented.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult, CreateResult, DiffResult, ReadResult, UpdateResult

from components.certificate_renewal import renew_certificate
from components.errors import AuthError, NoOffer, RentalFailed
from components.plugin.engine import ENGINE
from components.plugin.verbs import VastProvider, VastResource, check_failure, drop_unknowns, is_known, verb
from components.records import structure
from components.stack_ledger import month_so_far, recorder
from components.translation import (
    Declared,
    InstanceOutputs,
    certificate_end,
    container,
    input_outputs,
    live_outputs,
    outputs,
    refusals,
    summaries,
)
from components.vast.assignment import FleetState, ReplicaSlot, assign_offers
from components.vast.change import plan, renewal
from components.vast.client import destroy_and_verify
from components.vast.drift import Drift, Watch, from_move, from_probe, from_state, from_terms
from components.vast.json_values import same
from components.vast.label import Label, label_problem
from components.vast.ledger import Event
from components.vast.money import Budget, others_hourly_usd
from components.vast.probe import HttpProbe, ProbeResult
from components.vast.ranking import Candidate
from components.vast.rental import Rental
from components.vast.rental_spec import Bid, Deadlines, Order
from components.vast.status import Observation, observe
from policy.rules import PolicyLimits

PROBE_EVERY_S = 1.0
REPLACED_IF_UNKNOWN = ("env", "stack_secret", "image_login", "args", "onstart", "image")
LIST_MAX_AGE_S = 5.0  # the reads of a fleet come within seconds and share one list


@dataclass
class InstanceArgs:
    """The container, the search for a machine, and the readiness probe.

    `label_base`: <project>/<stack>/<name>. `owner` (its id) and `search` (its `search_text`): from an OfferQuery.
    `env` and `image_login` are secret. `files`: of components.container_files, with their digests.
    `stack_secret`, random and secret: the key of the digests in label and state. The instance's own key derives from it
    and from the output `nonce`; the container gets it in the variable `key_env`, unless that is empty.
    `ca_certificate` and the secret `ca_private_key` (PEM) sign a certificate for the machine. The container gets it in
    its environment, see components.vast.identity, and the probe uses TLS. `certificate_path`: the route on which the
    running server accepts a new certificate, with its own key; empty if there is none.
    `hedge`: how many machines are rented at once; the first that serves is kept. `replace`: blue_green (the new
    instance serves before the old one is destroyed) or in_place (no double cost, but a gap).
    """

    label_base: str
    owner: pulumi.Input[str]
    search: pulumi.Input[str]
    stack_secret: pulumi.Input[str]
    image: pulumi.Input[str]
    disk_gb: pulumi.Input[float]
    ports: Sequence[str]
    probe: HttpProbe
    onstart: pulumi.Input[str | None] = None
    args: pulumi.Input[Sequence[str]] = ()
    env: pulumi.Input[Mapping[str, pulumi.Input[str]]] = field(default_factory=dict)
    key_env: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    image_login: pulumi.Input[str | None] = None
    ca_certificate: pulumi.Input[str] | None = None
    ca_private_key: pulumi.Input[str] | None = None
    certificate_path: str = ""
    deadlines: Deadlines = field(default_factory=Deadlines)
    watch: Watch = field(default_factory=Watch)
    max_tries: int = 5
    poll_s: float = 5.0
    hedge: int = 1
    replace: str = "blue_green"
    money: Budget = field(default_factory=Budget)
    bid: Bid | None = None
    adopt_instance_id: int | None = None
    spec_fault_logs: Sequence[str] = ()
    slot: ReplicaSlot | None = None
    policy: PolicyLimits | None = None


class InstanceProvider(VastProvider):
    """Rents, watches, replaces and destroys one instance."""

    @verb
    def check(self, olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Log the offer that would be rented, so that a preview shows it before it costs anything."""
        declared = Declared.of(drop_unknowns(news))
        if too_long := label_problem(declared.label_base):
            return CheckResult(news, [CheckFailure("label_base", too_long)])
        if olds or not is_known(news.get("search")):
            return CheckResult({**news, "candidates": self._summaries(olds, news, declared)}, refusals(news))
        if adopt := self._id_to_adopt(declared):
            ENGINE.log(f"adopts instance {adopt} and rents none for this server")
            contract = self.session.instance_cache.contract(adopt, max_age_s=LIST_MAX_AGE_S)
            if contract is None:
                text = f"instance {adopt} does not exist: remove it from the config to rent a new one"
                return CheckResult(news, [CheckFailure("adopt_instance_id", text)])
            return CheckResult(news, refusals(news, [contract.raw]))
        try:
            candidates = self._candidates(declared, for_all=True)
        except NoOffer as error:
            return CheckResult(news, [check_failure(error)])
        if failures := refusals(news, [candidate.offer.raw for candidate in candidates]):
            return CheckResult(news, failures)
        news = {**news, "candidates": summaries(candidates, declared.bid)}
        self._warn_of_lost_instances(declared)
        first = candidates[0]
        hedge, bid = declared.hedge, declared.bid
        race = f"; {hedge} machines race, so the boot costs up to {hedge} times that" if hedge > 1 else ""
        price = f"; bid ${bid.price_for(first.offer):.4f}/h (floor ${first.offer.min_bid_usd:.4f})" if bid else ""
        ENGINE.log(f"first choice: {first}{price}{race}")
        if bid and (dear := bid.price_warning(first.offer, self.session.on_demand_usd(declared.parsed_search))):
            ENGINE.warn(dear)
        try:
            if warning := self._check_money(declared, first):
                ENGINE.warn(warning)
        except RentalFailed as error:
            return CheckResult(news, [check_failure(error)])
        return CheckResult(news, [])

    @verb
    def diff(self, id_: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        resource_key = Declared.of(olds).resource_key
        self.session.add_instance_id(resource_key, int(id_))
        unknown = [key for key in news if not is_known(news[key])]
        change = plan(olds, news, now=time.time(), unknown=unknown)
        if "drift" in change.replaces:
            self.session.add_failed_machine(resource_key, int(olds.get("machine_id") or 0))
        for warning in change.warnings:
            ENGINE.warn(warning)
        if change.replaces:
            ENGINE.warn(f"will be replaced: {'; '.join(change.reasons)}")
        if change.renewal:
            ENGINE.log(f"certificate renewed in place: {change.renewal}")
        replaces = change.replaces + [key for key in unknown if key in REPLACED_IF_UNKNOWN]
        if olds.get("adopted") and not replaces:
            self.session.note_adopted(int(id_), str(olds["adopted"]))
        return DiffResult(
            changes=bool(change.any or unknown),
            replaces=replaces,
            delete_before_replace=news.get("replace") == "in_place",
        )

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Rent the best candidate that serves. Raises RentalFailed, DestroyFailed, Interrupted, ApiError."""
        declared, spec = Declared.of(props), container(props)
        label = Label(declared.label_base, declared.owner, spec.digest())
        resource_key, probe = declared.resource_key, declared.probe
        adopt = self._id_to_adopt(declared)
        candidates = [] if adopt else self._candidates(declared)
        if candidates:
            self._check_money(declared, candidates[0])  # the result of `check` may be old
        order = {"spec": spec, "label": label, "container_port": probe.port, "adopt_instance_id": adopt}
        order |= {"hedge": 1} if adopt else {}
        rental = Rental(
            self.session.client,
            self.session.instance_cache,
            structure(Order, props | order),
            probe=lambda ip, port, nonce: self.session.note_probe(probe.check(ip, port, spec.env_for(nonce))),
            no_host_reached=lambda: not self.session.has_host_answered,
            candidates=candidates,
            search=lambda: self._search_again(declared),
            managed_ids=lambda: self.session.instance_ids(resource_key),
            claim=lambda machine: self.session.claim(machine, resource_key),
            progress=lambda text: ENGINE.log(text, ephemeral=True),
            notice=ENGINE.log,
            stop=ENGINE.stopped,
            avoid=self.session.failed_machines(resource_key),
            record=recorder(declared.label_base),
            news_every_s=ENGINE.news_every_s(),
        )
        rented = rental.run()
        self.session.add_instance_id(resource_key, rented.contract.id)
        adopted = secrets.token_hex(4) if rented.adopted else ""
        if adopted:
            self.session.note_adopted(rented.contract.id, adopted)
        try:
            account_id = self.session.account(max_age_s=3600.0).id
            provenance = {"api_url": self.session.client.api_url, "account_id": account_id, "adopted": adopted}
            return CreateResult(str(rented.contract.id), outputs(props, declared, rented) | provenance)
        except Exception:
            destroyed = destroy_and_verify(self.session.client, rented.contract.id)
            end = Event("end", destroyed.at, instance_id=rented.contract.id, reason="boot failed")
            recorder(declared.label_base)(end)
            raise

    @verb
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Return the live state and drift, or "gone". Raises for errors of the API or network, which are not "gone"."""
        # a forced replacement calls no diff before create
        declared = Declared.of(props)
        self.session.add_instance_id(declared.resource_key, int(id_))
        contract = self.session.instance_cache.contract(int(id_), max_age_s=LIST_MAX_AGE_S)
        if contract is None:
            self._ensure_same_account(id_, props)
            ENGINE.warn(f"instance {id_} is gone: Vast.ai no longer lists it; `pulumi up` rents another")
            return ReadResult(None, {})
        probe, watch = declared.probe, declared.watch
        observed = observe(contract, probe.port)
        drift = from_state(contract, observed) or from_move(contract, observed, props)
        drift = drift or from_probe(contract, observed, self._probe_over_window(observed, declared))
        terms: list[Drift] = []
        if drift is None:
            props = props | certificate_end(probe, observed.ip, observed.port or 0)
            announced = self.session.price_increases().get(contract.id)
            terms = from_terms(contract, observed, props, watch, now=time.time(), announced_dph_usd=announced)
        for term in terms:
            ENGINE.warn(str(term))
        by_action = {term.action(watch.heal_on): term for term in reversed(terms)}
        drift = drift or by_action.get("replace") or by_action.get("update")
        return ReadResult(id_, {**props, **live_outputs(contract, observed, probe), "drift": str(drift or "")})

    @verb
    def update(self, id_: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        declared = Declared.of(news)
        nonce = str(olds.get("nonce") or "")
        label = str(Label(declared.label_base, declared.owner, container(news).digest(), nonce=nonce))
        drift = Drift.parse(olds.get("drift"))
        if label != olds.get("label") or (drift is not None and drift.kind == "label"):
            self.session.client.set_label(int(id_), label)
        bid = declared.bid
        if bid is not None and bid.price_usd is not None and not same(olds.get("bid"), news.get("bid")):
            price = bid.price_usd if bid.cap_usd is None else min(bid.price_usd, bid.cap_usd)
            self.session.client.change_bid(int(id_), price)
        self.session.instance_cache.invalidate()
        outs = {**olds, **input_outputs(news, declared, label), "drift": ""}
        if renewal(olds, news, now=time.time()):
            spec = container(news)
            outs["certificate_expires_at"] = renew_certificate(str(outs["ip"]), int(outs["port"]), spec, nonce)
        return UpdateResult(outs)

    @verb
    def delete(self, id_: str, props: dict[str, Any]) -> None:
        """Destroy the instance and verify it. "Gone already" is success; any other result raises with the id.

        If a replacement failed and the config was set back, two entries of the state have this instance: deleting the
        old entry must not destroy it.
        """
        declared = Declared.of(props)
        self.session.add_instance_id(declared.resource_key, int(id_))
        if self.session.is_adopted_from(int(id_), str(props.get("adopted") or "")):
            ENGINE.log(f"instance {id_} is kept: the resource's new entry in the state has adopted it")
            return
        destroyed = destroy_and_verify(self.session.client, int(id_))
        if not destroyed.confirmed:
            self._ensure_same_account(id_, props)
        if destroyed.at:
            recorder(declared.label_base)(Event("end", destroyed.at, instance_id=int(id_), reason="destroyed"))
        else:
            ENGINE.log(f"instance {id_} was gone already")
        self.session.instance_cache.invalidate()

    def _ensure_same_account(self, id_: str, props: Mapping[str, Any]) -> None:
        """Raise AuthError if a missing instance was rented by another account or at another API."""
        api_url, account = props.get("api_url"), int(props.get("account_id") or 0)
        current_url = self.session.client.api_url
        if api_url and api_url != current_url:
            change = f"it was rented at {api_url}, and emulator.url is {current_url} now"
        elif account and (other := self.session.account().id) and other != account:
            change = f"account {account} rented it, and the Vast.ai key belongs to account {other}"
        else:
            return
        raise AuthError(
            f"instance {id_} is unknown here, but it may still exist: {change}. It may still be billed. "
            "Restore the old setting, and run `pulumi destroy` before you change it",
            status=404,
        )

    def _check_money(self, declared: Declared, candidate: Candidate) -> str | None:
        """Return a warning if credit or budget is short for this fleet and the other instances of the account."""
        contracts = self.session.instance_cache.contracts(max_age_s=LIST_MAX_AGE_S).values()
        others = others_hourly_usd(contracts, declared.owner)
        month = month_so_far(declared.label_base) if declared.money.budget_usd_month else None
        return declared.money.check(
            self.session.account(), candidate, declared.slot.of, hedge=declared.hedge, others_usd=others, month=month
        )

    def _warn_of_lost_instances(self, declared: Declared) -> None:
        """Warn of instances with this resource's label from another state, which may be lost."""
        for contract in self.session.instance_cache.contracts(max_age_s=LIST_MAX_AGE_S).values():
            label = Label.parse(contract.label)
            if label is not None and label.base == declared.label_base and label.owner != declared.owner:
                ENGINE.warn(
                    f"instance {contract.id}, ${contract.dph_total_usd:.4f}/h, has this resource's label, but of "
                    f"another state. If that state is lost: `pulumi config set adopt_instance_id {contract.id}` adopts "
                    f"it, `vastai destroy instance {contract.id}` destroys it"
                )

    def _id_to_adopt(self, declared: Declared) -> int | None:
        id_ = declared.adopt_instance_id
        return id_ if id_ and id_ not in self.session.instance_ids(declared.resource_key) else None

    def _candidates(self, declared: Declared, *, for_all: bool = False) -> Sequence[Candidate]:
        """Return candidates for this replica. `for_all`: require enough for every replica. Raises NoOffer."""
        try:
            candidates = self.session.search(declared.parsed_search)
        except NoOffer as error:
            raise NoOffer(f"a machine has to be rented, but {error}") from None
        # if too few offers are left to assign, the first replica that rents gets the offer
        usable = self._assigned_offers(candidates, declared)
        free = self._without_taken(candidates, declared)
        machine_count = len(self._fleet_state(declared).machines) + len(free)
        if not usable and for_all and free and machine_count < declared.slot.of:
            raise NoOffer(
                f"{declared.slot.of} servers are declared, but running and available machines are enough only for "
                f"{machine_count}; widen the query or reduce replicas"
            )
        if usable := usable or free:
            return usable
        raise NoOffer(
            f"a machine has to be rented, but each of the {len(candidates)} matching ones has just failed or serves "
            "another replica; widen the query or reduce replicas"
        )

    def _summaries(self, olds: Mapping[str, Any], news: Mapping[str, Any], declared: Declared) -> list[dict[str, Any]]:
        """Return the offers that a policy pack sees. It runs before a replacement is decided: with a new search these
        are its offers, or none (then a replacement fails).
        """
        if not is_known(news.get("search")) or same(olds.get("search"), news["search"]):
            return list(olds.get("candidates") or [])
        try:
            return summaries(self._candidates(declared), declared.bid)
        except NoOffer:
            return []

    def _search_again(self, declared: Declared) -> list[Candidate]:
        """Return candidates of a new search, this replica's first. Claims prevent a machine from being rented twice."""
        candidates = self.session.search(declared.parsed_search, again=True)
        assigned = self._assigned_offers(candidates, declared)
        return [*assigned, *(candidate for candidate in candidates if candidate not in assigned)]

    def _assigned_offers(self, candidates: Sequence[Candidate], declared: Declared) -> list[Candidate]:
        return self._without_taken(assign_offers(candidates, declared.slot, self._fleet_state(declared)), declared)

    def _without_taken(self, candidates: Sequence[Candidate], declared: Declared) -> list[Candidate]:
        taken = {*self._fleet_state(declared).machines, *self.session.failed_machines(declared.resource_key)}
        return [candidate for candidate in candidates if candidate.offer.machine_id not in taken]

    def _fleet_state(self, declared: Declared) -> FleetState:
        if declared.slot.of <= 1:
            return FleetState()
        return self.session.fleet_state(declared.label_base, declared.owner)

    def _probe_over_window(self, observed: Observation, declared: Declared) -> ProbeResult:
        """Probe, and repeat failed probes over a window: one lost packet must not cause a replacement. A busy server
        is probed once more with the clients' timeout."""
        probe, answer_s = declared.probe, declared.watch.answer_s
        deadline = time.monotonic() + declared.watch.probe_window_s
        while True:
            result = self.session.note_probe(probe.check(observed.ip, observed.port or 0, declared.env))
            if result.verdict == "busy" and probe.timeout_s < answer_s:
                ENGINE.log(f"accepts connections, but {result.detail}: probing for {answer_s:g} s", ephemeral=True)
                probe = replace(probe, timeout_s=answer_s)
                continue
            if result.verdict in ("ready", "busy") or time.monotonic() >= deadline or ENGINE.stopped():
                return result
            ENGINE.log(f"probing again: {result.detail}", ephemeral=True)
            time.sleep(PROBE_EVERY_S)


class Instance(VastResource, InstanceOutputs, name="Instance"):
    def __init__(self, name: str, args: InstanceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        secret = ("env", "stack_secret", "image_login", "ca_private_key")
        super().__init__(InstanceProvider(), name, args, opts, secret)
