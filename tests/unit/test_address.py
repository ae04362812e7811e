"""Which API a stack asks, and with which key."""

import pytest

from components.vast.address import choose_api_url, choose_key, is_loopback

EMULATOR, OTHER = "http://127.0.0.1:8585", "http://127.0.0.1:8643"


@pytest.mark.parametrize(
    ("configured", "ambient", "asked"),
    [
        (EMULATOR, None, EMULATOR),
        (EMULATOR, OTHER, OTHER),  # EMULATOR_PORT moves the stack with the emulator
        (EMULATOR, "https://console.vast.ai", EMULATOR),
        ("", None, "https://console.vast.ai"),
        ("", "https://console.vast.ai", "https://console.vast.ai"),
    ],
)
def test_a_stack_on_the_emulator_asks_the_one_that_its_shell_is_prepared_for(monkeypatch, configured, ambient, asked):
    monkeypatch.delenv("VAST_URL", raising=False)
    if ambient:
        monkeypatch.setenv("VAST_URL", ambient)
    assert choose_api_url(configured) == asked


@pytest.mark.parametrize(
    ("url", "configured", "ambient", "chosen"),
    [
        ("https://console.vast.ai", "from-config", "from-env", "from-env"),
        ("https://console.vast.ai", "from-config", "", "from-config"),
        ("http://127.0.0.1:8585", "from-config", "from-env", "from-config"),
        ("http://127.0.0.1:8585", "", "from-env", "from-env"),
    ],
)
def test_the_environments_key_comes_first_but_never_goes_to_an_emulator_that_has_its_own(
    url, configured, ambient, chosen, monkeypatch
):
    monkeypatch.setenv("VAST_API_KEY", ambient)
    assert choose_key(url, configured) == chosen


def test_loopback_is_told_apart():
    assert is_loopback("http://127.0.0.1:8585")
    assert is_loopback("http://localhost:1")
    assert not is_loopback("https://console.vast.ai")
