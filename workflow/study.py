"""Detectors × data sets × perturbations: fit what has no checkpoint, score what has no scores yet, one table of all."""

import copy
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import Trainer

from cli import RunError, is_main_process
from datamodules.cache import caption_hash
from datamodules.datamodule import FeatureDataModule
from datamodules.families import FamilyMap
from datamodules.sources.base import Source
from evaluation.options import ReportOptions
from modules.detectors.base import Detector
from modules.detectors.checkpoint import build_extractor, load_detector, trained_settings
from modules.extractors.base import Extractor
from modules.settings import fingerprint, settings_of
from workflow.callbacks import StopPrediction
from workflow.conditions import SEED

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.comparison import Targets

log = logging.getLogger("undertow")


@dataclass(frozen=True, slots=True)
class Study:
    """What is evaluated on what.

    Attributes:
        detectors: Checkpoint of each detector, by its name in the table; an empty name is the detector's own.
        sources: Where the images come from, by name.
        perturbations: What every image goes through; None is the perturbation that the detector was trained with.
        data: Further arguments of `FeatureDataModule`.
        split: `test` measures the test split, where a data set has one; `heldout` what of that no training saw; `all` all images.
        hardware: Arguments of the Trainer that extracts and scores.
        reals_from: For a data set, the one whose reals its generators are measured against.
        baseline: The detector that all others are compared with; the first by default.
        choose_by: Of a sweep, the metric by which one detector is chosen on half of the images.
        matched_by: Encoder by which pairs of a real image and a fake are compared.
        report: What the report holds of the images.
    """

    detectors: Mapping[str, Path]
    sources: Mapping[str, Source]
    perturbations: Sequence[str | None]
    data: Mapping[str, Any]
    split: Literal["test", "heldout", "all"]
    hardware: Mapping[str, Any]
    reals_from: Mapping[str, str] = field(default_factory=dict)
    baseline: str | None = None
    choose_by: str | None = None
    matched_by: Extractor | None = None
    report: ReportOptions = field(default_factory=ReportOptions)


