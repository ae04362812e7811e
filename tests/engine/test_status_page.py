"""`ops status --serve` of a stack that runs: its page, with load and cost, until Ctrl-C, also in a real browser."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import requests

from harness.wait import until
from tests.engine.fleet import AtTerminal
from tests.npm import copy_with_packages

WIDTHS = (400, 1280)

pytestmark = [pytest.mark.engine, pytest.mark.all]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    return copy_with_packages(Path(__file__).with_name("browser"), tmp_path_factory.mktemp("browser"))


def look(browser, url):
    """Return what a headless Chromium measures of a page at each width; the pictures are in the browser's folder."""
    env = {"PATH": os.environ["PATH"], "HOME": str(browser), "TMPDIR": str(browser)}
    command = ["node", "look.mjs", url, ".", *map(str, WIDTHS)]
    done = subprocess.run(command, cwd=browser, env=env, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_of_a_stack_is_served_until_ctrl_c_and_can_be_read_in_a_narrow_window(stack, browser):
    assert stack.up().rc == 0
    served = AtTerminal(stack, "status", "--serve", "0")
    try:
        until(lambda: "Ctrl-C ends it" in served.output)
        answer = requests.get(re.search(r"http://127\.0\.0\.1:\d+/", served.output)[0], timeout=100)
        assert (answer.status_code, answer.text.count('<section class="ok">')) == (200, 3)
        assert "every server answers" in answer.text
        assert "pairs in flight" in answer.text
        for seen in look(browser, answer.url):
            assert seen["asked"] == [answer.url]
            assert (seen["complaints"], seen["outside"], seen["overlaps"]) == ([], [], 0)
            assert (seen["page_px"], seen["sections"]) == (seen["width"], 3)
            assert max(seen["tables_px"]) <= seen["width"]
            assert seen["smallest_font_px"] >= 14
    finally:
        served.interrupt()
    assert served.end() == 0, served.output
