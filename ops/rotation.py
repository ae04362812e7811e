"""The rotation of a stack's client key, half by half: begin, finish. Called by `ops.rotate_key`; prints no key."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from components.errors import ServingError
from components.vllm.client import RerankClient
from ops import plan as plans
from ops.config import StackConfig
from ops.engine import Pulumi
from ops.exits import ERROR, PENDING, USAGE, OpsError
from ops.fleet import INSTANCE, Fleet, key_resource, secret_output
from ops.outputs import Outputs
from ops.status import trusted

KEY_BYTES = 32
SEEN_WITHIN_S = 30.0  # a gateway's key file or a server's client keys may take a moment
ASK_EVERY_S = 0.5


class Rotation:
    """The rotation of one stack's client key. `made`: the stack makes its keys, else they are in its config."""

    def __init__(self, pulumi: Pulumi, config: StackConfig, say: Callable[[str], None]) -> None:
        self.pulumi = pulumi
        self.config = config
        self._say = say
        self.made = not config.get("api_key")
        state = pulumi.export(show_secrets=True)
        self.resource = key_resource(state, f"{Fleet.parse(state).name}-key")
        self.outputs = Outputs.parse(pulumi.outputs())
        if not self.outputs.api_key or not self.outputs.url:
            raise OpsError(
                USAGE, f"stack {pulumi.stack} has no server yet", f"python -m ops.deploy --stack {pulumi.stack}"
            )
        if config.get("guard") in ("false", "off"):
            raise OpsError(
                USAGE,
                "guard is off: vLLM itself knows one key only, from its start, so another key is another container",
                f"set guard: on; or set another api_key_generation (or api_key) and run python -m ops.deploy --stack "
                f"{pulumi.stack}: the new server takes the new key only, from the moment that it is there",
            )

    @property
    def asked(self) -> bool:
        """Whether the config asks for a second key."""
        if self.made:
            return self.config.get("keep_previous_key") in ("true", "on")
        previous = self.config.get("api_key_previous")
        return bool(previous) and previous != self.config.get("api_key")

    @property
    def deployed(self) -> bool:
        """Whether the key that the config asks for is the one that is deployed."""
        if self.made:
            inputs = self.resource.get("inputs") or {}
            return int(inputs.get("generation") or 1) == int(self.config.get("api_key_generation") or 1)
        return self.outputs.api_key == self.config.get("api_key")

    @property
    def previous(self) -> str:
        """The key that is valid beside the current one, or ""."""
        if self.made:
            return secret_output(self.resource, "previous")
        return self.config.get("api_key_previous")

    def begin(self) -> str:
        """Make another key beside the current one; return what was done in words. Raises OpsError."""
        old = self.outputs.api_key
        if self.asked and self.deployed:
            raise OpsError(
                USAGE,
                "a rotation has begun already: two keys are valid",
                f"python -m ops.rotate_key --stack {self.pulumi.stack} --finish",
            )
        if not self.asked:
            if not self.deployed:
                self._pending("the config has another key than what runs")
            try:
                self._ask_for_two(old)
                self._plan()
            except BaseException:
                self.config.put_back()
                raise
        else:
            self._say("goes on with a begin that was cut off before it was deployed")
            self._plan()
        self._up("--begin")
        new = self._anew().api_key
        if new == old:
            raise OpsError(ERROR, "after the deploy the key is still the old one", "look at pulumi preview --diff")
        self._see(new, 200, "the new key")
        self._see(old, 200, "the old key")
        return "a new key is valid beside the old one"

    def finish(self) -> str:
        """Take the old key away; return what was done in words. Raises OpsError."""
        if not self.asked and not self.previous:
            raise OpsError(
                USAGE,
                "no rotation has begun: one key is valid",
                f"python -m ops.rotate_key --stack {self.pulumi.stack} --begin",
            )
        if not self.deployed:
            raise OpsError(
                USAGE,
                "the new key was never deployed: the run that began was cut off before, and no client can know it",
                f"python -m ops.rotate_key --stack {self.pulumi.stack} --begin goes on with it",
            )
        old = self.previous
        try:
            self.config.remove("keep_previous_key" if self.made else "api_key_previous")
            self._plan()
        except BaseException:
            self.config.put_back()
            raise
        self._up("--finish")
        if old:
            self._see(old, 401, "the old key")
        self._see(self._anew().api_key, 200, "the new key")
        return "the new key is valid; the old one was taken away, and is seen to be refused"

    def _ask_for_two(self, old: str) -> None:
        if self.made:
            following = int(self.config.get("api_key_generation") or 1) + 1
            self.config.put({"api_key_generation": following, "keep_previous_key": "true"})
            return
        # in this order: cut off in between, both are the old one, which is no rotation
        self.config.put_secret("api_key_previous", old)
        self.config.put_secret("api_key", secrets.token_hex(KEY_BYTES))

    def _plan(self) -> None:
        """Raise OpsError where an up would do more than change keys."""
        plan = plans.read(self.pulumi.preview())
        touched = [f"{one.name} ({one.op})" for one in plan.steps if one.type == INSTANCE and one.op != "update"]
        if touched and plan.drift:
            heal = f"python -m ops.heal --stack {self.pulumi.stack}"
            raise OpsError(PENDING, f"a server has to be repaired first: {'; '.join(plan.drift)}", heal)
        if touched:
            self._pending(", ".join(touched))

    def _pending(self, what: str) -> None:
        raise OpsError(
            PENDING,
            f"stack {self.pulumi.stack} has changes that are not deployed: {what}; the key is as it was",
            f"deploy them first: python -m ops.deploy --stack {self.pulumi.stack}, or python -m ops.roll",
        )

    def _up(self, half: str) -> None:
        try:
            self.pulumi.up()
        except OpsError as error:
            again = f"python -m ops.rotate_key --stack {self.pulumi.stack} {half}"
            remedy = f"{error.remedy}; then {again}" if error.remedy else f"then go on: {again}"
            raise OpsError(
                error.code, f"{error.text}. {self.config.path.name} asks for the change already", remedy
            ) from None

    def _anew(self) -> Outputs:
        self.outputs = Outputs.parse(self.pulumi.outputs())
        return self.outputs

    def _see(self, key: str, status: int, name: str) -> None:
        """See at every address that a key is answered or refused. Raises OpsError."""
        behind = self.config.get("gateway") not in ("", "off")  # then a server itself takes no client's key
        urls = dict.fromkeys([self.outputs.url, *([] if behind else [one.url for one in self.outputs.replicas])])
        with trusted(self.outputs) as verify:
            for url in urls:
                deadline = time.monotonic() + SEEN_WITHIN_S
                while (found := answer(url, key, verify)) != status:
                    if time.monotonic() > deadline:
                        raise OpsError(ERROR, f"{url} answers {name} with HTTP {found}, expected {status}")
                    time.sleep(ASK_EVERY_S)


def answer(url: str, key: str, verify: bool | str) -> int:
    """Return the HTTP status of a request with a key; 0 where none came."""
    try:
        _, posted = RerankClient(url, key, ca=verify if isinstance(verify, str) else "", timeout_s=15.0).probe_path(
            "/rerank", key
        )
    except ServingError:
        return 0
    return posted
