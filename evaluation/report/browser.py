"""The data of the report's image browser: images, scores and small pictures, as JSON that `page/browser.js` reads when it needs it."""

import base64
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from tqdm import tqdm

from evaluation.options import ReportOptions
from evaluation.report.fragments import images_of
from evaluation.report.mistakes import Load, Pixels, thumbnail
from evaluation.statistics import CLEAN

log = logging.getLogger("undertow")

CHUNK = 200  # pictures that are decoded together, when the first of them is shown
FEW = 2_000  # up to so many images have large thumbnails
_LARGE, _SMALL = 128, 72  # longest side of a thumbnail, in pixels
_PICTURE = 192  # of a picture that a click shows
_QUALITY = {_LARGE: 72, _SMALL: 66, _PICTURE: 82}
_DIGITS = 7  # of a score: more than a float32 holds
_IMAGE = ["dataset", "key"]


@dataclass(frozen=True)
class Browser:
    """What the page holds of the images.

    Attributes:
        data: Everything but pictures, as JSON.
        thumbnails: A small picture an image, `CHUNK` to a JSON list; null where there is none.
        pictures: What the detectors saw, by image and perturbation, `CHUNK` to a JSON object.
        notes: What is not there, and why.
        links: Views that a reader may want first, each with its fragment.
        shown: Data set and key of each image that it holds.
    """

    data: Markup
    thumbnails: Sequence[Markup] = field(default_factory=tuple)
    pictures: Sequence[Markup] = field(default_factory=tuple)
    notes: Sequence[str] = field(default_factory=tuple)
    links: Mapping[str, str] = field(default_factory=dict)
    shown: frozenset[tuple[str, str]] = frozenset()


