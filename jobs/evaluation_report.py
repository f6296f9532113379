"""The report of one evaluation: figures with their costs and their limits, as one self-contained HTML page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fpig_core.evaluation import FIRST_STAGE, MAIN, Evaluation
from fpig_core.metrics import DIRECTIONS, recall_curve
from jobs.charts import bars, curves, short
from jobs.page import Child, Html, element, facts, foreign, picture, section, table, warning_box, whole_page
from jobs.report_pictures import Example, Shown

TITLES = {"t2v": "text to video", "v2t": "video to text"}
BINS = ((1, 1), (2, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, 1000), (1001, None))
MAX_CURVE, CURVE_POINTS = 1000, 60
MAX_CAPTIONS = 3


def render_report(judged: Evaluation, *, best: Sequence[Example], worst: Sequence[Example]) -> str:
    """The page; ``best`` and ``worst`` are queries to show."""
    result = judged.result
    return whole_page(
        f"Retrieval on {result['split']}",
        element("p", _subtitle(result), class_="faint"),
        warning_box(result.get("warnings", [])),
        section("Result", _metrics_tables(result), _reading_help(result)),
        section("Cost", _costs(result)),
        section("Ranks", element("div", _charts(judged), class_="charts"), _ranks_table(judged)),
        section("By group", _breakdown(result)),
        section("Best queries", _examples(best, "No query has rank 1.", kind="best")),
        section("Worst queries", _examples(worst, "Every query has rank 1.", kind="worst")),
        section("Where this comes from", _lineage(result)),
    )


def _subtitle(result: Mapping[str, Any]) -> str:
    method = result.get("method", "")
    asked = {
        "first": "one caption a video",
        "all": "every caption a query",
        "paragraph": "all captions of a video joined",
    }
    kind = asked.get(result["queries"], result["queries"])
    stages = f"best {result['first_stage_k']} reranked" if result["first_stage_k"] else "one stage"
    return (
        f"{method} model {result['model_id']} · {result['num_queries']:,} queries ({kind}) among "
        f"{result['num_videos']:,} videos · {stages}"
    ).strip()


def _metrics_tables(result: Mapping[str, Any]) -> list[Html]:
    first = {FIRST_STAGE: result[FIRST_STAGE]} if FIRST_STAGE in result else {}
    normalised = result.get("normalised", {})
    tables = [_metrics_table(result, {MAIN: result, **first}, caption="Metrics, with 95% intervals below them")]
    if normalised:
        caption = "Extras that look at the queries of others: not what a live search would find"
        tables.append(_metrics_table(result, normalised, caption=caption))
    return tables


def _metrics_table(result: Mapping[str, Any], rankings: Mapping[str, Any], *, caption: str) -> Html:
    notes, rows = {MAIN: "", FIRST_STAGE: "first stage alone"}, []
    for ranking, metrics in rankings.items():
        for direction in DIRECTIONS:
            note = notes.get(ranking, ranking)
            cells = [
                [f"{value:.1f}", element("small", _between(result["intervals"][ranking][direction][name]))]
                for name, value in metrics[direction].items()
            ]
            rows.append([[TITLES[direction], element("small", note) if note else ""], *cells])
    return table(["direction", *result["t2v"]], rows, caption=caption)


def _between(interval: Sequence[float]) -> str:
    return f"{interval[0]:.1f}–{interval[1]:.1f}"


def _reading_help(result: Mapping[str, Any]) -> Html:
    bootstrap = result["bootstrap"]
    return element(
        "p",
        f"R@K: queries in percent whose video is among the first K (chance for R@1: {result['chance_r1']:.3g}). MdR "
        f"and MnR: median and mean rank, lower is better. Ties count against the model. Intervals: bootstrap over "
        f"videos, "
        f"{bootstrap['num_resamples']} resamples, seed {bootstrap['seed']}.",
        class_="faint",
    )


def _costs(result: Mapping[str, Any]) -> Html:
    on = result.get("measured_on", {})
    embedding = on.get("embedding") or {}
    places = "not told where"
    if embedding:
        gpus = embedding["gpus_per_actor"]
        places = f"copies of the model: {embedding['num_actors']}, each on " + (f"{gpus:g} GPUs" if gpus else "the CPU")
    return table(
        ["what", "value", "measured"],
        [
            ["bytes stored a video", _told(result.get("bytes_per_video"), short), "files of the corpus"],
            [
                "milliseconds a query",
                _told(result.get("ms_per_query"), short),
                f"median of single queries, encoding included; {on.get('query', 'not told where')}",
            ],
            [
                "videos embedded a second",
                _told(result.get("videos_per_s"), short),
                f"whole embedding, start of workers included; {places}",
            ],
        ],
        caption="What this result costs",
        texts=(2,),
    )


def _told(value: Any, show: Any) -> str:
    return "not recorded" if value is None else show(value)


def _charts(judged: Evaluation) -> list[Html]:
    counts = _histogram(judged)
    num = len(judged.queries.ids)
    share = {name: by["t2v"] / num * 100 for name, by in counts.items()}
    series = _curve_series(judged)
    return [
        bars(share, title="Where the video of a query stands (text to video)", x_title="rank", y_title="queries, %"),
        curves(series, title="R@K: how many are found among the first K", x_title="K", y_title="found, %"),
    ]


def _curve_series(judged: Evaluation) -> dict[str, list[tuple[float, float]]]:
    most = max(2, min(MAX_CURVE, len(judged.video_ids)))
    at = np.unique(np.geomspace(1, most, CURVE_POINTS).round().astype(int)).tolist()
    series = {}
    for ranking, name in ((MAIN, ""), (FIRST_STAGE, ", first stage")):
        if ranking in judged.ranks:
            found = judged.ranks[ranking]
            for direction, rank in (("t2v", found.t2v_Q), ("v2t", found.v2t_R)):
                series[TITLES[direction] + name] = list(zip(at, recall_curve(rank, at), strict=True))
    return series


def _histogram(judged: Evaluation) -> dict[str, dict[str, int]]:
    """Number of ranks in each bin, by direction."""
    found, counts = judged.ranks[MAIN], {}
    ranks = {"t2v": found.t2v_Q.numpy(), "v2t": found.v2t_R.numpy()}
    largest = max(int(rank.max()) for rank in ranks.values())
    for low, high in BINS:
        if low <= largest:
            name = str(low) if low == high else f"{low}+" if high is None else f"{low}–{high}"
            counts[name] = {
                direction: int(((rank >= low) & (rank <= (high or rank.max()))).sum())
                for direction, rank in ranks.items()
            }
    return counts


def _ranks_table(judged: Evaluation) -> Html:
    rows = [[name, f"{by['t2v']:,}", f"{by['v2t']:,}"] for name, by in _histogram(judged).items()]
    whole = table(["rank", *TITLES.values()], rows, caption="How many have which rank")
    return element("details", element("summary", "The numbers"), whole)


def _breakdown(result: Mapping[str, Any]) -> list[Html]:
    titles = {"caption_length": "By length of the caption", "category": "By category of the video"}
    return [_groups_table(titles[name], groups) for name, groups in result["breakdown"].items()]


def _groups_table(title: str, groups: Iterable[Mapping[str, Any]]) -> Html:
    groups = list(groups)
    directions = [direction for direction in DIRECTIONS if direction in groups[0]]
    head: list[Child] = ["group"]
    for direction in directions:
        head += [f"queries, {direction}", "R@1", "R@5", "MdR"]
    rows = []
    for group in groups:
        row: list[Child] = [foreign(group["group"], max_length=60)]
        for direction in directions:
            metrics, interval = group[direction], group[f"{direction}_r1_interval"]
            row += [f"{group[f'{direction}_num']:,}", [f"{metrics['R@1']:.1f}", element("small", _between(interval))]]
            row += [f"{metrics['R@5']:.1f}", f"{metrics['MdR']:g}"]
        rows.append(row)
    return table(head, rows, caption=title)


def _examples(examples: Sequence[Example], nothing: str, *, kind: str) -> list[Html]:
    if not examples:
        return [element("p", nothing, class_="faint")]
    cards = []
    for example in examples:
        title = element("p", element("strong", f"Rank {example.rank}: "), foreign(example.text), class_="query")
        shown = [_video("The video that was meant", example.meant)]
        if example.found:
            shown.append(_video("Found first", example.found))
        elif kind == "worst":
            shown.append(element("p", "Found first: the video that was meant, tied with others.", class_="faint"))
        cards.append(element("article", title, element("div", shown, class_="pair"), class_="card"))
    has_tokens = any(shown.has_tokens for example in examples for shown in (example.meant, example.found) if shown)
    note = element("p", "Patches that the model's token selector did not keep are faded.", class_="faint")
    return [*([note] if has_tokens else []), *cards]


def _video(title: str, shown: Shown) -> Html:
    captions = [element("p", foreign(caption), class_="faint") for caption in shown.captions[:MAX_CAPTIONS]]
    more = len(shown.captions) - MAX_CAPTIONS
    if more > 0:
        captions.append(element("p", f"and {more} more captions", class_="faint"))
    if shown.jpeg:
        seen = picture(shown.jpeg, kind="jpeg", alt=f"Frames of video {shown.video_id[:80]}")
    else:
        seen = element("p", "No frames: ", foreign(shown.fault), class_="faint")
    return element(
        "div", element("p", element("strong", title), " ", foreign(shown.video_id, max_length=80)), seen, captions
    )


def _lineage(result: Mapping[str, Any]) -> list[Html]:
    lineage = result.get("lineage", {})
    shown = {
        "split": result["split"],
        "weights selected on": result["select_on"],
        "corpus": lineage.get("corpus"),
        "manifest": lineage.get("manifest"),
        "manifest digest": result["manifest_digest"],
        "videos in the manifest that are missing here": result.get("num_videos_missing"),
        "model": lineage.get("model"),
        "model id": result["model_id"],
        "searched vectors": result.get("column"),
        **{f"embedding: {name}": value for name, value in lineage.get("embedding", {}).items()},
        "code of this evaluation": lineage.get("evaluated_by"),
        "MLflow run of this evaluation": result.get("mlflow_run_id"),
    }
    pairs = [(name, foreign(str(value))) for name, value in shown.items() if value not in (None, "")]
    details = {
        "Data set, as it was imported": result.get("dataset"),
        "Protocol: what another result must share to be compared": result["protocol"],
        "Training of the model": lineage.get("model_origin"),
        "Settings of the model": lineage.get("model_config"),
    }
    folds = [
        element("details", element("summary", title), facts(_flat(values)))
        for title, values in details.items()
        if values
    ]
    return [facts(pairs), *folds]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Child]]:
    pairs: list[tuple[str, Child]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
            pairs.append((f"{prefix}{name}", foreign(shown)))
    return pairs
