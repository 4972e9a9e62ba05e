r"""Make the fakes of a study from the captions of its photographs.

python -m datamodules.generate --captions captions_val2014.json --images val2014 \
    --model CompVis/stable-diffusion-v1-4 --output data/mscoco-sd14

`python -m datamodules.generate match --help` tells of fakes that are made from your own real images, and show the same.
"""

import argparse
import hashlib
import logging
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.errors import DataError
from datamodules.files import lock
from datamodules.generate.options import STOPPED, add_model_options, at_least, guidance, identity, left_out, model_name
from datamodules.hashing import describe_os_error, open_regular
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


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    built = argparse.ArgumentParser(
        "python -m datamodules.generate", description=__doc__, epilog=EPILOGUE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = built.add_argument
    add("--captions", type=Path, required=True, metavar="FILE", help="MSCOCO's annotations (.json), or a manifest with a column caption")
    add("--images", type=Path, metavar="FOLDER", help="the annotations' photographs; paths of a manifest are relative to it")
    add_model_options(built, "text-to-image pipeline of diffusers: a directory or a hub id")
    add("--test", type=partial(at_least, 1), default=500, help="photographs to test on (default: 500)")
    add("--calibration", type=partial(at_least, 0), default=100, help="others, for thresholds (default: 100; 0, or 2 at least)")
    add("--steps", type=partial(at_least, 1), default=50, help="denoising steps (default: 50)")
    add("--guidance", type=guidance, default=7.5, help="scale of classifier-free guidance (default: 7.5; 1 is none)")
    add("--size", type=partial(at_least, 8), help="height and width of the fakes in pixels; by default the pipeline's own")
    add("--seed", type=partial(at_least, 0), default=0, help="of the choice of photographs and of the noise (default: 0)")
    add("--generator", help="name of the generator; by default the last part of --model")
    add("--photographs", help="name of the photographs' source; by default what the manifest says, or the name of --images")
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["match"]:
        from datamodules.generate.match_command import main as match

        return match(arguments[1:])
    if arguments[:1] == ["captions"]:  # what the command did before it had others, and does where none is named
        arguments = arguments[1:]
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
    from datamodules.generate.sampling import Loading, Sampler
    from datamodules.generate.study import Study
    from datamodules.scoring import find_device

    device = find_device(options.device)
    dtype = options.dtype if options.dtype != "auto" else "float32" if device.type == "cpu" else "float16"
    named = {
        "dataset": options.dataset or options.output.resolve().name,
        "generator": options.generator or model_name(options.model),
        "photographs": options.photographs,
        "test": options.test,
        "calibration": options.calibration,
        "seed": options.seed,
    }
    sampled = {"steps": options.steps, "guidance": options.guidance, "size": options.size}
    of_model = {"captions": _digest(options.captions), "model": identity(options.model), "revision": options.revision, "dtype": dtype}
    notes = {"model": options.model, "captions": str(options.captions), "versions": library_versions()}
    study = Study(options.output, {**named, **sampled, **of_model}, notes=notes, **named)
    loading = Loading(options.model, options.revision, getattr(torch, dtype), device)
    sampler = partial(Sampler, loading, seed=options.seed, **sampled)
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


def _last_words(study: "Study", made: "Made") -> list[str]:
    lines = [f"{made.pairs} photographs with a fake each, of {study.test + study.calibration} wanted; {made.new} fakes are new."]
    lines += left_out(made.skipped)
    manifest = study.folder / "manifest.csv"
    source = f"--data.source ManifestSource --data.source.path {shlex.quote(str(manifest))}"
    return [
        *lines,
        f"Manifest: {manifest}",
        f"Next: .venv/bin/python evaluate.py --checkpoint runs/NAME/checkpoints/best.ckpt {source}",
    ]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
