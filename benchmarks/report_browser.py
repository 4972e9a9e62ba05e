"""Size of a report, how long it takes to write, to open and to filter in a browser.

python -m benchmarks.report_browser --images 10000 --folder /tmp/report

Needs Chromium and the development dependencies.
"""

import argparse
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from skimage import data as photographs

from evaluation.predictions import make_table
from evaluation.report import Pixels, browser, write_report
from evaluation.statistics import metrics_document
from modules.metrics.functional import Threshold

_SIDE = 256
_PHOTOGRAPHS = ("astronaut", "cat", "chelsea", "coffee", "rocket")
_OPENED = "() => { const end = performance.getEntriesByType('navigation')[0]; return end.domContentLoadedEventEnd - end.startTime; }"
_TIMED = """(code) => { const start = performance.now(); (0, eval)(code); document.body.offsetHeight; return performance.now() - start; }"""
# What a reader does; each ends with the new tiles laid out.
_ACTIONS = {
    "filter: one generator": "change('source', 'set/fake3')",
    "filter: false alarms": "change('answer', 'alarm')",
    "filter: score range": "change('from', '0.5')",
    "filter: text": "change('text', '77')",
    "all perturbations": "change('perturbation', '')",
    "sort: score": "change('sort', 'high')",
    "sort: detectors disagree": "change('sort', 'apart')",
    "next page": "turn(1)",
    "an image with all scores": "look(0)",
}
_CHANGE = "window.change = (name, value) => { $('filters').elements[name].value = value; changed(); };"


def predictions(images: int, seed: int = 0) -> pd.DataFrame:
    """Two detectors × two perturbations of images of five generators and five sources of reals."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(images):
        label = number % 2
        one: dict[str, Any] = {"key": f"{number:032x}", "dataset": "set", "split": "test", "label": label}
        one |= {"generator": f"{'fake' if label else 'real'}{number // 2 % 5}", "path": f"set/{number:06d}.png", "group": str(number)}
        for detector in ("one", "two"):
            score = random.normal() + label
            for perturbation in ("none", "jpeg_40"):
                rows.append(one | {"detector": detector, "perturbation": perturbation, "score": score + 0.2 * random.normal()})
    return make_table(rows)


def views(photos: Sequence[Pixels], key: str) -> dict[str, Pixels]:
    """Four pictures of 256 pixels as an inversion gives: a crop of a photograph, noise, a coarser crop, their difference."""
    random = np.random.default_rng(int(key, 16))
    photo = photos[int(key, 16) % len(photos)]
    top, left = (int(random.integers(0, size - _SIDE + 1)) for size in photo.shape[:2])
    image = photo[top : top + _SIDE, left : left + _SIDE]
    coarse = np.ascontiguousarray(image[::4, ::4].repeat(4, 0).repeat(4, 1))
    noise = random.integers(0, 256, (_SIDE // 8, _SIDE // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    residual = np.abs(image.astype(np.int16) - coarse).astype(np.uint8)
    return {"image": image, "noise_map": noise, "reconstruction": coarse, "residual": residual}


def measure(path: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds to open the page, and of each action, once a round."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    found: dict[str, list[float]] = {}
    with sync_playwright() as player:
        window = player.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        for _ in range(rounds + 1):
            context = window.new_context(viewport={"width": 1300, "height": 900}, bypass_csp=True)
            page = context.new_page()
            start = time.perf_counter()
            page.goto(f"file://{path.resolve()}")
            page.locator(".tile").first.wait_for()
            shown = 1000 * (time.perf_counter() - start)
            found.setdefault("open: page read and laid out", []).append(page.evaluate(_OPENED))
            found.setdefault("open: first images seen", []).append(shown)
            page.evaluate(f"() => {{ {_CHANGE} }}")
            for name, code in _ACTIONS.items():
                page.evaluate("() => { if ($('viewer').open) $('viewer').close(); setControls(standard); changed(); }")
                found.setdefault(name, []).append(page.evaluate(_TIMED, code))
            context.close()
        window.close()
    return {name: times[1:] for name, times in found.items()}  # the first round warms the disk


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    built = argparse.ArgumentParser("python -m benchmarks.report_browser", description=__doc__)
    built.add_argument("--images", type=int, default=10_000)
    built.add_argument("--rounds", type=int, default=5)
    built.add_argument("--folder", type=Path, required=True, help="where the report is written")
    options = built.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    photos = [np.asarray(getattr(photographs, name)(), dtype=np.uint8)[..., :3] for name in _PHOTOGRAPHS]
    photos = [photo for photo in photos if min(photo.shape[:2]) >= _SIDE]
    frame = predictions(options.images)
    threshold = Threshold(1.0, 0.05, 100)
    metrics = metrics_document(frame, {"one": threshold, "two": threshold}, resamples=20)
    start = time.perf_counter()
    shown = browser(frame, {"one": 1.0, "two": 1.0}, lambda key, _: views(photos, key))
    made = time.perf_counter()
    path = write_report(options.folder, frame, metrics, lambda key, _: views(photos, key), "benchmark", images=shown)
    written = time.perf_counter()
    sizes = {"scores and names": len(shown.data), "thumbnails": sum(map(len, shown.thumbnails)), "pictures": sum(map(len, shown.pictures))}
    print(f"{options.images:,} images × 2 detectors × 2 perturbations; report.html: {path.stat().st_size / 1e6:.1f} MB")
    print("of it: " + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items()))
    print(f"browser's data made in {made - start:.1f} s, the rest with figures in {written - made:.1f} s")
    for name, times in measure(path, options.rounds).items():
        print(f"{name:30} {statistics.median(times):8.0f} ms ({min(times):.0f} to {max(times):.0f})")


if __name__ == "__main__":
    main()
