"""A rental with the scripted API, for the tests of renting."""

from components.vast.label import Label
from components.vast.models import Offer
from components.vast.probe import ProbeResult
from components.vast.ranking import Candidate, rank
from components.vast.rental import Rental
from components.vast.rental_spec import Deadlines, Order, Spec

SPEC = Spec(
    image="vllm/vllm-openai:v0.19.1",
    disk_gb=40,
    ports=("8000:8000",),
    env={"VLLM_API_KEY": "s3cret-value-1"},
    key_env="OWN_KEY",
    stack_secret="s3cret-of-the-stack",
)
LABEL = Label("vast-reranker/test/reranker", "0a1b2c3d", SPEC.digest())
READY, DEAD = ProbeResult("ready", "answers"), ProbeResult("dead", "refused")
SILENT = ProbeResult("no_answer", "no answer")
DEADLINES = Deadlines(pulling_s=600, serving_s=300, stall_s=120, port_s=60)


def rental(api, *, probe=lambda *_: READY, known=(), stop=str, blind=lambda: True, notes=None, said=None, **order):
    client = api.client(patience_s=10)
    candidates = rank([Candidate.of(Offer.parse(raw), 10) for raw in api.offers], "cheapest")
    return Rental(
        client,
        api.instance_cache(client),
        Order(spec=SPEC, label=LABEL, container_port=8000, deadlines=DEADLINES, poll_s=5.0, **order),
        probe=probe,
        candidates=candidates,
        search=lambda: candidates,
        managed_ids=lambda: known,
        stop=stop,
        no_host_reached=blind,
        notice=(notes if notes is not None else []).append,
        progress=(said if said is not None else []).append,
        clock=api.clock,
        sleep=api.clock.sleep,
    )


def machine(n):
    """Return the machine_id of the nth best offer."""
    return 1001 + n + 5000


def single_contract(api):
    (contract,) = api.contracts.values()
    return contract
