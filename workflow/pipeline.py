"""The steps that the root scripts share: extract what is missing, score, write the results."""

import contextlib
import copy
import json
import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from cli import is_main_process
from datamodules.batches import seen_image
from datamodules.datamodule import FeatureDataModule
from datamodules.description import concerns as concerns_of
from datamodules.errors import DataError
from datamodules.files import temporary_name, write_atomically
from datamodules.records import Record
from datamodules.shares import WHOLE, Share
from evaluation.options import ReportOptions
from modules.detectors.answers import answers
from modules.detectors.base import Detector
from modules.detectors.checkpoint import load_detector
from modules.detectors.probe import Probe
from modules.detectors.score import LEARNED, ScoreDetector
from modules.settings import settings_of
from workflow.callbacks import BEST

if TYPE_CHECKING:
    from evaluation.report import Load

log = logging.getLogger("undertow")

# What rank 0 wants extracted, for the processes that Lightning starts: the cache directory and a file of keys; empty for nothing.
MISSING_VARIABLE = "UNDERTOW_MISSING"

Scores = dict[str, dict[str, float]]
"""By key what `predict_step` says of an image: its `score`, and columns of numbers for `answers`."""


def extract_missing(data: FeatureDataModule, hardware: dict[str, Any], share: Share = WHOLE) -> int:
    """Extract the features of images that have none.

    Args:
        data: Whose images.
        hardware: Arguments of the Trainer that does it: accelerator, devices, strategy, number of nodes, progress bar.
        share: Only of the images of this share.

    Returns:
        Number of images that had no features.
    """
    from datamodules.extraction import ExtractionModule

    if _is_rank_of_others():
        _meet(_bare_trainer(hardware, []))
    missing = _agreed_missing(data, share)
    if not missing:
        if is_main_process():
            os.environ[MISSING_VARIABLE] = ""
            data.correct_manifest()
        log.info("All features are in %s: nothing to extract.", data.cache.location)
        return 0
    log.info("Extracting features of %d images to %s", len(missing), data.cache.folder)
    if not len(data.reader):
        from datamodules.cache import differences

        for line in differences(data.cache, Path(data.cache_dir)):
            log.info("%s", line)
    trainer = _bare_trainer(hardware, [data.shard_writing(share)])
    loader = data.extraction_loader(missing, trainer.world_size, trainer.num_nodes)
    with _told_to_ranks(data, missing):
        trainer.predict(ExtractionModule(data.extractor), dataloaders=loader, return_predictions=False)
    return len(missing)


def extract_views(data: FeatureDataModule, hardware: dict[str, Any], share: Share = WHOLE) -> int:
    """Extract what is missing under every perturbation that training or test reads; arguments and result as for `extract_missing`."""
    views = dict.fromkeys([data.perturbation, *data.training_views])
    return sum(extract_missing(data.at(view), hardware, share) for view in views)


def prepare(detector: Detector, data: FeatureDataModule) -> None:
    """Tell a detector which classes there are, and find out what the data lacks for it; before anything is extracted.

    Raises:
        DataError: A generator has no family, or pairs are asked for and there are none.
    """
    start = detector.start if isinstance(detector, Probe) else None
    if start is not None:
        data.inherited |= set(load_detector(start)[1]["trained_on"].tolist())
    classes = data.learn(detector.target)
    if classes is not None:
        detector.learn_classes(classes)
        data.classes = detector.classes  # one that goes on from a checkpoint keeps its order
        log.info("classes: %s", ", ".join(data.classes or []))
    ranks = isinstance(detector, Probe) and detector.pair_weight > 0
    if (ranks or data.keep_pairs) and not data.has_pairs():
        asked = "model.pair_weight" if ranks else "data.keep_pairs"
        msg = (
            f"{asked} is set, and no training image shares a `pair` with another: a manifest's column pair names the photograph that an "
            "image was made from"
        )
        raise DataError(msg)
    if ranks and not data.keep_pairs:
        log.warning("model.pair_weight is set without data.keep_pairs: only pairs that meet in a batch by chance are ranked")


def look_for_shortcuts(data: FeatureDataModule) -> list[str]:
    """Say before training where a trivial fact of the files tells its fakes from its reals: a detector may learn that.

    Args:
        data: Whose training images; those that extraction has read are not read again.

    Returns:
        Sentences, which are logged as warnings; on rank 0 only, where the audit is wanted.
    """
    if not data.audit or not is_main_process():
        return []
    from workflow.audit import audit_split

    found = []
    for view in data.training_views:
        _, sentences = audit_split(data.at(view), ("train",))
        found += [f"{sentence} (under {view})" if view != "none" else sentence for sentence in sentences]
    for sentence in found:
        log.warning("%s", sentence)
    return found


