"""A contract by the times that it is given, and what a rent call's body may be and means."""

import pytest

from emulator.contract import Contract
from emulator.errors import ServiceError
from emulator.rental import COMMAND_LIMIT, build_argv, parse_ports, validate

HOUR = 3600.0


def contract(**fields):
    given = {
        "id": 1,
        "machine_id": 2,
        "ask_id": 3,
        "body": {},
        "label": "",
        "rented_at": 0.0,
        "created_s": 5.0,
        "pull_s": 100.0,
        "start_s": 15.0,
        "dph_base_usd": 0.30,
        "dph_disk_usd": 0.01,
        "pull_cost_usd": 0.02,
        "end_date": 1e9,
        "api_key": "x",
    }
    return Contract(**given | fields)


def test_a_boot_goes_through_its_phases():
    one = contract()
    assert [one.phase(t) for t in (0, 4.9, 5, 104.9, 105, 119.9, 120)] == [
        "created", "created", "pulling", "pulling", "starting", "starting", "due",
    ]  # fmt: skip


def test_a_new_contract_has_no_status_at_first():
    one = contract()
    assert (one.first_status(1), one.first_status(3)) == (None, "created")


def test_the_pull_reports_layers_as_docker_does():
    one = contract()
    seen = [one.pull_message(5 + share) for share in range(100)]
    assert seen[0].startswith("4f4fb700ef54: Downloading 0%")
    assert any("Pull complete" in message for message in seen)
    assert len({message.partition(":")[0] for message in seen}) == 5


def test_nothing_but_storage_is_billed_before_the_pull_begins():
    assert contract().cost_usd(4.0) == pytest.approx(4 / HOUR * 0.01)


def test_the_pull_is_billed_once_and_the_gpu_only_while_it_runs():
    one = contract()
    one.running_since = 120.0
    assert one.cost_usd(120.0 + HOUR) == pytest.approx(0.30 + (120 + HOUR) / HOUR * 0.01 + 0.02)
    one.halt(120.0 + HOUR)
    assert one.cost_usd(120.0 + 3 * HOUR) == pytest.approx(0.30 + (120 + 3 * HOUR) / HOUR * 0.01 + 0.02)


def test_a_new_price_counts_from_when_it_is_set():
    one = contract(pull_cost_usd=0.0, dph_disk_usd=0.0)
    one.running_since = 0.0
    one.reprice(HOUR, base_usd=0.60)
    assert one.cost_usd(2 * HOUR) == pytest.approx(0.30 + 0.60)


def test_an_interruptible_contract_costs_its_bid():
    one = contract(is_bid=True, price_usd=0.05, pull_cost_usd=0.0, dph_disk_usd=0.0)
    one.running_since = 0.0
    assert one.cost_usd(HOUR) == pytest.approx(0.05)


def test_nothing_is_billed_while_the_host_is_offline():
    one = contract(pull_cost_usd=0.0)
    one.running_since = 0.0
    one.go_offline(HOUR)
    assert one.cost_usd(5 * HOUR) == pytest.approx(0.31)
    one.go_online(5 * HOUR)
    assert one.cost_usd(6 * HOUR) == pytest.approx(0.31 + 0.01)


def test_nothing_is_billed_once_destroyed():
    one = contract(pull_cost_usd=0.0)
    one.destroyed_at = HOUR
    assert one.cost_usd(9 * HOUR) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"image": None}, "image is required"),
        ({"runtype": "ssh_directly"}, "runtype is one of"),
        ({"target_state": "paused"}, "target_state is one of"),
        ({"disk": 7}, "disk 7"),
        ({"disk": 1000}, "disk 1000"),
        ({"args": ["x" * COMMAND_LIMIT], "onstart": "y"}, "combined length"),
        ({"args": "one string"}, "args must be a list"),
        ({"env": "-e A=1"}, "env must be an object"),
        ({"env": {"A": "x" * 257}}, "a value of env is longer than 256"),
        ({"env": {f"A_{number}": "x" * 256 for number in range(128)}}, "env is longer than 32768"),
        ({"label": "x" * 257}, "label"),
        ({"price": 0.0001}, "price"),
        ({"price": 200}, "price"),
        ({"env": {f"-p {n}:{n}": "1" for n in range(65)}}, "ports"),
    ],
)
def test_a_rent_call_is_held_to_the_apis_limits(body, said):
    with pytest.raises(ServiceError, match=said) as refused:
        validate({"image": "vllm/vllm-openai:v1", "disk": 40, **body}, disk_free_gb=100.0)
    assert refused.value.status == 400


def test_a_command_of_exactly_the_limit_is_taken():
    validate({"image": "i", "disk": 40, "args": ["x" * (COMMAND_LIMIT - 4)], "onstart": "bash"}, disk_free_gb=100.0)


def test_docker_flags_in_env_name_the_ports():
    env = {"-p 8000:8000": "1", "-p 70000:70001/tcp": "1", "-p 53:53/udp": "1", "A": "-p 1:1"}
    assert parse_ports({"env": env}) == [8000, 70001]


@pytest.mark.parametrize(
    ("body", "argv"),
    [
        ({"runtype": "args", "args": ["--model", "m"]}, ["vllm", "serve", "--model", "m"]),
        ({"runtype": "args", "args_str": "m --port '8000'"}, ["vllm", "serve", "m", "--port", "8000"]),
        ({"runtype": "args", "onstart": "bash", "args": ["-c", "a b"]}, ["bash", "-c", "a b"]),
        ({"runtype": "args", "onstart": "env | grep x"}, ["env | grep x"]),
        ({"runtype": "ssh_direc ssh_proxy", "onstart": "echo x"}, ["bash", "-c", "echo x\nexec sleep infinity"]),
        ({"runtype": "args", "image": "other:1", "args": ["python3", "x.py"]}, ["python3", "x.py"]),
    ],
)
def test_a_container_runs_what_docker_would(body, argv):
    assert build_argv({"image": "vllm/vllm-openai:v0.19.1", **body}) == argv
