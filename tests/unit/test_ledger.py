import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.ledger_file import LedgerFile
from components.stack_ledger import open_ledger
from components.vast.bill import (
    Month,
    MonthToDate,
    cost_by_day,
    cost_usd,
    forecast_usd,
    growth_usd_h,
    hourly_usd,
    month_to_date,
    over_budget,
    spans,
)
from components.vast.label import Label
from components.vast.ledger import Entry, Event, fold, missing_events
from components.vast.models import Charge, Contract
from reranker.http import Unanswered
from tests.unit.renting import LABEL, READY, machine, rental
from tests.unit.scripted_api import ScriptedApi

REPO = Path(__file__).resolve().parents[2]
T = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
NAME = "vast-reranker/prod/reranker"
INTENT = Event("intent", T, NAME, "aa", machine_id=7, gpu="RTX 4090", dph_usd=0.5, pull_usd=0.1)
RENT = Event("rent", T + 1, nonce="aa", instance_id=1)
SERVING = Event("serving", T + 301, instance_id=1)
END = Event("end", T + 3601, instance_id=1, reason="destroyed")
WHOLE = Entry(1, T + 1, NAME, "aa", 7, "RTX 4090", 0.5, 0.1, T + 301, T + 3601, "destroyed")


# ---- the fold --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "entries"),
    [
        ([], []),
        ([INTENT], []),
        ([INTENT, RENT, SERVING, END], [WHOLE]),
        ([INTENT, RENT], [replace(WHOLE, serving_at=None, until=None, reason="")]),
        (
            [INTENT, RENT, Event("end", T + 60, instance_id=1, reason="boot failed", text="stuck")],
            [replace(WHOLE, serving_at=None, until=T + 60, reason="boot failed", text="stuck")],
        ),
        # a killed run's, found by its label: Vast.ai says since when
        ([INTENT, replace(RENT, at=T + 900, since=T + 2.5)], [Entry(1, T + 2.5, NAME, "aa", 7, "RTX 4090", 0.5, 0.1)]),
        # the line of the rent was cut off: its end still counts
        ([SERVING, END], [Entry(1, T + 301, serving_at=T + 301, until=T + 3601, reason="destroyed")]),
        # taken for gone, and there all the same
        (
            [INTENT, RENT, END, replace(RENT, at=T + 9e3, since=T + 1)],
            [replace(WHOLE, serving_at=None, until=None, reason="")],
        ),
        # destroyed, and still in the API's list for a moment
        (
            [INTENT, RENT, SERVING, END, replace(RENT, at=T + 3602), replace(END, at=T + 3603, reason="killed run")],
            [WHOLE],
        ),
    ],
)
def test_events_fold_into_contracts(events, entries):
    assert list(fold(events).values()) == entries


# ---- what it lacks ---------------------------------------------------------------------------------------------------

MARK = str(Label(NAME, "0a1b2c3d", "d" * 12, pending=True, nonce="aa"))
RUNS = Contract(1, 7, label=MARK, gpu_name="RTX 4090", dph_total_usd=0.5, start_date=T + 2)
CHARGED = Charge(1, 0.25, T + 2, T + 1802, MARK)


def lacking(events, contracts=(), charges=(), now=T + 7200):
    return fold([*events, *missing_events(fold(events), contracts, charges, "vast-reranker/prod", now)])


def test_what_a_killed_run_rented_comes_in_by_its_label_with_its_intent():
    assert lacking([INTENT], [RUNS]) == {1: Entry(1, T + 2, NAME, "aa", 7, "RTX 4090", 0.5, 0.1)}


def test_what_a_killed_run_rented_and_somebody_destroyed_comes_in_by_its_charge():
    (entry,) = lacking([INTENT], [], [CHARGED]).values()
    assert (entry.since, entry.until, entry.reason, entry.pull_usd) == (T + 2, T + 1802, "killed run", 0.1)


def test_a_lost_ledger_is_made_anew_by_the_account():
    (entry,) = lacking([], [], [CHARGED]).values()
    assert (entry.name, entry.dph_usd, entry.until) == (NAME, 0.5, T + 1802)
    assert lacking([], [replace(RUNS, label=MARK.removesuffix("~pending"))])[1].serving_at == T + 2


def test_what_ended_while_nobody_looked_ends_when_its_charge_does():
    assert lacking([INTENT, RENT, SERVING], [], [CHARGED])[1].until == T + 1802
    assert lacking([INTENT, RENT, SERVING])[1].until == T + 7200
    assert lacking([INTENT, RENT, SERVING])[1].reason == "gone"


def test_what_is_another_stacks_or_new_or_known_is_left_alone():
    other = Label("vast-reranker/production/reranker", "0a1b2c3d", "d" * 12, nonce="bb")
    assert lacking([], [replace(RUNS, label=str(other))], [replace(CHARGED, label=str(other))]) == {}
    assert lacking([], [RUNS], now=T + 60) == {}
    assert missing_events(fold([INTENT, RENT]), [], [], "vast-reranker/prod", T + 60) == []
    assert missing_events(fold([INTENT, RENT, SERVING]), [RUNS], [CHARGED], "vast-reranker/prod", T + 7200) == []


