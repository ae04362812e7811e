"""Text of hosts, servers and the API, as people, terminals, pipelines' runners and forges get it."""

import time

import pytest
from markdown_it import MarkdownIt

from components.redaction import CUT_CHARS, MASK, excerpt, plain, scrub, tail
from components.vast.models import Contract, Offer
from ops import report
from ops.engine import without_secrets
from tests.unit.wire_samples import instance, offer

OBEYED = {
    "::error::all is lost": "a workflow command",
    "  ::add-mask::a": "behind blanks",
    "\u00a0::add-mask::a": "behind a blank of another kind",
    "fine\n::set-env name=PATH::/tmp": "on a line of its own",
    "fine\r::stop-commands::x": "behind a carriage return",
    "fine\u2028::stop-commands::x": "behind another end of line",
    "see ##[add-mask]x": "the older form, anywhere",
    "see ##vso[task.setvariable variable=a]b": "Azure's",
    "\x1b[0Ksection_start:0:x\r\x1b[0K": "GitLab's sections",
    "\x1b[2J\x1b[31mgone": "a screen wiped",
    "\x1b]0;title\x07and \x1b]8;;https://evil.example\x1b\\here": "a title, a link of the terminal's",
    "a\x00b\x07c\x08d\x7fe\x9bf": "controls",
    "user\u202etxt.exe\u2066": "another direction of writing",
    "\ufeff::error::x": "behind a mark of byte order",
}


def is_obeyed(text):
    """Whether a terminal acts on the text, or a runner does: each line by its trimmed beginning, or ##[ within it."""
    lines = text.replace("\r", "\n").splitlines()
    commands = any(line.strip().startswith("::") or "##[" in line or "##vso[" in line for line in lines)
    return commands or any(not one.isprintable() and one not in "\n\t\u200b\u00a0" for one in text)


@pytest.mark.parametrize("text", OBEYED, ids=OBEYED.values())
@pytest.mark.parametrize("show", [plain, scrub, excerpt, tail, without_secrets, report.safe, report.code])
def test_nothing_that_a_host_writes_is_obeyed(text, show):
    assert is_obeyed(text)
    assert not is_obeyed(show(text))
    assert plain(show(text)) == show(text)


def test_what_is_read_of_offers_and_instances_is_plain():
    place = "Sweden\r::error::x \x1b[31m"
    assert Offer.parse(offer(geolocation=place)).place == "Sweden ::error::x"
    row = Contract.parse(instance(1, status_msg="##[add-mask]a\n::b::", label="a/b", gpu_name="RTX\x00"))
    assert not is_obeyed(row.status_msg + row.gpu_name)
    assert not is_obeyed(str(Offer.parse(offer(geolocation=place)).record()))


@pytest.mark.parametrize(
    "text",
    [
        "[Re-authenticate here](https://evil.example/login)",
        "![x](https://evil.example/x.png)",
        "<img src=https://evil.example/x.png><script>alert(1)</script>",
        "<https://evil.example>",
        "a | b",
        "`code` \\[not a link](x)",
        "[x]: https://evil.example",
        "&lt;b&gt; &#64;everyone",
    ],
)
def test_markdown_shows_what_a_host_writes_as_it_is(text):
    tokens = MarkdownIt("commonmark").enable("table").parse(f"said: {report.safe(text)}")
    parts = [one for token in tokens for one in token.children or ()]
    assert {one.type for one in parts} == {"text"}
    assert "".join(one.content for one in parts).replace("\u200b", "") == f"said: {text}"
    row = MarkdownIt("commonmark").enable("table").render(report.table(("a", "b"), [(report.safe(text), "last")]))
    assert row.count("<td>") == 2


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("see https://evil.example/login", "https://"),
        ("see WWW.evil.example", "WWW."),
        ("hi @everyone, a@b.example", "@e"),
        ("closes #12 and !3", "#1"),
        ("closes #12 and !3", "!3"),
        ("group/project#4", "#4"),
    ],
)
def test_a_forge_makes_no_link_and_no_mention_of_it(text, link):
    assert link in text
    assert link not in report.safe(text)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Authorization: Bearer abcdef", "abcdef"),
        ("uses hf_0123456789abcdef.", "0123456789"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\n", "MHcC"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "cut off"),
        ("export MY_API_KEY_2 = 'topsecret'", "topsecret"),
        ('{"hub_token": "topsecret"}', "topsecret"),
        ("a\x1b[1mb-the-secret, in colours: the-\x1b[0msecret", "the-secret"),
    ],
)
def test_what_looks_like_a_credential_and_what_is_one_is_masked(text, hidden):
    shown = scrub(text, ["the-secret"])
    assert hidden not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    "part",
    ["token", "tokentoken ", "secret_=", "-----BEGIN PRIVATE KEY", "bearer ", "hf_aaaaaaaa_", "##a", "\x1b[", "::"],
)
def test_text_of_a_megabyte_is_scrubbed_in_half_a_second(part):
    text = part * (1_000_000 // len(part))
    began = time.process_time()
    scrub(text, ["another secret"])
    assert time.process_time() - began < 0.5


def test_what_is_shown_of_a_long_text_is_short_and_takes_no_time():
    text = "token" * 10_000_000 + "\nthe end"
    began = time.process_time()
    assert excerpt(text, chars=10) == "tokentoken..."
    assert tail(text).endswith("\nthe end")
    assert len(tail(text)) <= 2000 < CUT_CHARS
    assert time.process_time() - began < 0.5
