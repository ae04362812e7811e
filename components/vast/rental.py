"""Rents until an instance serves: adopts the instance of a killed run, or rents candidates one after the other.

If `run` raises, it has destroyed all that it rented. If a destroy failed, the error contains the instance id and the
command that removes it. Called by the Instance resource's `create`, which passes in clock, sleep, probe and progress.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace

from components.errors import (
    AuthError,
    CreateFailed,
    DestroyFailed,
    Interrupted,
    NoOffer,
    OfferTaken,
    RentalFailed,
    VastError,
)
from components.redaction import scrub, tail
from components.vast.attempt import Attempt, StepResult
from components.vast.client import AmbiguousRent, VastClient, destroy_and_verify
from components.vast.instance_cache import InstanceCache
from components.vast.label import PENDING, Label, new_nonce, parse_nonce
from components.vast.ledger import Event, Reason, intent, rent_event
from components.vast.models import Contract
from components.vast.money import BILLING_URL
from components.vast.probe import Probe
from components.vast.ranking import Candidate, distinct_machines
from components.vast.rental_spec import Order, Rejected, Rented, rejection_report
from components.vast.status import Failure, without_numbers

LEFTOVERS_MAX_AGE_S = 5.0  # leftovers of a killed run are older than this process, so concurrent replicas share a list
SPEC_FAULT_MACHINES = 2  # the same application error on this many machines is not the fault of the hosts
UNREACHABLE = (
    "no rented host can be reached from here, on two machines: probably a firewall or a network with a proxy on this "
    "side, not two bad hosts; this machine connects to the servers directly, on ports that the hosts choose"
)


@dataclass(eq=False, repr=False)
class Rental:
    """One run of renting. Not reusable.

    `managed_ids`: instances in the state. `claim` reserves a machine for one rental of this process. `stop`: why to
    stop, "" to continue. `no_host_reached`: whether no rented host has responded yet. `avoid`: failed machines.
    """

    client: VastClient
    instance_cache: InstanceCache
    order: Order
    _: KW_ONLY
    probe: Probe
    candidates: Sequence[Candidate]
    search: Callable[[], Sequence[Candidate]]
    managed_ids: Callable[[], Iterable[int]] = tuple
    claim: Callable[[int], bool] = lambda _machine: True
    progress: Callable[[str], None] = lambda _text: None
    notice: Callable[[str], None] = lambda _text: None
    stop: Callable[[], str] = str  # never: str() is ""
    no_host_reached: Callable[[], bool] = lambda: True
    avoid: Collection[int] = ()
    record: Callable[[Event], None] = lambda _event: None  # writes the ledger
    news_every_s: float = 30.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._queue = distinct_machines(self.candidates)
        self._secrets = self.order.spec.secrets()
        self._active: list[Attempt] = []
        self._rejected: list[Rejected] = []
        self._signs: Counter[str] = Counter()
        self._tried: set[int] = set()
        self._nonces: set[str] = set()
        self._searched_again = self._ambiguous = False
        self._hedge = self.order.hedge

    def run(self) -> Rented:
        """Return a serving contract, whose label is no longer marked as pending.

        Raises RentalFailed (with the reason for each candidate), DestroyFailed (an instance may still cost money),
        Interrupted, or the API's error if it refuses all calls.
        """
        started = self.clock()
        try:
            adopted = self._adopt()
            if adopted is not None:
                self._secrets.extend(self.order.spec.env_for(parse_nonce(adopted.label)).values())
                self._active.append(self._attempt(self._record_contract(adopted), None))
            return self._finish(self._rent_until_ready(), adopted, started)
        except BaseException as error:
            self._release(error)
            raise

    # ---- the loop ------------------------------------------------------------------------------------------------

    def _rent_until_ready(self) -> Attempt:
        while True:
            self._raise_if_stopped()
            while len(self._active) < self._hedge and self._rent_next():
                pass
            if not self._active:
                raise RentalFailed(self._report())
            contracts = self._list_contracts()
            if contracts is not None:
                for attempt in list(self._active):
                    result = attempt.step(contracts.get(attempt.instance_id), self.clock())
                    if result.state == "ready":
                        self.notice(result.text)
                        return attempt
                    self._handle(attempt, result)
                    if result.state == "pending" and attempt.is_log_due(self.clock()):
                        self._handle(attempt, attempt.read_log(self._fetch_log(attempt), self.clock()))
            if self._active:
                now = self.clock()
                self.sleep(min(attempt.due_s(now, self.order.poll_s) for attempt in self._active))

    def _list_contracts(self) -> Mapping[int, Contract] | None:
        """Return the account's contracts; None if the API is unavailable, which does not fail an attempt."""
        now = self.clock()
        max_age_s = min(attempt.list_age_s(now, self.order.poll_s) for attempt in self._active)
        try:
            return self.instance_cache.contracts(max_age_s=max_age_s)
        except AuthError:
            raise
        except VastError as error:
            self.progress(f"the API is unavailable, still waiting: {str(error)[:120]}")
            for attempt in list(self._active):
                waited = self.clock() - attempt.rented_at
                if attempt.contract is not None or waited > self.order.deadlines.rented_s:
                    self._handle(attempt, attempt.step(attempt.contract, self.clock()))
            return None

    def _handle(self, attempt: Attempt, result: StepResult) -> None:
        if result.state == "pending":
            if attempt.is_report_due(self.clock(), self.news_every_s):
                self.progress(result.text)
            return
        if result.failure is None:
            return
        failure = self._add_log(attempt, result.failure)
        if attempt.instance_id == self.order.adopt_instance_id:
            raise RentalFailed(
                f"{attempt.description} cannot be adopted, it does not serve: {failure.text}; it is left unchanged"
            )
        text = scrub(failure.text, self._secrets)
        reason = text.partition("\n")[0]
        self._destroy(attempt.instance_id, "boot failed", reason)
        self._active.remove(attempt)
        offer_id = attempt.candidate.offer.ask_id if attempt.candidate else 0
        self._rejected.append(Rejected(attempt.machine_id, offer_id, reason, self.clock() - attempt.rented_at))
        self.notice(f"given up and destroyed: {reason}; {attempt.description}")
        self._signs[failure.sign] += 1
        if (
            failure.sign == "unreachable"
            and self._signs["unreachable"] >= SPEC_FAULT_MACHINES
            and self.no_host_reached()
        ):
            raise RentalFailed(f"{UNREACHABLE}\n{self._report()}")
        repeated = failure.fault == "either" and self._signs[failure.sign] >= SPEC_FAULT_MACHINES
        if failure.fault == "spec" or repeated:
            why = "the same on two machines" if repeated else "another machine would fail as well"
            report = self._report("correct the config (model, image, extra_args, limits), then run again")
            raise RentalFailed(f"the deployment is at fault, not the hosts ({why}): {text}\n{report}")

    def _fetch_log(self, attempt: Attempt) -> str:
        try:
            return tail(self.client.logs(attempt.instance_id, lines=60), self._secrets)
        except VastError as error:
            return f"(no log: {error})"

    def _add_log(self, attempt: Attempt, failure: Failure) -> Failure:
        if failure.sign not in ("exited", "not-serving", "created-stopped") or not (log := self._fetch_log(attempt)):
            return failure
        for pattern in self.order.spec_fault_logs:
            if match := re.search(pattern, log, re.MULTILINE):
                return Failure(f"log:{pattern}", f"{failure.text}: {match[0].strip()[:200]}\n{log}", "spec")
        last_line = log.splitlines()[-1][-160:]
        sign = f"{failure.sign}:{without_numbers(last_line)}"
        return Failure(sign, f"{failure.text}: {last_line}\n{log}", failure.fault)

    # ---- renting -------------------------------------------------------------------------------------------------

    def _rent_next(self) -> bool:
        """Rent the next free candidate; return False if there is none, or `max_tries` is reached."""
        while len(self._tried) < self.order.max_tries:
            if not self._queue and not self._searched_again:
                self._searched_again = True
                try:
                    self._queue = distinct_machines(self.search())
                except NoOffer as error:  # not raised: the report of the tried candidates is more useful
                    self.notice(str(error))
                except VastError as error:
                    return self._end_hedge(error)
            if not self._queue:
                return False
            candidate = self._queue.pop(0)
            machine = candidate.offer.machine_id
            if machine in self._tried or machine in self.avoid or not self.claim(machine):
                continue
            self._raise_if_stopped()
            self.progress(f"renting {candidate}")
            try:
                instance_id = self._rent(candidate)
            except VastError as error:
                return self._end_hedge(error)
            if instance_id is not None:
                self._tried.add(machine)
                self._active.append(self._attempt(instance_id, candidate))
                return True
        return False

    def _end_hedge(self, error: VastError) -> bool:
        """Keep the booting instance if a second one cannot be rented. Raises it if none boots, or if all must stop."""
        if not self._active or isinstance(error, AuthError | Interrupted | DestroyFailed):
            raise error
        self._hedge = 1
        self.notice(f"no second machine is rented: {scrub(str(error), self._secrets)}")
        return False

    def _rent(self, candidate: Candidate) -> int | None:
        """Rent an offer and return the instance id; None if it failed. Without a response, look for the label first."""
        offer = candidate.offer
        bid_usd = self.order.bid.price_for(offer) if self.order.bid else None
        label = replace(self.order.label, pending=True, nonce=new_nonce())
        try:
            identity = self.order.spec.identity(offer.public_ip, label.nonce)
        except ValueError:
            self._reject(candidate, f"its offer has no IP to sign a certificate for ({offer.public_ip!r})")
            return None
        self._nonces.add(label.nonce)
        self._secrets += [*self.order.spec.env_for(label.nonce).values(), *([identity.secret] if identity else [])]
        body = self.order.spec.body(label, bid_usd=bid_usd, identity=identity)
        self.record(intent(label, candidate, bid_usd))
        try:
            return self._record_rent(self.client.rent(offer.ask_id, body), label.nonce)
        except OfferTaken:
            self._reject(candidate, "taken by someone else")
        except AmbiguousRent as error:
            self._ambiguous = True
            if (contract := self._find_by_nonce(label.nonce)) is not None:
                return self._record_contract(contract)
            self._reject(candidate, f"no answer to the rent call ({error}), and no such instance")
        except CreateFailed as error:
            if error.leaked_id is not None:
                self._destroy(self._record_rent(error.leaked_id, label.nonce), "boot failed", "never started")
                self._reject(candidate, f"refused: {error}")
            elif error.status in (400, 403) and "invalid" in f"{error.code} {error}":
                text = scrub(str(error), self._secrets)
                raise RentalFailed(f"the API rejects the rent request: {text}") from None
            elif "credit" in str(error):
                raise RentalFailed(f"the account cannot pay: {error}; add credit at {BILLING_URL}") from None
            else:
                self._reject(candidate, f"refused: {error}")
        return None

    def _record_rent(self, instance_id: int, nonce: str) -> int:
        self.record(Event("rent", nonce=nonce, instance_id=instance_id))
        return instance_id

    def _record_contract(self, contract: Contract) -> int:
        self.record(rent_event(contract))
        return contract.id

    def _find_by_nonce(self, nonce: str) -> Contract | None:
        """Return the instance of a rent call without a response; None if there is none after `resolve_s`."""
        deadline = self.clock() + self.order.resolve_s
        while True:
            for contract in self._leftovers():
                if parse_nonce(contract.label) == nonce:
                    return contract
            if self.clock() >= deadline:
                return None
            self.sleep(min(2.0, self.order.poll_s))

    def _reject(self, candidate: Candidate, reason: str) -> None:
        text = scrub(reason, self._secrets)[:300]
        self._rejected.append(Rejected(candidate.offer.machine_id, candidate.offer.ask_id, text, 0.0))
        self._tried.add(candidate.offer.machine_id)
        self.progress(f"offer {candidate.offer.ask_id}: {text}; trying the next")

    def _attempt(self, instance_id: int, candidate: Candidate | None) -> Attempt:
        order = self.order
        return Attempt(instance_id, order.container_port, order.deadlines, self.probe, self.clock(), candidate)

    # ---- instances of a killed run -------------------------------------------------------------------------------

    def _leftovers(self, *, max_age_s: float = 0.0, pending_only: bool = True) -> list[Contract]:
        """Return the pending contracts of this resource that no state contains. `pending_only=False`: also those that
        are no longer pending. A failed update may have left such a contract, and a gateway may still use it."""
        managed_ids = set(self.managed_ids())
        return [
            contract
            for contract in self.instance_cache.contracts(max_age_s=max_age_s).values()
            if (label := Label.parse(contract.label)) is not None
            and label.same_resource(self.order.label)
            and contract.id not in managed_ids
            and (label.pending or not pending_only)
        ]

    def _adopt(self) -> Contract | None:
        """Return a leftover with the same spec, or None. Destroy the other pending leftovers."""
        if self.order.adopt_instance_id is not None:
            return self._adopt_named(self.order.adopt_instance_id)
        leftovers = self._leftovers(max_age_s=LEFTOVERS_MAX_AGE_S, pending_only=False)
        same = [item for item in leftovers if (label := Label.parse(item.label)) and label.same_spec(self.order.label)]
        adopted = min(same, key=lambda contract: (contract.actual_status != "running", contract.id), default=None)
        for contract in leftovers:
            if contract is not adopted and contract.label.endswith(PENDING):
                self.notice(f"instance {contract.id} was left by a killed run and is not needed: destroyed")
                self._destroy(self._record_contract(contract), "killed run")
        if adopted is not None:
            self.notice(f"instance {adopted.id} was left by an earlier run: adopted, no new one rented")
        return adopted

    def _adopt_named(self, instance_id: int) -> Contract:
        contract = self.client.instance(instance_id)
        if contract is None:
            raise RentalFailed(f"instance {instance_id} does not exist: remove adopt_instance_id from the config")
        label = Label.parse(contract.label)
        if label is not None and label.base != self.order.label.base and not label.pending:
            raise RentalFailed(f"instance {instance_id} belongs to {label.base} by its label; destroy that stack first")
        return contract

    # ---- the end -------------------------------------------------------------------------------------------------

    def _finish(self, winner: Attempt, adopted: Contract | None, started: float) -> Rented:
        for attempt in [attempt for attempt in self._active if attempt is not winner]:
            self._destroy(attempt.instance_id, "hedge")
            self._active.remove(attempt)
            self.notice(f"destroyed, another instance was faster: {attempt.description}")
        contract, observation = winner.contract, winner.observation
        if contract is None or observation is None or observation.port is None:
            raise RentalFailed(f"{winner.description} was ready without an address")
        for leftover in self._leftovers():  # the first list may have lacked it
            if leftover.id != winner.instance_id:
                from_this_run = parse_nonce(leftover.label) in self._nonces
                origin = "of a rent call without an answer" if from_this_run else "left by a killed run"
                self.notice(f"instance {leftover.id}, {origin}, showed up late: destroyed")
                self._destroy(self._record_contract(leftover), "killed run")
        self._raise_if_stopped()
        label = str(replace(self.order.label, nonce=parse_nonce(contract.label)))
        self.client.set_label(winner.instance_id, label)
        self.record(Event("serving", instance_id=winner.instance_id))
        contract = replace(contract, label=label)
        self.instance_cache.put(contract)
        return Rented(
            contract=contract,
            ip=observation.ip,
            port=observation.port,
            candidate=winner.candidate,
            adopted=adopted is not None and adopted.id == winner.instance_id,
            ready_s=self.clock() - started,
            rejected=tuple(self._rejected),
        )

    def _raise_if_stopped(self) -> None:
        if why := self.stop():
            adopt_id = self.order.adopt_instance_id
            ids = [attempt.instance_id for attempt in self._active if attempt.instance_id != adopt_id]
            outcome = f"booting instances destroyed: {', '.join(map(str, ids))}" if ids else "nothing is rented"
            unchanged = f"; instance {adopt_id}, which was to be adopted, is unchanged" if adopt_id else ""
            raise Interrupted(f"{why}: {outcome}{unchanged}")

    def _release(self, error: BaseException) -> None:
        """Destroy all rented instances. If that fails, DestroyFailed replaces `error`."""
        adopt_id = self.order.adopt_instance_id  # this run did not rent it, so it does not destroy it
        ids = [attempt.instance_id for attempt in self._active if attempt.instance_id != adopt_id]
        failures = []
        try:
            ids.extend(self._record_contract(item) for item in self._leftovers() if item.id not in (*ids, adopt_id))
        except VastError as list_error:
            if self._ambiguous:
                failures.append(f"a rent call got no answer; whether it rented could not be checked: {list_error}")
        for instance_id in ids:
            try:
                self._destroy(instance_id, "boot failed", scrub(str(error), self._secrets))
            except DestroyFailed as destroy_error:
                failures.append(str(destroy_error))
        if failures:
            raise DestroyFailed(
                "\n".join(failures) + f"\nAn instance with the label {self.order.label} MAY STILL BE BILLED: look with "
                f"`vastai show instances`, or run `pulumi up` again, which finds it. The first error was: {error}",
                instance_id=ids[0] if ids else 0,
            ) from None

    def _destroy(self, instance_id: int, reason: Reason, text: str = "") -> None:
        destroyed = destroy_and_verify(self.client, instance_id, clock=self.clock, sleep=self.sleep)
        self.record(Event("end", destroyed.at, instance_id=instance_id, reason=reason, text=text))

    def _report(self, next_step: str = "run again, or widen the query") -> str:
        return rejection_report(self._rejected, self.order.max_tries, next_step)
