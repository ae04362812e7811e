"""What rides into a container is what stands in the repository."""

from components.packed import GUARD, digests, packed_env, unpacked
from components.vast.env_chunks import PIECE_CHARS
from scripts.pack import sources, stale


def test_packed_files_are_those_of_the_guard_and_the_catalog():
    assert stale(sources()) == [], "python -m scripts.pack"


def test_a_changed_guard_is_noticed():
    wanted = sources()
    wanted[GUARD] = {GUARD: wanted[GUARD][GUARD].replace("compare_digest", "other_digest")}
    assert stale(wanted) == [GUARD]


def test_pieces_are_small_enough_for_vast_and_hold_it_all():
    env = packed_env([GUARD])
    assert all(len(value) <= PIECE_CHARS for value in env.values())
    assert "class Guard" in unpacked(GUARD)[GUARD]


def test_a_state_keeps_a_digest_of_the_files_and_not_the_files():
    [(name, digest)] = digests([GUARD]).items()
    assert (name, len(digest)) == (GUARD, 12)