# ---- what it costs ---------------------------------------------------------------------------------------------------


def test_a_contract_costs_its_hours_and_the_download_once():
    assert cost_usd(WHOLE, T + 9999) == pytest.approx(0.5 + 0.1)
    assert cost_usd(replace(WHOLE, until=None), T + 7201) == pytest.approx(1.0 + 0.1)


@pytest.mark.parametrize(
    ("entries", "uses"),
    [
        ([WHOLE], {"boot": 0.1 + 300 * 0.5 / 3600, "serving": 3300 * 0.5 / 3600}),
        ([replace(WHOLE, serving_at=None, reason="boot failed")], {"boot failed": 0.6}),
        ([replace(WHOLE, serving_at=None, reason="killed run")], {"boot failed": 0.6}),
        ([replace(WHOLE, serving_at=None, reason="hedge")], {"hedge": 0.6}),
        ([replace(WHOLE, serving_at=None, until=None, reason="")], {"boot": 0.1 + 3600 * 0.5 / 3600}),
        # replaced by one that served for its last 600 s
        (
            [WHOLE, Entry(2, T + 2000, NAME, serving_at=T + 3001, until=T + 3601)],
            {"boot": 0.1 + 300 * 0.5 / 3600, "serving": 2700 * 0.5 / 3600, "drain": 600 * 0.5 / 3600},
        ),
    ],
)
def test_time_is_booked_by_what_it_was_for(entries, uses):
    days = cost_by_day(spans(entries, T + 3601), Month.of(datetime(2026, 11, 1, tzinfo=UTC)))
    assert days == {"2026-11-26": pytest.approx(uses)}


def test_a_month_has_its_own_days_and_each_day_its_own_hours():
    end = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    long = Entry(1, end - 36 * 3600, NAME, dph_usd=1.0, serving_at=end - 36 * 3600, until=end + 3600)
    november, december = Month.of(datetime(2026, 11, 5, tzinfo=UTC)), Month.of(datetime(2026, 12, 31, tzinfo=UTC))
    parts = spans([long], end + 7200)
    assert cost_by_day(parts, november) == {"2026-11-29": {"serving": 12.0}, "2026-11-30": {"serving": 24.0}}
    assert cost_by_day(parts, december) == {"2026-12-01": {"serving": 1.0}}
    assert month_to_date([long], november, end + 7200) == MonthToDate(pytest.approx(36.0), 0.0)
    assert month_to_date([long], december, end + 7200) == MonthToDate(1.0, 31 * 24 - 2)


def test_the_forecast_is_what_was_spent_and_what_runs_until_the_month_ends():
    entries = [WHOLE, replace(WHOLE, instance_id=2, until=None), replace(WHOLE, instance_id=3, until=None)]
    assert hourly_usd(entries, {2: 0.7}) == pytest.approx(1.2)
    month = MonthToDate(1.0, 4.0)
    assert forecast_usd(month, 0.5) == 3.0
    assert over_budget(None, month, 9e9) == over_budget(3.0, month, 0.5) == ""
    assert growth_usd_h(5.0, month, 0.5) == 0.5
    assert growth_usd_h(2.0, month, 0.5) == -0.25
    warning = over_budget(2.9, month, 0.5)
    assert warning == "the month will have cost $3.00 ($1.00 so far, $0.5000/h), over budget_usd_month of $2.9"


# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("file://FOLDER/state", "FOLDER/state/.pulumi/ledger/vast-reranker/prod.jsonl"),
        ("https://api.pulumi.com", "FOLDER/.local/ledger/vast-reranker/prod.jsonl"),
        ("s3://bucket/team?region=eu-west-1", "s3://bucket/team/.pulumi/ledger/vast-reranker/prod"),
        ("gs://bucket", "gs://bucket/.pulumi/ledger/vast-reranker/prod"),
        ("azblob://container?storage_account=a", "azblob://container/.pulumi/ledger/vast-reranker/prod"),
    ],
)
def test_the_ledger_is_beside_the_state_and_in_the_checkout_where_that_cannot_be(tmp_path, url, place):
    env = {"PULUMI_BACKEND_URL": url.replace("FOLDER", str(tmp_path)), "HOME": str(tmp_path)}
    assert str(open_ledger(NAME, env, tmp_path)) == place.replace("FOLDER", str(tmp_path))


def test_what_is_written_is_read_and_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    ledger = LedgerFile(tmp_path / "new" / "prod.jsonl", clock=lambda: T)
    assert ledger.events() == []
    ledger.append(replace(INTENT, at=0.0))
    with ledger.path.open("a") as file:
        file.write('{"kind": "rent", "at": 17')
    ledger.append(RENT)
    with ledger.path.open("a") as file:
        file.write('[1]\n{"kind": "other"}\n{"kind": "end", "instance_id": "x"}\n{"at": 1}\n{"kind": "end", "inst')
    assert ledger.events() == [INTENT, RENT]


