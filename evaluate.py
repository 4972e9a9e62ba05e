"""Score data sets with trained detectors: predictions, metrics, figures, report.

python evaluate.py --checkpoint runs/NAME/checkpoints/best.ckpt --data.source ManifestSource --data.source.path photos.csv
python evaluate.py --config configs/studies/quickstart.yaml --name jpeg
"""

import dataclasses
import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from cli import HARDWARE, RunError, has_results, hold, is_main_process
from datamodules.datamodule import FeatureDataModule
from datamodules.files import write_atomically
from datamodules.perturbations import NAMES_HELP
from datamodules.perturbations import expanded as expanded_presets
from datamodules.perturbations import perturbation as find_perturbation
from datamodules.processes import end_with_launcher
from datamodules.sources.base import Source
from evaluation.options import ReportOptions
from modules.errors import UserError
from modules.extractors.base import Extractor
from workflow.conditions import CONDITIONS_HELP, expanded, generators_of
from workflow.fitting import FittedDetector, as_options, check_options, fit

log = logging.getLogger("undertow")

# What the checkpoint says of the data, what only training needs, and what a study has several of.
FROM_CHECKPOINT = {"extractor", "perturbation", "families"}
PLAIN = (str, int, bool)  # a strategy or an accelerator that is an object has no text
TRAINING_ONLY = {
    "val_fraction",
    "test_fraction",
    "train_on",
    "train_generators",
    "max_generators",
    "generator_seed",
    "views",
    "repeat",
    "keep_pairs",
    "unknown_families",
    "on_leak",
    "evaluate_only",
}


def parser() -> LightningArgumentParser:
    """The command's options: one checkpoint and one source, or a study of several."""
    built = LightningArgumentParser(
        description="Evaluate trained detectors on any data. Results go to runs/<name>/. "
        "One detector: --checkpoint and --data.source. A study: --config with detectors, datasets and perturbations."
    )
    built.add_argument("--config", action="config", help="YAML file of these options, for example a study of configs/studies/")
    built.add_argument("--checkpoint", type=str | None, default=None, help="checkpoint that train.py wrote")
    built.add_argument(
        "--reals_from",
        type=dict[str, str],
        default={},
        help="{DATASET: OTHER}: measure a data set's generators against the reals of another",
    )
    built.add_argument(
        "--compare_to",
        "--compare-to",
        type=str | None,
        default=None,
        help="published numbers, for example targets/zero_shot_blog.json: shown beside the measured ones, with the difference where model, "
        "data and size are the same",
    )
    _add_study_options(built)
    built.add_argument(
        "--name",
        type=str | None,
        default=None,
        help="name of the run directory; by default the checkpoint's run and the source, or the YAML",
    )
    built.add_argument("--runs_dir", type=str, default="runs", help="directory of all run directories")
    built.add_argument(
        "--resume", type=Literal["never", "auto"], default="never", help="auto: go on with a directory, keeping the scores that are there"
    )
    built.add_argument(
        "--split",
        type=Literal["test", "heldout", "all"],
        default="test",
        help="test: measure the test split, or all images where the data has none; heldout: of these, what no detector was trained or "
        "validated on, nor on an image of the same group or pair; all: all images",
    )
    built.add_class_arguments(ReportOptions, "report")
    built.add_subclass_arguments(Source, "data.source", required=False, help="where the images come from")
    built.add_class_arguments(FeatureDataModule, "data", skip=FROM_CHECKPOINT | TRAINING_ONLY | {"source"}, instantiate=False)
    others = set(inspect.signature(Trainer).parameters) - set(HARDWARE)
    built.add_class_arguments(Trainer, "trainer", skip=others, instantiate=False)
    built.add_argument(
        "--trainer.logger",
        type=bool,
        default=True,
        help="false: nothing is logged to W&B, neither what is measured nor the training of detectors that are fitted first",
    )
    return built


def _add_study_options(built: LightningArgumentParser) -> None:
    """What a study has several of, and what can only be asked of several."""
    built.add_argument(
        "--detectors",
        type=dict[str, FittedDetector] | None,
        default=None,
        help="of a study, by name: {checkpoint: PATH}, or {config: YAML, overrides: {OPTION: VALUE}}, which is fitted first",
    )
    built.add_argument(
        "--overrides",
        type=dict[str, Any],
        default={},
        help="of a study: {OPTION: VALUE} of train.py for all detectors that are fitted first; a detector's own overrides come last",
    )
    built.add_argument("--train_conditions", type=list[str], default=[], help=CONDITIONS_HELP)
    built.add_argument(
        "--seeds",
        type=list[int],
        default=[],
        help="of a study: train each detector that has no checkpoint yet once with each of these seeds; 3 and more say how far a number "
        "depends on the seed",
    )
    built.add_argument(
        "--baseline",
        type=str | None,
        default=None,
        help="of a study: the detector that all others are compared with, on the same images; the first by default",
    )
    built.add_argument(
        "--choose_by",
        type=Literal["auroc", "macro_auroc", "tpr_at_fpr_0.1"] | None,
        default=None,
        help="of a sweep: choose the best detector on one half of the groups of images, and report it on the other",
    )
    built.add_argument("--datasets", type=dict[str, Source] | None, default=None, help="of a study, by name: sources, as for --data.source")
    built.add_argument(
        "--perturbations",
        type=list[str] | None,
        default=None,
        help="what every image goes through, each in turn, or a preset that stands for several; by default what the detector was trained "
        f"with. {NAMES_HELP}",
    )
    built.add_subclass_arguments(
        Extractor,
        "matched_by",
        required=False,
        help="encoder by which pairs of a real image and a fake (column pair) are compared, another than the detectors' own: how far AUROC "
        "depends on how well they match",
    )


