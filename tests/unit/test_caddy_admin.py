"""What the client of Caddy's admin API says of a refusal: the reason that it was given, and a hint that fits it."""

import json

import pytest

from components.caddy.admin import CaddyAdmin
from components.errors import CaddyError
from tests.unit.test_probe import saying, server


@pytest.mark.parametrize(
    ("status", "reason", "hint"),
    [
        (403, "host not allowed: vm:2019", "admin.origins"),
        (401, "a valid key is needed", "the admin key is missing"),
        (404, "Not Found", "the admin key is missing"),  # a front's answer to who has none
        (400, "loading config: unknown module", ""),
    ],
)
def test_a_refusal_names_its_reason_and_suspects_the_key_only_where_a_key_is_asked_for(status, reason, hint):
    body = json.dumps({"error": reason}).encode()
    answer = b"HTTP/1.1 %d No\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status, len(body), body)
    with server(saying(answer)) as port, pytest.raises(CaddyError, match=reason) as caught:
        CaddyAdmin(f"http://127.0.0.1:{port}", key="k" * 20).config()
    assert hint in str(caught.value)
    assert ("key" in str(caught.value)) == ("key" in reason + hint)