def begin(detector: Detector, data: FeatureDataModule) -> None:
    """Show a detector that asks for it all training samples at once.

    Raises:
        DataError: The features are none for this detector.
    """
    if detector.reads_all:
        samples = data.samples()
        log.info("%d training samples under %s", len(samples.labels), ", ".join(data.training_views))
        detector.begin(samples)


def agreed(value: Any) -> Any:
    """What rank 0 holds, on every rank; what is read from a disk may differ between ranks, and they must not go separate ways."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held, src=0)
    return held[0]


def _bare_trainer(hardware: dict[str, Any], callbacks: list[Any]) -> Trainer:
    """A Trainer that only runs; a strategy belongs to one Trainer, and gets a copy for each."""
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return Trainer(**copy.deepcopy(hardware), **options, callbacks=callbacks)


def _is_rank_of_others() -> bool:
    """Whether torchrun or SLURM has started this process as one of several that have not met yet."""
    if MISSING_VARIABLE in os.environ or torch.distributed.is_initialized():
        return False  # rank 0 tells those that Lightning starts, and does not wait for them
    return any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS"))


def _meet(trainer: Trainer) -> None:
    """Bring such processes together, so that they can agree on whether there is anything to run; Lightning does so when a Trainer runs."""
    outside = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size > 1 and outside is not None and outside.creates_processes_externally:
        trainer.strategy.setup_environment()


def _agreed_missing(data: FeatureDataModule, share: Share) -> list[Record]:
    """The images without features as rank 0 sees them: another job may be filling the same cache."""
    told = os.environ.get(MISSING_VARIABLE)
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    missing = share.part(data.missing()) if is_main_process() or (told is None and not together) else []
    if told is not None and not is_main_process() and not together:
        # A process that Lightning started for rank 0's first Trainer with several ranks: that of this extraction, or a later one.
        folder, _, keys = told.partition("\n")
        chosen = set(json.loads(Path(keys).read_text())) if folder == str(data.cache.folder) else set()
    elif together:
        chosen = set(agreed([record.key for record in missing]))
    else:
        return missing
    data.look_again()  # what rank 0 has read is newer
    return [record for record in data.records() if record.key in chosen]


@contextlib.contextmanager
def _told_to_ranks(data: FeatureDataModule, missing: list[Record]) -> Iterator[None]:
    """Within it the processes that Lightning starts find out what is to be extracted; those that it starts later, that nothing is."""
    if not is_main_process():
        yield
        return
    path = data.cache.folder / temporary_name("missing.json")
    write_atomically(path, json.dumps([record.key for record in missing]).encode())
    os.environ[MISSING_VARIABLE] = f"{data.cache.folder}\n{path}"
    try:
        yield
    finally:
        os.environ[MISSING_VARIABLE] = ""
        path.unlink(missing_ok=True)


def score(trainer: Trainer, detector: Detector, loaders: list[DataLoader[Any]], checkpoint: Path | None = None) -> Scores:
    """Score of every image of the loaders by its key, and what else the detector says of it, on every rank, each image once.

    Args:
        trainer: What runs the prediction.
        detector: Whose scores.
        loaders: Loaders of `FeatureDataModule`.
        checkpoint: Weights and threshold to load first; those that the detector has where None.
    """
    outputs: list[Any] = trainer.predict(detector, dataloaders=loaders, ckpt_path=checkpoint, weights_only=True) or []
    batches = [batch for loader in (outputs if len(loaders) > 1 else [outputs]) for batch in loader]
    mine: Scores = {}
    for batch in batches:
        columns = {name: batch[name].tolist() for name in batch if name != "key"}
        mine |= {key: {name: values[i] for name, values in columns.items()} for i, key in enumerate(batch["key"])}
    return {key: value for scores in _from_all_ranks(mine) for key, value in scores.items()}


def _from_all_ranks(mine: Scores) -> list[Scores]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    gathered: list[Scores] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, mine)
    return gathered


def calibrate(trainer: Trainer, detector: Detector, data: FeatureDataModule) -> None:
    """What training is for a detector without anything to learn: its direction, threshold and calibration.

    Args:
        trainer: What runs it; its loggers get the validation metrics.
        detector: With `learns` False.
        data: Whose training and validation images.
    """
    data.trainer = trainer  # the loaders fill up to its number of ranks
    if isinstance(detector, ScoreDetector) and detector.orientation == LEARNED:
        scores = score(trainer, detector, [data.loader("train", shuffled=False)])
        labels = {record.key: record.label for record in data.records()}
        detector.learn_orientation(torch.tensor([told["score"] for told in scores.values()]), torch.tensor([labels[key] for key in scores]))
    trainer.validate(detector, datamodule=data, verbose=False)


def save(trainer: Trainer, folder: Path) -> Path:
    """The checkpoint of what a trainer has just run, in a run directory."""
    path = folder / "checkpoints" / BEST
    trainer.save_checkpoint(path, weights_only=False)  # with the description, not the tensors alone
    return path


def predictions_table(
    records: Iterable[Record], scores: Scores, detector: Detector, name: str, perturbation: str, families: Mapping[str, str]
) -> pd.DataFrame:
    """The predictions table's rows of the images that were scored.

    Args:
        records: Which images.
        scores: Of `score`.
        detector: Turns scores into probabilities, where it is calibrated, and numbers of classes into names.
        name: What the table calls the detector.
        perturbation: What the images went through.
        families: Family of each generator that the detector was trained on.
    """
    from evaluation.predictions import make_table

    columns = {
        column: torch.tensor([told[column] for told in scores.values()], dtype=torch.float64) for column in next(iter(scores.values()), {})
    }
    likely = detector.probability(columns.pop("score", torch.empty(0, dtype=torch.float64)))
    probabilities = {} if likely is None else dict(zip(scores, likely.tolist(), strict=True))
    said = dict(zip(scores, answers(detector, columns, families), strict=True)) if columns else {}
    rows = []
    for record in records:
        if record.key in scores:
            told = {name: getattr(record, name) for name in ("key", "dataset", "split", "label", "generator", "family", "group")}
            extra = {"path": record.path or record.url, "detector": name, "perturbation": perturbation}
            numbers = {"score": scores[record.key]["score"], "probability": probabilities.get(record.key)}
            rows.append(told | extra | numbers | said.get(record.key, {}))
    return make_table(rows)


def vectors(data: FeatureDataModule, detector: Detector) -> Callable[[Sequence[str]], NDArray[Any]] | None:
    """A function that gives, by keys, the cached vectors `[n, D]` that a head sees, for a map of them; None for other detectors."""
    if not isinstance(detector, Probe):
        return None
    by_key = {record.key: record for record in data.records()}

    def load(keys: Sequence[str]) -> NDArray[Any]:
        arrays = [data.load_features(by_key[key]) for key in keys]
        return np.stack([np.concatenate([np.atleast_1d(found[name]) for name in detector.features]) for found in arrays])

    return load


def trained_on(detector: Detector, described: Mapping[str, Any]) -> dict[str, Any]:
    """What a detector was trained on, as `evaluation.results.write_results` is told.

    Args:
        detector: The detector.
        described: What its checkpoint says of the data.
    """
    return {"target": detector.target, "classes": detector.classes, "generators": described.get("trained_generators")}


def pictures(modules: Iterable[FeatureDataModule], names: Iterable[str]) -> "Load":
    """A function that gives, by key and perturbation, the named pictures that detectors saw, as uint8 `[H, W, 3]` arrays.

    Of detectors that saw numbers only it gives the image that they were made of. Several threads may call it at once.

    Args:
        modules: What was scored, one for each extractor, data set and perturbation.
        names: Names of pictures, in the order in which they are shown. Where there are image and reconstruction their difference is
            shown, too, as `residual`.
    """
    where: dict[tuple[str, str], list[tuple[FeatureDataModule, Record]]] = {}
    for data in dict.fromkeys(modules):
        for record in data.records():
            where.setdefault((record.key, data.perturbation), []).append((data, record))
    wanted, lock = list(names), threading.Lock()

    def load(key: str, perturbation: str) -> dict[str, NDArray[np.uint8]]:
        shown: dict[str, NDArray[np.uint8]] = {}
        for data, record in where[key, perturbation]:
            if not wanted:
                break
            with lock:  # a reader of shards closes files that it has not needed for long
                arrays = data.load_features(record).items()
            shown = {name: array.transpose(1, 2, 0) for name, array in arrays if array.dtype == np.uint8 and array.ndim == 3} | shown
        if {"image", "reconstruction"} <= shown.keys() and shown["image"].shape == shown["reconstruction"].shape:
            difference = np.abs(shown["image"].astype(np.int16) - shown["reconstruction"].astype(np.int16))
            shown["residual"] = difference.astype(np.uint8)
        chosen = {name: shown[name] for name in dict.fromkeys([*wanted, "residual"]) if name in shown}
        return chosen or {"image": seen_image(where[key, perturbation][0][1], perturbation)}

    return load


def originals(records: Iterable[Record]) -> Callable[[str], NDArray[np.uint8]]:
    """A function that gives, by key, an image in its own pixels, uint8 `[H, W, 3]`; several threads may call it at once."""
    by_key = {record.key: record for record in records}
    return lambda key: seen_image(by_key[key], "none")


def write_run(
    detector: Detector,
    data: FeatureDataModule,
    trainer: Trainer,
    scores: Scores,
    folder: Path,
    warnings: Iterable[str] = (),
    report: ReportOptions | None = None,
) -> dict[str, Any]:
    """Write predictions, metrics, figures and report of a run, and log the test metrics; on rank 0 only.

    Args:
        detector: The detector, with its threshold.
        data: What was scored.
        trainer: Its loggers get the metrics.
        scores: Of `score`.
        folder: The run directory.
        warnings: What a reader of the report must know first, besides what the data itself warns of.
        report: What the report holds of the images.

    Returns:
        The contents of `metrics.json`.
    """
    from evaluation.results import write_results
    from modules.detectors.checkpoint import save_weights
    from workflow.columns import with_columns

    for name in ("tables", "figures"):  # of an earlier start with other options
        shutil.rmtree(folder / name, ignore_errors=True)
    told_of_data = data.describe()
    save_weights(detector, told_of_data, folder / "checkpoints" / "best.safetensors")
    records = [record for record in data.records() if record.key in scores]
    frame = predictions_table(records, scores, detector, detector.name, data.perturbation, told_of_data["generator_families"])
    frame = with_columns(frame, data)
    facts = {
        "detector": described(detector.settings()),
        "extractor": described(data.extractor.settings()),
        "perturbation": data.perturbation,
        "source": described(settings_of(data.source)),
        "features": data.cache.location,
        "images": ", ".join(f"{count} {split}" for split, count in Counter(record.split for record in data.records()).items()),
    }
    concerns = [*warnings, *concerns_of(data), *calibration_concerns(detector)]
    for sentence in calibration_concerns(detector):
        log.warning("%s", sentence)
    metrics = write_results(
        folder,
        frame,
        detector.threshold,
        pictures([data], detector.pictures),
        facts,
        warnings=concerns,
        trained={detector.name: trained_on(detector, told_of_data)},
        vectors=vectors(data, detector),
        original=originals(records),
        options=report,
    )
    logged = flat_metrics(metrics)
    for logger in trainer.loggers:
        logger.log_metrics(logged, step=trainer.global_step)
    if trainer.loggers:
        from workflow.charts import log_results

        shown = pictures([data], detector.pictures) if report is None or report.images else None
        log_results(trainer, frame, metrics, shown, folder)
    for logger in trainer.loggers:
        logger.finalize("success")
    return metrics


def calibration_concerns(detector: Detector) -> list[str]:
    """That a probability was asked for and there is none."""
    reason = detector.no_probability
    return [f"There are no probabilities: the calibration {detector.calibration} could not be fitted ({reason})."] if reason else []


def described(settings: dict[str, Any]) -> str:
    """Class and settings in one line."""
    arguments = ", ".join(f"{name} {value}" for name, value in settings["init_args"].items() if value is not None)
    return f"{settings['class_path'].rpartition('.')[2]} ({arguments})"


def flat_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """The values of `metrics.json` under the logged names: `test/auroc`, `test/<dataset>/<generator>/auroc` and so on."""
    from workflow.charts import family_values

    flat: dict[str, float] = {}
    parts = {"test": metrics["overall"]} | {f"test/{name}": part for name, part in metrics["by_generator"].items()}
    for prefix, part in parts.items():
        cells = {name: part[name] for name in ("auroc", "average_precision", "accuracy", "balanced_accuracy")}
        cells |= {f"tpr_at_fpr_{fpr}": cell for fpr, cell in part["tpr_at_fpr"].items()}
        flat |= {f"{prefix}/{name}": cell["value"] for name, cell in cells.items() if cell["value"] is not None}
    return flat | family_values(metrics)
