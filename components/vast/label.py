"""What an instance's label says: `<project>/<stack>/<name>@<owner>:<digest>[~pending]`. Used by `rental`, ops/orphans.

`owner` is made once per state (the OfferQuery's id), so that two states with the same stack name on one account never
touch each other's instances. `digest` names the spec. Who finds a pending mark knows that no state has the instance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

PENDING = "~pending"
MAX_CHARS = 256  # what Vast.ai keeps of a label
OWN_CHARS = len(f"@{8 * '0'}:{12 * '0'}{PENDING}")


@dataclass(frozen=True)
class Label:
    """A label of ours, read or to be written."""

    base: str
    owner: str
    digest: str
    pending: bool = False

    @classmethod
    def parse(cls, text: str) -> Label | None:
        """Return the label, or None for one that is not of our making."""
        head, colon, tail = text.strip().rpartition(":")
        base, at, owner = head.rpartition("@")
        if not colon or not at or base.count("/") < 2:
            return None
        return cls(base, owner, tail.removesuffix(PENDING), tail.endswith(PENDING))

    def __str__(self) -> str:
        return f"{self.base}@{self.owner}:{self.digest}{PENDING if self.pending else ''}"

    def marked(self, *, pending: bool) -> Label:
        return replace(self, pending=pending)

    def same_resource(self, other: Label) -> bool:
        """Whether both name the same resource of the same state, whatever they run."""
        return (self.base, self.owner) == (other.base, other.owner)


def label_problem(base: str) -> str | None:
    """Return why no label can begin with this text, or None: one that Vast.ai cuts is not found again."""
    spare = MAX_CHARS - OWN_CHARS
    if len(base) <= spare:
        return None
    return f"is {len(base)} characters long, and a label has room for {spare}: take a shorter project, stack or name"
