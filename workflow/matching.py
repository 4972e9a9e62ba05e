"""Match fakes with the most similar real images of a pool, as SynRIS does by reverse image search.

python -m workflow.matching --fakes fakes/manifest.csv --pool photographs/ --output data/matched
python -m workflow.matching --fakes fakes/ --pool photographs/ --encoder configs/encoders/dinov2.yaml --output data/matched
"""

import inspect
import logging
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from cli import HARDWARE, RunError, hold, is_main_process
from datamodules.datamodule import FeatureDataModule
from datamodules.errors import DataError
from datamodules.processes import end_with_launcher
from datamodules.records import FAKE, REAL, Failure, Record
from datamodules.sources import ImagesSource, ManifestSource, Source
from modules.errors import UserError
from modules.extractors import EmbeddingExtractor, Extractor
from modules.networks.encoder_names import LIBRARIES
from workflow.assignment import MEMORY
from workflow.embeddings import check_other_encoder, pair_similarities
from workflow.pairing import MANIFEST, left_out_for, match, write_matching

__all__ = ["check_other_encoder", "main", "pair_similarities"]

log = logging.getLogger("undertow")

BUILTIN = "configs/encoders/builtin.yaml"
OF_DATA = {"cache_dir", "extract_batch_size", "extract_workers"}


def parser() -> LightningArgumentParser:
    """The command's options."""
    built = LightningArgumentParser(
        prog="python -m workflow.matching",
        description="Match fakes with the most similar real images of a pool, each image at most once. OUTPUT/manifest.csv is a data set "
        "of these pairs, for the matched-pair audit of evaluate.py. What was embedded is kept in the cache: the same command goes on "
        "where it was stopped.",
    )
    add = built.add_argument
    add("--config", action="config", help="YAML file of these options")
    add("--fakes", type=str, required=True, help="generated images: a manifest (its rows of label 1), or a folder")
    add("--pool", type=str, required=True, help="real images made before generators were: a manifest (its rows of label 0), or a folder")
    add(
        "--fakes_only", type=list[str], default=[], help="patterns of the fakes' generator or dataset/generator, for example '[faces/sd-*]'"
    )
    add("--pool_only", type=list[str], default=[], help="the same for the pool, for example '[ffhq]'")
    add("--allow_outside", type=bool, default=False, help="let the manifests name files outside of their folders")
    add(
        "--encoder",
        type=str | None,
        default=None,
        help=f"YAML file of configs/encoders, of which data.extractor is read, or an encoder's name, for example "
        f"timm/vit_large_patch14_dinov2.lvd142m; by default {BUILTIN}, which needs no download and knows textures and colours only",
    )
    add("--feature", type=str | None, default=None, help="name of the encoder's feature, where it gives several vectors")
    add("--min_similarity", type=float, default=-1.0, help="no pair is less similar (cosine, -1 to 1)")
    add("--memory_limit", type=int, default=MEMORY, help="bytes; up to it the assignment is optimal, above greedy from the best pair down")
    add("--output", type=str, required=True, help="folder for manifest.csv, matching.json and left_out.csv")
    add("--dataset", type=str, default="matched", help="the pairs of each generator are the data set DATASET/GENERATOR")
    add("--split", type=Literal["test", "none"], default="test", help="split of all images; none: it is cut later")
    built.add_subclass_arguments(Extractor, "data.extractor", required=False, help="the encoder by its class, in place of --encoder")
    built.add_class_arguments(FeatureDataModule, "data", skip=_others(FeatureDataModule, OF_DATA), instantiate=False)
    built.add_class_arguments(Trainer, "trainer", skip=_others(Trainer, set(HARDWARE)), instantiate=False)
    return built


def _others(kind: type, wanted: set[str]) -> set[str]:
    return set(inspect.signature(kind).parameters) - wanted


def encoder_of(options: Namespace) -> Extractor:
    """The encoder that the options name; nothing is loaded.

    Raises:
        RunError: There is no such file or encoder, or it is named twice.
    """
    given = options.data.extractor
    if given is not None:
        if options.encoder is not None:
            msg = "give the encoder by either --encoder or --data.extractor"
            raise RunError(msg)
        return given
    name = options.encoder or BUILTIN
    if name.partition("/")[0] in LIBRARIES:
        return EmbeddingExtractor(name)
    if not Path(name).is_file():
        msg = f"--encoder {name} is neither a YAML file nor an encoder's name, which begins with {', '.join(LIBRARIES)}"
        raise RunError(msg)
    return _encoder_in(Path(name))


