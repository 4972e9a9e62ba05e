"""Fill the feature cache and do nothing else, with any configuration of train.py.

python extract.py --config configs/fakeinversion.yaml --data.source.path mine/manifest.csv --trainer.devices 8
"""

import logging
import sys
import time
from collections import Counter
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from cli import HARDWARE, RunError, UndertowCLI, is_main_process
from datamodules.datamodule import FeatureDataModule
from datamodules.description import summary
from datamodules.processes import end_with_launcher
from datamodules.records import SPLITS
from datamodules.shares import WHOLE, Share
from modules.errors import UserError

log = logging.getLogger("undertow")

SHOWN = 3  # failures that the last words name
SHOWN_SHARES = 10


class ExtractCLI(UndertowCLI):
    """train.py's options, of which only the data and the hardware are used: no detector, no run directory, no loggers."""

    datamodule: FeatureDataModule
    hardware: dict[str, Any]
    share: Share

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser, with this command's own description."""
        kwargs["description"] = "Fill the feature cache. Takes every option of train.py; those of the detector and the run change nothing."
        return super().init_parser(**kwargs)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As for training, but no detector needs to be named."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=True, required=False)
        parser.add_lightning_class_args(self._datamodule_class, "data")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Which part of the images."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--share",
            type=str,
            default="1/1",
            help="K/N: extract only the K-th of N parts of the images, as one of N independent jobs that share the cache directory",
        )

    def before_instantiate_classes(self) -> None:
        """No run directory."""
        self.share = Share.parse(self.config.share)

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
    asked = pipeline.extract_views(data, cli.hardware, cli.share)
    words = last_words(data, asked, time.monotonic() - started, cli.share)
    if is_main_process():
        print(words)
    return words


def last_words(data: FeatureDataModule, asked: int, seconds: float, share: Share = WHOLE) -> str:
    """What was done, what failed, and where the features are.

    Args:
        data: The data module, after extraction.
        asked: Images that had no features before.
        seconds: What it took, starting processes and loading networks included.
        share: The part of the images that was asked for.
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
    return "\n".join([*lines, *(_of_shares(data, share) if share.of > 1 else [])])


def _of_shares(data: FeatureDataModule, share: Share) -> list[str]:
    """How large this share is, and what the other ones have still to do, under all perturbations that training or test reads."""
    records = data.records()
    mine = len(share.part(records))
    found = [f"share {share}: {mine} of {len(records)} images"]
    views = [data.at(view) for view in dict.fromkeys([data.perturbation, *data.training_views])]
    left = Counter(share.number_of(record) for view in views for record in view.missing())
    if not left:
        return [*found, "no share has anything left to do"]
    shown = ", ".join(f"{number}/{share.of} ({count})" for number, count in sorted(left.items())[:SHOWN_SHARES])
    more = f" and {len(left) - SHOWN_SHARES} more" if len(left) > SHOWN_SHARES else ""
    return [*found, f"{left.total()} images have no features yet; they are of the shares {shown}{more}"]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
