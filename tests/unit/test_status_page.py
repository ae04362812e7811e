import re
from datetime import UTC, datetime
from html.parser import HTMLParser

from ops import report
from ops.command import Outcome, as_markdown
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


def test_a_narrow_screen_scrolls_tables_and_nothing_else():
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in shown()
    assert re.search(r"table \{[^}]*display: block;[^}]*overflow-x: auto;", STYLE)
    assert re.search(r"section \{[^}]*overflow-wrap: anywhere;", STYLE)
