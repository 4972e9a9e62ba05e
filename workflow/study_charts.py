"""A study's runs in W&B: one of each detector, under the names that training logs, and one of what is said of all of them.

They are made when all is measured and written. Nothing that W&B does stops a study.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from evaluation.report import Load
from evaluation.results import folders_of
from evaluation.tables import Documents, documents_of
from modules.detectors.checkpoint import trained_settings
from workflow import charts
from workflow.fitting import folder_name
from workflow.pipeline import flat_metrics
from workflow.tracking import end_service, how_to_sync, unsynced, wandb_logger

if TYPE_CHECKING:
    from workflow.adaptation import Adaptation
    from workflow.study import Results, Study

log = logging.getLogger("undertow")

MODE_VARIABLE = "WANDB_MODE"
EVALUATION, STUDY = "evaluation", "study"
"""Job types, the first followed by the detector's name: the runs of training have the detector's class for theirs."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Whose runs these are.

    Attributes:
        folder: The run directory.
        group: The study's name.
        config: The resolved configuration of the command.
        detectors: By name what the configuration of the detector's own run holds besides, laid over the command's.
    """

    folder: Path
    group: str
    config: Mapping[str, Any]
    detectors: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Run:
    """One run; arguments of `wandb_logger`, and what makes all that is logged in it."""

    name: str
    job_type: str
    part: str
    config: dict[str, Any]
    make: Callable[[], dict[str, Any]]


def runs_of(study: "Study", results: "Results", folder: Path, config: Mapping[str, Any]) -> Runs:
    """The runs of what `evaluate.py` measured.

    Args:
        study: What was evaluated on what; a detector without a name is the only one, and its run stands beside those of its training.
        results: What was found.
        folder: The run directory.
        config: The resolved configuration of the command.
    """
    detectors = {
        name: {"model": results.settings[name], "checkpoint": str(path), "data": {"extractor": results.extractors[name].settings()}}
        for name, path in zip(results.detectors, study.detectors.values(), strict=True)
    }
    return Runs(folder, folder.name if all(study.detectors) else next(iter(detectors)), config, detectors)


def runs_of_adaptation(job: "Adaptation", config: Mapping[str, Any], checkpoints: Mapping[str, Path]) -> Runs:
    """The runs of what `adapt.py` measured: of the head before and after, and of both.

    Args:
        job: What was adapted to what.
        config: Of the run that trained the head.
        checkpoints: Of the heads, by name.
    """
    told = {**config, "adaptation": {each.name: _plain(getattr(job, each.name)) for each in fields(job)}}
    heads = {name: {"model": trained_settings(str(path)), "checkpoint": str(path)} for name, path in checkpoints.items()}
    return Runs(job.folder, job.folder.name, told, heads)


def wants_wandb(logger: Any) -> bool:
    """Whether a configuration of training, by what it says of `trainer.logger`, is one that logs to W&B."""
    return str(logger).lower() in ("none", "null", "true")


def log_study(
    folder: Path,
    runs: Callable[[], Runs],
    frame: pd.DataFrame,
    metrics: Mapping[str, Any],
    load: Load | None,
    warnings: Sequence[str] = (),
) -> None:
    """Log what was measured to W&B, one run after the other; no failure of W&B's goes further than a warning. On rank 0 only.

    Where there is one detector, one run has all. Each run goes on where the same run directory is evaluated again.

    Args:
        folder: The run directory.
        runs: Says whose runs; called here, since it too must not stop a study that is measured and written.
        frame: The predictions table, of any splits.
        metrics: What `metrics.json` holds.
        load: From a key to the pictures that the detector saw. `UNDERTOW_WANDB_PICTURES=false` keeps all pictures here.
        warnings: What a reader must know first.
    """
    mode = os.environ.get(MODE_VARIABLE)
    try:
        whose = runs()
        for run in _runs(whose, frame[frame["split"] == "test"], metrics, load, warnings):
            if not _send(whose, run):
                break
    except Exception as error:
        log.warning("W&B failed (%s: %s); all that it would have is in %s", type(error).__name__, error, folder)
    finally:
        os.environ.pop(MODE_VARIABLE, None)
        os.environ.update({} if mode is None else {MODE_VARIABLE: mode})
    end_service()
    if logs := unsynced(folder):
        log.info("W&B: %d log(s) of this run are only on this machine. %s", len(logs), how_to_sync(folder))


def values(document: Mapping[str, Any]) -> dict[str, float]:
    """A detector's numbers under the names that training logs, and `test/<perturbation>/auroc` and so on.

    A perturbation's name has no slash, and what stands there for a generator always has one: `<dataset>/<generator>`.

    Args:
        document: What `metrics.json` holds of one detector.
    """
    return flat_metrics({**document, "by_generator": {**document["by_generator"], **document["by_perturbation"]}})


def by_perturbation(documents: Documents) -> Any:
    """The numbers of all generators together as W&B's table: a row a detector and perturbation, with their intervals."""
    return charts.numbers(
        ({"detector": name, "perturbation": perturbation}, record)
        for name, document in documents.items()
        for perturbation, record in document["by_perturbation"].items()
    )


