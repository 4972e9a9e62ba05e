"""Which images a spectrum is of, at which side, against which reals, and what is said of those that are left out."""

import numpy as np
import pandas as pd
import pytest

from evaluation.periodograms import periodogram, residual, whole
from evaluation.predictions import make_table
from evaluation.spectra import COLUMNS, choose, spectra, write_peaks
from tests.evaluation.rows import some_rows


def table(*groups):
    """Rows of `(dataset, generator, label, n)`."""
    return make_table([row for group in groups for row in some_rows(*group)])


def loader(frame, side=32, sides=None, wave=0.0):
    """Noise by key; fakes with a wave of a period of four pixels across, images of the generators in `sides` with sides of their own."""
    known = frame.drop_duplicates("key").set_index("key")

    def load(key):
        row = known.loc[key]
        size = (sides or {}).get(row["generator"], side)
        made = np.random.default_rng(int(key[:8], 16)).normal(128, 20, (size, size, 1))
        made += row["label"] * wave * np.cos(np.pi / 2 * np.arange(size))[None, :, None]
        return np.repeat(np.clip(made, 0, 255).astype(np.uint8), 3, axis=2)

    return load


def by_name(found):
    return {group.name: group for group in found.groups}


def test_the_average_is_that_of_the_residuals_and_the_generators_peak_is_found():
    frame = table(("a", "real", 0, 30), ("a", "gan", 1, 30))
    load = loader(frame, 64, wave=15)
    found = spectra(frame, load)
    assert [(group.name, group.label, group.images, group.side) for group in found.groups] == [("a/real", 0, 30, 64), ("a/gan", 1, 30, 64)]
    fakes = found.groups[1]
    keys = frame[frame["label"] == 1]["key"]
    wanted = np.mean([whole(periodogram(residual(load(key)))) for key in keys], axis=0)
    np.testing.assert_allclose(fakes.power, np.fft.fftshift(wanted / wanted.mean()), rtol=1e-9)
    assert [(peak.fx, peak.fy) for peak in fakes.own_peaks][:1] == [(0.25, 0)]
    assert not found.groups[0].own_peaks
    assert fakes.decibels.shape == (64, 64)
    assert fakes.profile.shape == (33,)


def test_images_are_chosen_by_key_and_seed_each_once():
    frame = table(("a", "real", 0, 50), ("a", "gan", 1, 20))
    more = pd.concat([frame.sample(frac=1, random_state=0), frame.assign(detector="other"), frame.assign(perturbation="jpeg_40")])
    one = choose(frame, 30, 0)
    assert one == choose(more, 30, 0)
    assert {group: len(keys) for group, keys in one.items()} == {("a", 0, "real"): 30, ("a", 1, "gan"): 20}
    assert set(one["a", 0, "real"]) != set(choose(frame, 30, 1)["a", 0, "real"])
    assert one["a", 0, "real"][:10] == choose(frame, 10, 0)["a", 0, "real"]
    seen = []
    load = loader(frame)
    found = spectra(more, lambda key: (seen.append(key), load(key))[1], images=30)
    assert sorted(seen) == sorted(key for keys in one.values() for key in keys)
    assert found.most == 30


def test_the_side_fits_nine_in_ten_and_the_small_are_counted():
    frame = table(("a", "real", 0, 40), ("a", "gan", 1, 55), ("a", "tiny", 1, 5), ("b", "real", 0, 5), ("b", "gan", 1, 5))
    found = by_name(spectra(frame, loader(frame, 70, {"tiny": 40})))
    assert found["a/gan"].side == 64
    assert (found["a/tiny"].side, found["a/tiny"].images, found["a/tiny"].too_small) == (None, 0, 5)
    assert "smaller than 64 × 64" in found["a/tiny"].reason
    assert found["b/gan"].side == 64
    # Reals are few, but nothing could be compared without them.
    frame = table(("a", "real", 0, 5), ("a", "gan", 1, 95))
    found = by_name(spectra(frame, loader(frame, 70, {"real": 40})))
    assert found["a/gan"].side == found["a/real"].side == 32
    small = by_name(spectra(frame, loader(frame, 31)))
    assert {group.side for group in small.values()} == {None}
    assert "smaller than 32 × 32" in small["a/gan"].reason


