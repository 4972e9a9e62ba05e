"""The worst mistakes of a detector with what it saw, and pictures small enough to stand in a page."""

import base64
import io
import warnings as python_warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from evaluation.report.fragments import images_of
from evaluation.report.parts import Card, Gallery, Part, View
from evaluation.report.verdict import percent

Pixels = NDArray[np.uint8]
Load = Callable[[str, str], Mapping[str, Pixels]]
"""From a key and a perturbation to the pictures that the detectors saw, each uint8 `[H, W, 3]`, by name."""

MISTAKES = 6  # of each kind
THUMBNAIL = 256  # longest side of an embedded picture, in pixels
SQUARES = 128  # up to this side a picture is shown with its pixels as squares
_WRONG = {1: "missed", 0: "false alarm"}
_HEADINGS = {1: "Fakes that look most real to it", 0: "Real images that look most fake to it"}


def mistakes_part(
    frame: pd.DataFrame,
    threshold: float | None,
    load: Load | None,
    detector: str = "",
    shown: Collection[tuple[str, str]] = (),
) -> Part:
    """The worst mistakes of both kinds with their pictures, and how many there are.

    Args:
        frame: Rows of one detector under one perturbation.
        threshold: Scores greater than this are called fake; None where there is none.
        load: From a key and a perturbation to what the detector saw; where it fails the card says so. None for no pictures at all.
        detector: Its name in the image browser.
        shown: Data set and key of each image that the browser holds: the cards of others lead nowhere.
    """
    galleries = []
    for label, heading in _HEADINGS.items():
        rows = _ranked(frame, label)
        total = None if threshold is None else int(_is_wrong(rows, threshold).sum())
        share = "" if total is None or rows.empty else f"{total:,} of {len(rows):,} ({percent(total / len(rows))})"
        worst = worst_mistakes(frame, threshold, label).to_dict("records")
        cards = [
            _card({str(name): value for name, value in row.items()}, load, detector if (row["dataset"], row["key"]) in shown else None)
            for row in worst
        ]
        galleries.append(Gallery(heading, f"On the wrong side of the threshold: {share}." if share else "", cards))
    return Part("Worst mistakes", galleries=galleries)


def worst_mistakes(frame: pd.DataFrame, threshold: float | None, label: int, count: int = MISTAKES) -> pd.DataFrame:
    """The fakes that look most real to a detector, or the reals that look most fake, the worst first.

    Args:
        frame: Rows of one detector.
        threshold: Scores greater than this are called fake; None where there is none.
        label: 1 for fakes, 0 for reals.
        count: How many rows at most.

    Returns:
        Rows of `frame`, and in `verdict` whether each is `missed`, a `false alarm` or `right`; None without a threshold.
    """
    rows = _ranked(frame, label).head(count)
    wrong = _is_wrong(rows, threshold)
    named = [None if threshold is None else _WRONG[label] if each else "right" for each in wrong]
    return rows.assign(verdict=pd.Series(named, index=rows.index, dtype=object))


def _ranked(frame: pd.DataFrame, label: int) -> pd.DataFrame:
    """The scored images of a class, each once, from the one that looks most like the other class."""
    scored = frame[frame["score"].notna()].drop_duplicates("key")
    return scored[scored["label"] == label].sort_values(["score", "key"], ascending=[label == 1, True])


def _is_wrong(rows: pd.DataFrame, threshold: float | None) -> "pd.Series[bool]":
    return (rows["score"] > (np.nan if threshold is None else threshold)) != rows["label"].astype(bool)


def _card(row: Mapping[str, Any], load: Load | None, link_to: str | None) -> Card:
    source = f"{row['dataset']}/{row['generator']}"
    kind = "fake" if row["label"] else "real"
    problem, views = None, []
    try:
        for name, pixels in ({} if load is None else load(row["key"], row["perturbation"])).items():
            shown = name.replace("_", " ")
            bright = ", 4 times as bright" if name == "residual" else ""  # by the style sheet
            alt = f"{shown} of {kind} image {row['key'][:12]} from {source}, score {row['score']:.4g}{bright}"
            views.append(View(shown, alt, _picture(pixels), max(pixels.shape[:2]) <= SQUARES))
    except Exception as error:  # a picture that is not there must not cost the report of a whole run
        problem = f"{type(error).__name__}: {error}"
        python_warnings.warn(f"no pictures of {row['key']} in the report: {problem}", stacklevel=2)
    where = row["path"] if isinstance(row["path"], str) else row["key"]
    image = f"{row['dataset']}/{row['key']}@{row['perturbation']}"
    href = "" if link_to is None else images_of(detector=link_to, image=image)
    return Card(f"{row['score']:.4g}", source, where, row["verdict"], views, problem, href)


def thumbnail(pixels: Pixels, side: int = THUMBNAIL) -> Image.Image:
    """A picture, uint8 `[H, W, 3]`, at most `side` pixels wide and high.

    Raises:
        ValueError: It is of another type or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        message = f"a picture is uint8 [H, W, 3]; got {pixels.dtype} {list(pixels.shape)}"
        raise ValueError(message)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _picture(pixels: Pixels) -> str:
    """A picture's thumbnail as a data URI: without loss where it is small, for its traces may be what a reader looks for."""
    image = thumbnail(pixels)
    buffer = io.BytesIO()
    lossless = max(image.size) <= SQUARES
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=90, subsampling=0)
    kind = "image/png" if lossless else "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
