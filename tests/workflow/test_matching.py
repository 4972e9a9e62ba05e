"""Matching of fakes with a pool of reals: the assignment against brute force, the command on tiny pictures."""

import csv
import itertools
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cli import RunError
from datamodules.errors import DataError
from datamodules.records import Record
from datamodules.sources import ImagesSource, ManifestSource
from datamodules.splits import check_leaks
from modules.extractors import (
    ColourExtractor,
    EmbeddingExtractor,
    ImageExtractor,
    PerturbationSimilarity,
    Together,
    UNetEmbeddingExtractor,
)
from workflow.assignment import assign, greedy, optimal, similarities
from workflow.matching import check_other_encoder, encoder_of, main, pair_similarities, parser
from workflow.pairing import Match, manifest_rows

HARDWARE = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}


def units(n, dimension, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(similarity, least):
    """Greatest number of pairs, then greatest sum, over all ways to give each row a column of its own."""
    if similarity.shape[0] > similarity.shape[1]:
        similarity = similarity.T
    rows = range(similarity.shape[0])
    ways = (
        [s for s in (similarity[i, j] for i, j in zip(rows, way, strict=True)) if s >= least]
        for way in itertools.permutations(range(similarity.shape[1]), similarity.shape[0])
    )
    return max((len(way), sum(way)) for way in ways)


@pytest.mark.parametrize("least", [-1.0, 0.0, 0.3])
@pytest.mark.parametrize(("fakes", "pool"), [(4, 6), (6, 4), (5, 5), (1, 3)])
def test_optimal_is_brute_force(fakes, pool, least):
    for seed in range(8):
        similarity = similarities(units(fakes, 3, seed), units(pool, 3, 100 + seed))
        rows, columns = optimal(similarity.copy(), least)
        assert len(set(rows)) == len(set(columns)) == len(rows)
        found = similarity[rows, columns]
        assert (found >= least).all()
        count, total = brute_force(similarity, least)
        assert len(found) == count
        assert found.sum() == pytest.approx(total, abs=1e-9)


def by_sorting(similarity, least):
    """All pairs from the most similar one down."""
    order = sorted(itertools.product(*map(range, similarity.shape)), key=lambda place: -similarity[place])
    rows, columns, pairs = set(), set(), {}
    for row, column in order:
        if similarity[row, column] >= least and row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            pairs[row] = column
    return pairs


@pytest.mark.parametrize("memory", [1, 2000, 2**30])
@pytest.mark.parametrize("least", [-1.0, 0.3])
def test_greedy_is_sorting_in_any_memory_and_never_better_than_optimal(memory, least):
    for seed, (fakes, pool) in enumerate([(20, 30), (30, 20), (7, 7), (1, 9), (40, 5)]):
        ours, theirs = units(fakes, 4, seed), units(pool, 4, 50 + seed)
        similarity = similarities(ours, theirs)
        found = dict(zip(*map(np.ndarray.tolist, greedy(ours, theirs, least, memory)), strict=True))
        assert found == by_sorting(similarity, least)
        rows, columns = optimal(similarity.copy(), least)
        assert len(found) <= len(rows)
        if least == -1:
            assert sum(similarity[pair] for pair in found.items()) <= similarity[rows, columns].sum() + 1e-9


def test_greedy_of_ties_and_of_nothing():
    same = np.repeat(units(1, 4, 0), 6, axis=0)
    for memory in (1, 2**20):
        rows, columns = greedy(same[:4], same, memory_limit=memory)
        assert rows.tolist() == columns.tolist() == [0, 1, 2, 3]
    for fakes, pool in ((0, 3), (3, 0)):
        assert len(greedy(same[:fakes], same[:pool])[0]) == len(optimal(similarities(same[:fakes], same[:pool]))[0]) == 0


def test_the_limit_of_memory_chooses():
    ours, theirs = units(30, 8, 1), units(40, 8, 2)
    best, cheap = assign(ours, theirs), assign(ours, theirs, memory_limit=1000)
    assert (best.method, cheap.method) == ("optimal", "greedy")
    assert best.similarity.sum() > cheap.similarity.sum()
    for found in (best, cheap):
        assert len(set(found.reals.tolist())) == 30
        assert found.fakes.tolist() == list(range(30))
        assert found.similarity == pytest.approx((ours[found.fakes] * theirs[found.reals]).sum(1), abs=1e-6)
        assert "MiB" in found.reason


COLOURS = {"red": (230, 30, 30), "green": (30, 220, 40), "blue": (40, 40, 230), "grey": (128, 128, 128)}


def picture(path, colour, seed):
    """A noisy picture of one colour: the colour extractor finds its like."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(scale=25, size=(24, 24, 3))
    Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def images(tmp_path):
    """Fakes in a folder, a pool with a manifest that names groups."""
    for i, colour in enumerate(("red", "green", "blue")):
        picture(tmp_path / "fakes" / f"{colour}.png", colour, i)
        picture(tmp_path / "pool" / f"{colour}.png", colour, 10 + i)
    picture(tmp_path / "pool" / "grey =x, y.png", "grey", 20)
    (tmp_path / "pool" / "copy.png").write_bytes((tmp_path / "pool" / "red.png").read_bytes())
    (tmp_path / "pool" / "fake.png").write_bytes((tmp_path / "fakes" / "blue.png").read_bytes())
    (tmp_path / "pool" / "text.png").write_text("no image")
    (tmp_path / "pool" / "manifest.csv").write_text(
        'path,label,generator,group\nred.png,0,cam,a\ngreen.png,0,cam,a\nblue.png,0,cam,b\n"grey =x, y.png",0,other,\n'
        "copy.png,0,cam,\nfake.png,0,cam,\ntext.png,0,cam,\n"
    )
    return tmp_path


def command(images, name, *more):
    options = ["--fakes", images / "fakes", "--pool", images / "pool" / "manifest.csv", "--output", images / name]
    options += ["--data.cache_dir", images / "cache", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    encoder = [] if any("encoder" in each for each in more) else ["--data.extractor", "ColourExtractor"]
    return main([*map(str, options), *encoder, *more])


def rows_of(folder):
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_command(images, capsys):
    folder = command(images, "out")
    rows = rows_of(folder)
    stems = [os.path.splitext(os.path.basename(row["path"]))[0] for row in rows]
    assert sorted(zip(stems[::2], stems[1::2], strict=True)) == [("blue", "blue"), ("green", "green"), ("red", "red")]
    assert [row["label"] for row in rows] == ["0", "1"] * 3
    document = json.loads((folder / "matching.json").read_text())
    assert document["method"] == "optimal"
    assert document["counts"] == {"fakes": 3, "pool": 4, "pairs": 3, "pairs_by_generator": {"fakes": 3}, "left_out": 3}
    assert document["settings"]["encoder"]["class_path"].endswith("ColourExtractor")
    assert document["similarity"]["quantiles"]["1"] == pytest.approx(float(rows[0]["similarity"]), abs=1e-5)
    assert document["similarity"]["mean"] > document["similarity"]["mean_by_chance"]
    with (folder / "left_out.csv").open() as file:
        reasons = {os.path.basename(row["path"]): row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == {"copy.png", "fake.png", "text.png"}
    assert "same file" in reasons["copy.png"]
    assert "one of the fakes" in reasons["fake.png"]
    assert "allow_outside true" in capsys.readouterr().out

    source = ManifestSource(str(folder / "manifest.csv"), allow_outside=True)
    records = source.records(images / "cache")
    assert {record.dataset for record in records} == {"matched/fakes"}
    assert {record.generator for record in records} == {"fakes", "cam"}
    groups = {record.pair: record.group for record in records}
    assert all(groups[record.pair] == record.group for record in records)
    assert len(set(groups.values())) == 2  # red and green are of one group in the pool
    assert check_leaks(records) == records
    with pytest.raises(RunError, match="exists"):
        command(images, "out")


def test_near_duplicates_thresholds_and_greedy(images, capsys):
    rng = np.random.default_rng(7)
    smooth = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    Image.fromarray(smooth).save(images / "fakes" / "scene.png")
    Image.fromarray(smooth).save(images / "pool" / "scene.jpg", quality=90)
    with (images / "pool" / "manifest.csv").open("a") as file:
        file.write("scene.jpg,0,cam,\n")
    folder = command(images, "out", "--memory_limit", "10", "--min_similarity", "0.9", "--split", "none")
    document = json.loads((folder / "matching.json").read_text())
    assert document["method"] == "greedy"
    reasons = (folder / "left_out.csv").read_text()
    assert "looks the same as the fake" in reasons
    assert "no free real image is as similar as 0.9" in reasons
    rows = rows_of(folder)
    assert document["counts"]["pairs"] == 3 == len(rows) / 2
    assert {row["split"] for row in rows} == {""}
    nothing = command(images, "nothing", "--min_similarity", "1.0")
    assert rows_of(nothing) == []
    assert "0 pairs" in capsys.readouterr().out


def test_patterns_encoders_and_what_is_refused(images):
    assert len(rows_of(command(images, "some", "--pool_only", "[other]"))) == 2
    with pytest.raises(DataError, match=r"no real images of \['x\*'\]; it holds those of pool/cam, pool/other"):
        command(images, "none", "--pool_only", "[x*]")
    with pytest.raises(DataError, match="no fake images"):
        main(
            [
                "--fakes",
                str(images / "pool" / "manifest.csv"),
                "--pool",
                str(images / "pool"),
                "--output",
                str(images / "x"),
                "--data.cache_dir",
                str(images / "cache"),
            ]
        )
    colour = command(images, "yaml", "--encoder", "configs/encoders/colour.yaml")
    assert len(rows_of(colour)) == 6
    for encoder, word in (("nothing.yaml", "neither"), (str(images / "pool" / "manifest.csv"), "names no data.extractor")):
        with pytest.raises(RunError, match=word):
            command(images, "y", "--encoder", encoder)
    with pytest.raises(RunError, match="either"):
        main(["--fakes", "a", "--pool", "b", "--output", "c", "--encoder", "x", "--data.extractor", "ColourExtractor"])
    with pytest.raises(RunError, match="min_similarity"):
        command(images, "z", "--min_similarity", "2")
    with pytest.raises(DataError, match="its vectors are colour"):
        command(images, "f", "--feature", "image")


def test_encoders_by_name():
    def named(*more):
        built = parser()
        return encoder_of(built.instantiate(built.parse_args(["--fakes=a", "--pool=b", "--output=c", *more])))

    assert isinstance(named(), UNetEmbeddingExtractor)
    assert named("--encoder=timm/resnet18").encoder == "timm/resnet18"
    assert named("--encoder=configs/encoders/dinov2.yaml").size == 224
    assert isinstance(named("--encoder=configs/encoders/clip_colour.yaml"), Together)


def record(name, label, group="", pair=None):
    return Record(key=name * 8, label=label, dataset="d", generator="g" if label else "cam", path=f"/x/{name}.png", group=group, pair=pair)


def test_joined_groups(tmp_path):
    fakes = [record("aaaa", 1, "p"), record("bbbb", 1, "q"), record("cccc", 1, "r"), record("dddd", 1, "s", pair="old")]
    reals = [record("1111", 0, "m"), record("2222", 0, "m"), record("3333", 0, "n", pair="old"), record("4444", 0, "r")]
    rows = manifest_rows([Match(fake, real, 0.5) for fake, real in zip(fakes, reals, strict=True)], tmp_path)
    groups = [row["group"] for row in rows[::2]]
    assert [row["group"] for row in rows[1::2]] == groups
    # The reals of the first two are of one group; c and d meet in the group r; c's real and d have the pair `old` in common.
    assert groups == ["p", "p", "r", "r"]
    assert len({row["pair"] for row in rows}) == 4
    assert all(row["path"].startswith("./") for row in rows)
    assert manifest_rows([], tmp_path) == []


def test_pair_similarities(images):
    fakes = ImagesSource(str(images / "fakes")).records(images / "cache")
    pool = ManifestSource(str(images / "pool" / "manifest.csv")).records(images / "cache")
    by_name = {os.path.basename(each.path): each for each in pool}
    reals = [replace(by_name["red.png"], pair="r"), replace(by_name["blue.png"], pair="r"), replace(by_name["text.png"], pair="t")]
    made = {os.path.basename(each.path): each for each in fakes}
    paired = [replace(made["red.png"], pair="r"), replace(made["green.png"], pair="t"), replace(made["blue.png"], pair="alone")]
    of = {paired[0].dataset: reals[0].dataset}
    found = pair_similarities([*reals, *paired, by_name["green.png"]], ColourExtractor(), images / "cache", HARDWARE, reals_from=of)
    assert found.keys() == {(paired[0].dataset, made["red.png"].key)}  # of the pair t the real image cannot be decoded
    extractor = ColourExtractor()
    features = [
        extractor(torch.from_numpy(np.array(Image.open(each.path))).permute(2, 0, 1)[None], [""], [0])["colour"][0]
        for each in (made["red.png"], by_name["red.png"])
    ]
    expected = torch.nn.functional.cosine_similarity(*features, dim=0)
    assert found[paired[0].dataset, made["red.png"].key] == pytest.approx(float(expected), abs=1e-5)  # blue is less alike
    assert pair_similarities([by_name["green.png"]], ColourExtractor(), images / "cache", HARDWARE) == {}
    with pytest.raises(DataError, match="no vectors"):
        pair_similarities([*reals, *paired], ImageExtractor(), images / "cache", HARDWARE, reals_from=of)


def test_pairs_of_one_name_in_two_data_sets_are_two_pairs(images):
    made = {os.path.basename(each.path): each for each in ImagesSource(str(images / "fakes")).records(images / "cache")}
    pool = {os.path.basename(each.path): each for each in ManifestSource(str(images / "pool" / "manifest.csv")).records(images / "cache")}
    in_a = [replace(made["red.png"], pair="1", dataset="a"), replace(pool["blue.png"], pair="1", dataset="a")]
    in_b = [replace(made["red.png"], pair="1", dataset="b"), replace(pool["red.png"], pair="1", dataset="b")]
    apart = [pair_similarities(each, ColourExtractor(), images / "cache", HARDWARE) for each in (in_a, in_b)]
    assert pair_similarities([*in_a, *in_b], ColourExtractor(), images / "cache", HARDWARE) == apart[0] | apart[1]
    assert apart[0]["a", made["red.png"].key] < apart[1]["b", made["red.png"].key]


def test_the_audits_encoder_must_not_be_the_detectors():
    clip = EmbeddingExtractor("open_clip/ViT-L-14/datacomp_xl_s13b_b90k")
    for other in (
        EmbeddingExtractor("open_clip/ViT-L-14/datacomp_xl_s13b_b90k", projection=False),
        PerturbationSimilarity(encoder="open_clip/ViT-L-14/datacomp_xl_s13b_b90k"),
        Together({"clip": clip, "colour": ColourExtractor()}),
    ):
        with pytest.raises(DataError, match="Name another encoder"):
            check_other_encoder(clip, [ColourExtractor(), other])
    check_other_encoder(clip, [EmbeddingExtractor("timm/vit_large_patch14_dinov2.lvd142m"), ColourExtractor()])
    with pytest.raises(DataError):
        check_other_encoder(ColourExtractor(), [ColourExtractor()])
    with pytest.raises(DataError):  # other settings see the very same
        check_other_encoder(ColourExtractor(bins=8), [ColourExtractor()])
    with pytest.raises(DataError):
        check_other_encoder(UNetEmbeddingExtractor(), [UNetEmbeddingExtractor(blocks=["mid"])])
