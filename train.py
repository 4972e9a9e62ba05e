"""Train a detector: extract what is missing, fit, test, write the report.

python train.py --config configs/quickstart.yaml
"""

import logging
import pickle
import sys
import warnings
from pathlib import Path

import yaml
from lightning.pytorch.cli import ArgsType
from lightning.pytorch.utilities.seed import isolate_rng

from cli import UndertowCLI, best_checkpoint, is_main_process
from datamodules.description import summary
from datamodules.processes import end_with_launcher
from modules.errors import CheckpointError, UserError

log = logging.getLogger("undertow")


def main(args: ArgsType = None) -> Path:
    """Run the command; gives the run directory."""
    logging.basicConfig(level=logging.INFO if is_main_process() else logging.WARNING, format="%(message)s", stream=sys.stderr)
    # The detectors' metrics are reduced over ranks before they are logged.
    warnings.filterwarnings("ignore", message="It is recommended to use .*sync_dist=True")
    end_with_launcher()
    cli = UndertowCLI(args)
    from workflow import pipeline
    from workflow.last_words import last_words

    data, detector, trainer, folder = cli.datamodule, cli.model, cli.trainer, cli.run.folder
    data.features = detector.features
    detector.check_features(data.extractor.settings(), data.perturbation)
    log.info("%s", yaml.safe_dump({name: cli.shown()[name] for name in ("model", "data")}, sort_keys=False))
    with isolate_rng():  # a cold and a warm cache lead to the same training
        log.info("%s", summary(data))
        pipeline.prepare(detector, data)
        pipeline.extract_views(data, cli.hardware)
        data.check_looks()
        warned = pipeline.look_for_shortcuts(data)
        pipeline.begin(detector, data)
    if detector.learns:
        fit(cli)
    else:
        pipeline.calibrate(trainer, detector, data)
    if cli.config.trainer.fast_dev_run:  # Lightning's smoke test, which leaves no results
        return folder
    best = best_checkpoint(trainer) if detector.learns else pipeline.save(trainer, folder)
    scores = pipeline.score(trainer, detector, [data.val_dataloader(), data.test_dataloader()], best)
    if is_main_process():
        metrics = pipeline.write_run(detector, data, trainer, scores, folder, warned, cli.config_init.report)
        print(last_words(metrics, {detector.name: detector.threshold}, folder))
    return folder


def fit(cli: UndertowCLI) -> None:
    """Train, from the run's checkpoint where it has one.

    Raises:
        CheckpointError: That checkpoint cannot be read safely.
    """
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.run.checkpoint, weights_only=True)
    except pickle.UnpicklingError as error:
        msg = f"checkpoint {cli.run.checkpoint} cannot be read safely: it is damaged, or holds more than tensors"
        raise CheckpointError(msg) from error


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
