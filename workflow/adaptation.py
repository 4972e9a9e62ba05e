"""Adapting a trained head to a new generator: fold by fold for an honest measure, and once with all images for the checkpoint."""

import copy
import csv
import hashlib
import io
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from cli import RunError
from datamodules.datamodule import FeatureDataModule
from datamodules.description import concerns
from datamodules.families import UNKNOWN
from datamodules.files import write_atomically
from datamodules.records import REAL, Record
from datamodules.sources import ImagesSource
from evaluation.options import ReportOptions
from modules.detectors.base import Detector
from modules.detectors.checkpoint import build_extractor, load_detector
from modules.detectors.probe import Probe
from workflow import pipeline
from workflow.callbacks import StopPrediction
from workflow.fitting import FittedDetector, fit, read_run

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("undertow")

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What is adapted to what.

    Attributes:
        checkpoint: The trained head.
        config: Configuration of the run that trained it, as train.py wrote it.
        images: Folder with images of the new generator.
        reals: Folder with real images of the same kind of content, or none.
        tested: Folder with further images of the generator, for the test alone; None cuts folds of `images` and `reals`.
        generator: The generator's name.
        dataset: Name of the new data set.
        family: Its family; None for what the family map says.
        folds: Parts that the images are cut into, where there is no `tested`: each is scored by a head that was adapted to the others.
        share: Share of the new images among the training samples, by repeating them; in (0, 1).
        epochs: Epochs of fine-tuning.
        folder: The run directory.
        cache_dir: Feature cache; that of the configuration where None.
        overrides: Further options of train.py.
    """

    checkpoint: Path
    config: Path
    images: Path
    reals: Path | None
    tested: Path | None
    generator: str
    dataset: str
    family: str | None
    folds: int
    share: float
    epochs: int
    folder: Path
    cache_dir: str | None
    overrides: dict[str, Any]

    @property
    def name(self) -> str:
        """`dataset/generator` of the new images."""
        return f"{self.dataset}/{self.generator}"


def check_head(checkpoint: Path) -> tuple[Detector, dict[str, Any]]:
    """The trained head and what its checkpoint says of the data.

    Raises:
        UserError: The checkpoint cannot be used, or is no head on cached vectors.
    """
    detector, described = load_detector(str(checkpoint))
    if not isinstance(detector, Probe):
        msg = (
            f"{checkpoint} holds a {type(detector).__name__}; what can be adapted to a few images is a head on cached vectors (linear, MLP "
            "or SVM, Tip-Adapter). Train another kind by train.py on a JoinedSource of old and new images"
        )
        raise RunError(msg)
    if detector.threshold.value is None:
        msg = f"{checkpoint} has no threshold ({detector.threshold.reason}): train it with more validation reals or another threshold_fpr"
        raise RunError(msg)
    return detector, described


def new_images(job: Adaptation, cache_dir: Path) -> list[list[Record]]:
    """The new images by fold, fakes and reals dealt out by their content; with a folder for the test, what is learnt from and that.

    Raises:
        UserError: A folder has no images, or too few for the folds.
    """
    fakes = _images(job.images, job, cache_dir)
    reals = [] if job.reals is None else _images(job.reals, job, cache_dir, "real")
    known = {record.content_hash for record in fakes}
    if doubled := sum(record.content_hash in known for record in reals):
        msg = f"{doubled} images of {job.reals} are also in {job.images}: they are either real or generated"
        raise RunError(msg)
    if job.tested is not None:
        tested = _images(job.tested, job, cache_dir)
        if doubled := sum(record.content_hash in known for record in tested):
            msg = f"{doubled} images of {job.tested} are also in {job.images}: a test on what was learnt says nothing"
            raise RunError(msg)
        return [fakes + reals, tested]
    if len(fakes) < 2 * job.folds:
        fewer = max(2, len(fakes) // 2)
        msg = f"{job.images} holds {len(fakes)} images, too few for {job.folds} folds: give more, --folds {fewer}, or a folder by --test"
        raise RunError(msg)
    return [fakes[start :: job.folds] + reals[start :: job.folds] for start in range(job.folds)]


def _images(folder: Path, job: Adaptation, cache_dir: Path, kind: Literal["fake", "real"] = "fake") -> list[Record]:
    """The images of a folder in an order by their content, each content once."""
    fake = kind == "fake"
    source = ImagesSource(str(folder), job.generator if fake else None, kind, job.dataset, job.family if fake else None)
    return sorted({record.content_hash: record for record in source.records(cache_dir)}.values(), key=lambda record: record.key)


def adapted(
    job: Adaptation, config: dict[str, Any], described: dict[str, Any], detector: Detector, folds: list[list[Record]]
) -> list[Path]:
    """Fit the head on old and new images: once for each fold without it, then with all.

    Args:
        job: What is adapted to what.
        config: Of `read_run`.
        described: What the checkpoint says of the data.
        detector: The trained head.
        folds: Of `new_images`.

    Returns:
        The checkpoint of each fold's head, then of the one that saw all images.
    """
    whole = [record for fold in (folds[:1] if job.tested else folds) for record in fold]
    jobs: list[tuple[str, list[Record], list[Record]]] = []
    if job.tested is None:
        jobs += [(f"fold_{i}", [r for r in whole if r not in fold], fold) for i, fold in enumerate(folds)]
    # Further images for the test are among the records, so that near-duplicates of them are found.
    jobs.append((AFTER, whole, folds[1] if job.tested else []))
    shared = [] if job.cache_dir is None else [f"--data.cache_dir={job.cache_dir}"]
    checkpoints = []
    for name, trained, left_out in jobs:
        # Named by its content: a folder that has changed is another configuration, and no head of the old one is kept.
        content = hashlib.sha256("".join(sorted(f"{r.key} {r.path}" for r in trained + left_out)).encode()).hexdigest()[:12]
        manifest = write_manifest(job.folder / "new" / f"{name}-{content}.csv", trained, left_out)
        path = job.folder / "new" / f"{name}.yaml"
        built = adapted_config(job, config, described, detector, manifest, len(trained))
        started = f"# adapted from sha256:{hashlib.sha256(job.checkpoint.read_bytes()).hexdigest()}\n"
        write_atomically(path, (started + yaml.safe_dump(built, sort_keys=False)).encode())
        quiet = {} if name == AFTER else {"trainer.logger": False}
        checkpoints.append(fit(name, FittedDetector(config=str(path), overrides=quiet | job.overrides), job.folder / "detectors", shared))
    return checkpoints


def write_manifest(path: Path, trained: list[Record], tested: list[Record]) -> Path:
    """A manifest of the new images, with their splits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "label", "dataset", "generator", "family", "split"])
    for split, records in (("train", trained), ("test", tested)):
        for record in records:
            family = "" if record.family == "unknown" else record.family
            writer.writerow([record.path, record.label, record.dataset, record.generator, family, split])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue().encode())
    return path


