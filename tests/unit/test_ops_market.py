"""What `ops market` shows of a market, and the scatter plot as text and as a picture."""

import itertools
import math

import pytest
from PIL import Image

from components.vast.models import Offer
from components.vast.ranking import Candidate
from components.vast.throughput import estimate_speeds
from ops.command import as_markdown
from ops.market import best, scatter, summarize
from ops.market_plot import COLUMNS, HEIGHT, LINES, TAG, WIDTH, Axis, tags
from tests.unit.wire_samples import offer

OFFERS = (
    {"dph_total": 0.06, "inet_down": 100.0, "dlperf": 10.0, "gpu_name": "CHEAP"},
    {"dph_total": 0.90, "inet_down": 3000.0, "dlperf": 60.0, "gpu_name": "FAST"},
    {"dph_total": 0.07, "inet_down": 400.0, "dlperf": 12.0, "gpu_name": "MIDDLE"},
    {"dph_total": 0.20, "inet_down": 200.0, "dlperf": 400.0, "gpu_name": "VALUE"},
)
PLACE = {"cheapest": "CHEAP", "fastest": "FAST", "balanced": "MIDDLE", "value": "VALUE"}


def market(measured=None, *offers):
    facts = {"gpu_mem_bw": 400.0, "cpu_cores_effective": 8.0, "inet_down_cost": 0.0}
    found = [Offer.parse(offer(number, **facts | one)) for number, one in enumerate(offers or OFFERS, start=1)]
    speeds = estimate_speeds(found, 8000.0, measured or {})
    return [Candidate(one, 0.0, Candidate.of(one, 12.0).ready_s, at) for one, at in zip(found, speeds, strict=True)]


def test_the_best_offers_of_each_preference_stand_side_by_side():
    found = market()
    text = as_markdown("market", "dev", summarize(found, best(found, 2), "m"))
    lines = text.splitlines()
    assert "|  | cheapest | fastest | balanced | value |" in lines
    first = next(line for line in lines if line.startswith("| 1 |")).split(" | ")[1:]
    assert [cell.split(": ")[1].split(",")[0] for cell in first] == list(PLACE.values())
    assert [line[:6] for line in lines if line.count("/h, ") == 4] == ["| 1 | ", "| 2 | "]


def test_what_is_not_measured_is_said_to_be_relative_and_has_no_number():
    found = market()
    done = summarize(found, best(found, 2), "m")
    text = as_markdown("market", "dev", done)
    assert "Pairs/s of m are not measured on any offered GPU: `value` ranks by a relative speed" in text
    assert text.count("| - | - | relative, not measured |") == len({*PLACE.values()})
    assert "by relative speed, not measured" in text
    assert (done.facts["measured"], {one["pairs_per_s"] for one in done.facts["offers"]}) == (False, {None})


def test_what_is_measured_has_pairs_per_second_and_dollars_per_million():
    found = market({"VALUE": 1000.0})
    done = summarize(found, best(found, 1), "m")
    text = as_markdown("market", "dev", done)
    assert "not measured" not in text
    assert "| 1000 | $0.0556 | measured on this GPU |" in text
    assert "by estimated pairs/s" in text
    [first] = done.facts["best"]["value"]
    assert first["usd_per_million"] == pytest.approx(0.2 / 3600 / 1000 * 1e6)


def test_the_text_plot_marks_the_best_where_they_are_and_explains_each_letter():
    found = market()
    lines = scatter(found, best(found, 1)).text().splitlines()
    assert (lines[0], lines[-1]) == ("```text", "```")
    assert max(map(len, lines)) <= 100
    grid = {sign: (number, line.index(sign)) for number, line in enumerate(lines[2 : LINES + 2]) for sign in line[8:]
            if sign.isalpha() and sign.isupper()}  # fmt: skip
    legend = {line[0]: line for line in lines if line[:3] in ("A  ", "B  ", "C  ", "D  ")}
    where = {next(gpu for gpu in PLACE.values() if gpu in line): grid[letter] for letter, line in legend.items()}
    assert where["FAST"][0] < where["VALUE"][0] < where["MIDDLE"][0] < where["CHEAP"][0], "the dearest on top"
    assert where["FAST"][1] < where["MIDDLE"][1] < where["VALUE"][1] < where["CHEAP"][1], "the fastest at the left"
    for prefer, gpu in PLACE.items():
        assert any(gpu in line and line.endswith(f"best by {prefer}") for line in legend.values())


def test_what_a_host_calls_its_gpu_does_not_end_the_block_of_the_plot():
    found = market(None, {"gpu_name": "x\n```\n# y", "dlperf": 10.0})
    text = scatter(found, best(found, 1)).text()
    assert text.count("```") == 2
    assert "best by cheapest, fastest, balanced, value" in text


def test_the_picture_is_one_and_has_the_marks_of_the_best(tmp_path):
    found = market({"VALUE": 1000.0})
    plot = scatter(found, best(found, 1))
    plot.png(tmp_path / "market.png")
    with Image.open(tmp_path / "market.png") as image:
        assert image.size == (WIDTH, HEIGHT)
        marks = sum(count for count, (r, _, b) in image.convert("RGB").getcolors(WIDTH * HEIGHT) if r - b > 100)
    assert marks > 2 * TAG * TAG * len(plot.marked)


@pytest.mark.parametrize("apart", [0, 3, 30, 300])
def test_letters_meet_neither_each_other_nor_a_marked_point_also_in_a_corner(apart):
    for x, y in ((76, 100), (900, 570), (400, 300)):
        points = [(x + apart * number / 4, y - apart * number / 8) for number in range(4)]
        spots = tags(points, (76, 0, 970, 576))
        assert len(spots) == 4
        others = [*itertools.combinations(spots, 2), *itertools.product(spots, points)]
        assert all(math.dist(*pair) >= 2 * TAG for pair in others)


def test_an_axis_of_one_value_has_room_on_both_sides():
    axis = Axis.over([5.0])
    assert axis.at(5.0) == pytest.approx(0.5)
    assert axis.ticks() == [5.0]
    assert 0 < round(axis.at(5.0) * COLUMNS) < COLUMNS