def _runs(runs: Runs, rows: pd.DataFrame, metrics: Mapping[str, Any], load: Load | None, warnings: Sequence[str]) -> Iterator[_Run]:
    """The run of each detector, and that of all where there are several, which is the run directory's own."""
    documents = documents_of(metrics, next(iter(runs.detectors)))
    figures = runs.folder / "figures"
    own = {name: figures / place for name, place in folders_of(documents).items()}
    of_all = partial(_of_all, documents, warnings)
    if len(documents) == 1:
        ((name, document),) = documents.items()
        make = partial(_of_one, document, rows, load, figures, of_all)
        yield _Run(runs.folder.name, f"{EVALUATION}/{name}", "", _config(runs, name), make)
        return
    for name, document in documents.items():
        make = partial(_of_one, document, rows[rows["detector"] == name], load, own[name])
        yield _Run(f"{runs.folder.name}/{name}", f"{EVALUATION}/{name}", folder_name(name), _config(runs, name), make)
    yield _Run(
        runs.folder.name, STUDY, "", dict(runs.config), lambda: of_all() | charts.made(charts.figures(figures, without=own.values()))
    )


def _of_one(
    document: Mapping[str, Any], rows: pd.DataFrame, load: Load | None, figures: Path, more: Callable[[], dict[str, Any]] = dict
) -> dict[str, Any]:
    return values(document) | charts.results(rows, document, load, figures) | more()


def _of_all(documents: Documents, warnings: Sequence[str]) -> dict[str, Any]:
    made: charts.Charts = {"test/by_perturbation": lambda: by_perturbation(documents)}
    if warnings:
        made["test/warnings"] = lambda: _sentences(warnings)
    return charts.made(made)


def _sentences(warnings: Sequence[str]) -> Any:
    import wandb

    return wandb.Table(columns=["warning"], data=[[sentence] for sentence in warnings])


def _config(runs: Runs, name: str) -> dict[str, Any]:
    """The command's configuration with what is the detector's own, where a run of training has it."""
    more = runs.detectors.get(name, {})
    return {**runs.config, **more, "data": {**(runs.config.get("data") or {}), **more.get("data", {})}}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _send(runs: Runs, run: _Run) -> bool:
    """Log one run; gives whether the next is worth trying. Where this one cannot reach the server no other waits for it."""
    logger = wandb_logger(
        runs.folder,
        run.name,
        run.job_type,
        runs.group,
        run.config,
        part=run.part,
        kept="metrics.json",
        tags=[EVALUATION] if run.job_type != STUDY else [],
    )
    if logger.offline:
        os.environ[MODE_VARIABLE] = "offline"
    try:
        with logger.staging():
            logger.log_metrics(run.make(), step=0)
    except Exception as error:
        log.warning("not all of %s is in W&B (%s: %s); report.html has it", run.name, type(error).__name__, error)
    logger.finalize("success")
    return not logger.given_up
