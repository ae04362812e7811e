"""`ops status --serve` of a stack that runs: its page, with load and cost, until Ctrl-C."""

import re

import pytest
import requests

from harness.wait import until
from tests.engine.fleet import AtTerminal

pytestmark = [pytest.mark.engine, pytest.mark.all]


def test_the_page_of_a_stack_is_served_until_ctrl_c(stack):
    assert stack.up().rc == 0
    served = AtTerminal(stack, "status", "--serve", "0")
    until(lambda: "Ctrl-C ends it" in served.output)
    answer = requests.get(re.search(r"http://127\.0\.0\.1:\d+/", served.output)[0], timeout=100)
    assert (answer.status_code, answer.text.count('<section class="ok">')) == (200, 3)
    assert "every server answers" in answer.text
    assert "pairs in flight" in answer.text
    served.interrupt()
    assert served.end() == 0, served.output
