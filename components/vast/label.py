"""Label of an instance: `<project>/<stack>/<name>@<owner>:<digest>[.<nonce>][~pending]`. For `rental`, ops.

`owner` is the OfferQuery's id, unique per state: two states with the same stack name never touch each other's
instances. `digest` identifies the spec. `nonce` is random for each rent; the instance's key and host name are derived
from it. "~pending" means that no state contains the instance yet.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

PENDING = "~pending"
NONCE_BYTES = 8
MAX_CHARS = 256  # Vast.ai cuts longer labels
SUFFIX_CHARS = len(f"@{8 * '0'}:{12 * '0'}.{2 * NONCE_BYTES * '0'}{PENDING}")


def new_nonce() -> str:
    """Return 16 random hex digits."""
    return secrets.token_hex(NONCE_BYTES)


@dataclass(frozen=True)
class Label:
    base: str
    owner: str
    digest: str
    pending: bool = False
    nonce: str = ""

    @classmethod
    def parse(cls, text: str) -> Label | None:
        """Return the label, or None for a label in another format."""
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
        return self.base.rpartition("/")[2]

    def same_resource(self, other: Label) -> bool:
        """Whether both labels are of the same resource of the same state."""
        return (self.base, self.owner) == (other.base, other.owner)

    def same_spec(self, other: Label) -> bool:
        """Whether both labels are of the same resource with the same spec."""
        return self.same_resource(other) and self.digest == other.digest


def parse_nonce(text: str) -> str:
    """Return the nonce in a label; "" if there is none, or the label has another format."""
    label = Label.parse(text)
    return label.nonce if label else ""


def label_problem(base: str) -> str | None:
    """Return why a label cannot begin with `base`, or None. A label cut by Vast.ai could not be parsed."""
    limit = MAX_CHARS - SUFFIX_CHARS
    if len(base) <= limit:
        return None
    return f"is {len(base)} characters long, and a label has room for {limit}: use a shorter project, stack or name"
