r"""Make content-matched fakes from real images of your own: real and fake differ by the generator alone.

python -m datamodules.generate match --images photos --model stable-diffusion-v1-5/stable-diffusion-v1-5 --output data/matched
python -m datamodules.generate match --images photos/manifest.csv --model assets/tiny-diffusion --kind autoencoder --output data/round-trip
python -m datamodules.generate match --images photos --model assets/tiny-diffusion --kind inpaint --mask freeform \
    --fractions 0.1 0.3 1 --output data/parts
"""

import argparse
import hashlib
import logging
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.files import lock
from datamodules.generate.options import (
    STOPPED,
    add_model_options,
    at_least,
    fraction_name,
    guidance,
    identity,
    left_out,
    model_name,
    share,
)
from datamodules.sources.folder import images_below

if TYPE_CHECKING:
    from datamodules.generate.matched import Made, MatchedSet

KINDS = ("img2img", "autoencoder", "inpaint")
MASKS = ("box", "freeform")
STRENGTHS = {"img2img": 0.5, "inpaint": 1.0}
DETAILS = """\
kinds  img2img       noised by --strength and denoised again, with the image's caption (or --prompt) as the prompt
       autoencoder   encoded and decoded, nothing else: by the pipeline's VAE, or by an autoencoder that --model names
       inpaint       only a part is generated, the rest is the original's own pixels; a fake for each of --fractions, or one by --masks

chain  The centre square of a real image, resized to the model's size, is stored, and its fake is made of exactly these pixels and stored
       alike: same size, format and settings, no metadata. PNG is not compressed: all files have the same length. What stays is in
       docs/data_generate.md: read it before trusting a number.

files  OUTPUT/manifest.csv names OUTPUT/reals and OUTPUT/fakes (and OUTPUT/masks), with pair, group, split and caption as the images had
       them, and where each fake comes from. OUTPUT/settings.json holds the settings, OUTPUT/skipped.json what was left out, and why. The
       manifest is written last. The same command goes on where it was stopped, and makes nothing twice; other settings need another folder.
       --batch_size and --device may change: they change fakes by rounding only.

exit   0 all is there    1 nothing could be done    2 wrong usage    3 there are fewer images than wanted    130 stopped
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    built = argparse.ArgumentParser(
        "python -m datamodules.generate match",
        description=__doc__,
        epilog=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = built.add_argument
    add("--images", type=Path, required=True, metavar="PATH", help="folder of real images, or a manifest, of which the real ones are taken")
    add_model_options(built, "diffusers model (for autoencoder also an autoencoder alone): a directory or a hub id")
    add("--kind", choices=KINDS, default="img2img", help="how fakes are made; see below (default: img2img)")
    add("--strength", type=share, help="how far an image is noised, above 0 to 1 (default: 0.5; of inpaint 1)")
    add("--steps", type=partial(at_least, 1), help="denoising steps from noise; about strength times so many are taken (default: 50)")
    add("--guidance", type=guidance, help="scale of classifier-free guidance (default: 7.5; 1 is none)")
    add("--prompt", help="prompt of all fakes; by default an image's own caption, empty without one")
    add("--mask", choices=MASKS, help="form of random masks (default: box)")
    add("--fractions", type=share, nargs="+", metavar="F", help="shares of the pixels that are generated, a fake each, above 0 to 1")
    add("--masks", type=Path, metavar="FOLDER", help="your own masks instead, named as the images and of their size; white is generated")
    add("--size", type=partial(at_least, 16), help="side of all images in pixels; by default the model's own")
    add("--limit", type=partial(at_least, 1), metavar="N", help="so many real images, chosen by the seed; all by default")
    add("--seed", type=partial(at_least, 0), default=0, help="of the choice of images, of masks and noise (default: 0)")
    add("--format", choices=("png", "jpeg"), default="png", help="of real and fake alike (default: png, not compressed)")
    add("--quality", type=partial(at_least, 1), help="of jpeg, 1 to 95 (default: 90)")
    add("--generator", help="name of the generator; by default the last part of --model and the kind")
    add("--allow_outside", action="store_true", help="also read files outside of the manifest's folder")
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    built = parser()
    options = built.parse_args(arguments)
    if wrong := _misused(options):
        built.error(wrong)
    try:
        matched, made, wanted = _run(options)
    except KeyboardInterrupt:
        print("Stopped. What was made stays, and the same command goes on from there.", file=sys.stderr)
        return STOPPED
    print("\n".join(_last_words(matched, made, wanted)))
    return 0 if made.reals == wanted else 3


def _misused(options: argparse.Namespace) -> str:
    """What is wrong with options taken together; empty where nothing is. Fills in the defaults that depend on others."""
    idle = {
        "autoencoder": ("strength", "steps", "guidance", "prompt", "mask", "fractions", "masks"),
        "img2img": ("mask", "fractions", "masks"),
    }
    for name in idle.get(options.kind, ()):
        if getattr(options, name) is not None:
            return f"--{name} changes nothing with --kind {options.kind}: leave it out"
    if options.masks is not None and (options.mask is not None or options.fractions is not None):
        return "--masks names your own masks; --mask and --fractions are of random ones: leave one out"
    if options.quality is not None and (options.format != "jpeg" or options.quality > 95):
        return f"--quality {options.quality} is of --format jpeg, from 1 to 95"
    if wrong := _misplaced(options) or _alike(options.fractions or ()):
        return wrong
    if options.kind != "autoencoder":
        options.strength = options.strength or STRENGTHS[options.kind]
        options.steps = options.steps or 50
        options.guidance = 7.5 if options.guidance is None else options.guidance
        if int(options.strength * options.steps) < 1:
            return f"--strength {options.strength:g} of --steps {options.steps} is less than one step: raise either"
    return ""


def _misplaced(options: argparse.Namespace) -> str:
    """What is wrong with an output inside of what is read, where the next start would take it for more of that."""
    for name in ("images", "masks"):
        folder = getattr(options, name)
        if folder is not None and folder.is_dir() and options.output.resolve().is_relative_to(folder.resolve()):
            return f"--output {options.output} lies in --{name} {folder}, and would be read as a part of it: name a folder elsewhere"
    return ""


def _alike(fractions: Sequence[float]) -> str:
    """What is wrong with fractions whose fakes would have the same name."""
    for one, other in pairwise(sorted(set(fractions))):
        if fraction_name(one) == fraction_name(other):
            return f"--fractions {one} and {other} are the same to four decimals, which the fakes' names have: leave one out"
    return ""


def _run(options: argparse.Namespace) -> "tuple[MatchedSet, Made, int]":
    from datamodules.generate.reals import read_reals

    skipped: dict[str, str] = {}
    reals = read_reals(options.images, skipped.__setitem__, options.allow_outside)
    import torch  # what is wrong with the images is answered before the heavy libraries are loaded
    from tqdm import tqdm

    from datamodules.generate.editing import AutoencoderEditor, PipelineEditor, native_size
    from datamodules.generate.sampling import Loading
    from datamodules.scoring import find_device

    device = find_device(options.device)
    dtype = options.dtype if options.dtype != "auto" else "float32" if device.type == "cpu" else "float16"
    size = options.size or native_size(options.kind, options.model, options.revision)
    matched = _matched(options, size, dtype)
    loading = Loading(options.model, options.revision, getattr(torch, dtype), device)
    editor: Any = partial(AutoencoderEditor, loading)
    if options.kind != "autoencoder":
        how = {"strength": options.strength, "steps": options.steps, "guidance": options.guidance}
        editor = partial(PipelineEditor, options.kind, loading, **how)
    wanted = min(options.limit or len(reals), len(reals))
    bar = tqdm(total=wanted, desc="Real images with fakes", unit="image", disable=None)
    with bar, lock(options.output / ".lock"):
        matched.check()
        return matched, matched.make(reals, wanted, editor, options.batch_size, skipped, bar.update), wanted


def _matched(options: argparse.Namespace, size: int, dtype: str) -> "MatchedSet":
    from datamodules.cache.features import library_versions
    from datamodules.generate.masks import FRACTIONS, MaskFolder
    from datamodules.generate.matched import Masking, MatchedSet, Storing

    masking = Masking()
    if options.kind == "inpaint" and options.masks is not None:
        masking = Masking("given", (), MaskFolder(options.masks))
    elif options.kind == "inpaint":
        masking = Masking(options.mask or "box", tuple(sorted(set(options.fractions or FRACTIONS))))
    storing = Storing(options.format, options.quality or 90)
    how = {name: getattr(options, name) for name in ("kind", "strength", "steps", "guidance")}
    named = {
        "dataset": options.dataset or options.output.resolve().name,
        "generator": options.generator or f"{model_name(options.model)}-{options.kind}",
        "prompt": options.prompt,
        "size": size,
        "seed": options.seed,
    }
    settings = {
        **{"command": "match", "images": _identity_of_images(options.images), "limit": options.limit, **how, **named},
        **{"model": identity(options.model), "revision": options.revision, "dtype": dtype},
        **{"mask": masking.kind, "fractions": list(masking.fractions), "masks": _identity_of_images(options.masks, with_content=True)},
        **{"format": storing.form, "quality": storing.quality if storing.form == "jpeg" else None},
    }
    told = {**how, "model": options.model, "model_revision": options.revision or settings["model"]}
    notes = {"model": options.model, "images": str(options.images), "versions": library_versions()}
    return MatchedSet(options.output, settings, told=told, masking=masking, storing=storing, notes=notes, **named)


def _identity_of_images(path: Path | None, with_content: bool = False) -> str | None:
    """A folder by the names of its images, and what is in them where asked for; a manifest by its content.

    Contents of real images need not be in it: they name the files that are made of them. Those of masks name nothing.
    """
    if path is None:
        return None
    files = [path] if path.is_file() else [Path(each) for each in images_below(path, lambda where, why: None)]
    digest = hashlib.sha256()
    for file in sorted(files):
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        if with_content or path.is_file():
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _last_words(matched: "MatchedSet", made: "Made", wanted: int) -> list[str]:
    manifest = matched.folder / "manifest.csv"
    return [
        f"{made.reals} real images with {made.fakes} fakes, of {wanted} wanted; {made.new} fakes are new.",
        *left_out(made.skipped),
        f"Manifest: {manifest}",
        f"Next: .venv/bin/python -m workflow.audit {shlex.quote(str(manifest))}",
    ]
