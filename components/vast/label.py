"""What an instance's label says: `<project>/<stack>/<name>@<owner>:<digest>[.<nonce>][~pending]`. For `rental`, ops.

`owner` is made once per state (the OfferQuery's id), so that two states with the same stack name on one account never
touch each other's instances. `digest` names the spec. `nonce` is random for each rent: the key and the name that belong
to this instance alone follow from it. A pending mark says that no state has the instance yet.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

PENDING = "~pending"
NONCE_BYTES = 8
MAX_CHARS = 256  # what Vast.ai keeps of a label
OWN_CHARS = len(f"@{8 * '0'}:{12 * '0'}.{2 * NONCE_BYTES * '0'}{PENDING}")


def new_nonce() -> str:
    """Return 16 hex digits, which no other instance has."""
    return secrets.token_hex(NONCE_BYTES)


@dataclass(frozen=True)
class Label:
    """A label of ours, read or to be written."""

    base: str
    owner: str
    digest: str
    pending: bool = False
    nonce: str = ""

    @classmethod
    def parse(cls, text: str) -> Label | None:
        """Return the label, or None for one that is not of our making."""
        head, colon, tail = text.strip().rpartition(":")
        base, at, owner = head.rpartition("@")
        if not colon or not at or base.count("/") < 2:
            return None
        digest, _, nonce = tail.removesuffix(PENDING).partition(".")
        return cls(base, owner, digest, tail.endswith(PENDING), nonce)

    def __str__(self) -> str:
        nonce = f".{self.nonce}" if self.nonce else ""
        return f"{self.base}@{self.owner}:{self.digest}{nonce}{PENDING if self.pending else ''}"

    @property
    def name(self) -> str:
        """The resource's name."""
        return self.base.rpartition("/")[2]

    def same_resource(self, other: Label) -> bool:
        """Whether both name the same resource of the same state, whatever they run."""
        return (self.base, self.owner) == (other.base, other.owner)

    def same_spec(self, other: Label) -> bool:
        """Whether both name the same resource and what it runs, whatever instance that is."""
        return self.same_resource(other) and self.digest == other.digest


def parse_nonce(text: str) -> str:
    """Return the nonce in a label; "" where there is none, or the label is not of our making."""
    label = Label.parse(text)
    return label.nonce if label else ""


def label_problem(base: str) -> str | None:
    """Return why no label can begin with this text, or None. One that Vast.ai cuts would not be found again."""
    spare = MAX_CHARS - OWN_CHARS
    if len(base) <= spare:
        return None
    return f"is {len(base)} characters long, and a label has room for {spare}: take a shorter project, stack or name"
