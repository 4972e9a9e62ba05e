"""Say of images whether they were generated: a row an image, from a trained detector's checkpoint and nothing else.

python predict.py --checkpoint runs/NAME/checkpoints/best.ckpt photos --output verdicts.csv
"""

import argparse
import logging
import math
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datamodules.paths import find_images
from evaluation.rows import FORMATS, Mode, RowsError, check_new, one_line, open_rows
from modules.errors import UserError

log = logging.getLogger("undertow")

EPILOGUE = """\
PATHS  files; folders (all images below them, hidden ones left out); patterns in quotes ('shots/**/*.png'); - for a list on
       standard input.

rows   key (hash of the content), path (absolute; control characters, and bytes that are not UTF-8, as \\xNN), score (larger: more
       likely generated), probability (empty where the detector is not calibrated), verdict, reason (why there is no verdict, or what to
       know of it), and with --reencodings spread (standard deviation of the scores).
       Of a detector of families also predicted_family (real, a family, or unknown: unlike all that it was trained on),
       family_probability, predicted_generator (one that was trained on generators), novelty (larger: less like its training images).
       The family is the likeliest class; the verdict is by the threshold, which may be set for few false alarms: below it an image can be
       likelier of a family than real. probability and family_probability are calibrated apart.
       verdict: generated (score above the threshold), real, abstain (score only), error (no score).

exit   0 every image has a score    1 nothing could be done    2 wrong usage    3 some images could not be read
       4 an image is generated (only with --fail_on_generated, before 3)      130, 143 stopped: what was written stays
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    built = argparse.ArgumentParser(description=__doc__, epilog=EPILOGUE, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = built.add_argument
    add("paths", nargs="+", metavar="PATHS", help="what to look at; see below")
    add("--checkpoint", required=True, help="checkpoint that train.py wrote")
    add("--output", type=Path, metavar="FILE", help="where rows go, as they come: .csv, .jsonl or .parquet (at the end); standard output")
    add("--format", choices=sorted(set(FORMATS.values())), help="what is written; by default what the suffix of --output says, or csv")
    existing = built.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with --output: images that have a row are not looked at again")
    existing.add_argument("--overwrite", action="store_true", help="replace --output")
    add("--threshold", type=_finite, help="scores above it are called generated; by default the checkpoint's")
    add("--no_abstain", action="store_true", help="give a verdict also outside of what the detector was calibrated on")
    add(
        "--reencodings",
        type=int,
        default=0,
        choices=range(6),
        help="also score so many slight JPEG re-encodings, each at an image's cost; none by default",
    )
    add("--captions", type=Path, metavar="FILE", help="CSV with columns path and caption, for detectors that were trained with captions")
    add("--null", action="store_true", help="names on standard input end with null bytes, as from find -print0")
    add("--batch_size", type=partial(_at_least, 1), default=16, help="images that go through the networks at a time (default: %(default)s)")
    add("--workers", type=partial(_at_least, 0), help="processes that decode; by default none on a CPU, up to eight beside an accelerator")
    add("--accelerator", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where the networks run")
    add("--cache_dir", type=Path, default=Path("cache"), help="feature cache of the training, where hashes of weights are remembered")
    add("--fail_on_generated", action="store_true", help="exit with 4 where a verdict is generated")
    add("--quiet", action="store_true", help="no progress and no last words; warnings stay")
    return built


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or (number := int(text)) < least:
        msg = f"{text!r} is not a whole number of at least {least}"
        raise argparse.ArgumentTypeError(msg)
    return number


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        msg = f"{text!r} is not a finite number"
        raise argparse.ArgumentTypeError(msg)
    return number


class OneLine(logging.Formatter):
    """Log lines that no file's name can use to command a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Each line of the message by itself."""
        return "\n".join(one_line(line) for line in super().format(record).split("\n"))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    built = parser()
    options = built.parse_intermixed_args(args)
    suffix = options.output.suffix.lower() if options.output else ".csv"
    form = options.format or FORMATS.get(suffix)
    if form is None:
        built.error(f"--output {options.output}: its suffix is none of {', '.join(FORMATS)}; name a --format")
    if form == "parquet" and (options.resume or not options.output):
        built.error("Parquet is written whole at the end: it needs --output, and cannot --resume")
    if options.resume and not options.output:
        built.error("--resume needs --output")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(message)s"))
    logging.basicConfig(level=logging.WARNING if options.quiet else logging.INFO, handlers=[handler])
    if options.quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    mode: Mode = "resume" if options.resume else "overwrite" if options.overwrite else "new"
    check_new(options.output, mode)
    images = find_images(options.paths, sys.stdin.buffer, b"\0" if options.null else b"\n", options.captions)
    # What needs torch comes in only now: all that is wrong before is answered at once.
    from datamodules.scoring import Scorer
    from evaluation.decision import ERROR, GENERATED
    from workflow.verdicts import columns_of, find_rule, write_verdicts

    settings = {name: getattr(options, name) for name in ("accelerator", "batch_size", "workers", "reencodings")}
    scorer = Scorer.from_checkpoint(options.checkpoint, **settings)
    rule, warnings = find_rule(scorer, options.threshold, not options.no_abstain)
    for sentence in [*scorer.warnings(images, options.cache_dir), *warnings]:
        log.warning("%s", sentence)
    writer = open_rows(options.output, form, columns_of(scorer.detector, bool(options.reencodings)), mode)
    tally = write_verdicts(scorer, images, rule, writer, options.resume, options.quiet)
    if options.fail_on_generated and tally.verdicts[GENERATED]:
        return 4
    return 3 if tally.verdicts[ERROR] else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except (UserError, RowsError) as error:
        sys.exit(f"error: {one_line(str(error))}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the rows has enough
        sys.exit(0)
