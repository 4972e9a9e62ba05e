"""Score another data set with a trained detector: predictions, metrics, figures, report.

python evaluate.py --checkpoint runs/NAME/checkpoints/best.ckpt --data.source ManifestSource --data.source.path photos.csv
"""

import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from cli import HARDWARE, find_run, hold, is_main_process
from datamodules.datamodule import FeatureDataModule
from datamodules.files import write_atomically
from modules.errors import UserError

log = logging.getLogger("undertow")

# What the checkpoint says of the data, and what only training needs.
FROM_CHECKPOINT = {"extractor", "perturbation", "families"}
TRAINING_ONLY = {"val_fraction", "test_fraction", "train_on", "on_leak", "evaluate_only"}


def parser() -> LightningArgumentParser:
    """The command's options: a checkpoint, the data that it is evaluated on, and where it runs."""
    built = LightningArgumentParser(description="Evaluate a trained detector on any data set. Results go to runs/<name>/.")
    built.add_argument("--config", action="config", help="YAML file of these options")
    built.add_argument("--checkpoint", type=str, required=True, help="checkpoint that train.py wrote")
    built.add_argument(
        "--name", type=str | None, default=None, help="name of the run directory; by default the checkpoint's run, and the source"
    )
    built.add_argument("--runs_dir", type=str, default="runs", help="directory of all run directories")
    built.add_argument(
        "--split", type=Literal["test", "all"], default="test", help="measure the test split, where the data has one, or all images"
    )
    built.add_class_arguments(FeatureDataModule, "data", skip=FROM_CHECKPOINT | TRAINING_ONLY, instantiate=False)
    others = set(inspect.signature(Trainer).parameters) - set(HARDWARE)
    built.add_class_arguments(Trainer, "trainer", skip=others, instantiate=False)
    return built


def main(args: Sequence[str] | None = None) -> Path:
    """Run the command; gives the run directory."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    built = parser()
    parsed = built.parse_args(args)
    options = built.instantiate(parsed)
    import pipeline
    from modules.detectors.base import load_detector
    from modules.extractors.base import Extractor
    from modules.settings import from_settings

    detector, described = load_detector(options.checkpoint)
    settings: dict[str, Any] = vars(options.data)
    warnings: list[str] = []
    extractor = from_settings(described["extractor"], base=Extractor)
    data = FeatureDataModule(**settings, extractor=extractor, perturbation=described["perturbation"], evaluate_only=options.split)
    if data.cache.extractor_fingerprint != described["extractor_fingerprint"]:
        warnings.append(
            "The extractor's weights or settings are not those that the detector was trained with: its scores may mean nothing."
        )
    if seen := data.trained_on(described):
        warnings.append(f"{seen} of these images are among those that the detector was trained or validated on.")
    for sentence in warnings:
        log.warning("%s", sentence)
    data.features = detector.features
    trained = Path(options.checkpoint).resolve().parent.parent.name
    run = find_run(Path(options.runs_dir), options.name or f"{trained}-on-{data.source.name}", "never")
    if is_main_process():
        hold(run.folder)
        write_atomically(run.folder / "config.yaml", built.dump(parsed, skip_validation=True).encode())
    log.info("%s", data.summary())
    hardware = {name: options.trainer[name] for name in HARDWARE}
    pipeline.extract_missing(data, hardware)
    trainer = Trainer(**hardware, logger=False, enable_checkpointing=False)
    scores = pipeline.score(trainer, detector, [data.test_dataloader()])
    if is_main_process():
        metrics = pipeline.write_run(detector, data, trainer, scores, run.folder, warnings)
        print(pipeline.last_words(metrics, detector, run.folder))
    return run.folder


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
