"""Pages hold what strangers wrote as mere text, load nothing, and are well formed."""

import re
from html.parser import HTMLParser

import pytest

from jobs.charts import Point, bars, curves, scatter
from jobs.page import element, foreign, table, warning_box, whole_page

NEVER_CLOSED = ("meta", "img", "br")
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title></svg><iframe src=//example.org>",
    "' onmouseover='alert(1)",
    "&lt;b&gt; &amp;",
    "]]><!-- -->",
]


class Elements(HTMLParser):
    """All elements of a page, whether every one is closed, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag not in NEVER_CLOSED:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def hostile_page(text: str) -> Elements:
    charts = [
        bars({text: 3.0}, title=text, x_title=text, y_title=text),
        curves({text: [(1, 20.0), (10, 80.0)]}, title=text, x_title=text, y_title=text),
        scatter([Point(1, 50, 40, 60, text), None], title=text, x_title=text, y_title=text),
    ]
    parts = [foreign(text), table([text], [[text]], caption=text), warning_box([text]), element("p", text, title=text)]
    return Elements(whole_page(text, *parts, *charts))


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_adds_no_element_and_no_attribute(text):
    harmless, hostile = hostile_page("harmless"), hostile_page(text)
    assert hostile.names == harmless.names
    assert [name for name, _ in hostile.attributes] == [name for name, _ in harmless.attributes]
    assert hostile.open == []
    assert text in hostile.text


def test_pages_may_run_and_load_nothing():
    page = hostile_page("harmless")
    assert "script" not in page.names
    assert any("default-src 'none'" in (value or "") for _, value in page.attributes)
    assert not any(name.startswith("on") for name, _ in page.attributes)


def test_right_to_left_text_and_emoji_stay_whole_and_to_themselves():
    text = "כלב רץ \u202egnp.exe 👩‍🚀🏳️‍🌈"
    assert foreign(text) == f'<bdi dir="auto">{text}</bdi>'


def test_what_html_and_utf8_do_not_allow_is_replaced():
    assert foreign("a\x00b\x1b[31m\ud800\nc") == '<bdi dir="auto">a�b�[31m�\nc</bdi>'
    whole_page("\udfff").encode()


def test_long_text_is_cut():
    assert len(foreign("x" * 10_000)) < 500


def test_charts_stay_inside_their_frame():
    points = [Point(10.0**i, 99.9, 99, 100, str(i)) for i in range(-2, 9, 2)]
    drawn = scatter(points, title="t", x_title="x", y_title="y") + bars({"a": 0.0}, title="t", x_title="x", y_title="y")
    places = [float(value) for value in re.findall(r' (?:x|y|cx|cy|x1|y1|x2|y2|height)="([-\d.]+)"', drawn)]
    assert places
    assert min(places) >= 0
    assert max(places) <= 460
    assert "nan" not in drawn
