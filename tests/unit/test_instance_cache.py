"""The instance cache: one read for all who wait, also when it fails."""

import threading

import pytest

from components.errors import ApiUnreachable
from components.vast.instance_cache import InstanceCache


class Client:
    """Stands in for the client's list: holds the first call until it is let go, then fails or answers."""

    def __init__(self, *, fails):
        self.fails, self.calls = fails, 0
        self.asked, self.go = threading.Event(), threading.Event()

    def instances(self):
        self.calls += 1
        self.asked.set()
        assert self.go.wait(10)
        if self.fails:
            raise ApiUnreachable("no answer")
        return []


@pytest.mark.parametrize("fails", [False, True])
def test_all_who_ask_while_a_read_is_under_way_share_the_next_one(fails):
    client, came = Client(fails=fails), []
    instance_cache = InstanceCache(client)

    def ask():
        try:
            came.append(instance_cache.contracts())
        except ApiUnreachable:
            came.append("failed")

    threads = [threading.Thread(target=ask) for _ in range(20)]
    threads[0].start()
    assert client.asked.wait(10)
    for thread in threads[1:]:
        thread.start()
    deadline = threading.Event()
    while sum(thread.is_alive() for thread in threads) < 20:
        assert not deadline.wait(0.01)
    client.go.set()
    for thread in threads:
        thread.join(10)
    assert came == (["failed"] if fails else [{}]) * 20
    assert client.calls <= 2


def test_a_failure_is_not_kept_for_those_who_ask_later():
    client = Client(fails=True)
    client.go.set()
    instance_cache = InstanceCache(client)
    with pytest.raises(ApiUnreachable):
        instance_cache.contracts()
    client.fails = False
    assert instance_cache.contracts() == {}
