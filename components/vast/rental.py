"""Renting until something serves: adopt the instance of a killed run, else rent, give up bad hosts, take the next.

The money rule: whenever `run` raises, nothing that it rented is left; where a destroy failed, the error carries the id
and the command that removes it. Called by the Instance resource's `create`; clock, sleep, probe and progress come in.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace

from components.errors import (
    ApiError,
    ApiUnreachable,
    AuthError,
    CreateFailed,
    DestroyFailed,
    Interrupted,
    MalformedAnswer,
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
from components.vast.probe import Probe
from components.vast.ranking import Candidate, distinct_machines
from components.vast.rental_spec import Order, Rejected, Rented, rejections
from components.vast.status import Failure, without_numbers

LEFT_FRESH_S = 5.0  # an instance of a killed run is older than this process, so replicas that rent at once share a list
SPEC_FAULT_MACHINES = 2  # the same application error on this many machines is not the hosts' fault
BLIND = (
    "no rented host can be reached from here, on two machines: a firewall on this side, or a network that only a proxy "
    "leads out of, is likelier than two bad hosts; servers are asked directly, on ports that the hosts choose"
)


@dataclass(eq=False, repr=False)
class Rental:
    """One run of renting. Not reused.

    `managed_ids`: ids that the state has. `stop`: why to end, "" to go on. `no_host_reached`: whether no rented host was ever heard
    from here. `claim` reserves a machine for one rental of this process. `avoid`: machines that have just failed.
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
    stop: Callable[[], str] = str
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

    def run(self) -> Rented:
        """Return a contract that serves and whose label no longer says pending.

        Raises RentalFailed (what happened to each candidate), DestroyFailed (something may still be billed),
        Interrupted, or the API's own error where it refuses everything.
        """
        started = self.clock()
        try:
            adopted = self._adopt()
            if adopted is not None:
                self._secrets.extend(self.order.spec.env_for(parse_nonce(adopted.label)).values())
                self._active.append(self._attempt(self._seen(adopted), None))
            return self._keep(self._until_one_serves(), adopted, started)
        except BaseException as error:
            self._release(error)
            raise

    # ---- the loop ------------------------------------------------------------------------------------------------

    def _until_one_serves(self) -> Attempt:
        while True:
            self._stop_if_asked()
            while len(self._active) < self.order.hedge and self._rent_next():
                pass
            if not self._active:
                raise RentalFailed(self._report())
            contracts = self._look()
            if contracts is not None:
                for attempt in list(self._active):
                    outcome = attempt.step(contracts.get(attempt.instance_id), self.clock())
                    if outcome.state == "ready":
                        self.notice(outcome.text)
                        return attempt
                    self._handle(attempt, outcome)
                    if outcome.state == "pending" and attempt.is_log_due(self.clock()):
                        self._handle(attempt, attempt.read_log(self._log(attempt), self.clock()))
            if self._active:
                now = self.clock()
                self.sleep(min(attempt.due_s(now, self.order.poll_s) for attempt in self._active))

    def _look(self) -> dict[int, Contract] | None:
        """Read the list; None when the API cannot be asked just now, which is no reason to give a machine up."""
        now = self.clock()
        max_age_s = min(attempt.list_age_s(now, self.order.poll_s) for attempt in self._active)
        try:
            contracts = dict(self.instance_cache.contracts(max_age_s=max_age_s))
        except AuthError:
            raise
        except (ApiUnreachable, ApiError, MalformedAnswer) as error:
            self.progress(f"the API cannot be asked, still waiting: {str(error)[:120]}")
            for attempt in list(self._active):
                waited = self.clock() - attempt.rented_at
                if attempt.contract is not None or waited > self.order.deadlines.rented_s:
                    self._handle(attempt, attempt.step(attempt.contract, self.clock()))
            return None
        return contracts

    def _handle(self, attempt: Attempt, outcome: StepResult) -> None:
        if outcome.state == "pending":
            if attempt.is_news(self.clock(), self.news_every_s):
                self.progress(outcome.text)
            return
        if outcome.failure is None:
            return
        failure = self._with_log(attempt, outcome.failure)
        if attempt.instance_id == self.order.adopt_instance_id:
            raise RentalFailed(
                f"{attempt.description} was to be adopted but does not serve: {failure.text}; it is left as it is"
            )
        text = scrub(failure.text, self._secrets)
        self._destroy(attempt.instance_id, "boot failed", text.partition("\n")[0])
        self._active.remove(attempt)
        offer_id = attempt.candidate.offer.ask_id if attempt.candidate else 0
        took = self.clock() - attempt.rented_at
        self._rejected.append(Rejected(attempt.machine_id, offer_id, text.partition("\n")[0], took))
        self.notice(f"given up and destroyed: {text.partition(chr(10))[0]}; {attempt.description}")
        self._signs[failure.sign] += 1
        if (
            failure.sign == "unreachable"
            and self._signs["unreachable"] >= SPEC_FAULT_MACHINES
            and self.no_host_reached()
        ):
            raise RentalFailed(f"{BLIND}\n{self._report()}")
        repeated = failure.fault == "either" and self._signs[failure.sign] >= SPEC_FAULT_MACHINES
        if failure.fault == "spec" or repeated:
            why = "the same on two machines" if repeated else "no other machine would do better"
            report = self._report(
                "change what it names in the config (model, image, extra_args, limits), then run again"
            )
            raise RentalFailed(f"what is deployed is at fault, not the hosts ({why}): {text}\n{report}")

    def _log(self, attempt: Attempt) -> str:
        try:
            return tail(self.client.logs(attempt.instance_id, lines=60), self._secrets)
        except VastError as error:
            return f"(no log: {error})"

    def _with_log(self, attempt: Attempt, failure: Failure) -> Failure:
        if failure.sign not in ("exited", "not-serving", "created-stopped"):
            return failure
        if not (log := self._log(attempt)):
            return failure
        for pattern in self.order.spec_fault_logs:
            found = re.search(pattern, log, re.MULTILINE)
            if found:
                return Failure(f"log:{pattern}", f"{failure.text}: {found[0].strip()[:200]}\n{log}", "spec")
        last = log.splitlines()[-1][-160:]
        return Failure(f"{failure.sign}:{without_numbers(last)}", f"{failure.text}: {last}\n{log}", failure.fault)

    # ---- renting -------------------------------------------------------------------------------------------------

    def _rent_next(self) -> bool:
        """Rent the next candidate that is still free; False when there is none or enough were tried."""
        while len(self._tried) < self.order.max_tries:
            if not self._queue and not self._searched_again:
                self._searched_again = True
                try:
                    self._queue = distinct_machines(self.search())
                except NoOffer as error:  # what happened to those that were tried is the better report
                    self.notice(str(error))
            if not self._queue:
                return False
            candidate = self._queue.pop(0)
            machine = candidate.offer.machine_id
            if machine in self._tried or machine in self.avoid or not self.claim(machine):
                continue
            self._stop_if_asked()
            self.progress(f"renting {candidate}")
            try:
                instance_id = self._rent(candidate)
            except (AuthError, Interrupted, DestroyFailed):
                raise
            except VastError:
                if not self._active:
                    raise
                return False  # one that boots is not given up because a second cannot be had
            if instance_id is not None:
                self._tried.add(machine)
                self._active.append(self._attempt(instance_id, candidate))
                return True
        return False

    def _rent(self, candidate: Candidate) -> int | None:
        """Rent one offer; None when it is not to be had. A lost answer is resolved by the label first."""
        offer = candidate.offer
        bid_usd = self.order.bid.price_for(offer) if self.order.bid else None
        label = replace(self.order.label, pending=True, nonce=new_nonce())
        try:
            identity = self.order.spec.identity(offer.public_ip, label.nonce)
        except ValueError:
            self._lost(candidate, f"its offer shows no IP to sign a certificate for ({offer.public_ip!r})")
            return None
        self._nonces.add(label.nonce)
        self._secrets += [*self.order.spec.env_for(label.nonce).values(), *([identity.secret] if identity else [])]
        body = self.order.spec.body(label, bid_usd=bid_usd, identity=identity)
        self.record(intent(label, candidate, bid_usd))
        try:
            return self._made(self.client.rent(offer.ask_id, body), label.nonce)
        except OfferTaken:
            self._lost(candidate, "taken by someone else")
        except AmbiguousRent as error:
            self._ambiguous = True
            if (found := self._resolve(label.nonce)) is not None:
                return self._seen(found)
            self._lost(candidate, f"no answer to the rent call ({error}), and no such instance")
        except CreateFailed as error:
            if error.leaked_id is not None:
                self._destroy(self._made(error.leaked_id, label.nonce), "boot failed", "never started")
                self._lost(candidate, f"refused: {error}")
            elif error.status in (400, 403) and "invalid" in f"{error.code} {error}":
                text = scrub(str(error), self._secrets)
                raise RentalFailed(f"the API refuses what was asked for: {text}") from None
            elif "credit" in str(error):
                raise RentalFailed(
                    f"the account cannot pay: {error}; add credit at https://cloud.vast.ai/billing/"
                ) from None
            else:
                self._lost(candidate, f"refused: {error}")
        return None

    def _made(self, instance_id: int, nonce: str) -> int:
        self.record(Event("rent", nonce=nonce, instance_id=instance_id))
        return instance_id

    def _seen(self, contract: Contract) -> int:
        self.record(rent_event(contract))
        return contract.id

    def _resolve(self, nonce: str) -> Contract | None:
        """Return the instance that a rent call without an answer made; None if there is none."""
        deadline = self.clock() + self.order.resolve_s
        while True:
            for found in self._ours():
                if parse_nonce(found.label) == nonce:
                    return found
            if self.clock() >= deadline:
                return None
            self.sleep(min(2.0, self.order.poll_s))

    def _lost(self, candidate: Candidate, reason: str) -> None:
        text = scrub(reason, self._secrets)[:300]
        self._rejected.append(Rejected(candidate.offer.machine_id, candidate.offer.ask_id, text, 0.0))
        self._tried.add(candidate.offer.machine_id)
        self.progress(f"offer {candidate.offer.ask_id}: {text}; taking the next")

    def _attempt(self, instance_id: int, candidate: Candidate | None) -> Attempt:
        order = self.order
        return Attempt(instance_id, order.container_port, order.deadlines, self.probe, self.clock(), candidate)

    # ---- instances of a killed run -------------------------------------------------------------------------------

    def _ours(self, *, max_age_s: float = 0.0, recorded: bool = False) -> list[Contract]:
        """Return the contracts of this very resource that no state has. `recorded`: those without pending mark too,
        which an update that failed may have replaced and not yet destroyed, and which a gateway may still use."""
        known = set(self.managed_ids())
        return [
            contract
            for contract in self.instance_cache.contracts(max_age_s=max_age_s).values()
            if (label := Label.parse(contract.label)) is not None
            and label.same_resource(self.order.label)
            and contract.id not in known
            and (label.pending or recorded)
        ]

    def _adopt(self) -> Contract | None:
        """Keep one left-behind contract that runs this very spec; destroy the others that no state has."""
        if self.order.adopt_instance_id is not None:
            return self._adopt_named(self.order.adopt_instance_id)
        ours = self._ours(max_age_s=LEFT_FRESH_S, recorded=True)
        same = [one for one in ours if (label := Label.parse(one.label)) and label.same_spec(self.order.label)]
        keep = min(same, key=lambda contract: (contract.actual_status != "running", contract.id), default=None)
        for contract in ours:
            if contract is not keep and contract.label.endswith(PENDING):
                self.notice(f"instance {contract.id} was left by a killed run and runs something else: destroyed")
                self._destroy(self._seen(contract), "killed run")
        if keep is not None:
            self.notice(f"instance {keep.id} was left by an earlier run: adopted, nothing rented anew")
        return keep

    def _adopt_named(self, instance_id: int) -> Contract:
        contract = self.client.instance(instance_id)
        if contract is None:
            raise RentalFailed(
                f"instance {instance_id} does not exist: take adopt_instance_id out of the config to rent one"
            )
        label = Label.parse(contract.label)
        if label is not None and label.base != self.order.label.base and not label.pending:
            raise RentalFailed(f"instance {instance_id} belongs to {label.base} by its label; destroy that stack first")
        return contract

    # ---- the end -------------------------------------------------------------------------------------------------

    def _keep(self, winner: Attempt, adopted: Contract | None, started: float) -> Rented:
        for attempt in [other for other in self._active if other is not winner]:
            self._destroy(attempt.instance_id, "hedge")
            self._active.remove(attempt)
            self.notice(f"destroyed, the other one was faster: {attempt.description}")
        contract, seen = winner.contract, winner.observation
        if contract is None or seen is None or seen.port is None:
            raise RentalFailed(f"{winner.description} was ready without an address")
        for stray in self._ours():  # the list may have been without it at first
            if stray.id != winner.instance_id:
                unanswered = parse_nonce(stray.label) in self._nonces
                origin = "of a rent call without an answer" if unanswered else "left by a killed run"
                self.notice(f"instance {stray.id}, {origin}, showed up late: destroyed")
                self._destroy(self._seen(stray), "killed run")
        self._stop_if_asked()
        label = str(replace(self.order.label, nonce=parse_nonce(contract.label)))
        self.client.set_label(winner.instance_id, label)
        self.record(Event("serving", instance_id=winner.instance_id))
        contract = replace(contract, label=label)
        self.instance_cache.put(contract)
        return Rented(
            contract=contract,
            ip=seen.ip,
            port=seen.port,
            candidate=winner.candidate,
            adopted=adopted is not None and adopted.id == winner.instance_id,
            ready_s=self.clock() - started,
            rejected=tuple(self._rejected),
        )

    def _stop_if_asked(self) -> None:
        if why := self.stop():
            ids = ", ".join(str(attempt.instance_id) for attempt in self._active)
            raise Interrupted(
                f"{why}: {f'what was booting is destroyed (instance {ids})' if ids else 'nothing is rented'}"
            )

    def _release(self, error: BaseException) -> None:
        """Destroy everything that is still rented; a failure to do so replaces the error."""
        named = self.order.adopt_instance_id  # somebody else's work: left as it is when it cannot be adopted
        ids = [attempt.instance_id for attempt in self._active if attempt.instance_id != named]
        failures = []
        try:
            ids.extend(self._seen(stray) for stray in self._ours() if stray.id not in (*ids, named))
        except VastError as blind:
            if self._ambiguous:
                failures.append(
                    f"whether a rent call without an answer made an instance could not be checked ({blind})"
                )
        for instance_id in ids:
            try:
                self._destroy(instance_id, "boot failed", scrub(str(error), self._secrets))
            except DestroyFailed as failed:
                failures.append(str(failed))
        if failures:
            raise DestroyFailed(
                "\n".join(failures) + f"\nAn instance with the label {self.order.label} MAY STILL BE BILLED: look with "
                f"`vastai show instances`, or run `pulumi up` again, which finds it. This came after: {error}",
                instance_id=ids[0] if ids else 0,
            ) from None

    def _destroy(self, instance_id: int, reason: Reason, text: str = "") -> None:
        destroy_and_verify(self.client, instance_id, clock=self.clock, sleep=self.sleep)
        self.record(Event("end", instance_id=instance_id, reason=reason, text=text))

    def _report(self, next_step: str = "run again, or widen the query") -> str:
        return rejections(self._rejected, self.order.max_tries, next_step)