def joined(old: Any, manifest: Path) -> dict[str, Any]:
    """Settings of a source that holds the old images and those of a manifest."""
    new = {"class_path": "datamodules.sources.ManifestSource", "init_args": {"path": str(manifest.resolve()), "allow_outside": True}}
    return {"class_path": "datamodules.sources.JoinedSource", "init_args": {"sources": {"replay": old, "new": new}}}


def adapted_config(
    job: Adaptation, config: dict[str, Any], described: dict[str, Any], detector: Detector, manifest: Path, new: int
) -> dict[str, Any]:
    """The configuration of a training on old and new images that goes on from the trained head.

    Args:
        job: What is adapted to what.
        config: Of the run that trained it.
        described: What its checkpoint says of the data.
        detector: The trained head.
        manifest: The new images.
        new: How many of them are trained on.
    """
    built = copy.deepcopy(config)
    data, model = built["data"], built["model"].setdefault("init_args", {})
    data["source"] = joined(data["source"], manifest)
    if data.get("train_on") is not None:
        data["train_on"] = [*data["train_on"], escape(job.dataset)]
    if data.get("train_generators") is not None or data.get("max_generators") is not None:
        data |= {"train_generators": [escape(name) for name in (*described["trained_generators"], job.name)], "max_generators": None}
    old = described.get("trained_images") or len(described["trained_on"])
    times = max(1, round(job.share / (1 - job.share) * old / new))
    data["repeat"] = (data.get("repeat") or {}) | {f"{escape(job.dataset)}/*": times}
    log.info("%d new images, each %d times an epoch beside about %d old ones", new, times, old)
    model |= {name: value for name, value in {"classes": None, "weights": None, "frozen": False}.items() if name in model}
    if "start" in detector.settings()["init_args"]:  # the others are fitted anew, to both
        model["start"] = str(job.checkpoint.resolve())
        built["trainer"] |= {"max_epochs": job.epochs, "max_steps": -1, "max_time": None}
        built["monitor"] = "epoch"  # the last one: the validation images are the old ones, which would choose not to adapt at all
    return {name: value for name, value in built.items() if name not in ("name", "group", "runs_dir")}


