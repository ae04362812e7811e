import re
from datetime import UTC, datetime
from html.parser import HTMLParser

from components.scaling import Sample
from ops import report
from ops.command import Outcome, as_markdown
from ops.exits import ERROR
from ops.status import load_summary
from ops.status_page import STYLE, page

AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOSTILE = '<script src="https://x.test/a.js"> ![a](https://x.test/b.png) [c](javascript:d) <https://x.test/e> url(f)'


class Document(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *one) for one in attrs]

    def handle_data(self, data):
        self.text += data


def shown(*outcomes):
    return page([(one.code == 0, as_markdown("status", "prod", one)) for one in outcomes], AT)


def test_a_page_loads_nothing_whatever_a_host_says():
    parts = [report.table(("place",), [(report.safe(HOSTILE),)]), report.bullets("Dead", [HOSTILE]), HOSTILE]
    document = Document(shown(Outcome(0, "every server answers", parts)))
    assert not {"script", "img", "a", "link", "iframe", "object", "form", "base"} & set(document.tags)
    names = {(tag, name) for tag, name, _ in document.attributes}
    assert names == {
        ("html", "lang"), ("meta", "charset"), ("meta", "name"), ("meta", "content"), ("meta", "http-equiv"),
        ("section", "class"),
    }  # fmt: skip
    assert not re.search(r"url\(|@import|expression", STYLE)
    policy = [value for tag, _, value in document.attributes if tag == "meta" and "default-src" in str(value)]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert document.text.count("https://x.test/a.js") == 3


def test_a_page_has_a_section_for_each_answer_and_marks_those_that_are_not_well():
    text = shown(Outcome(0, "every server answers", ["| a |\n| --- |\n| b |"]), Outcome(7, "1 of 2 servers dead"))
    document = Document(text)
    assert [value for tag, name, value in document.attributes if (tag, name) == ("section", "class")] == ["ok", "bad"]
    assert "prod status: every server answers" in document.text
    assert "As of 2026-11-26 12:00 UTC." in document.text
    assert document.tags.count("table") == 1


def test_a_page_that_is_served_is_asked_for_again_and_a_file_is_not():
    assert '<meta http-equiv="refresh" content="30">' in page([], AT, 30)
    assert "refresh" not in page([], AT)


def test_the_load_is_shown_or_that_no_server_tells_it():
    text = as_markdown("load", "prod", load_summary([Sample(0.0, in_flight=12, queue=3, p95_s=0.5, pairs_per_s=80.0)]))
    assert "12 pairs in flight" in text
    assert "| 12 | 3 | 0.50 | 80.00 |" in text
    assert load_summary([]).code == ERROR


def test_a_narrow_screen_scrolls_tables_and_nothing_else():
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in shown()
    assert re.search(r"table \{[^}]*display: block;[^}]*overflow-x: auto;", STYLE)
    assert re.search(r"section \{[^}]*overflow-wrap: anywhere;", STYLE)