def check(options: Namespace) -> None:
    """Refuse options that do not go together, before anything is loaded.

    Raises:
        RunError: With what is missing.
    """
    if (options.checkpoint is None) == (not options.detectors):
        msg = "give either --checkpoint (one detector) or --detectors (a study, usually in a YAML file by --config)"
        raise RunError(msg)
    if (options.data.source is None) == (not options.datasets):
        msg = "give the images by either --data.source (one data set) or --datasets (a study, usually in a YAML file by --config)"
        raise RunError(msg)
    if options.seeds and all(detector.checkpoint is not None for detector in (options.detectors or {}).values()):
        msg = "--seeds is for detectors that are trained first; all that are named have a checkpoint"
        raise RunError(msg)
    for name in expanded_presets(options.perturbations or []):
        find_perturbation(name)
    if repeated := sorted({seed for seed in options.seeds if options.seeds.count(seed) > 1 or seed < 0}):
        msg = f"--seeds: {', '.join(map(str, repeated))} is there twice, or negative; name each seed once, from 0"
        raise RunError(msg)
    if options.checkpoint is not None and not Path(options.checkpoint).is_file():
        msg = f"--checkpoint {options.checkpoint} does not exist; name a .ckpt file under runs/NAME/checkpoints"
        raise RunError(msg)
    for name, detector in (options.detectors or {}).items():
        for path in detector.files():
            if not Path(path).is_file():
                msg = f"detectors.{name}: {path} does not exist"
                raise RunError(msg)


def run_name(options: Namespace) -> str:
    """The name that was given, or that of the study's YAML, or the checkpoint's run and the source."""
    if options.name:
        return str(options.name)
    if options.detectors:
        if not options.config:
            msg = "give the study a --name"
            raise RunError(msg)
        return Path(str(options.config[-1])).stem
    source = options.data.source or next(iter(options.datasets.values()))
    return f"{Path(options.checkpoint).resolve().parent.parent.name}-on-{source.name}"


def shown(built: LightningArgumentParser, parsed: Namespace) -> dict[str, Any]:
    """The resolved configuration in plain types, without the options of this one start."""
    plain: dict[str, Any] = yaml.safe_load(built.dump(parsed, skip_validation=True))
    return {name: value for name, value in plain.items() if name not in ("config", "resume", "name")}


def run_folder(runs: Path, name: str, resume: str) -> Path:
    """The run directory; never that of a training run, and another evaluation's only to go on with it.

    Raises:
        RunError: The name is taken.
    """
    folder = runs / name
    if (folder / "log.csv").exists():
        msg = f"{folder} holds a training run; choose another --name"
        raise RunError(msg)
    if resume == "never" and has_results(folder):
        msg = f"{folder} holds results already; choose another --name, or --resume auto to keep the scores that are there"
        raise RunError(msg)
    return folder


def main(args: Sequence[str] | None = None) -> Path:
    """Run the command; gives the run directory."""
    logging.basicConfig(level=logging.INFO if is_main_process() else logging.WARNING, format="%(message)s", stream=sys.stderr)
    end_with_launcher()
    built = parser()
    parsed = built.parse_args(args)
    try:
        options = built.instantiate(parsed)
    except ValueError as error:  # what a constructor refuses is the user's to mend
        raise RunError(str(error)) from error
    check(options)
    from workflow.study import Study, check_pairs, check_sources, chosen_baseline, find_targets, score_all
    from workflow.study_results import write_study

    targets = find_targets(options.compare_to)
    name = run_name(options)
    folder = run_folder(Path(options.runs_dir), name, options.resume)
    if is_main_process():
        hold(folder)
        write_atomically(folder / "config.yaml", built.dump(parsed, skip_validation=True).encode())
    detectors = options.detectors or {"": FittedDetector(options.checkpoint)}
    sources = options.datasets or {options.data.source.name: options.data.source}
    check_sources(sources, Path(options.data.cache_dir), options.reals_from)
    generators = generators_of(sources, Path(options.data.cache_dir)) if options.train_conditions else []
    detectors = expanded(detectors, options.train_conditions, generators, options.seeds)
    baseline = chosen_baseline(options.baseline, list(detectors))
    if options.choose_by is not None and len(detectors) < 2:
        msg = "--choose_by chooses among detectors, and there is one only"
        raise RunError(msg)
    if options.matched_by is not None:
        check_pairs(sources, Path(options.data.cache_dir))
    data: dict[str, Any] = {key: value for key, value in vars(options.data).items() if key != "source"}
    shared = [f"--data.cache_dir={data['cache_dir']}", *as_options(options.overrides)]
    hardware = {f"trainer.{key}": options.trainer[key] for key in HARDWARE if isinstance(options.trainer[key], PLAIN)}
    hardware |= {} if options.trainer.logger else {"trainer.logger": False}
    hardware |= {f"report.{name}": value for name, value in dataclasses.asdict(options.report).items()}  # what must not be shown is not
    check_options(detectors, folder / "detectors", shared)
    study = Study(
        detectors={
            label: fit(label, detector, folder / "detectors", shared, as_options(hardware)) for label, detector in detectors.items()
        },
        sources=sources,
        perturbations=expanded_presets(options.perturbations or []) or [None],
        data=data,
        split=options.split,
        hardware={key: options.trainer[key] for key in HARDWARE},
        reals_from=options.reals_from,
        baseline=baseline,
        choose_by=options.choose_by,
        matched_by=options.matched_by,
        report=options.report,
    )
    results = score_all(study, folder / "cells")
    if is_main_process():
        print(write_study(study, results, folder, targets, shown(built, parsed) if options.trainer.logger else None))
    return folder


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
