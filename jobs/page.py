"""One self-contained HTML page: elements that escape what they hold, and the frame around them.

Captions and names come from strangers. ``element`` escapes every child that is not ``Html`` already, so that forgetting
to escape is not possible; ``foreign`` also keeps right-to-left text from turning the rest of the line. A content
security policy forbids the page to run or load anything.
"""

import base64
import html
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

MAX_TEXT = 400
VOID = ("meta", "img", "br", "line", "rect", "circle", "path", "polygon")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
STYLE = """
:root{color-scheme:light dark;--back:#fff;--ink:#1c2330;--faint:#5b6576;--line:#d5dae2;--soft:#f3f5f8;--warn:#8a4b00;
--warn-back:#fff4e0;--c0:#1f5fbf;--c1:#b3480f;--c2:#187a4e;--c3:#8434a8;--c4:#8a6d00;--c5:#ad2450}
@media (prefers-color-scheme:dark){:root{--back:#14181f;--ink:#e6eaf0;--faint:#9ba6b6;--line:#394252;--soft:#1d232d;
--warn:#ffcb80;--warn-back:#3a2b10;--c0:#7db0ff;--c1:#ffa070;--c2:#6fd6a5;--c3:#d79bf5;--c4:#e8c95a;--c5:#ff8fb0}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem;max-width:70rem;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .25rem}h2{font-size:1.2rem;margin:2.25rem 0 .5rem}
h3{font-size:1rem;margin:1.25rem 0 .5rem}p{margin:.4rem 0}.faint,figcaption{color:var(--faint);font-size:.9rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--faint);font-size:.9rem;padding-bottom:.25rem}
th,td{padding:.3rem .75rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:0}thead th{color:var(--faint);font-weight:600}
th,td{overflow-wrap:normal;white-space:nowrap}td.text,th.text{text-align:left}
tbody th,td.text{white-space:normal;overflow-wrap:break-word;min-width:8rem}tbody th{font-weight:600}
small{display:block;color:var(--faint);font-size:.8rem;font-weight:400}
.warnings{background:var(--warn-back);border-left:4px solid var(--warn);padding:.5rem 1rem;margin:1rem 0}
.warnings ul{margin:.25rem 0;padding-left:1.25rem}.warnings strong{color:var(--warn)}
figure{margin:1rem 0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem 2rem}
svg{width:100%;height:auto;color:var(--ink)}svg text{fill:currentColor;font:12px system-ui,sans-serif}
svg .axis{stroke:var(--faint)}svg .grid{stroke:var(--line)}
.card{border:1px solid var(--line);border-radius:8px;padding:.75rem 1rem;margin:.75rem 0;background:var(--soft)}
.card p:first-child{margin-top:0}.card img{max-width:100%;height:auto;border-radius:4px;display:block;margin:.25rem 0}
.query{font-size:1.05rem}.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:.75rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:.5rem 0}dt{color:var(--faint)}dd{margin:0}
@media (max-width:40rem){dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}}
code{font-size:.9em}summary{cursor:pointer}
@media print{body{max-width:none}details>*{display:block}}
"""


class Html(str):
    """Text that is markup already."""


Child = str | Html | int | float | Iterable[Any]


def element(name: str, *children: Child, **attributes: Any) -> Html:
    """``<name attributes>children</name>``; underscores in names of attributes become hyphens, None is left out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(clean(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID and not children:
        return Html(f"<{name}{told}>" if name in ("meta", "img", "br") else f"<{name}{told}/>")
    return Html(f"<{name}{told}>{_join(children)}</{name}>")


def _join(children: Iterable[Child]) -> str:
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(clean(child)))
        elif isinstance(child, Iterable):
            parts.append(_join(child))
        else:
            parts.append(html.escape(str(child)))
    return "".join(parts)


def clean(text: str) -> str:
    """Without control characters and halves of surrogate pairs, which HTML and UTF-8 do not allow."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs") else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def foreign(text: str, *, max_length: int = MAX_TEXT) -> Html:
    """Text from outside: cut when it is very long, in its own direction, isolated from what stands around it."""
    shown = text if len(text) <= max_length else f"{text[:max_length]}…"
    return element("bdi", shown or "(empty)", dir="auto")


def picture(data: bytes, *, kind: str, alt: str) -> Html:
    """An image inside the page; ``kind`` is png or jpeg."""
    return element("img", src=f"data:image/{kind};base64,{base64.b64encode(data).decode()}", alt=alt, loading="lazy")


def table(head: Sequence[Child], rows: Iterable[Sequence[Child]], *, caption: str, texts: Sequence[int] = ()) -> Html:
    """A table whose first column names its rows; columns hold numbers, but for those with a number among ``texts``."""
    kinds = ["text" if i in texts else None for i in range(len(head))]
    body = [
        element(
            "tr",
            element("th", first, scope="row"),
            [element("td", cell, class_=kind) for cell, kind in zip(others, kinds[1:], strict=True)],
        )
        for first, *others in rows
    ]
    names = [element("th", name, scope="col", class_=kind) for name, kind in zip(head, kinds, strict=True)]
    columns, title = element("thead", element("tr", names)), element("caption", caption)
    whole = element("table", title, columns, element("tbody", body))
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """A list of names and values."""
    return element("dl", [[element("dt", name), element("dd", value)] for name, value in pairs])


def warning_box(warnings: Sequence[str]) -> Html:
    """What must be known before the figures are read; nothing if there is nothing to know."""
    if not warnings:
        return Html("")
    points = element("ul", [element("li", warning) for warning in warnings])
    return element("section", element("strong", "Before you read the figures"), points, class_="warnings", role="note")


def section(title: str, *children: Child) -> Html:
    return element("section", element("h2", title), children)


def whole_page(title: str, *children: Child) -> str:
    """The HTML document."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    body = element("body", element("main", element("h1", title), children))
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'
