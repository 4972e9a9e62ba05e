"""A report whose page is opened in a browser, and what is on it by pandas alone."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from evaluation.predictions import make_table
from evaluation.report import browser, write_report
from evaluation.statistics import metrics_document
from modules.metrics.functional import Threshold

HOSTILE = "<script>alert(1)</script>"
IMAGE = "\"><img src=x onerror='alert(1)'>.png"
LONG = "a-generator-whose-name-goes-on-" + "and-on-" * 20
PROBE, OTHER = "probe", 'the "other" & <b>x</b>'
VIEWS = ("image", "noise_map", "reconstruction", "residual")
PERTURBATIONS = ("none", "jpeg_40")
TIED = 0.5  # the threshold; scores are equal to it, and so near that a page rounds them to it
THRESHOLDS = {PROBE: Threshold(TIED, 0.05, 99), OTHER: Threshold(None, None, 0, "nothing was fitted")}
SOURCES = [  # data set, generator, label, split, images
    ("faces", "ffhq", 0, "test", 55),
    ("faces", "ffhq", 0, "val", 20),
    ("faces", "sd", 1, "test", 40),
    ("faces", "sd", 1, "val", 10),
    ("faces", HOSTILE, 1, "test", 20),
    ("scenes", "photos", 0, "test", 30),
    ("scenes", "sd", 1, "test", 20),
    ("scenes", LONG, 1, "test", 10),
]
PATHS = ("caf\udce9.png", IMAGE, f"{LONG * 3}.png")  # of the images that the probe gets most wrong
MEGABYTES = 0.02


def key_of(*parts):
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:32]


FAILING = key_of("faces", "sd", "test", 3)  # has no picture


def images():
    """A row an image; two data sets share one."""
    found = []
    for dataset, generator, label, split, count in SOURCES:
        for i in range(count):
            shared = i == 0 and label == 0 and split == "test"
            key = key_of("shared") if shared else key_of(dataset, generator, split, i)
            group = f"{dataset}-{generator[:4]}-{split}-{i // 3}" if i % 4 else ""
            found.append(
                {"key": key, "path": f"{dataset}/{split}/IMG_{i:03d}.png", "dataset": dataset, "generator": generator, "label": label}
            )
            found[-1] |= {"split": split, "group": group, "family": "real" if label == 0 else "diffusion"}
    return found


def table():
    """All rows: some images without a score, some not scored under a perturbation, some with scores at or very near the threshold."""
    rng = np.random.default_rng(0)
    rows = []
    for number, image in enumerate(images()):
        near = {7: TIED, 8: np.nextafter(TIED, 1), 9: np.nextafter(TIED, 0)}.get(number % 10 if number % 30 < 10 else -1)
        for detector in (PROBE, OTHER):
            for perturbation in PERTURBATIONS:
                score = float(rng.normal() + 1.5 * image["label"]) * (1 if detector == PROBE else 20)
                if perturbation != "none" and number % 7 == 3:
                    continue
                if detector == PROBE:
                    score = near if near is not None else score
                if number % 23 == 5 and detector == PROBE:
                    score = None
                if image["key"] == FAILING and detector == PROBE:
                    score = -5.0  # so that it has a card
                told = {"detector": detector, "perturbation": perturbation, "score": score}
                likely = None if score is None or detector == OTHER else float(1 / (1 + np.exp(-score)))
                rows.append(image | told | {"probability": likely})
    frame = make_table(rows).sample(frac=1, random_state=1, ignore_index=True)  # its order must not matter
    frame["path"] = frame["path"].astype(object)
    for path, key in zip(PATHS, _missed(frame), strict=True):
        frame.loc[frame["key"] == key, "path"] = path
    return frame


def _missed(frame):
    """Keys of the fakes that the probe finds most real."""
    rows = frame[(frame["detector"] == PROBE) & (frame["perturbation"] == "none") & (frame["label"] == 1) & (frame["split"] == "test")]
    return rows.nsmallest(len(PATHS), "score")["key"]


def colour(key, perturbation, view):
    """The colour of a picture."""
    digest = hashlib.sha256(f"{key}{perturbation}{view}".encode()).digest()
    return tuple(40 + 175 * value // 255 for value in digest[:3])


def load(key, perturbation):
    """One picture of images of even keys, four of odd ones."""
    if key == FAILING:
        raise OSError("<b>disk</b> on fire")
    views = VIEWS if int(key, 16) % 2 else VIEWS[:1]
    return {view: np.full((32, 32, 3), colour(key, perturbation, view), np.uint8) for view in views}


def write(folder):
    """The report of all this."""
    frame = table()
    measured = frame[frame["split"] == "test"]
    metrics = metrics_document(measured, THRESHOLDS, resamples=20)
    thresholds = {name: threshold.value for name, threshold in THRESHOLDS.items()}
    shown = browser(frame, thresholds, load, split="test", megabytes=MEGABYTES)
    facts = {"detector": PROBE, HOSTILE: HOSTILE, "file": LONG * 2}
    return write_report(folder, measured, metrics, load, f"A study of {HOSTILE}", facts, [f"Mind {HOSTILE} and `{IMAGE}`"], images=shown)


def write_large(folder, count):
    """A report with as many images in its browser; everything else is small."""
    frame = table()
    small = frame[(frame["detector"] == PROBE) & (frame["perturbation"] == "none")]
    rng = np.random.default_rng(0)
    rows = [
        {"key": f"{i:032x}", "path": f"{i}.png", "dataset": "many", "generator": "sd" if i % 2 else "ffhq", "label": i % 2}
        | {"split": "test", "detector": PROBE, "score": float(score)}
        for i, score in enumerate(rng.normal(size=count))
    ]
    picture = {"image": np.full((8, 8, 3), 99, np.uint8)}
    shown = browser(make_table(rows), {PROBE: TIED}, lambda key, perturbation: picture, split="test", megabytes=MEGABYTES)
    metrics = metrics_document(small, THRESHOLDS[PROBE], resamples=5)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("evaluation.figures.svg", lambda *_, **__: b"<svg/>")
        return write_report(folder, small, metrics, None, images=shown)


def known():
    """A row an image and perturbation in the page's order, with `score`, `answer`, `rank` and so on of each detector by its name."""
    frame = table()
    by = ["dataset", "key", "perturbation"]
    rows = frame.drop_duplicates(by).drop(columns=["score", "probability", "detector"])
    rows["source"] = rows["dataset"] + "/" + rows["generator"]
    rows["under"] = rows["perturbation"].map(PERTURBATIONS.index)
    rows["address"] = rows["dataset"] + "/" + rows["key"] + "@" + rows["perturbation"]
    rows = rows.sort_values(["dataset", "key", "under"], ignore_index=True)
    for name, threshold in THRESHOLDS.items():
        own = frame[frame["detector"] == name].set_index(by)
        index = pd.MultiIndex.from_frame(rows[by])
        rows[f"exact {name}"] = own["score"].reindex(index).to_numpy()
        rows[f"probability {name}"] = own["probability"].reindex(index).to_numpy()
        scores = rows[f"exact {name}"]
        rows[f"score {name}"] = [float(f"{score:.7g}") for score in scores]  # as a page holds it
        called = np.where(scores.isna() | (threshold.value is None), -1, scores > (threshold.value or 0))
        names = np.where(called == rows["label"], "right", np.where(rows["label"] == 1, "missed", "false alarm"))
        rows[f"answer {name}"] = np.where(called == -1, "", names)
        order = rows.groupby("perturbation")[f"score {name}"]
        rows[f"rank {name}"] = (order.rank(method="average") - 1) / (order.transform("count") - 1)
    return rows[rows[[f"exact {name}" for name in THRESHOLDS]].notna().any(axis=1)].reset_index(drop=True)


def ordered(rows, sort="mistakes", detector=PROBE):
    """Rows in an order of the page: what has no value last, and equals by generator, key and perturbation."""
    score, threshold = rows[f"score {detector}"], THRESHOLDS[detector].value or 0
    if sort == "apart":
        ranks = rows[[f"rank {name}" for name in THRESHOLDS]]
        value = (ranks.min(axis=1) - ranks.max(axis=1)).where(ranks.notna().all(axis=1))
    else:
        wrong = (score - threshold).where(rows["label"] == 1, threshold - score)
        value = {"mistakes": wrong, "high": -score, "low": score, "source": score * 0}[sort]
        value = value.fillna(0) if sort == "source" else value
    return rows.assign(value=value).sort_values(["value", "source", "dataset", "key", "under"], na_position="last", kind="stable")
