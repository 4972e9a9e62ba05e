"""Fill the feature cache and do nothing else, with any configuration of train.py.

python extract.py --config configs/fakeinversion.yaml --data.source.path mine/manifest.csv --trainer.devices 8
"""

import logging
import sys
import time
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from cli import HARDWARE, RunError, UndertowCLI, is_main_process
from datamodules.datamodule import FeatureDataModule
from datamodules.description import summary
from datamodules.processes import end_with_launcher
from datamodules.records import SPLITS
from modules.errors import UserError

log = logging.getLogger("undertow")

SHOWN = 3  # failures that the last words name


class ExtractCLI(UndertowCLI):
    """train.py's options, of which only the data and the hardware are used: no detector, no run directory, no loggers."""

    datamodule: FeatureDataModule
    hardware: dict[str, Any]

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser, with this command's own description."""
        kwargs["description"] = "Fill the feature cache. Takes every option of train.py; those of the detector and the run change nothing."
        return super().init_parser(**kwargs)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As for training, but no detector needs to be named."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=True, required=False)
        parser.add_lightning_class_args(self._datamodule_class, "data")

    def before_instantiate_classes(self) -> None:
        """No run directory."""

    def instantiate_classes(self) -> None:
        """Build the data alone.

        Raises:
            RunError: With the constructor's sentence.
        """
        config = self.config.clone()
        config["model"] = config["trainer"]["callbacks"] = config["trainer"]["logger"] = None
        try:
            built = self.parser.instantiate(config)
        except ValueError as error:
            raise RunError(str(error)) from error
        self.datamodule = built["data"]
        self.hardware = {name: built["trainer"][name] for name in HARDWARE}


def main(args: ArgsType = None) -> str:
    """Run the command; gives its last words."""
    logging.basicConfig(level=logging.INFO if is_main_process() else logging.WARNING, format="%(message)s", stream=sys.stderr)
    end_with_launcher()
    cli = ExtractCLI(args)
    from workflow import pipeline

    data = cli.datamodule
    if data.stream.url:
        msg = "data.stream.url names features that lie elsewhere, and extraction fills the cache of this machine: leave it out"
        raise RunError(msg)
    log.info("%s", summary(data))
    started = time.monotonic()
    asked = pipeline.extract_views(data, cli.hardware)
    words = last_words(data, asked, time.monotonic() - started)
    if is_main_process():
        print(words)
    return words


def last_words(data: FeatureDataModule, asked: int, seconds: float) -> str:
    """What was done, what failed, and where the features are.

    Args:
        data: The data module, after extraction.
        asked: Images that had no features before.
        seconds: What it took, starting processes and loading networks included.
    """
    asked_for = {record.content_hash for record in data.records()}
    failures = [*data.source.failures, *(failure for failure in data.reader.failures if failure.key in asked_for)]
    lines = [f"{sum(len(data.usable(split)) for split in SPLITS)} images have features in {data.cache.folder}"]
    if asked:
        rate = asked / max(seconds, 1e-9)
        lines.append(f"{asked} were missing: {seconds:.0f} s, {rate:.1f} images/s on all processes together, their start included")
    else:
        lines.append("nothing was missing")
    if failures:
        lines.append(f"{len(failures)} images failed and are left out:")
        lines += [f"  {failure.where}: {failure.reason}" for failure in failures[:SHOWN]]
        lines += [f"  … all of them in {data.cache.folder / 'manifest.json'}"] if len(failures) > SHOWN else []
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
