"""What a study writes: predictions, metrics, tables, figures, report."""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.description import concerns
from modules.settings import settings_of
from workflow.study import Results, Study

if TYPE_CHECKING:
    from evaluation.comparison import Targets

log = logging.getLogger("undertow")


def write_study(
    study: Study, results: Results, folder: Path, targets: "Targets | None" = None, config: dict[str, Any] | None = None
) -> str:
    """Write predictions, metrics, tables, figures and report of a study; gives its last words. On rank 0 only.

    Args:
        study: What was evaluated on what.
        results: What was found.
        folder: The run directory.
        targets: Published numbers to put beside the measured ones.
        config: The resolved configuration of the command, for W&B; where there is none, nothing is logged there.
    """
    import pandas as pd

    from evaluation.comparison import compared, matrices
    from evaluation.document import audited_perturbations
    from evaluation.results import write_results
    from evaluation.tables import documents_of
    from workflow import pipeline, study_charts
    from workflow.columns import with_columns
    from workflow.last_words import last_words, study_words

    under = list(dict.fromkeys(data.perturbation for data in results.modules))
    audited = audited_perturbations(under)
    tables = [
        with_columns(table, data, results.similarities, data.perturbation in audited)
        for table, data in zip(results.tables, results.modules, strict=True)
    ]
    frame = pd.concat(tables, ignore_index=True)
    for name in ("tables", "figures"):  # of an earlier start with other detectors or options
        shutil.rmtree(folder / name, ignore_errors=True)
    thresholds = {name: detector.threshold for name, detector in results.detectors.items()}
    several = len(study.sources) > 1
    told = [f"{data.source.name}: {sentence}" if several else sentence for data in results.modules for sentence in concerns(data)]
    warnings = list(dict.fromkeys([*results.warnings, *told]))
    if len(frame["dataset"].unique()) > 1:
        warnings.append("Numbers over all images pool several data sets, whose scores may differ for other reasons than generation.")
    for sentence in warnings:
        log.warning("%s", sentence)
    facts = {f"detector {name}": pipeline.described(detector.settings()) for name, detector in results.detectors.items()}
    facts |= {f"checkpoint of {name or 'it'}": str(path) for name, path in study.detectors.items()}
    facts |= {f"data {name}": pipeline.described(settings_of(source)) for name, source in study.sources.items()}
    facts |= {"perturbations": ", ".join(dict.fromkeys(data.perturbation for data in results.modules))}
    facts |= {"extractor": "; ".join(dict.fromkeys(pipeline.described(data.extractor.settings()) for data in results.modules))}
    one = next(iter(thresholds.values())) if len(thresholds) == 1 else thresholds
    settings = {
        name: {
            "detector": results.settings[name],
            "extractor": extractor.settings()["init_args"],
            "training": compared.training_of(**results.training[name]),
        }
        for name, extractor in results.extractors.items()
    }
    load = pipeline.pictures(results.modules, dict.fromkeys(name for each in results.detectors.values() for name in each.pictures))
    metrics = write_results(
        folder,
        frame,
        one,
        load,
        facts,
        warnings=warnings,
        reals_from=study.reals_from,
        targets=targets,
        settings=settings,
        trained=results.trained,
        baseline=study.baseline,
        choose_by=study.choose_by,
        vectors=_vectors(results),
        original=pipeline.originals(record for data in dict.fromkeys(results.modules) for record in data.records()),
        options=study.report,
    )
    if config is not None:
        runs = partial(study_charts.runs_of, study, results, folder, config)
        study_charts.log_study(folder, runs, frame, metrics, load if study.report.images else None, warnings)
    documents = documents_of(metrics, next(iter(thresholds)))
    told_of = [] if targets is None else [compared.text(targets, compared.compare(targets, documents, settings))]
    told_of += [
        matrices.text(documents, results.trained),
        *study_words(metrics),
        last_words(metrics, thresholds, folder),
    ]
    return "\n".join(text for text in told_of if text)


def _vectors(results: Results) -> dict[str, Any]:
    """By detector a function that gives the vectors which it saw of images as they are, for a map of them."""
    from workflow import pipeline

    clean = [data for data in results.modules if data.perturbation == "none"]
    found: dict[str, Any] = {}
    for name, detector in results.detectors.items():
        own = [data for data in clean if data.extractor.settings() == results.extractors[name].settings()]
        loads = {key: load for data in own if (load := pipeline.vectors(data, detector)) for key in (r.key for r in data.records())}
        if loads:
            found[name] = lambda keys, loads=loads: np.concatenate([loads[key]([key]) for key in keys])
    return found
