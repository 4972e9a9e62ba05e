"""`report.html`: what was measured, on what, how sure one can be, and the images, in one file without a network.

This module puts the parts in their order; `page/report.html.j2` lays them out, `page/*.js` make tables sortable and images browsable.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from evaluation import figures
from evaluation.embedding_map import EmbeddingMap
from evaluation.files import write_atomically
from evaluation.report.browser import Browser
from evaluation.report.detector import detector_parts, metrics_grid
from evaluation.report.fragments import IMAGES
from evaluation.report.mistakes import Load, mistakes_part
from evaluation.report.parts import Group, Part, anchors, drawn
from evaluation.report.summary import study_findings
from evaluation.report.verdict import concerns, findings
from evaluation.statistics import CLEAN, CROSSED, clean_rows
from evaluation.tables import Documents, cell_of, documents_of

PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("page.js", "browser.js", "viewer.js")
_COMPARED = {"AUROC": CROSSED["auroc"], "TPR at FPR 0.1": CROSSED["tpr_at_fpr_0.1"]}
_FLAGGED = 3  # detectors whose flagged shortcuts stand first


def write_report(
    run_dir: Path,
    frame: pd.DataFrame,
    metrics: Mapping[str, Any],
    load: Load | None,
    title: str = "Detection report",
    facts: Mapping[str, object] | None = None,
    warnings: Sequence[str] = (),
    *,
    maps: Mapping[str, EmbeddingMap | str] | None = None,
    parts: Sequence[Part] = (),
    pixels: Sequence[Part] = (),
    images: Browser | None = None,
) -> Path:
    """Write `report.html`.

    Args:
        run_dir: Where it is written.
        frame: The rows that `metrics` was made of.
        metrics: What `statistics.metrics_document` returned for them.
        load: From a key and a perturbation to the pictures that the detectors saw, each uint8 `[H, W, 3]`, by name (`image`, `noise_map`,
            …). Asked only for the worst mistakes; where it fails the report says so. None for no pictures.
        title: Heading, usually the run's name.
        facts: What was run, by name: detector, checkpoint, configuration, versions.
        warnings: Further sentences that a reader must see first.
        maps: Maps of the embeddings by detector, or why there is none.
        parts: Further parts about the run as a whole; they stand before those of single detectors, of one only after its numbers.
        pixels: Parts about the images, whatever detectors say of them.
        images: The image browser; None for none.

    Returns:
        The file.
    """
    documents = documents_of(metrics, str(frame["detector"].iloc[0]))
    groups = [
        _group(name, frame[frame["detector"] == name], document, load, (maps or {}).get(name), images)
        for name, document in documents.items()
    ]
    one = len(groups) == 1
    said = list(groups[0].findings) if one else study_findings(documents, metrics)
    if one:
        numbers, *others, mistakes = groups[0].parts
        entries: list[Part | Group] = [numbers, *parts, *others, *pixels, mistakes]
    else:
        entries = [_comparison(frame, documents), *parts, *pixels, *groups]
    names = anchors(["top", IMAGES, "what-was-run", *(entry.heading for entry in entries)])[3:]
    script, style = "\n".join((PAGE / name).read_text() for name in _SCRIPTS), (PAGE / "style.css").read_text()
    # Names of generators, files and runs come from others' data: everything is escaped, and no script but this one may run.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["coded"] = coded
    html = environment.get_template("report.html.j2").render(
        title=title,
        findings=said,
        concerns=[*(groups[0].concerns if one else _shortcuts(groups)), *warnings],
        entries=list(zip(names, entries, strict=True)),
        images=images,
        facts=dict(facts or {}),
        style=Markup(style),
        script=Markup(script),
        allowed=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = run_dir / "report.html"
    write_atomically(path, html.encode("utf-8", "replace"))  # a file's name may be no text
    return path


def coded(sentence: str) -> Markup:
    """A sentence with what stands between backticks as code."""
    marked = [Markup("<code>{}</code>").format(each) if place % 2 else escape(each) for place, each in enumerate(sentence.split("`"))]
    return Markup("").join(marked)


def _group(
    name: str,
    frame: pd.DataFrame,
    document: Mapping[str, Any],
    load: Load | None,
    embeddings: EmbeddingMap | str | None,
    images: Browser | None,
) -> Group:
    """All that the page shows of one detector."""
    clean = clean_rows(frame)
    parts = detector_parts(name, frame, document, embeddings, with_browser=images is not None)
    parts.append(mistakes_part(clean, document["threshold"]["value"], load, name, () if images is None else images.shown))
    return Group(name, parts, findings(document, clean), concerns(document))


def _shortcuts(groups: Sequence[Group]) -> list[str]:
    """What must be seen first of several detectors, whose own concerns stand further down: flagged shortcuts, a sentence each."""
    found = [f"{each.heading}: {sentence}" for each in groups for sentence in each.concerns if sentence.startswith("Shortcut")]
    more = len(found) - _FLAGGED
    return [*found[:_FLAGGED], *([f"Shortcuts are flagged for {more} more; see each detector's part."] if more > 0 else [])]


def _comparison(frame: pd.DataFrame, documents: Documents) -> Part:
    """All detectors side by side: over all images, by generator, and by perturbation where there are several."""

    def records(document: Mapping[str, Any]) -> dict[str, Any]:
        perturbed = document["by_perturbation"] if len(document["by_perturbation"]) > 1 else {}
        under = {f"all, {name}": part for name, part in perturbed.items() if name != CLEAN}
        return {"all": document["overall"], **document["by_generator"], **under}

    grids = []
    for metric, place in _COMPARED.items():
        rows: dict[str, dict[str, Any]] = {}
        for name, document in documents.items():
            for where, part in records(document).items():
                rows.setdefault(where, dict(part)).update({f"number of {name}": cell_of(part, place)})
        whole = {where: row for where, row in rows.items() if all(f"number of {name}" in row for name in documents)}
        grids.append(metrics_grid(f"{metric} by detector", f"{metric} on", whole, {name: (f"number of {name}",) for name in documents}))
    tables = {name: clean_rows(frame[frame["detector"] == name]) for name in documents}
    charts = [
        drawn(figures.roc_figure(tables, log, figures.ON_LIGHT), f"ROC curves of the detectors, {scale} axis: {', '.join(documents)}")
        for log, scale in ((False, "linear"), (True, "logarithmic"))
    ]
    return Part("Comparison", ["Each detector on the same images."], grids, charts, together=True)
