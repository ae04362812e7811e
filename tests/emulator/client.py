"""A plain HTTP client of an emulator: Vast's API with a key, and the control API."""

import requests

from emulator.client import ControlClient
from harness.stack import EMULATOR_KEY as KEY
from harness.wait import until

JSON = {"Content-Type": "application/json"}
IMAGE = "vllm/vllm-openai:v0.19.1"
MODEL = "BAAI/bge-reranker-base"
# the query of Vast's guide, as the official CLI sends it, with some numbers as strings
GUIDE = {
    "verified": {"eq": True},
    "external": {"eq": False},
    "rentable": {"eq": True},
    "compute_cap": {"gte": "750"},
    "gpu_ram": {"gte": 16000.0},
    "num_gpus": {"eq": "1"},
    "static_ip": {"eq": True},
    "direct_port_count": {"gte": "1"},
}
SERVER = {"image": IMAGE, "disk": 40.0, "env": {"-p 8000:8000": "1"}, "runtype": "args", "args": ["--model", MODEL]}


class Client:
    def __init__(self, url, key=KEY, folder=None):
        self.url = url
        self.folder = folder
        self.key = key
        self.emulator = ControlClient(url, key)
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {key}"

    def call(self, method, path, body=None, **params):
        return self.session.request(method, f"{self.url}/api/v{path}", json=body, params=params, timeout=30)

    def offers(self, **query):
        answer = self.call("POST", "0/bundles/", {**GUIDE, "order": [["dph_total", "asc"]], **query})
        assert answer.status_code == 200, answer.text
        return answer.json()["offers"]

    def offer(self, **query):
        """Return the cheapest offer with enough disk."""
        return self.offers(allocated_storage=40, disk_space={"gte": 40}, **query)[0]

    def rent(self, ask_id=None, **body):
        answer = self.call("PUT", f"0/asks/{ask_id or self.offer()['id']}/", SERVER | body)
        assert answer.json()["success"], answer.text
        return answer.json()["new_contract"]

    def show(self, instance_id):
        answer = self.call("GET", f"0/instances/{instance_id}/")
        assert answer.status_code == 200, answer.text
        return answer.json()["instances"]

    def rows(self, **params):
        answer = self.call("GET", "1/instances/", **params)
        assert answer.status_code == 200, answer.text
        return answer.json()["instances"]

    def destroy(self, instance_id):
        return self.call("DELETE", f"0/instances/{instance_id}/", {})

    def status(self, instance_id):
        return self.show(instance_id)["actual_status"]

    def wait(self, instance_id, status="running"):
        """Wait until an instance has a status; return the instance."""
        return until(lambda: row if (row := self.show(instance_id))["actual_status"] == status else None)

    def running(self, **body):
        return self.wait(self.rent(**body))

    def log(self, instance_id, **body):
        answer = self.call("PUT", f"0/instances/request_logs/{instance_id}/", body)
        return requests.get(answer.json()["result_url"], timeout=10).text

    def control(self, path, **body):
        return self.emulator.post(path, **body)

    def get_control(self, path):
        """Return the body of a response of the control API, for every status: that of `health` contains the problem."""
        return self.session.get(f"{self.url}/_emulator/{path}", timeout=10).json()

    def fault(self, kind, match=None, times=None, **params):
        return {"id": self.emulator.fault(kind, match, times, **params)}

    def ledger(self, instance_id):
        return next(row for row in self.emulator.ledger() if row["id"] == instance_id)


def endpoint(instance):
    """Return the URL of an instance's port 8000."""
    return f"http://{instance['public_ipaddr'].strip()}:{instance['ports']['8000/tcp'][0]['HostPort']}"


def answers(url, path="/health"):
    """Return whether a server answers with status 200."""
    try:
        return requests.get(url + path, timeout=1).status_code == 200
    except requests.RequestException:
        return False
