"""Adapt a trained head to a new generator by a few of its images: a new checkpoint, and what was won and what was forgotten.

python adapt.py --checkpoint runs/NAME/checkpoints/best.ckpt --images new_generator
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cli import RunError, has_results, hold
from modules.errors import UserError

log = logging.getLogger("undertow")

EPILOGUE = """\
The head goes on learning from the images that it was trained on and, repeated, from the new ones (an SVM is fitted anew to both). Features
are cached: it takes seconds an epoch. The threshold is set anew on the validation reals of the run.

What was won is measured on new images that the head did not learn from: those of --test, or fold by fold, each part of --images by a head
that learnt from the other parts. What was forgotten is measured on the test images of the run. The new checkpoint has learnt from all of
--images.
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    built = argparse.ArgumentParser(description=__doc__, epilog=EPILOGUE, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = built.add_argument
    add("--checkpoint", type=Path, required=True, help="trained head on cached vectors: a checkpoint that train.py wrote")
    add("--images", type=Path, required=True, metavar="FOLDER", help="images of the new generator; 16 are a start")
    add("--reals", type=Path, metavar="FOLDER", help="real images of the same kind of content, to learn from as well; about as many")
    add("--test", type=Path, metavar="FOLDER", help="further images of it, for the test alone; folds of --images by default")
    add("--generator", help="its name; the folder's by default")
    add("--dataset", help="name of the new images' data set; new-GENERATOR by default")
    add("--family", help="its family; what the family map says by default")
    add("--config", type=Path, help="configuration of the run; by default the config.yaml beside the checkpoint's folder")
    add("--folds", type=int, default=4, help="parts of --images where there is no --test (default: %(default)s)")
    add("--share", type=float, default=0.2, help="share of the new images among the training samples (default: %(default)s)")
    add("--epochs", type=int, default=20, help="epochs of fine-tuning (default: %(default)s)")
    add(
        "--reals_from",
        metavar="DATASET",
        help="data set whose real images the new ones are measured against; by default --reals, or the set with most",
    )
    add("--set", action="append", default=[], metavar="OPTION=VALUE", help="further option of train.py; may come several times")
    add("--name", help="name of the run directory; by default the checkpoint's run and the generator")
    add("--runs_dir", type=Path, default=Path("runs"), help="directory of all run directories (default: %(default)s)")
    add("--cache_dir", help="feature cache; that of the run by default")
    add("--accelerator", default="auto", help="where the features are extracted and the heads scored (default: %(default)s)")
    add("--resume", action="store_true", help="go on with a directory; heads that are fitted already are kept")
    return built


def overrides_of(options: list[str]) -> dict[str, str]:
    """`OPTION=VALUE` texts as a mapping.

    Raises:
        RunError: One has no `=`.
    """
    if wrong := [option for option in options if "=" not in option]:
        msg = f"--set {wrong[0]}: write OPTION=VALUE, with an option of train.py, for example model.optimizer.init_args.lr=0.0003"
        raise RunError(msg)
    return dict(option.split("=", 1) for option in options)


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded.

    Raises:
        RunError: With what is wrong.
    """
    config = options.config or options.checkpoint.resolve().parent.parent / "config.yaml"
    for option, path in (("--checkpoint", options.checkpoint), ("--config", config)):
        if not path.is_file():
            msg = f"{option}: there is no file {path}; the images that the head was trained on are named there" * (option == "--config")
            raise RunError(msg or f"--checkpoint: there is no file {path}; name a checkpoint under runs/NAME/checkpoints")
    for option in ("images", "reals", "test"):
        folder = getattr(options, option)
        if folder is not None and not folder.is_dir():
            msg = f"--{option}: there is no folder {folder}"
            raise RunError(msg)
    for option, fine, rule in (
        ("folds", options.folds >= 2, "2 or more"),
        ("share", 0 < options.share < 1, "between 0 and 1"),
        ("epochs", options.epochs >= 1, "1 or more"),
    ):
        if not fine:
            msg = f"--{option} is {getattr(options, option)}: it must be {rule}"
            raise RunError(msg)


def main(args: Sequence[str] | None = None) -> Path:
    """Run the command; gives the run directory."""
    options = parser().parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    check(options)
    generator = options.generator or options.images.resolve().name
    run = options.checkpoint.resolve().parent.parent
    folder = options.runs_dir / (options.name or f"{run.name}-{generator}")
    if has_results(folder) and not options.resume:
        msg = f"{folder} holds results already; choose another --name, or --resume to keep the heads that are fitted"
        raise RunError(msg)
    hold(folder)
    from workflow import adaptation

    job = adaptation.Adaptation(
        checkpoint=options.checkpoint,
        config=options.config or run / "config.yaml",
        images=options.images,
        reals=options.reals,
        tested=options.test,
        generator=generator,
        dataset=options.dataset or f"new-{generator}",
        family=options.family,
        folds=options.folds,
        share=options.share,
        epochs=options.epochs,
        folder=folder,
        cache_dir=options.cache_dir,
        overrides=overrides_of(options.set),
    )
    print(adaptation.adapt(job, options.reals_from, {"accelerator": options.accelerator, "devices": 1}))
    return folder


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
