"""What a finished run shows in W&B: curves, histograms, the worst mistakes and a table, all from the rows behind `metrics.json`."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from evaluation.confusion import COLUMNS as CONFUSION_COLUMNS
from evaluation.confusion import Matrix, long_rows
from evaluation.figures import bin_edges
from evaluation.report import Load, thumbnail, worst_mistakes
from evaluation.statistics import against_reals, clean_rows
from modules.metrics.functional import Curve, curve
from workflow.tracking import TolerantWandbLogger, how_to_sync, unsynced

log = logging.getLogger(__name__)

POINTS = 1000  # of a line; W&B draws 10,000 rows of a chart
ROWS = 10_000
MISTAKES = 8  # of each kind
FIGURES = 200  # of a run; one of many data sets and perturbations has a figure for each, and W&B draws all of them on one page
PICTURES_VARIABLE = "UNDERTOW_WANDB_PICTURES"
# W&B's own preset of ROC and precision-recall charts: a panel of several runs draws the lines of all of them.
_PRESET = "wandb/area-under-curve/v0"
Charts = dict[str, Callable[[], Any]]
"""What makes a chart, a table or an image of W&B, by its logged name."""
_STATISTICS = ("auroc", "average_precision", "balanced_accuracy", "accuracy", "tpr_at_threshold", "fpr_at_threshold")


def log_results(trainer: Trainer, frame: pd.DataFrame, metrics: Mapping[str, Any], load: Load | None, folder: Path | None = None) -> None:
    """Log charts and tables of the test split to the trainer's W&B loggers; no failure of theirs stops the run.

    Args:
        trainer: Whose loggers, and whose monitored value of the best checkpoint.
        frame: The predictions table of one detector, of any splits.
        metrics: What `metrics.json` holds.
        load: From a key and a perturbation to the pictures that the detector saw; None for no pictures.
            `UNDERTOW_WANDB_PICTURES=false` keeps them all here, too.
        folder: The run directory: all figures under its `figures/` are logged as they are.
    """
    for logger in trainer.loggers:
        if not isinstance(logger, TolerantWandbLogger):
            continue
        try:
            shown = None if folder is None else folder / "figures"
            found = best_scores(trainer) | results(frame[frame["split"] == "test"], metrics, load, shown)
            with logger.staging():
                logger.log_metrics(found, step=trainer.global_step)
        except Exception as error:
            log.warning("no charts in W&B (%s: %s); report.html has them", type(error).__name__, error)
        if logs := unsynced(logger.folder):
            log.info("W&B: %d start(s) of this run are only on this machine. %s", len(logs), how_to_sync(logger.folder))


def best_scores(trainer: Trainer) -> dict[str, float]:
    """The monitored value of the best checkpoint, as `best/<name>`: one flat number for tables and sweeps."""
    found = {}
    for callback in trainer.checkpoint_callbacks:
        monitor, score = getattr(callback, "monitor", None), getattr(callback, "best_model_score", None)
        if monitor and score is not None:
            found[f"best/{monitor}"] = float(score)
    return found


def family_values(document: Mapping[str, Any]) -> dict[str, float]:
    """What `metrics.json` says of a detector of classes as plain numbers: `test/families/multiclass_accuracy` and so on.

    Args:
        document: What `metrics.json` holds of one detector.

    Returns:
        The values that there are; none of a detector without classes.
    """
    families = document.get("families", {})
    cells = {f"test/families/{name}": cell for name, cell in families.items() if name.endswith("_accuracy")}
    if families:
        cells["test/families/novelty_auroc"] = families["unknown"]["auroc"]
    return {name: cell["value"] for name, cell in cells.items() if cell["value"] is not None}


def results(frame: pd.DataFrame, document: Mapping[str, Any], load: Load | None, folder: Path | None = None) -> dict[str, Any]:
    """W&B's charts and tables by their logged names; one that cannot be made is left out, with a warning.

    Args:
        frame: Rows of one detector and the split that `document` measures.
        document: What `metrics.json` holds.
        load: From a key and a perturbation to the pictures that the detector saw; None for no pictures.
        folder: Where the detector's figures are, all of which are sent; None for none.
    """
    clean = clean_rows(frame)
    tables = {"all": clean} | against_reals(clean, document["reals_from"])
    curves = {name: points for name, table in tables.items() if (points := _curve(table)) is not None}
    threshold = document["threshold"]["value"]
    charts: Charts = {
        "test/roc": lambda: roc(curves),
        "test/precision_recall": lambda: precision_recall(curves),
        "test/scores/real": lambda: scores(clean, 0),
        "test/scores/fake": lambda: scores(clean, 1),
        "test/mistakes": lambda: mistakes(clean, threshold, load),
        "test/by_generator": lambda: by_generator(document),
    }
    for name, matrix in document.get("families", {}).get("confusion", {}).items():
        charts[f"test/confusion_{name}"] = partial(confusion, matrix)
    return made(charts | (figures(folder) if folder is not None else {}))


def made(charts: Charts) -> dict[str, Any]:
    """Charts by their logged names; one that cannot be made is left out, with a warning.

    Args:
        charts: By name what makes each of them.
    """
    found: dict[str, Any] = {}
    for name, make in charts.items():
        try:
            found[name] = make()
        except Exception as error:
            log.warning("no %s in W&B: %s: %s", name, type(error).__name__, error)
    return found


def figures(folder: Path, without: Iterable[Path] = ()) -> Charts:
    """What makes W&B's images of a run's figures, by their logged names: `test/figures/<path below the folder>`, sorted.

    Figures are plots: no photograph is on them, so `UNDERTOW_WANDB_PICTURES` does not concern them.

    Args:
        folder: Where figures are, in folders within it too; it need not be there.
        without: Folders within it that are left out.

    Returns:
        At most `FIGURES`; where there are more, those nearest to `folder`, and a sentence in the log says so.
    """
    left_out = tuple(without)
    kept = (path for path in folder.rglob("*.png") if path.is_file() and not any(path.is_relative_to(other) for other in left_out))
    paths = sorted(kept, key=lambda path: (len(path.parts), path))
    if len(paths) > FIGURES:
        log.info("W&B is sent %d of the %d figures of this run; all of them are under %s", FIGURES, len(paths), folder)
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths[:FIGURES]}
    return {f"test/figures/{name}": partial(figure, path) for name, path in sorted(names.items())}


def roc(curves: Mapping[str, Curve]) -> Any:
    """ROC curves as W&B's chart, a line each."""

    def points(each: Curve, kept: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x, y = (rate.numpy()[kept] for rate in each.rates())
        return x, y

    return _lines(curves, points, "fpr", "tpr", "ROC", "false positive rate: reals called fake", "true positive rate: fakes called fake")


def precision_recall(curves: Mapping[str, Curve]) -> Any:
    """Precision over recall as W&B's chart, a line each; precision depends on the shares of reals and fakes in the test set."""

    def points(each: Curve, kept: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        kept = kept[kept > 0]  # where nothing is called fake precision is 0/0
        true, false = each.true.numpy()[kept], each.false.numpy()[kept]
        return true / float(each.fakes), true / (true + false)

    return _lines(curves, points, "recall", "precision", "Precision and recall", "recall: fakes called fake", "precision")


def scores(frame: pd.DataFrame, label: int) -> Any:
    """Histogram of the scores of a class, with the bins of the report's figures, which both classes share."""
    import wandb

    edges = bin_edges({"all": frame})
    values = frame.loc[frame["label"] == label, "score"].dropna().to_numpy(np.float64)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    return wandb.Histogram(np_histogram=(counts, edges))


def mistakes(frame: pd.DataFrame, threshold: float | None, load: Load | None) -> Any:
    """The worst mistakes, those of the report and a few more: missed fakes and false alarms in turn, the worst first.

    Without `load` there are no pictures of them.
    """
    import wandb

    kinds = [worst_mistakes(frame, threshold, label, MISTAKES).assign(rank=lambda rows: range(len(rows))) for label in (1, 0)]
    rows = pd.concat(kinds).sort_values("rank", kind="stable").to_dict("records")
    shown = {}
    if load is not None and _may_send_pictures():
        shown = {row["key"]: _pictures(row["key"], row["perturbation"], load) for row in rows}
    names = list(dict.fromkeys(name for pictures in shown.values() for name in pictures))
    table = wandb.Table(columns=["generator", "label", "score", "verdict", *names, "key"])
    for row in rows:
        pictures = [shown.get(row["key"], {}).get(name) for name in names]
        told = [f"{row['dataset']}/{row['generator']}", "fake" if row["label"] else "real", row["score"], row["verdict"]]
        table.add_data(*told, *pictures, row["key"])
    return table


def by_generator(document: Mapping[str, Any]) -> Any:
    """The numbers of `metrics.json`, a row for all images and one for each generator, with their intervals."""
    return numbers(({"generator": name}, record) for name, record in {"all": document["overall"], **document["by_generator"]}.items())


def numbers(records: Iterable[tuple[Mapping[str, str], Mapping[str, Any]]]) -> Any:
    """Records M of `metrics.json` as W&B's table: a row each, a column for each statistic and for both ends of its interval.

    Args:
        records: Each with the columns that say of what it is.
    """
    import wandb

    rows = []
    for of_what, record in records:
        cells = {statistic: record[statistic] for statistic in _STATISTICS}
        cells |= {f"tpr_at_fpr_{fpr}": cell for fpr, cell in record["tpr_at_fpr"].items()}
        row = {**of_what, "n_real": record["n_real"], "n_fake": record["n_fake"]}
        for statistic, cell in cells.items():
            row |= {statistic: cell["value"], f"{statistic}_low": cell["low"], f"{statistic}_high": cell["high"]}
        rows.append(row)
    return wandb.Table(dataframe=pd.DataFrame(rows))


def confusion(matrix: Matrix) -> Any:
    """A confusion matrix as a table, a row a cell: true and predicted names, the count and its share of the true ones."""
    import wandb

    return wandb.Table(dataframe=pd.DataFrame(long_rows(matrix), columns=list(CONFUSION_COLUMNS)))


def figure(path: Path) -> Any:
    """A figure of the run directory as W&B's image."""
    import wandb

    return wandb.Image(str(path))


def _lines(
    curves: Mapping[str, Curve],
    points: Callable[[Curve, NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    x: str,
    y: str,
    title: str,
    x_title: str,
    y_title: str,
) -> Any:
    import wandb

    most = min(POINTS, ROWS // max(1, len(curves)))
    rows = []
    for name, each in curves.items():
        xs, ys = points(each, _kept(each, most))
        rows += [[name, *pair] for pair in zip(xs.tolist(), ys.tolist(), strict=True)]
    strings = {"title": title, "x-axis-title": x_title, "y-axis-title": y_title}
    table = wandb.Table(dataframe=pd.DataFrame(rows, columns=["generator", x, y]))
    return wandb.plot_table(_PRESET, table, {"x": x, "y": y, "class": "generator"}, strings)


def _curve(table: pd.DataFrame) -> Curve | None:
    """The curve of a table, none where it would be undefined."""
    if table["score"].isna().any() or table["label"].nunique() < 2:
        return None
    return curve(torch.tensor(table["score"].to_numpy(np.float64)), torch.tensor(table["label"].to_numpy(np.int64)))


def _kept(points: Curve, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` points: all, or evenly by either rate, and again by their logarithms for the ends."""
    count = points.false.numel()
    if count <= most:
        return np.arange(count)
    share = most // 4 - 1
    kept = [np.array([0, count - 1])]
    for rate in points.rates():
        for wanted in (np.linspace(0, 1, share), np.geomspace(1 / count, 1, share)):
            kept.append(np.searchsorted(rate.numpy(), wanted, side="right") - 1)
    return np.unique(np.concatenate(kept))


def _pictures(key: str, perturbation: str, load: Load) -> dict[str, Any]:
    """Thumbnails as W&B's images, none where they cannot be read."""
    import wandb

    try:
        return {name: wandb.Image(thumbnail(pixels)) for name, pixels in load(key, perturbation).items()}
    except Exception as error:
        log.warning("no pictures of %s in W&B: %s: %s", key, type(error).__name__, error)
        return {}


def _may_send_pictures() -> bool:
    return os.environ.get(PICTURES_VARIABLE, "true").lower() not in ("0", "false", "no", "off")