def data_of(job: Adaptation, config: dict[str, Any], described: dict[str, Any]) -> FeatureDataModule:
    """Old and new images as one data module that measures all of them."""
    every = write_manifest(job.folder / "new" / "all.csv", [], [r for fold in new_images(job, _cache_dir(job, config)) for r in fold])
    kept = {
        name: value for name, value in config["data"].items() if name in ("batch_size", "num_workers", "extract_batch_size", "families")
    }
    parser = LightningArgumentParser()
    parser.add_class_arguments(FeatureDataModule, "data", instantiate=False)
    settings = {
        **kept,
        "source": joined(config["data"]["source"], every),
        "extractor": config["data"]["extractor"],
        "perturbation": described["perturbation"],
        "cache_dir": str(_cache_dir(job, config)),
        "evaluate_only": "all",
    }
    built = vars(parser.instantiate(parser.parse_object({"data": settings})).data)
    return FeatureDataModule(**built | {"extractor": build_extractor(described)})


def check_data(job: Adaptation, config: dict[str, Any], detector: Detector, data: FeatureDataModule, reals_from: str | None) -> None:
    """Find out what is wrong with the images before any head is fitted.

    Raises:
        RunError: There is no data set of that name with real images, or the head learns families and the new generator has none.
    """
    sets = sorted({record.dataset for record in data.records() if record.label == REAL})
    if reals_from is not None and reals_from not in sets:
        msg = f"--reals_from {reals_from}: there are real images of {', '.join(sets) or 'no data set'}"
        raise RunError(msg)
    unknown = any(record.family == UNKNOWN for record in data.records() if record.dataset == job.dataset)
    if detector.target == "family" and unknown and config["data"].get("unknown_families") != "unknown":
        msg = (
            f"no family is known for {job.generator!r}, and the head tells families apart: name one by --family (a new one is learnt anew)"
        )
        raise RunError(msg)


def _cache_dir(job: Adaptation, config: dict[str, Any]) -> Path:
    return Path(job.cache_dir or config["data"].get("cache_dir") or "cache")


def measured(
    job: Adaptation, data: FeatureDataModule, checkpoints: list[Path], folds: list[list[Record]], hardware: dict[str, Any]
) -> "pd.DataFrame":
    """Rows of both heads on the old test images and on new ones that the adapted head did not see.

    Every score is counted from its own head's threshold, so that those of the folds' heads can stand in one table: 0 is the boundary of
    all of them.

    Args:
        job: What was adapted to what.
        data: Of `data_of`.
        checkpoints: Of `adapted`.
        folds: Of `new_images`.
        hardware: Arguments of the Trainer that scores.
    """
    import pandas as pd

    from evaluation.predictions import read_predictions

    table = read_predictions(checkpoints[-1].parent.parent / "predictions.parquet")
    old = set(table.loc[(table["split"] == "test") & (table["dataset"] != job.dataset), "key"])
    tested = folds[1:] if job.tested else folds
    new = {record.content_hash for fold in tested for record in fold}
    fresh = {record.key for record in data.records() if record.dataset == job.dataset and record.content_hash in new}
    data.restrict(old | fresh)
    pipeline.extract_missing(data, copy.deepcopy(hardware))
    tables = [_rows(data, job.checkpoint, BEFORE, old | fresh, hardware), _rows(data, checkpoints[-1], AFTER, old, hardware)]
    heads = [checkpoints[-1]] if job.tested else checkpoints[:-1]
    for checkpoint, fold in zip(heads, tested, strict=True):
        contents = {record.content_hash for record in fold}
        tables.append(_rows(data, checkpoint, AFTER, {key for key in fresh if key.partition("-")[0] in contents}, hardware))
    return pd.concat(tables, ignore_index=True)


def _rows(data: FeatureDataModule, checkpoint: Path, name: str, keys: set[str], hardware: dict[str, Any]) -> "pd.DataFrame":
    """Predictions of one head on some images, scores counted from its threshold."""
    detector, described = load_detector(str(checkpoint))
    if detector.threshold.value is None:
        msg = f"{checkpoint} has no threshold ({detector.threshold.reason}): train it with more validation reals or another threshold_fpr"
        raise RunError(msg)
    data.features = detector.features
    trainer = Trainer(
        **copy.deepcopy(hardware), logger=False, enable_checkpointing=False, enable_model_summary=False, callbacks=[StopPrediction()]
    )
    data.trainer = trainer
    scores = pipeline.score(trainer, detector, [data.test_dataloader()])
    chosen = {key: told for key, told in scores.items() if key in keys}
    table = pipeline.predictions_table(data.records(), chosen, detector, name, data.perturbation, described.get("generator_families") or {})
    return table.assign(score=table["score"] - detector.threshold.value)


