"""A comparison as a self-contained HTML page and as Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fpig_core.metrics import DIRECTIONS
from jobs.charts import Point, scatter, short
from jobs.page import Html, element, facts, foreign, section, table, warning_box, whole_page

TITLES = {"t2v": "text to video", "v2t": "video to text"}
PLOTTED = {"ms_per_query": "milliseconds a query", "bytes_per_video": "bytes stored a video"}
COMPARED = ("R@1", "R@5", "R@10", "MdR", "MnR", "SumR")

Comparison = Mapping[str, Any]


def render_comparison(compared: Comparison) -> str:
    """The HTML page."""
    systems = compared["systems"]
    return whole_page(
        f"{len(systems)} systems on {compared['split']}",
        element("p", _subtitle(compared), class_="faint"),
        warning_box(compared["warnings"]),
        section("Results", [_results_table(compared, direction) for direction in DIRECTIONS]),
        section(
            "Effectiveness against cost", element("div", _charts(compared), class_="charts"), _costs_table(systems)
        ),
        section(f"Differences from {_baseline(compared)}", _differences(compared)),
        section("Protocol", facts([(name, foreign(str(value))) for name, value in compared["protocol"].items()])),
        section("Sources", facts([(system["name"], foreign(system["source"])) for system in systems])),
    )


def _baseline(compared: Comparison) -> str:
    return compared["systems"][0]["name"]


def _subtitle(compared: Comparison) -> str:
    protocol, bootstrap = compared["protocol"], compared["bootstrap"]
    return (
        f"{protocol['num_queries']:,} queries among {protocol['num_videos']:,} videos, ranking: {compared['ranking']}. "
        f"Ties count against each system. 95% intervals by bootstrap over videos, {bootstrap['num_resamples']} "
        "resamples."
    )


def _named(number: int, system: Mapping[str, Any]) -> list[Html | str]:
    return [f"{number} ", foreign(system["name"])]


def _results_table(compared: Comparison, direction: str) -> Html:
    rows = []
    for number, system in enumerate(compared["systems"], start=1):
        metrics, intervals = system[direction], system["intervals"][direction]
        cells = [
            [f"{metrics[name]:.1f}", element("small", f"{intervals[name][0]:.1f}–{intervals[name][1]:.1f}")]
            for name in COMPARED
        ]
        rows.append([_named(number, system), *cells])
    return table(["system", *COMPARED], rows, caption=TITLES[direction])


def _costs_table(systems: Sequence[Mapping[str, Any]]) -> Html:
    rows = []
    for number, system in enumerate(systems, start=1):
        costs = [_told(system[name], short) for name in ("bytes_per_video", "ms_per_query", "videos_per_s")]
        on = (system["measured_on"] or {}).get("query") or "not told"
        stages = f"best {system['first_stage_k']} reranked" if system["first_stage_k"] else "one"
        rows.append([_named(number, system), *costs, stages, on, system["select_on"]])
    head = ["system", "bytes a video", "ms a query", "videos/s embedded", "stages", "queries ran on", "selected on"]
    return table(head, rows, caption="What each costs", texts=(4, 5, 6))


def _told(value: Any, show: Callable[[float], str]) -> str:
    return "not recorded" if value is None else show(value)


def _charts(compared: Comparison) -> list[Html]:
    charts = []
    for cost, title in PLOTTED.items():
        for direction in DIRECTIONS:
            points = [_point(system, cost, direction) for system in compared["systems"]]
            if any(points):
                chart_title = f"R@1 {TITLES[direction]} over {title}, with 95% intervals; numbers as in the tables"
                charts.append(scatter(points, title=chart_title, x_title=title, y_title="R@1, %"))
    return charts or [element("p", "No result tells what it costs.", class_="faint")]


def _point(system: Mapping[str, Any], cost: str, direction: str) -> Point | None:
    """R@1 over a cost, or None where nobody knows the cost."""
    if not system[cost]:
        return None
    low, high = system["intervals"][direction]["R@1"]
    return Point(x=system[cost], y=system[direction]["R@1"], low=low, high=high, name=system["name"])


def _differences(compared: Comparison) -> list[Html]:
    found = []
    for direction in DIRECTIONS:
        rows = []
        for number, pair in enumerate(compared["differences"], start=2):
            cells = [
                [
                    f"{value['difference']:+.1f}",
                    element("small", f"{value['low']:+.1f} to {value['high']:+.1f}"),
                    element("small", f"p = {value['p']:.2g}"),
                ]
                for value in (pair[direction][name] for name in COMPARED)
            ]
            rows.append([[f"{number} ", foreign(pair["system"])], *cells])
        found.append(table(["system", *COMPARED], rows, caption=f"{TITLES[direction]}: this system less the first"))
    note = (
        "Both systems are resampled together, video by video. Where the interval holds 0 the order of the two may be "
        "chance. Recall and SumR: above 0 is better; MdR and MnR: below 0 is better."
    )
    return [element("p", note, class_="faint"), *found]


def render_markdown(compared: Comparison) -> str:
    """The tables as Markdown."""
    lines = [
        f"# {len(compared['systems'])} systems on {escape(compared['split'])}",
        "",
        escape(_subtitle(compared)),
        "",
    ]
    lines += [f"> {escape(warning)}" for warning in compared["warnings"]] + [""]
    for direction in DIRECTIONS:
        head = ["system", *COMPARED, "bytes a video", "ms a query", "videos/s", "selected on"]
        rows = []
        for system in compared["systems"]:
            low, high = system["intervals"][direction]["R@1"]
            first, *others = (f"{system[direction][name]:.1f}" for name in COMPARED)
            costs = [_told(system[name], short) for name in ("bytes_per_video", "ms_per_query", "videos_per_s")]
            rows.append([system["name"], f"{first} ({low:.1f}–{high:.1f})", *others, *costs, system["select_on"]])
        lines += [f"## {TITLES[direction].capitalize()}", "", *_markdown_table(head, rows), ""]
    lines += [f"## Differences from {escape(_baseline(compared))}", ""]
    rows = [
        [pair["system"], TITLES[direction], *(_difference(pair[direction][name]) for name in COMPARED)]
        for pair in compared["differences"]
        for direction in DIRECTIONS
    ]
    lines += [*_markdown_table(["system", "direction", *COMPARED], rows), ""]
    return "\n".join(lines)


def _difference(value: Mapping[str, float]) -> str:
    return f"{value['difference']:+.1f} ({value['low']:+.1f} to {value['high']:+.1f}, p = {value['p']:.2g})"


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = "|".join(["---", *["---:"] * (len(head) - 1)])
    return [f"| {' | '.join(head)} |", f"|{ruler}|", *(f"| {' | '.join(map(escape, row))} |" for row in rows)]


def escape(text: str) -> str:
    """Text that stays one cell and no markup."""
    one_line = " ".join(str(text).split())
    for sign in "\\`*_{}[]<>|#":
        one_line = one_line.replace(sign, f"\\{sign}")
    return one_line