def test_data_sets_that_share_their_reals_share_the_side():
    frame = table(("a", "photos", 0, 30), ("b", "gan", 1, 30))
    load = loader(frame, 70, {"photos": 40}, wave=15)
    alone, shared = by_name(spectra(frame, load)), by_name(spectra(frame, load, {"b": "a"}))
    assert (alone["b/gan"].side, alone["a/photos"].side) == (64, 32)
    assert {peak.reals for peak in alone["b/gan"].peaks} == {None}
    assert (shared["b/gan"].side, shared["a/photos"].side) == (32, 32)
    assert shared["b/gan"].own_peaks


def test_all_sources_of_reals_are_compared_with():
    frame = table(("a", "one", 0, 6), ("a", "two", 0, 6), ("a", "gan", 1, 20))
    found = by_name(spectra(frame, loader(frame, wave=20)))
    assert found["a/gan"].own_peaks  # neither source has ten


def test_what_cannot_be_loaded_is_counted_with_its_reason():
    frame = table(("a", "real", 0, 20), ("a", "gan", 1, 12), ("a", "gone", 1, 3))
    load, known = loader(frame), frame.set_index("key")["generator"]
    broken = set(frame[frame["generator"] == "gan"]["key"][:2])
    grey = set(frame[frame["generator"] == "real"]["key"][:1])

    def failing(key):
        if key in broken or known[key] == "gone":
            message = "disk on fire"
            raise OSError(message)
        return load(key)[..., 0] if key in grey else load(key)

    found = by_name(spectra(frame, failing))
    assert (found["a/gan"].images, found["a/gan"].failures) == (10, {"OSError: disk on fire": 2})
    assert found["a/real"].failures == {"no picture of uint8 [H, W, 3], but uint8 [32, 32]": 1}
    assert (found["a/gone"].side, found["a/gone"].reason, found["a/gone"].failed) == (None, "no image could be loaded", 3)


def test_flat_images_have_no_spectrum():
    frame = table(("a", "real", 0, 12), ("a", "gan", 1, 12))
    found = spectra(frame, lambda key: np.full((40, 40, 3), 9, np.uint8))
    assert not found.shown
    assert {group.reason for group in found.groups} == {"its images have no noise at all"}


def test_progress_sees_every_key():
    frame = table(("a", "gan", 1, 20))
    seen = []
    spectra(frame, loader(frame), progress=lambda keys: (seen.append(key) or key for key in keys))
    assert sorted(seen) == sorted(frame["key"])
    assert spectra(frame.head(0), loader(frame)).groups == []


def test_peaks_are_written(tmp_path):
    frame = table(("a", "real", 0, 30), ("a", "gan", 1, 30), ("b", "alone", 1, 30))
    load = loader(frame, wave=15)
    lost = set(frame[frame["dataset"] == "b"]["key"])
    found = spectra(frame, lambda key: load(key) if key not in lost else None)
    path = write_peaks(tmp_path / "tables", found)
    assert path.name == "spectrum_peaks.csv"
    read = pd.read_csv(path)
    assert tuple(read.columns) == COLUMNS
    rows = read[read["generator"] == "gan"]
    assert len(rows) == len(by_name(found)["a/gan"].peaks)
    assert rows["height_db"].tolist() == pytest.approx([peak.height for peak in by_name(found)["a/gan"].peaks])
    assert rows[rows["own"].astype(bool)].iloc[0][["fx", "fy"]].tolist() == [0.25, 0]
    assert read[read["label"] == 0]["own"].isna().all()
    [alone] = read[read["dataset"] == "b"].to_dict("records")
    assert alone["reason"] == "no image could be loaded"
    assert alone["failed"] == 30
