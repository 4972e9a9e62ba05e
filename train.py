"""Train a detector: extract what is missing, fit, test, write the report.

python train.py --config configs/quickstart.yaml
"""

import logging
import sys
from pathlib import Path

from lightning.pytorch.cli import ArgsType

from cli import UndertowCLI, best_checkpoint, is_main_process
from datamodules.errors import DataError

log = logging.getLogger("undertow")


def main(args: ArgsType = None) -> Path:
    """Run the command; gives the run directory."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    cli = UndertowCLI(args)
    import pipeline

    data, detector, trainer, folder = cli.datamodule, cli.model, cli.trainer, cli.run.folder
    data.features = detector.features
    log.info("%s", data.summary())
    pipeline.extract_missing(data, cli.hardware())
    trainer.fit(detector, datamodule=data, ckpt_path=cli.run.checkpoint)
    scores = pipeline.score(trainer, detector, [data.val_dataloader(), data.test_dataloader()], best_checkpoint(trainer))
    if is_main_process():
        metrics = pipeline.write_run(detector, data, trainer, scores, folder)
        print(pipeline.last_words(metrics, detector, folder))
    return folder


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")
