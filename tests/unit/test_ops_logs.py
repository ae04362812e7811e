"""What `ops logs` shows of a container's log: what is new, what is recent, and nothing that a terminal obeys."""

from datetime import UTC, datetime, timedelta

import pytest

from components.guard.gate import Gate, Request
from components.guard.keys import Key
from ops.exits import OpsError
from ops.logs import filter_key, filter_recent, new_lines, parse_age, printable

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
GUARD = []  # as the guard itself writes
gate = Gate(None, None, None, log=GUARD.append, now=(NOON + timedelta(minutes=2)).timestamp)
gate.record(Request("POST", "/rerank", [], key=Key("search", ""), pairs=8), 200)
ACCESS = GUARD[0]
LOG = [
    "INFO 11-26 11:58:00 [api_server.py:1] old",
    "  its second line",
    "(APIServer pid=7) INFO 11-26 12:01:00 [api_server.py:1] new",
    "  its second line",
    ACCESS,
]


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ([], ["a", "b"], ["a", "b"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "b", "b"], ["b", "b", "b", "c"], ["b", "c"]),
        (["a", "b"], ["x", "y"], ["x", "y"]),
    ],
)
def test_following_shows_each_line_once_and_all_of_them_where_the_log_ran_away(before, now, new):
    assert list(new_lines(before, now)) == new


def test_since_begins_at_the_first_line_of_that_age_with_the_lines_that_belong_to_it():
    assert filter_recent(LOG, NOON, NOON) == LOG[2:]
    assert filter_recent(LOG, NOON + timedelta(seconds=90), NOON) == LOG[4:]
    assert filter_recent(LOG, NOON + timedelta(minutes=9), NOON) == ()
    assert filter_recent(LOG, None, NOON) == LOG


def test_since_finds_lines_of_the_new_year_and_leaves_out_those_of_the_old_one():
    now = datetime(2027, 1, 1, 0, 30, tzinfo=UTC)
    log = ["INFO 12-31 23:10:00 [a] old", "INFO 01-01 00:10:00 [a] new"]
    assert filter_recent(log, now - timedelta(hours=1), now) == log[1:]
    assert filter_recent(log, now - timedelta(hours=2), now) == log


def test_a_time_that_is_none_is_no_time():
    odd = ["{", '{"time": 5}', '{"time": 1e99}', '{"time": {}}', "[1]", "INFO 13-45 99:00:00 x", '{"time": "noon"}', ""]
    assert filter_recent(odd, NOON, NOON) == ()


def test_a_clients_requests_are_picked_by_the_name_of_its_key():
    assert filter_key(LOG, "search") == [ACCESS]
    assert filter_key(LOG, "others") == []
    assert filter_key(LOG, None) == LOG


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400)])
def test_an_age_is_a_number_and_a_unit(text, seconds):
    assert parse_age(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["10", "m", "10 m", "-1h", "1w"])
def test_another_age_is_refused_with_an_example(text):
    with pytest.raises(OpsError, match="--since"):
        parse_age(text)


def test_no_escape_sequence_of_a_host_reaches_the_terminal():
    assert "\x1b" not in printable("\x1b]0;title\x07red \x1b[31m\u202eright to left")
    assert printable("plain: 12 °C, 你好") == "plain: 12 °C, 你好"
