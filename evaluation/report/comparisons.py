"""What a report says of several detectors against each other: on the same images, over seeds, and of the best of a sweep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.comparison.paired import VERDICTS
from evaluation.comparison.selection import CHOICES, naive_sentence
from evaluation.comparison.together import METRICS
from evaluation.figures.comparisons import differences_figure, save_comparison_figures, seed_differences_figure
from evaluation.figures.theme import ON_LIGHT
from evaluation.report.parts import Cell, Grid, Part, drawn


def comparison_parts(folder: Path, metrics: Mapping[str, Any]) -> list[Part]:
    """Save the figures of comparisons and make the report's sections of them.

    Args:
        folder: Where figures are saved.
        metrics: What `metrics.json` holds, of it `comparison` (of `paired.compare_detectors`), `seeds` (of `seeds.seeds`) and `selection`
            (of `selection.selection`), where there are such.

    Returns:
        A section for each of the three that there is.
    """
    comparison, seeds, selection = (metrics.get(name) or {} for name in ("comparison", "seeds", "selection"))
    save_comparison_figures(folder, comparison, seeds)
    makers = ((comparison_part, comparison), (seeds_part, seeds), (selection_part, selection))
    return [make(found) for make, found in makers if found]


def comparison_part(found: Mapping[str, Any]) -> Part:
    """Each detector against the baseline.

    Args:
        found: Of `comparison.paired.compare_detectors`, not empty.
    """
    baseline = found["baseline"]
    overall = [(each["detector"], row["auroc"]) for each in found["detectors"] for row in each["rows"] if row["kind"] == "all"]
    verdicts = {word: [name for name, part in overall if part["verdict"] == word] for word in VERDICTS.values()}
    listed = "; ".join(f"{word}: {', '.join(names)}" for word, names in verdicts.items() if names)
    sentences = [
        f"Against {baseline}, by AUROC on all images that both have scored – {listed or 'nothing could be compared'}.",
        "Differences have paired 95% intervals, from the same resamples of groups for both. Better or worse: the interval excludes 0; with "
        "many rows 1 in 20 does by chance, for which p is corrected (Holm) over the detectors.",
        *(each["reason"] for each in found["detectors"] if "reason" in each),
        *_left_out([(each["detector"], each) for each in found["detectors"]], "that only one of the two has scored"),
    ]
    grids = []
    for metric, title in METRICS.items():
        rows: dict[str, list[Cell]] = {}
        for each in found["detectors"]:
            for row in each["rows"]:
                part = row[metric]
                rows[f"{each['detector']}: {row['images']}"] = [
                    *(part[side] for side in ("baseline", "detector", "difference")),
                    _p(part["p_holm"]),
                    *([_p(part["delong"]["p"])] if metric == "auroc" else []),
                    part["verdict"],
                ]
        heads = [baseline, "detector", "difference", "p (Holm)", *(["p (DeLong)"] if metric == "auroc" else []), ""]
        if rows:
            grids.append(Grid(f"{title} of each detector and of {baseline}", title, heads, rows))
    figure = differences_figure(found, theme=ON_LIGHT)
    caption = f"Differences in AUROC to {baseline}"
    return Part("Detectors against each other", sentences, grids, [] if figure is None else [drawn(figure, caption, caption)])


def seeds_part(found: Mapping[str, Any]) -> Part:
    """Detectors that were fitted with several seeds.

    Args:
        found: Of `comparison.seeds.seeds`, not empty.
    """
    names = ", ".join(f"{each['base']} ({len(each['seeds'])})" for each in found["bases"])
    sentences = [
        f"Fitted with several seeds: {names}. Means over seeds have 95% intervals over groups of images; the deviation is that over seeds.",
        *_left_out([(each["base"], each) for each in found["bases"]], "that not all seeds have scored"),
    ]
    if found["differences"]:
        sentences.append(
            f"Differences to {found['baseline']} are paired by seed. Better or worse only where the interval over groups and Student's "
            "interval over at least 3 seeds both exclude 0."
        )
    sentences += [each["reason"] for each in [*found["bases"], *found["differences"]] if "reason" in each]
    grids = []
    for metric, title in METRICS.items():
        means: dict[str, list[Cell]] = {}
        for each in found["bases"]:
            for row in each["rows"]:
                part = row[metric]
                means[f"{each['base']}: {row['images']}"] = [
                    part["mean"],
                    part["deviation"],
                    _number(part["lowest"]),
                    _number(part["highest"]),
                ]
        if means:
            grids.append(Grid(f"{title} over seeds", title, ["mean", "deviation", "lowest", "highest"], means))
    for metric, title in METRICS.items():
        rows: dict[str, list[Cell]] = {}
        for each in found["differences"]:
            for row in each["rows"]:
                part = row[metric]
                signs = f"{part['higher']}, {part['lower']} of {len(each['seeds'])}"
                rows[f"{each['base']}: {row['images']}"] = [
                    part["difference"],
                    part["over_seeds"],
                    part["deviation"],
                    signs,
                    part["verdict"],
                ]
        if rows:
            heads = ["difference", "over seeds", "deviation", "higher, lower", ""]
            grids.append(Grid(f"Difference in {title} to {found['baseline']}", f"{title}, difference", heads, rows))
    figure = seed_differences_figure(found, theme=ON_LIGHT)
    caption = f"Differences in AUROC to {found['baseline']}, over seeds"
    return Part("Several seeds", sentences, grids, [] if figure is None else [drawn(figure, caption, caption)])


def selection_part(found: Mapping[str, Any]) -> Part:
    """The best of a sweep.

    Args:
        found: Of `comparison.selection.selection`, not empty.
    """
    title = CHOICES[found["metric"]]
    sentences = [
        f"The best of {found['candidates']} detectors by {title} was chosen on one half of the groups of images and is reported on the "
        "other, which the choice has not seen.",
        *([naive] if (naive := naive_sentence(found)) else []),
        *_left_out([("The sweep", found)], "that not all detectors have scored"),
    ]
    rows: dict[str, list[Cell]] = {}
    for way in found["halves"]:
        name = f"chosen on {way['chosen_on']}, reported on {way['reported_on']}"
        rows[name] = [way["detector"], way["where_chosen"], way["value"], _number(way["optimism"], "+.3f")]
    heads = ["detector", "where it was chosen", "reported", "optimism"]
    return Part("The best of the sweep", sentences, [Grid(f"{title} of the chosen detector on both halves", title, heads, rows)])


def _left_out(each: list[tuple[str, Mapping[str, Any]]], why: str) -> list[str]:
    return [
        f"{name}: {part['n_left_out']:,} images {why} are left out; {part['n_images']:,} are measured."
        for name, part in each
        if part["n_left_out"]
    ]


def _p(value: float | None) -> str:
    return _number(value) if value is None or value >= 0.001 else "< 0.001"


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else f"{value:{form}}"
