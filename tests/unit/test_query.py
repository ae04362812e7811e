import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from components.errors import QueryError
from components.vast.query import Constraint, Query, parse, satisfies, unmet_conditions
from tests.unit.wire_samples import offer

GUIDE = "compute_cap>=750 gpu_ram>=16 num_gpus=1 static_ip=true direct_port_count>=1 verified=true rentable=true"
NOW = 1_900_000_000.0


@pytest.fixture
def recorder():
    """A server that keeps the body of the last request, and finds no offers."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            self.server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            body = b'{"offers": []}' if "bundles" in self.path else b'{"id": 1, "credit": 1}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET = do_PUT = _answer

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.bodies = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_the_guides_query_gives_the_very_body_that_the_official_cli_sends(recorder, tmp_path):
    url = f"http://127.0.0.1:{recorder.server_port}"
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    vastai = sys.executable.rpartition("/")[0] + "/vastai"
    subprocess.run([vastai, "--url", url, "--api-key", "k", "search", "offers", GUIDE], env=env, check=True, timeout=60)

    assert json.dumps(Query(parse(GUIDE)).body()).encode() == recorder.bodies[-1]


def test_the_operators_aliases_lists_and_units_of_the_cli_are_understood():
    filters = parse("gpu_name in [RTX_4090,RTX_3090] cuda_vers>=12.4 dph<0.2 geolocation in [US,CA] duration>2")
    assert filters["gpu_name"] == {"in": ["RTX 4090", "RTX 3090"]}
    assert filters["cuda_max_good"] == {"gte": "12.4"}
    assert filters["dph_total"] == {"lt": "0.2"}
    assert filters["duration"] == {"gt": 172800.0}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("num_gpus=1 foo", "position 12: 'foo'"),
        ("gpu_ram >> 16", "position 1"),
        ("gpu_ram>=abc", "position 10: gpu_ram needs a number"),
        ("num_gpus=1 gpu_ram>=", "position 12"),
        ("gpu_ramm>=16", "position 1: 'gpu_ramm'; nearest: gpu_ram"),
    ],
)
def test_a_malformed_query_names_the_position_and_what_is_accepted(query, says):
    with pytest.raises(QueryError, match="position"):
        parse(query)
    with pytest.raises(QueryError) as caught:
        parse(query)
    assert says in str(caught.value)


def test_a_query_can_be_given_as_fields_and_operators():
    assert parse({"num_gpus": {"eq": 2}})["num_gpus"] == {"eq": 2}
    with pytest.raises(QueryError, match="nearest: num_gpus"):
        parse({"num_gpu": {"eq": 2}})
    with pytest.raises(QueryError, match="operators"):
        parse({"num_gpus": 2})


def test_the_tighter_of_two_bounds_stays():
    query = Query(parse("compute_cap>=750 dph_total<=0.5"))
    tightened = query.with_constraints(
        [
            Constraint("compute_cap", "gte", 700, "image"),
            Constraint("dph_total", "lte", 0.2, "max_dph_usd"),
            Constraint("cuda_max_good", "gte", 12.9, "image"),
        ]
    )
    assert tightened.filters["compute_cap"] == {"gte": "750"}
    assert tightened.filters["dph_total"] == {"lte": 0.2}
    assert tightened.filters["cuda_max_good"] == {"gte": 12.9}
    assert query.filters["dph_total"] == {"lte": "0.5"}


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        ({}, []),
        ({"gpu_ram": 15360}, ["gpu_ram>=16 (it has 15.36)"]),
        ({"verification": "unverified"}, ["verified=true (it has false)"]),
        ({"static_ip": False}, ["static_ip=true (it has false)"]),
        ({"compute_cap": 700}, ["compute_cap>=750 (it has 700)"]),
    ],
)
def test_offers_are_judged_again_on_this_side(fields, broken):
    assert unmet_conditions(parse(GUIDE), offer(**fields), now=NOW) == broken


def test_places_are_compared_by_their_country_code_and_durations_by_the_time_left():
    assert unmet_conditions({"geolocation": {"in": ["SE"]}}, offer(), now=NOW) == []
    assert unmet_conditions({"geolocation": {"in": ["US"]}}, offer(), now=NOW)
    assert unmet_conditions({"duration": {"gte": 3600.0}}, offer(end_date=NOW + 60), now=NOW)
    assert unmet_conditions({"duration": {"gte": 3600.0}}, offer(end_date=NOW + 7200), now=NOW) == []


def test_numeric_strings_compare_as_numbers():
    assert satisfies(16376, "gte", "16000")
    assert satisfies("750", "eq", 750)
    assert not satisfies(9, "gt", "10")


def test_parsing_a_query_does_not_import_the_vastai_package():
    code = "import sys; from components.vast.query import parse; parse('num_gpus=1'); print('vastai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