@dataclass(slots=True)
class Results:
    """What a study found.

    Attributes:
        tables: Predictions, one table a cell.
        detectors: The detectors, with their thresholds.
        extractors: What each of them reads features of.
        trained: What each of them was trained on, as evaluation is told.
        training: The same, as published numbers are compared by.
        modules: Data of every cell, for pictures.
        similarities: By a fake's data set and key how similar the real image of its pair is to it, where that was asked for.
        warnings: What a reader must know first.
    """

    tables: "list[pd.DataFrame]" = field(default_factory=list)
    detectors: dict[str, Detector] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    extractors: dict[str, Extractor] = field(default_factory=dict)
    trained: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, dict[str, Any]] = field(default_factory=dict)
    modules: list[FeatureDataModule] = field(default_factory=list)
    similarities: dict[tuple[str, str], float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def score_all(study: Study, cells: Path) -> Results:
    """Score every detector on every data set under every perturbation.

    A cell's rows are kept in `cells` under a name that covers what they depend on: the checkpoint's content, the images and what is known
    of them, the perturbation and data options. So a study goes on where it was stopped, and does again only what has changed. Images are
    scanned once for each extractor, data set and perturbation, and features are shared by all detectors that read them.

    Args:
        study: What is evaluated on what.
        cells: Where the rows of cells are kept.
    """
    from workflow import pipeline

    results = Results()
    opened: dict[str, FeatureDataModule] = {}
    seen = seen_in_training(study.detectors.values()) if study.split == "heldout" else None
    for given, checkpoint in study.detectors.items():
        detector, described = load_detector(str(checkpoint))
        name = given or detector.name
        results.detectors[name] = detector
        results.settings[name] = trained_settings(str(checkpoint))
        results.warnings += [f"{name}: {sentence}" for sentence in pipeline.calibration_concerns(detector)]
        families = described.get("generator_families") or {}
        results.trained[name] = pipeline.trained_on(detector, described)
        results.training[name] = training(described)
        content = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        for where, source in study.sources.items():
            for perturbation in study.perturbations:
                data = _open(opened, study, source, described, perturbation or described["perturbation"], seen)
                _check_encoder(study, data)
                label = name if len(study.detectors) > 1 else ""
                results.warnings += [sentence for sentence in _concerns(data, described, label) if sentence not in results.warnings]
                results.modules.append(data)
                results.extractors[name] = data.extractor
                what: dict[str, Any] = {"checkpoint": content, "images": _identity(data), "perturbation": data.perturbation, "name": name}
                # Where features lie is no part of what a score is of.
                what |= {
                    "data": {name: value for name, value in study.data.items() if name != "stream"},
                    "features": data.cache.extractor_fingerprint,
                }
                log.info("%s on %s, perturbation %s", name, where, data.perturbation)
                results.tables.append(_cell(study, data, detector, name, cells / f"{fingerprint(what)}.parquet", families))
    results.similarities = _similarities(study, results)
    return results


def _similarities(study: Study, results: Results) -> dict[tuple[str, str], float]:
    """How similar the images of each pair are, by an encoder that is none of the detectors' own."""
    from workflow.embeddings import pair_similarities

    if study.matched_by is None:
        return {}
    records = {(record.dataset, record.key): record for data in results.modules for record in data.records()}
    options = {name: study.data[name] for name in ("cache_dir", "extract_batch_size", "extract_workers") if name in study.data}
    return pair_similarities(
        list(records.values()), study.matched_by, hardware=copy.deepcopy(dict(study.hardware)), reals_from=study.reals_from, **options
    )


def _check_encoder(study: Study, data: FeatureDataModule) -> None:
    """Refuse to compare pairs by the encoder that a detector sees the images through."""
    from workflow.embeddings import check_other_encoder

    if study.matched_by is None:
        return
    check_other_encoder(study.matched_by, [data.extractor])


def seen_in_training(checkpoints: Iterable[Path]) -> set[int]:
    """Seeds of all images that any of these detectors was trained or validated on.

    Raises:
        RunError: A checkpoint does not say it.
    """
    seen: set[int] = set()
    for path in checkpoints:
        trained = load_detector(str(path))[1].get("trained_on")
        if trained is None:
            msg = f"--split heldout: {path} does not say which images its detector was trained on; measure a test split by --split test"
            raise RunError(msg)
        seen |= set(trained.tolist())
    return seen


def chosen_baseline(baseline: str | None, detectors: Sequence[str]) -> str | None:
    """The baseline as the tables call it: a detector, or the name that several seeds of one share.

    Args:
        baseline: The name that was given; that of a detector with one seed stands for it.
        detectors: Names of all detectors, with their seeds.

    Raises:
        RunError: It is none of them, with the names that there are.
    """
    seeded = {name: name.rpartition(f"@{SEED}")[0] for name in detectors}
    of_base = [name for name, base in seeded.items() if base and base == baseline]
    if baseline is None or baseline in detectors or len(of_base) > 1:
        return baseline
    if of_base:
        return of_base[0]
    names = dict.fromkeys([*detectors, *filter(None, seeded.values())])
    msg = f"--baseline {baseline}: the detectors are {', '.join(names)}"
    raise RunError(msg)


def check_pairs(sources: Mapping[str, Source], cache_dir: Path) -> None:
    """Refuse an audit of pairs of images that have none.

    Raises:
        RunError: If so.
    """
    if not any(record.pair for source in sources.values() for record in source.records(cache_dir)):
        msg = "matched_by compares pairs, and no image has a pair: a manifest's column pair names them, SynRISSource knows them"
        raise RunError(msg)


def check_sources(sources: Mapping[str, Source], cache_dir: Path, reals_from: Mapping[str, str] | None) -> None:
    """Find out what is wrong with the data sets of a study before its detectors are fitted.

    Raises:
        DataError: A source cannot be read, two hold the same data set, or `reals_from` names one that is not there.
    """
    check_names({key: sorted({record.dataset for record in source.records(cache_dir)}) for key, source in sources.items()}, reals_from)


def check_names(datasets: Mapping[str, Sequence[str]], reals_from: Mapping[str, str] | None) -> None:
    """Rows tell data sets apart by the records' own names, so each must come from one source.

    Args:
        datasets: Names of the data sets that each source holds.
        reals_from: As in `write_study`.
    """
    owners: dict[str, str] = {}
    for key, names in datasets.items():
        for dataset in names:
            if dataset in owners:
                msg = (
                    f"datasets.{owners[dataset]} and datasets.{key} both hold images of a data set named {dataset!r}: give one of them "
                    "another name (the manifest's column dataset, or the source's option of that name)"
                )
                raise RunError(msg)
            owners[dataset] = key
    for name in [name for pair in (reals_from or {}).items() for name in pair]:
        if name not in owners:
            msg = f"reals_from names the data set {name!r}; there are {', '.join(sorted(owners))}"
            raise RunError(msg)


def _identity(data: FeatureDataModule) -> str:
    """Of the images, and of all that is known of them and stands in the table."""
    told = [
        (r.key, r.path, r.label, r.dataset, r.generator, r.family, r.split, r.group, caption_hash(r, data.extractor))
        for r in data.records()
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _open(
    opened: dict[str, FeatureDataModule],
    study: Study,
    source: Source,
    described: dict[str, Any],
    perturbation: str,
    seen: set[int] | None,
) -> FeatureDataModule:
    """The data module of an extractor, source and perturbation, without images that were seen in training; one for all detectors."""
    families = described.get("families")
    what = fingerprint(
        {"families": families, "extractor": described["extractor"], "source": settings_of(source), "perturbation": perturbation}
    )
    if what not in opened:
        extractor = build_extractor(described)
        only: Literal["test", "all"] = "all" if study.split == "all" else "test"
        opened[what] = FeatureDataModule(
            source=copy.deepcopy(source), extractor=extractor, perturbation=perturbation, evaluate_only=only, **study.data
        )
        if families is not None:
            opened[what].use_families(FamilyMap.from_dict(families))
        if seen is not None:
            opened[what].hold_out(seen)
    return opened[what]


def _concerns(data: FeatureDataModule, described: dict[str, Any], detector: str) -> list[str]:
    """Why a detector's scores on these images may mean less than they seem to."""
    found = []
    if data.cache.extractor_fingerprint != described["extractor_fingerprint"]:
        found.append("The extractor's weights or settings are not those that the detector was trained with: its scores may mean nothing.")
    if seen := data.trained_on(described):
        found.append(f"{seen} of the images of {data.source.location} are among those that the detector was trained or validated on.")
    return [f"{detector}: {sentence}" if detector else sentence for sentence in found]


def _cell(study: Study, data: FeatureDataModule, detector: Detector, name: str, path: Path, families: Mapping[str, str]) -> "pd.DataFrame":
    """Predictions of one detector on one data set under one perturbation, from the file where it is there."""
    from evaluation.predictions import read_predictions, write_predictions
    from workflow import pipeline

    if pipeline.agreed(path.exists()):
        return read_predictions(path)
    data.features = detector.features
    pipeline.extract_missing(data, copy.deepcopy(dict(study.hardware)))
    trainer = Trainer(
        **copy.deepcopy(dict(study.hardware)),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[StopPrediction()],
    )
    data.trainer = trainer  # the loader fills up to its number of ranks
    scores = pipeline.score(trainer, detector, [data.test_dataloader()])
    table = pipeline.predictions_table(data.records(), scores, detector, name, data.perturbation, families)
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(path, table)
    return table


def find_targets(path: str | None) -> "Targets | None":
    """The published numbers of a file, where one is named.

    Raises:
        RunError: It cannot be used; the message says why.
    """
    from evaluation.comparison import TargetsError, read_targets

    try:
        return None if path is None else read_targets(Path(path))
    except TargetsError as error:
        msg = f"--compare_to: {error}"
        raise RunError(msg) from error


def training(described: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its detector's training images: arguments of `compared.training_of`."""
    return {
        "generators": described.get("trained_generators") or [],
        "views": described.get("views") or [described["perturbation"]],
        "images": described.get("trained_images"),
        "datasets": described.get("trained_datasets"),
    }