def browser(
    frame: pd.DataFrame,
    thresholds: Mapping[str, float | None],
    load: Load,
    *,
    split: str | None = None,
    images: int = ReportOptions.images,
    megabytes: float = ReportOptions.megabytes,
    seed: int = 0,
) -> Browser:
    """The images of all rows with every detector's score.

    Args:
        frame: The predictions, of any splits, detectors and perturbations.
        thresholds: Of each detector; scores greater than this are called fake.
        load: From a key and a perturbation to what the detectors saw. Where it fails the browser says so.
        split: The split that was measured, which is shown first; None where all were.
        images: How many images at most; of more, half are those that the detectors get most wrong, half are drawn by chance.
        megabytes: Bytes of pictures that a click shows, in 10⁶ and before their encoding as text, in the order of that choice, of all
            images under the first perturbation before any under the next. Thumbnails do not count.
        seed: Of what is drawn by chance.
    """
    table = frame.assign(split=frame["split"].fillna(""))
    order = ranked(table, seed)
    if split is not None:  # what was measured comes first: the page opens with it, and its tables lead there
        measured = set(map(tuple, table.loc[table["split"] == split, _IMAGE].drop_duplicates().to_numpy().tolist()))
        order.sort(key=lambda image: image not in measured)
    notes = []
    if len(order) > images:
        notes.append(
            f"The browser holds {images:,} of {len(order):,} images: those that the detectors get most wrong, and as many by chance. All "
            "are in predictions.parquet."
        )
        order = order[:images]
    shown = sorted(order)
    table = table[pd.MultiIndex.from_frame(table[_IMAGE]).isin(shown)]
    perturbations = sorted(table["perturbation"].unique(), key=lambda name: (name != CLEAN, name))
    data = _columns(table, shown, perturbations) | _scores(table, thresholds, shown, perturbations) | {"split": split}
    where = {image: number for number, image in enumerate(shown)}
    seen = set(zip(table["dataset"], table["key"], table["perturbation"], strict=True))
    thumbs, problems = _thumbnails(shown, perturbations, seen, load)
    wanted = [(where[image], place) for place, name in enumerate(perturbations) for image in order if (*image, name) in seen]
    pictures, is_full = _pictures(wanted, shown, perturbations, load, megabytes)
    if problems:
        reason, count = problems.most_common(1)[0]
        notes.append(f"There is no picture of {sum(problems.values()):,} images; of {count:,} because: {reason}.")
    if is_full:
        notes.append(
            f"A click shows what the detectors saw of {len(pictures):,} of {len(wanted):,} images and perturbations, of the others the "
            f"thumbnail: --report.megabytes allows {megabytes:g} MB of such pictures."
        )
    data["pictures"] = {f"{number}@{place}": index // CHUNK for index, (number, place) in enumerate(pictures)}
    named = [(f"{number}@{place}", views) for (number, place), views in pictures.items()]
    chunks = [_json(dict(named[start : start + CHUNK])) for start in range(0, len(named), CHUNK)]
    data["chunk"] = CHUNK
    small = [_json(thumbs[start : start + CHUNK]) for start in range(0, len(thumbs), CHUNK)]
    return Browser(_json(data), small, chunks, notes, _links(thresholds), frozenset(shown))


def _links(thresholds: Mapping[str, float | None]) -> dict[str, str]:
    names = list(thresholds)
    links = {f"Worst mistakes of {name}" if len(names) > 1 else "Look at the worst mistakes": images_of(detector=name) for name in names}
    if len(names) > 1:
        links["Where the detectors disagree most"] = images_of(sort="apart")
    return links


def ranked(table: pd.DataFrame, seed: int) -> list[tuple[str, str]]:
    """The images `(dataset, key)` in the order in which they are worth room.

    In turn one that some detector gets most wrong, by its rank among its source's images, and one by chance.
    """
    images = table.drop_duplicates(_IMAGE).sort_values(_IMAGE)[_IMAGE].apply(tuple, axis=1).tolist()
    first = table.sort_values("perturbation", key=lambda names: (names != CLEAN).astype(int), kind="stable")
    scored = first[first["score"].notna()].drop_duplicates([*_IMAGE, "detector"])
    toward = scored["score"].where(scored["label"] == 1, -scored["score"])
    rank = toward.groupby([scored["detector"], scored["dataset"], scored["generator"]]).rank(method="first")
    worst = scored.assign(rank=rank).groupby(_IMAGE)["rank"].min()
    by_mistake = [image for image, _ in sorted(worst.items(), key=lambda item: (item[1], item[0]))]
    by_chance = [images[number] for number in np.random.default_rng(seed).permutation(len(images))]
    pairs = zip(by_mistake + by_chance[len(by_mistake) :], by_chance, strict=False)
    return list(dict.fromkeys(image for pair in pairs for image in pair))


def _columns(table: pd.DataFrame, shown: Sequence[tuple[str, str]], perturbations: Sequence[str]) -> dict[str, Any]:
    """What is known of each image, as codes into lists of names."""
    each = table.drop_duplicates(_IMAGE).set_index(_IMAGE).loc[list(shown)].reset_index()
    each["source"] = each["dataset"] + "/" + each["generator"]
    images: dict[str, Any] = {"key": each["key"].tolist(), "label": each["label"].tolist()}
    images["path"] = [path if isinstance(path, str) else "" for path in each["path"]]
    names: dict[str, list[str]] = {}
    for column in ("dataset", "source", "split", "group", "family"):
        codes, found = pd.factorize(each[column].fillna(""), sort=True)
        images[column], names[column] = codes.tolist(), found.tolist()
    return {"images": images, "names": names, "perturbations": list(perturbations)}


def _scores(
    table: pd.DataFrame, thresholds: Mapping[str, float | None], shown: Sequence[tuple[str, str]], perturbations: Sequence[str]
) -> dict[str, Any]:
    """Scores, probabilities and answers, `[detector][perturbation][image]`.

    Answers are worked out here, from the scores as they are: those in the page are rounded.
    """
    index = pd.MultiIndex.from_tuples(shown, names=_IMAGE)
    detectors, scores, probabilities, answers = [], [], [], []
    for name in dict.fromkeys(table["detector"]):
        rows = table[table["detector"] == name].drop_duplicates([*_IMAGE, "perturbation"])
        by = {each: part.set_index(_IMAGE).reindex(index) for each, part in rows.groupby("perturbation")}
        empty = pd.DataFrame({"score": np.nan, "probability": np.nan}, index=index)
        parts = [by.get(each, empty) for each in perturbations]
        threshold = thresholds.get(name)
        detectors.append({"name": name, "threshold": threshold})
        scores.append([_numbers(part["score"]) for part in parts])
        known = rows["probability"].notna().any()
        probabilities.append([_numbers(part["probability"]) for part in parts] if known else None)
        answers.append([_answers(part["score"], threshold) for part in parts])
    return {"detectors": detectors, "scores": scores, "probabilities": probabilities, "answers": answers}


def _numbers(values: "pd.Series[float]") -> list[float | None]:
    return [float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None for value in values.tolist()]


def _answers(scores: "pd.Series[float]", threshold: float | None) -> str:
    """A letter an image: `1` called fake, `0` called real, `-` neither."""
    if threshold is None:
        return "-" * len(scores)
    return "".join("-" if np.isnan(score) else "1" if score > threshold else "0" for score in scores.tolist())


def _thumbnails(
    shown: Sequence[tuple[str, str]], perturbations: Sequence[str], seen: set[tuple[str, str, str]], load: Load
) -> tuple[list[str | None], "Counter[str]"]:
    """A thumbnail an image, under the first perturbation that it was scored under, and reasons for those that are not there."""
    side = _LARGE if len(shown) <= FEW else _SMALL

    def make(image: tuple[str, str]) -> tuple[str | None, str]:
        perturbation = next(name for name in perturbations if (*image, name) in seen)
        try:
            views = load(image[1], perturbation)
            if not views:
                return None, "nothing was seen"
            return _encoded(views.get("image", next(iter(views.values()))), side), ""
        except Exception as error:  # a picture that is not there must not cost the report of a whole run
            return None, f"{type(error).__name__}: {error}"

    made = list(_in_threads(make, shown, "thumbnails"))
    return [text for text, _ in made], Counter(problem for _, problem in made if problem)


def _pictures(
    wanted: Sequence[tuple[int, int]], shown: Sequence[tuple[str, str]], perturbations: Sequence[str], load: Load, megabytes: float
) -> tuple[dict[tuple[int, int], dict[str, str]], bool]:
    """What the detectors saw, by image and perturbation, in order of `wanted` until the room is taken, and whether it was."""

    def make(row: tuple[int, int]) -> dict[str, str] | None:
        try:
            views = load(shown[row[0]][1], perturbations[row[1]])
            return {name: _encoded(pixels, _PICTURE) for name, pixels in views.items()}
        except Exception:  # told of the thumbnail
            return None

    room = megabytes * 1e6 * 4 / 3  # in base64
    found: dict[tuple[int, int], dict[str, str]] = {}
    step = 64
    for start in range(0, len(wanted), step):
        rows = wanted[start : start + step]
        for row, views in zip(rows, _in_threads(make, rows, None), strict=True):
            room -= sum(map(len, views.values())) if views else 0
            if room < 0:
                return found, True
            if views:
                found[row] = views
    return found, False


def _in_threads(make: Callable[[Any], Any], items: Sequence[Any], what: str | None) -> Iterator[Any]:
    """Pillow decodes, resizes and encodes without Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        made: Iterable[Any] = pool.map(make, items)
        yield from made if what is None else tqdm(made, what, len(items), leave=False, unit="image", disable=None, delay=3)


def _encoded(pixels: Pixels, side: int) -> str:
    buffer = io.BytesIO()
    thumbnail(pixels, side).save(buffer, "WEBP", quality=_QUALITY[side], method=4)
    return base64.b64encode(buffer.getvalue()).decode()


def _json(value: object) -> Markup:
    """JSON that may stand in a page: plain ASCII, no letter of which can end its element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