def test_a_line_is_one_small_write_whatever_a_host_says(tmp_path):
    ledger = LedgerFile(tmp_path / "prod.jsonl")
    ledger.append(replace(END, text="\N{PILE OF POO}" * 9000, name="n" * 256))
    assert ledger.path.stat().st_size < 4096
    assert len(ledger.events()) == 1


FULL = """
import resource, sys
from pathlib import Path
from components.ledger_file import LedgerFile
from components.vast.ledger import Event
ledger = LedgerFile(Path(sys.argv[1]))
ledger.append(Event("end", 1.0, instance_id=1))
resource.setrlimit(resource.RLIMIT_FSIZE, (ledger.path.stat().st_size + 9, resource.RLIM_INFINITY))
try:
    ledger.append(Event("end", 2.0, instance_id=2))
except OSError as error:
    print(error)
"""


def test_a_line_for_which_there_is_no_room_is_an_error_and_the_lines_around_it_are_read(tmp_path):
    ledger = LedgerFile(tmp_path / "prod.jsonl")
    command = [sys.executable, "-c", FULL, str(ledger.path)]
    done = subprocess.run(command, cwd=REPO, env=os.environ, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"[Errno 28] No space left on device: '{ledger.path}'\n"
    ledger.append(replace(END, instance_id=3))
    assert [one.instance_id for one in ledger.events()] == [1, 3]


def write_many(path, worker):
    for number in range(50):
        LedgerFile(path).append(Event("rent", T, instance_id=1000 * worker + number + 1, text="x" * 300))


def test_many_writers_lose_nothing(tmp_path):
    path = tmp_path / "prod.jsonl"
    writers = [multiprocessing.get_context("spawn").Process(target=write_many, args=(path, one)) for one in range(3)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
    assert len(fold(LedgerFile(path).events())) == 150


# ---- what renting writes ---------------------------------------------------------------------------------------------


def rented(api, **options):
    events = []
    run = rental(api, **options)
    run.record = events.append
    return run, events


def kinds(events):
    return [(one.kind, one.reason) for one in events]


def test_a_rental_writes_intent_rent_boots_that_failed_and_the_one_that_serves():
    api = ScriptedApi()
    api.life = lambda machine_id, _age: {"actual_status": "exited"} if machine_id == machine(0) else {}
    run, events = rented(api)
    run.run()
    once = [("intent", ""), ("rent", "")]
    assert kinds(events) == [*once, ("end", "boot failed"), *once, ("serving", "")]
    assert events[0].machine_id == machine(0)
    assert events[0].dph_usd == 0.09
    assert {one.nonce for one in events if one.kind == "rent"} == {one.nonce for one in events if one.kind == "intent"}


def test_the_machine_that_lost_a_race_is_a_hedge():
    run, events = rented(ScriptedApi(), hedge=2)
    run.run()
    assert {one.reason for one in fold(events).values()} == {"", "hedge"}


def test_an_instance_of_a_rent_call_without_an_answer_is_the_one_of_its_intent():
    api = ScriptedApi()

    def lost(_ask, body):
        api.on_rent = lambda _ask, _body: None
        api.add(body["label"], machine_id=machine(0))
        raise Unanswered("cut off", sent=True)

    api.on_rent = lost
    run, events = rented(api)
    run.run()
    (entry,) = fold(replace(one, at=T) for one in events).values()
    assert (entry.nonce, entry.name) == (events[0].nonce, LABEL.base)
    assert entry.serving_at == T


KILLED = """
import os, signal, sys
from pathlib import Path
from components.ledger_file import LedgerFile
from tests.unit.renting import rental
from tests.unit.scripted_api import ScriptedApi
def kill(_ask, body):
    print(body["label"], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
api = ScriptedApi()
api.on_rent = kill
run = rental(api)
run.record = LedgerFile(Path(sys.argv[1])).append
run.run()
"""


def test_what_a_run_rented_that_was_killed_before_the_answer_is_in_the_ledger_by_the_next_one(tmp_path):
    ledger = LedgerFile(tmp_path / "prod.jsonl")
    command = [sys.executable, "-c", KILLED, str(ledger.path)]
    done = subprocess.run(command, cwd=REPO, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert fold(ledger.events()) == {}
    api = ScriptedApi()
    instance_id = api.add(done.stdout.strip(), machine_id=machine(0))
    run = rental(api, probe=lambda *_: READY)
    run.record = ledger.append
    assert run.run().adopted
    assert [json.loads(line)["kind"] for line in ledger.path.read_text().split("\n") if line] == [
        "intent", "rent", "serving",
    ]  # fmt: skip
    entry = fold(ledger.events())[instance_id]
    assert (entry.machine_id, entry.name) == (machine(0), LABEL.base)
    assert entry.pull_usd == pytest.approx(ledger.events()[0].pull_usd)
