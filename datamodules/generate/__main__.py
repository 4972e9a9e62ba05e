r"""Make the fakes of a study from the captions of its photographs.

python -m datamodules.generate --captions captions_val2014.json --images val2014 \
    --model CompVis/stable-diffusion-v1-4 --output data/mscoco-sd14
"""

import argparse
import hashlib
import logging
import math
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.errors import DataError
from datamodules.files import lock
from datamodules.hashing import describe_os_error, hash_tree, open_regular
from modules.errors import UserError

if TYPE_CHECKING:
    from datamodules.generate.study import Made, Study

EPILOGUE = """\
files  OUTPUT/manifest.csv names the photographs (copied to OUTPUT/reals) and their fakes (OUTPUT/fakes), with caption, pair and split:
       test, and for calibration train (one in five) and val. OUTPUT/settings.json holds the settings, OUTPUT/skipped.json what was left
       out, and why. The manifest is written last. The same command goes on where it was stopped, and makes nothing twice; other settings
       need another folder. --batch_size and --device may change: they change fakes by rounding only.

exit   0 all is there    1 nothing could be done    2 wrong usage    3 there are fewer photographs than wanted    130 stopped
"""
STOPPED = 130


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    built = argparse.ArgumentParser(
        "python -m datamodules.generate", description=__doc__, epilog=EPILOGUE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = built.add_argument
    add("--captions", type=Path, required=True, metavar="FILE", help="MSCOCO's annotations (.json), or a manifest with a column caption")
    add("--images", type=Path, metavar="FOLDER", help="the annotations' photographs; paths of a manifest are relative to it")
    add("--model", required=True, help="text-to-image pipeline of diffusers: a directory or a hub id")
    add("--revision", help="branch, tag or commit of a hub model")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where everything goes")
    add("--test", type=partial(_at_least, 1), default=500, help="photographs to test on (default: 500)")
    add("--calibration", type=partial(_at_least, 0), default=100, help="others, for thresholds (default: 100; 0, or 2 at least)")
    add("--steps", type=partial(_at_least, 1), default=50, help="denoising steps (default: 50)")
    add("--guidance", type=_guidance, default=7.5, help="scale of classifier-free guidance (default: 7.5; 1 is none)")
    add("--size", type=partial(_at_least, 8), help="height and width of the fakes in pixels; by default the pipeline's own")
    add("--seed", type=partial(_at_least, 0), default=0, help="of the choice of photographs and of the noise (default: 0)")
    add("--batch_size", type=partial(_at_least, 1), default=4, help="fakes at a time (default: 4)")
    add("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"), help="auto: float32 on a CPU, else float16")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where the networks run (default: auto)")
    add("--dataset", help="name of the data set; by default the output folder's")
    add("--generator", help="name of the generator; by default the last part of --model")
    add("--photographs", help="name of the photographs' source; by default what the manifest says, or the name of --images")
    return built


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or len(text) > 15 or (number := int(text)) < least:
        msg = f"{text!r} is not a whole number of at least {least}"
        raise argparse.ArgumentTypeError(msg)
    return number


def _guidance(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 100:
        msg = f"{text!r} is not a number from 0 to 100"
        raise argparse.ArgumentTypeError(msg)
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    built = parser()
    options = built.parse_args(arguments)
    if options.calibration == 1:
        built.error("--calibration 1: thresholds need a photograph for training and one for validation; give 0, or 2 at least")
    try:
        study, made = _run(options)
    except KeyboardInterrupt:
        print("Stopped. What was made stays, and the same command goes on from there.", file=sys.stderr)
        return STOPPED
    print("\n".join(_last_words(study, made)))
    return 0 if made.pairs == study.test + study.calibration else 3


def _run(options: argparse.Namespace) -> "tuple[Study, Made]":
    from datamodules.generate.captions import read_captions

    skipped: dict[str, str] = {}
    captioned = read_captions(options.captions, options.images, skipped.__setitem__)
    import torch  # what is wrong with the captions is answered before the heavy libraries are loaded
    from tqdm import tqdm

    from datamodules.cache.features import library_versions
    from datamodules.generate.sampling import Sampler
    from datamodules.generate.study import Study
    from datamodules.scoring import find_device

    device = find_device(options.device)
    dtype = options.dtype if options.dtype != "auto" else "float32" if device.type == "cpu" else "float16"
    named = {
        "dataset": options.dataset or options.output.resolve().name,
        "generator": options.generator or Path(options.model).name.lower() or "unknown",
        "photographs": options.photographs,
        "test": options.test,
        "calibration": options.calibration,
        "seed": options.seed,
    }
    sampled = {"steps": options.steps, "guidance": options.guidance, "size": options.size}
    identity = {"captions": _digest(options.captions), "model": _identity(options.model), "revision": options.revision, "dtype": dtype}
    notes = {"model": options.model, "captions": str(options.captions), "versions": library_versions()}
    study = Study(options.output, {**named, **sampled, **identity}, notes=notes, **named)
    sampler = partial(
        Sampler, options.model, revision=options.revision, dtype=getattr(torch, dtype), device=device, seed=options.seed, **sampled
    )
    bar = tqdm(total=options.test + options.calibration, desc="Photographs with fakes", unit="pair", disable=None)
    with bar, lock(options.output / ".lock"):
        study.check()
        return study, study.make(captioned, sampler, options.batch_size, skipped, bar.update)


def _digest(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        msg = f"--captions {path} cannot be read ({describe_os_error(error)}): check the path"
        raise DataError(msg) from error


def _identity(model: str) -> str:
    """A local model by its content, a hub model by its id."""
    return hash_tree(model)[:16] if Path(model).is_dir() else model


def _last_words(study: "Study", made: "Made") -> list[str]:
    lines = [f"{made.pairs} photographs with a fake each, of {study.test + study.calibration} wanted; {made.new} fakes are new."]
    if made.skipped:
        example, reason = next(iter(made.skipped.items()))
        lines.append(f"{len(made.skipped)} photographs are left out, for example {example[:80]!r}: {reason}")
        lines += [f"    {count} × {reason}" for reason, count in Counter(map(_kind, made.skipped.values())).most_common(5)]
    manifest = study.folder / "manifest.csv"
    source = f"--data.source ManifestSource --data.source.path {shlex.quote(str(manifest))}"
    return [
        *lines,
        f"Manifest: {manifest}",
        f"Next: .venv/bin/python evaluate.py --checkpoint runs/NAME/checkpoints/best.ckpt {source}",
    ]


def _kind(reason: str) -> str:
    """A reason without what is of one photograph only."""
    return reason.partition(":")[0].partition("(")[0].strip()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