def adapt(job: Adaptation, reals_from: str | None, hardware: dict[str, Any]) -> str:
    """Adapt a head, measure it, write the results; gives the last words.

    Args:
        job: What is adapted to what.
        reals_from: Data set whose reals the new images are measured against; the one with most of them where None.
        hardware: Arguments of the Trainer that extracts and scores.

    Raises:
        UserError: Something cannot be used; says what.
    """
    from evaluation.comparison.changes import changes, text, write_changes
    from evaluation.report import changes_part
    from evaluation.results import write_results
    from modules.metrics.functional import Threshold
    from workflow.study_charts import log_study, runs_of_adaptation, wants_wandb

    config = read_run(job.config)
    try:
        report = _report(job, config)
    except (TypeError, ValueError) as error:
        msg = f"--set report: {error}"
        raise RunError(msg) from error
    detector, described = check_head(job.checkpoint)
    folds = new_images(job, _cache_dir(job, config))
    data = data_of(job, config, described)
    check_data(job, config, detector, data, reals_from)
    checkpoints = adapted(job, config, described, detector, folds)
    frame = measured(job, data, checkpoints, folds, hardware).assign(split="test")
    reals = frame.loc[(frame["label"] == 0) & (frame["detector"] == BEFORE), "dataset"].value_counts()
    own = job.dataset if job.reals is not None and job.tested is None else None
    source = reals_from or own or (str(reals.index[0]) if len(reals) else "")
    if source not in reals.index:
        msg = f"--reals_from {source}: the test images of the run have real images of {', '.join(map(str, reals.index)) or 'no data set'}"
        raise RunError(msg)
    heads = {BEFORE: detector, AFTER: load_detector(str(checkpoints[-1]))[0]}
    boundaries = {name: Threshold(0.0, head.threshold.fpr, head.threshold.n) for name, head in heads.items()}
    before, after = (frame[frame["detector"] == name] for name in (BEFORE, AFTER))
    found = changes(before, after, (boundaries[BEFORE], boundaries[AFTER]), {job.name}, {job.dataset: source})
    write_changes(job.folder / "tables" / "changes.csv", found)
    facts = {
        "adapted": f"{job.checkpoint} to {sum(map(len, folds[:1] if job.tested else folds))} images of {job.generator}",
        "new images": str(job.tested or f"{job.images}, in {job.folds} folds: each scored by a head that learnt from the others"),
        "scores": "counted from each head's own threshold, which is 0 here",
        "checkpoint": str(checkpoints[-1]),
    }
    metrics = write_results(
        job.folder,
        frame,
        boundaries,
        pipeline.pictures([data], []),
        facts,
        warnings=concerns(data),
        parts=[changes_part(found)],
        title=f"{job.checkpoint.resolve().parent.parent.name}, adapted to {job.generator}",
        original=pipeline.originals(data.records()),
        options=report,
        reals_from={job.dataset: source},
    )
    checkpoint = promote(checkpoints[-1], job.folder)
    if wants_wandb(job.overrides.get("trainer.logger", config["trainer"].get("logger"))):
        runs = partial(runs_of_adaptation, job, config, dict(zip(heads, (job.checkpoint, checkpoint), strict=True)))
        log_study(job.folder, runs, frame, metrics, pipeline.pictures([data], []) if report.images else None, concerns(data))
    last = [f"New checkpoint: {checkpoint}", f"Report: {job.folder / 'report.html'}", f"All results: {job.folder}"]
    return "\n".join([text(found), *last])


def _report(job: Adaptation, config: Mapping[str, Any]) -> ReportOptions:
    """What the run's own report held of the images, or `--set report.images=0`."""
    told = dict(config.get("report") or {}) | {
        name.partition(".")[2]: yaml.safe_load(str(value)) for name, value in job.overrides.items() if name.startswith("report.")
    }
    return ReportOptions(**told)


def promote(checkpoint: Path, folder: Path) -> Path:
    """Make a run directory that of a head which was fitted below it: predict.py takes its checkpoint, and adapt.py goes on from it.

    Args:
        checkpoint: Of that head.
        folder: The run directory.

    Returns:
        The checkpoint in it.
    """
    place = folder / "checkpoints"
    place.mkdir(exist_ok=True)
    for path in (checkpoint, checkpoint.with_suffix(".safetensors")):
        shutil.copy2(path, place)
    shutil.copy2(checkpoint.parent.parent / "config.yaml", folder)
    return place / checkpoint.name
