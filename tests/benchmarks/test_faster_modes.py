"""The figures of the benchmark of faster inversions, on features of which the truth is known."""

import numpy as np
import pytest

from benchmarks import faster_modes
from benchmarks.faster_modes import Images, describe, distances, forwards, probe, shown


def features(seed: int, strength: np.ndarray) -> dict[str, np.ndarray]:
    """Images whose reconstruction is off by noise of the given strengths, `[N]`."""
    rng = np.random.default_rng(seed)
    image, noise_map = (rng.integers(60, 190, (len(strength), 3, 64, 64), dtype=np.uint8) for _ in range(2))
    off = rng.normal(size=image.shape) * strength[:, None, None, None]
    return {"image": image, "noise_map": noise_map, "reconstruction": (image + off).clip(0, 255).astype(np.uint8)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"steps": 4}, {"deep": 8, "shallow": 0}),
        ({"steps": 3, "solver": "dpm++"}, {"deep": 6, "shallow": 0}),
        ({"steps": 5, "reuse": 2}, {"deep": 6, "shallow": 4}),
    ],
)
def test_forwards_are_counted(monkeypatch, options, expected):
    monkeypatch.setitem(faster_modes.MODES, "short", options)
    assert forwards("short") == expected


def test_every_mode_but_the_exact_one_differs_from_it_in_one_thing():
    assert faster_modes.MODES[faster_modes.EXACT] == {"steps": 50}
    assert len({str(options | {"solver": options.get("solver", "ddim")}) for options in faster_modes.MODES.values()}) == 10


def test_distances_are_levels_and_decibels():
    exact = features(0, np.full(3, 2.0))
    same = distances(exact, exact)
    assert [same[name] for name in ("noise_map_mean", "noise_map_max", "reconstruction_mean", "reconstruction_max")] == [0] * 4
    moved = exact | {"noise_map": exact["noise_map"] + np.uint8(3), "reconstruction": exact["image"] - np.uint8(10)}
    found = distances(moved, exact)
    assert (found["noise_map_mean"], found["noise_map_max"]) == (3, 3)
    assert found["psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)


def test_the_probe_finds_what_is_there_and_nothing_else():
    labels, tested = np.arange(80) % 2, np.arange(80) >= 40
    told = probe(Images(features(1, 2.0 + labels), labels, tested))
    assert told["probe_auroc"] > 0.95
    assert told["probe_spread"] < 0.05
    nothing = probe(Images(features(1, np.full(80, 2.0)), labels, tested))
    assert 0.2 < nothing["probe_auroc"] < 0.8
    assert describe(features(1, np.full(4, 2.0))).shape == (4, 34)


def test_a_row_of_the_table():
    row = {
        **{"mode": "m", "deep": 4, "shallow": 6, "images_per_second": None, "psnr": 31.44, "probe_auroc": 0.9, "probe_resampled": 0.89},
        **{"probe_spread": 0.0123, "noise_map_mean": 1.234, "noise_map_max": 20.0, "reconstruction_mean": 0.5, "reconstruction_max": 9.0},
    }
    assert shown(row) == "| m | 4 + 6 |  | 1.23 / 20 | 0.50 / 9 | 31.4 | 0.900 | 0.890 ± 0.012 |  |"
    assert shown(row | {"network_auroc": [0.5, 0.75]}).endswith("| 0.500, 0.750 |")