def _encoder_in(path: Path) -> Extractor:
    """The extractor of a configuration of train.py."""
    import yaml

    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        described = told["data"]["extractor"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        msg = f"--encoder {path} names no data.extractor, as the files of configs/encoders do"
        raise RunError(msg) from error
    small = LightningArgumentParser(exit_on_error=False)
    small.add_subclass_arguments(Extractor, "extractor")
    try:
        extractor: Extractor = small.instantiate(small.parse_object({"extractor": described})).extractor
    except (ArgumentError, ValueError) as error:
        msg = f"--encoder {path}: data.extractor cannot be built ({error})"
        raise RunError(msg) from error
    return extractor


def read_images(path: str, label: int, only: Sequence[str], allow_outside: bool, cache_dir: Path, left_out: list[Failure]) -> list[Record]:
    """The images of a manifest or folder that have a label and match a pattern, each content once.

    Args:
        path: A manifest, or a folder of images that all have this label.
        label: 0 or 1.
        only: Patterns of the generator or `dataset/generator`; all by default.
        allow_outside: Let a manifest name files outside of its folder.
        cache_dir: Root of the feature cache.
        left_out: Gets what cannot be read, and doubles.

    Raises:
        DataError: There is no such image.
    """
    kind: Literal["real", "fake"] = "fake" if label == FAKE else "real"
    source: Source = (
        ImagesSource(path, kind=kind) if Path(path).expanduser().is_dir() else ManifestSource(path, allow_outside=allow_outside)
    )
    found = [record for record in source.records(cache_dir) if record.label == label]
    left_out += source.failures
    names = sorted({f"{record.dataset}/{record.generator}" for record in found})
    chosen = [record for record in found if not only or any(_matches(record, pattern) for pattern in only)]
    if not chosen:
        message = (
            f"{path} holds no {kind} images{f' of {list(only)}' if only else ''}; it holds those of {', '.join(names[:20]) or 'none'}."
        )
        raise DataError(message)
    once: dict[str, Record] = {}
    for record in chosen:
        if (first := once.setdefault(record.content_hash, record)) is not record:
            left_out.append(left_out_for(record, f"the same file as {first.path}"))
    return list(once.values())


def _matches(record: Record, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (record.generator, f"{record.dataset}/{record.generator}"))


def last_words(document: dict[str, Any], folder: Path, is_outside: bool) -> str:
    """What came out, and how to go on.

    Args:
        document: The contents of `matching.json`.
        folder: The output folder.
        is_outside: Whether the manifest names files outside of its folder.
    """
    counts, quantiles = document["counts"], document["similarity"]["quantiles"]
    lines = [
        f"{counts['pairs']} pairs of {counts['fakes']} fakes and a pool of {counts['pool']}; {counts['left_out']} images are left out."
    ]
    if counts["pairs"]:
        lines.append(f"{document['method']} assignment ({document['method_reason']})")
        shown = "  ".join(f"{100 * float(q):g}%: {value:.3f}" for q, value in quantiles.items())
        lines.append(f"similarity  {shown}  (of images at random: {document['similarity']['mean_by_chance']:.3f})")
    outside = " --data.source.allow_outside true" if is_outside else ""
    return "\n".join(
        [*lines, f"Manifest: {folder / MANIFEST}  (--data.source ManifestSource --data.source.path {folder / MANIFEST}{outside})"]
    )


def main(args: Sequence[str] | None = None) -> Path:
    """Run the command; gives the output folder."""
    logging.basicConfig(level=logging.INFO if is_main_process() else logging.WARNING, format="%(message)s", stream=sys.stderr)
    end_with_launcher()
    built = parser()
    parsed = built.parse_args(args)
    try:
        options = built.instantiate(parsed)
    except ValueError as error:
        raise RunError(str(error)) from error
    folder, cache_dir = Path(options.output), Path(options.data.cache_dir)
    if not -1 <= options.min_similarity <= 1 or options.memory_limit < 1:
        msg = f"--min_similarity {options.min_similarity} is from -1 to 1, --memory_limit {options.memory_limit} is 1 or more"
        raise RunError(msg)
    if (folder / MANIFEST).exists():
        msg = f"{folder / MANIFEST} exists: choose another --output, or delete it"
        raise RunError(msg)
    extractor = encoder_of(options)
    left_out: list[Failure] = []
    fakes = read_images(options.fakes, FAKE, options.fakes_only, options.allow_outside, cache_dir, left_out)
    pool = read_images(options.pool, REAL, options.pool_only, options.allow_outside, cache_dir, left_out)
    if is_main_process():
        hold(folder)
    found = match(
        fakes,
        pool,
        extractor,
        cache_dir,
        {key: options.trainer[key] for key in HARDWARE},
        options.min_similarity,
        options.memory_limit,
        feature=options.feature,
        extract_batch_size=options.data.extract_batch_size,
        extract_workers=options.data.extract_workers,
    )
    if not is_main_process():
        return folder
    found.left_out[:0] = left_out
    told = ("fakes", "pool", "fakes_only", "pool_only", "min_similarity", "memory_limit", "dataset", "split", "feature")
    settings = {name: options[name] for name in told} | {"encoder": extractor.settings()}
    split = None if options.split == "none" else options.split
    document = write_matching(found, folder, settings, options.dataset, split)
    root = f"{folder.absolute()}{os.sep}"
    is_outside = any(not os.path.abspath(str(image.path)).startswith(root) for one in found.matches for image in (one.fake, one.real))
    print(last_words(document, folder, is_outside))
    return folder


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
