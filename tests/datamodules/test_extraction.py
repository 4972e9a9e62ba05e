"""Extraction: what is missing and nothing else, failures recorded, features that do not depend on batch or order."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.batches import ImageDataset
from datamodules.datamodule import FeatureDataModule
from datamodules.duplicates import PerceptualHashes, perceptual_hash
from datamodules.errors import DataError
from datamodules.extraction import ExtractionModule, ShardWriting, check_captions, extraction_loader
from datamodules.facts import Facts, facts_of_pixels
from datamodules.perturbations import perturbation as named
from datamodules.records import Record, seed_of
from datamodules.shards import ShardError, ShardReader, ShardWriter
from datamodules.sources import ManifestSource
from modules.errors import UnusableImageError
from modules.extractors import ImageExtractor
from modules.extractors.base import Extractor


class NoiseExtractor(Extractor):
    """A cheap extractor with weights on disk, that draws random numbers and uses the prompt."""

    name = "noise"
    calls = 0

    def __init__(self, model: str, levels: int = 3) -> None:
        super().__init__()
        self.model = model
        self.levels = levels

    @property
    def weights(self):
        return {self.model: None}

    @property
    def uses_record_captions(self):
        return True

    def load(self):
        self.scale = float((Path(self.model) / "weights.txt").read_text())

    def prepare(self, image):
        return image[:, :16, :16]

    def forward(self, images, prompts, seeds):
        type(self).calls += 1
        drawn = torch.stack([torch.rand(4, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return {"mean": images.float().mean((1, 2, 3)) * self.scale, "drawn": drawn, "length": torch.tensor([len(p) for p in prompts])}


@pytest.fixture
def data_set(tmp_path):
    """Twelve images in six groups, the last one broken; gives a function that builds the data module."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(12):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(path)
        lines.append(
            {"path": f"images/{i}.png", "label": i % 2, "group": f"g{i // 2}", "caption": f"caption {i}", "caption_source": "human"}
        )
    broken = tmp_path / "images" / "11.png"
    broken.write_bytes(broken.read_bytes()[:200])
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.txt").write_text("1.0")

    def build(lines=lines, extractor=None, **options):
        (tmp_path / "manifest.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        options = {"cache_dir": str(tmp_path / "cache"), "batch_size": 4, "extract_batch_size": 4} | options
        return FeatureDataModule(ManifestSource(str(tmp_path / "manifest.jsonl")), extractor or NoiseExtractor(str(model)), **options)

    build.lines, build.model = lines, model
    return build


def extract(data):
    missing = data.missing()
    if missing:
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=[data.shard_writing()],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.predict(ExtractionModule(data.extractor), dataloaders=data.extraction_loader(missing), return_predictions=False)
    return len(missing)


def test_a_warm_cache_needs_no_forward_pass(data_set):
    assert extract(data_set()) == 12
    calls = NoiseExtractor.calls
    assert extract(data_set()) == 0
    assert NoiseExtractor.calls == calls


def test_one_more_image_is_one_more_extraction(data_set):
    extract(data_set(data_set.lines[:8]))
    again = data_set()
    assert sorted(Path(record.path).stem for record in again.missing()) == ["10", "11", "8", "9"]


def test_a_changed_caption_is_extracted_anew(data_set):
    extract(data_set())
    data_set.lines[3]["caption"] = "another"
    [record] = data_set().missing()
    assert record.caption == "another"


def test_failures_are_recorded_and_not_tried_again(data_set):
    data = data_set()
    extract(data)
    manifest = json.loads((data.cache.folder / "manifest.json").read_text())
    assert manifest["counts"] == {"images": 11, "failures": 1}
    [failure] = manifest["failures"]
    assert failure["where"].endswith("11.png")
    assert failure["reason"]
    assert manifest["settings"]["extractor"]["init_args"]["levels"] == 3
    assert manifest["versions"]["torch"] in torch.__version__
    assert data_set().missing() == []


def test_batches_keep_the_contract(data_set):
    data = data_set()
    extract(data)
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"key", "label", "family", "target", "generator", "pair", "index", "features"}
    assert len(batch["key"]) == len(batch["label"]) == len(batch["generator"])
    assert batch["label"].dtype == batch["family"].dtype == torch.int64
    assert set(batch["features"]) == {"mean", "drawn", "length"}
    data.features = ["mean"]
    assert set(next(iter(data.test_dataloader()))["features"]) == {"mean"}
    by_key = {record.key: record for record in data.records()}
    for key, mean in zip(batch["key"], batch["features"]["mean"], strict=True):
        with Image.open(by_key[key].path) as image:
            assert float(mean) == pytest.approx(np.asarray(image)[:16, :16].mean(), abs=1e-3)


def test_row_18_other_settings_are_another_directory(data_set, tmp_path):
    folders = {data_set().cache.folder, data_set(perturbation="jpeg_40").cache.folder}
    folders.add(data_set(extractor=NoiseExtractor(str(data_set.model), levels=4)).cache.folder)
    moved = shutil.copytree(data_set.model, tmp_path / "elsewhere")
    assert data_set(extractor=NoiseExtractor(str(moved))).cache.folder in folders  # the content counts, not the path
    (moved / "weights.txt").write_text("2.0")
    folders.add(data_set(extractor=NoiseExtractor(str(moved))).cache.folder)
    assert len(folders) == 4


def test_row_41_random_numbers_depend_on_the_image_only(data_set):
    one, many = data_set(extract_batch_size=1), data_set(extract_batch_size=8, cache_dir=str(data_set.model / "cache"))
    extract(one)
    extract(many)
    for record in one.records():
        if record.key not in {failure.key for failure in one.reader.failures}:
            first, second = (data.load_features(record) for data in (one, many))
            np.testing.assert_array_equal(first["drawn"], second["drawn"])
    assert len({seed_of(record) for record in one.records()}) == 12


def test_an_exception_keeps_the_batches_before_it(data_set, monkeypatch):
    data = data_set()
    whole = NoiseExtractor.forward

    def fails_on_the_third(self, images, prompts, seeds):
        if len(images) < 4:
            raise RuntimeError("no more")
        return whole(self, images, prompts, seeds)

    monkeypatch.setattr(NoiseExtractor, "forward", fails_on_the_third)
    with pytest.raises(RuntimeError, match="no more"):
        extract(data)
    monkeypatch.undo()
    assert extract(data_set()) == 4  # the batch that failed held three images and the broken one


def test_row_39_an_image_that_overflows_is_a_failure_of_its_own(data_set, monkeypatch):
    """The base extractor's check: the other images of the batch are kept, bit for bit."""
    whole, spoiled = data_set(), data_set(cache_dir=str(data_set.model / "cache"))
    extract(whole)
    bad = whole.usable("train")[0]
    forward = NoiseExtractor.forward

    def overflows(self, images, prompts, seeds):
        features = forward(self, images, prompts, seeds)
        features["mean"][[seed == seed_of(bad) for seed in seeds]] = torch.inf
        return features

    monkeypatch.setattr(NoiseExtractor, "forward", overflows)
    extract(spoiled)
    [failure] = [failure for failure in spoiled.reader.failures if failure.key == bad.content_hash]
    assert failure.where == bad.path
    assert "not finite" in failure.reason
    assert len(spoiled.reader) == len(whole.reader) - 1 == 10
    for record in whole.records():
        if record.key not in {failure.key for failure in spoiled.reader.failures}:
            for name, array in whole.load_features(record).items():
                np.testing.assert_array_equal(array, spoiled.load_features(record)[name])
    assert spoiled.missing() == []


def out_of_memory_above(size, tried):
    forward = NoiseExtractor.forward

    def fails(self, images, prompts, seeds):
        tried.append(len(images))
        if len(images) > size:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return forward(self, images, prompts, seeds)

    return fails


def test_row_40_out_of_memory_halves_the_batch(data_set, monkeypatch, caplog):
    plain, tight = data_set(extract_batch_size=8), data_set(extract_batch_size=8, cache_dir=str(data_set.model / "cache"))
    extract(plain)
    tried = []
    monkeypatch.setattr(NoiseExtractor, "forward", out_of_memory_above(2, tried))
    extract(tight)
    assert tried[:3] == [8, 4, 2]
    assert max(tried[3:]) == 2  # the smaller size holds from then on
    told = [message for message in caplog.messages if "out of memory" in message]
    assert told == ["out of memory: going on with 2 images at once; --data.extract_batch_size 2 avoids the failed attempts"]
    assert set(tight.reader.keys()) == set(plain.reader.keys())
    for key, caption in plain.reader.keys():  # noqa: SIM118 - not a dictionary
        for name, array in plain.reader.read(key, caption).items():
            np.testing.assert_allclose(tight.reader.read(key, caption)[name], array, rtol=1e-6)


def test_row_40_one_image_that_does_not_fit_is_a_clear_error(data_set, monkeypatch):
    tried = []
    monkeypatch.setattr(NoiseExtractor, "forward", out_of_memory_above(0, tried))
    with pytest.raises(DataError, match=r"one image at a time \(CUDA out of memory.*model_dtype"):
        extract(data_set())
    assert tried == [4, 2, 1]


def test_other_errors_are_not_taken_for_a_lack_of_memory(data_set, monkeypatch):
    tried = []

    def fails(self, images, prompts, seeds):
        tried.append(len(images))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(NoiseExtractor, "forward", fails)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        extract(data_set())
    assert len(tried) == 1


def test_the_index_keeps_each_image_s_short_side(data_set, caplog):
    caplog.set_level("INFO")
    data = data_set(perturbation="jpeg_40")
    extract(data)
    assert data.reader.diagnostics()["short_side"] == [20.0] * 11
    assert "short_side" not in caplog.text


def test_looks_are_remembered_as_the_image_is_stored(data_set):
    data = data_set(perturbation="jpeg_10")
    extract(data)
    looks = PerceptualHashes(Path(data.cache_dir)).load()
    assert len(looks) == 11
    record = data.usable("train")[0]
    with Image.open(record.path) as image:
        assert looks[record.content_hash] == perceptual_hash(np.asarray(image)) != ""


@pytest.mark.parametrize("perturbation", ["none", "jpeg_10"])
def test_facts_are_remembered_as_the_extractor_got_the_image(data_set, perturbation, monkeypatch):
    data = data_set(perturbation=perturbation)
    extract(data)
    monkeypatch.setattr("datamodules.facts.read_image", lambda path: pytest.fail("read again"))
    records = [record for record in data.records() if not record.path.endswith("11.png")]
    facts = Facts(Path(data.cache_dir)).of(records, perturbation)
    assert len(facts) == 11
    for record in records:
        with Image.open(record.path) as image:
            seen = facts_of_pixels(named(perturbation)(np.asarray(image), seed_of(record)))
        stored = {"fact_format", "fact_bytes", "fact_bits_per_pixel"} if perturbation == "none" else set()
        assert facts[record.key].items() >= seen.items()
        assert facts[record.key].keys() - seen.keys() == stored


def test_nothing_extracted_is_a_clear_error(data_set):
    with pytest.raises(DataError, match="run the extraction first"):
        data_set().train_dataloader()


def record(label, caption="x", source=None):
    return Record("0" * 32, label, "d", "g", path="p", caption=caption, caption_source=source)


def test_captions_must_not_give_the_label_away(data_set, caplog):
    extractor = NoiseExtractor(str(data_set.model))
    check_captions([record(0, source="human"), record(1, source="human")], extractor)
    with pytest.raises(DataError, match="1 of 2 records have no caption"):
        check_captions([record(0, caption=None), record(1)], extractor)
    with pytest.raises(DataError, match="would give the label away"):
        check_captions([record(0, source="human"), record(1, source="prompt")], extractor)
    check_captions([record(0, caption=None), record(1, caption=None)], extractor)
    assert "the empty prompt is used for all" in caplog.text


def test_the_perturbation_is_applied_before_extraction(data_set):
    clean, stored = data_set(), data_set(perturbation="jpeg_10")
    extract(clean)
    extract(stored)
    first = clean.records()[0]
    features = [data.load_features(first)["mean"] for data in (clean, stored)]
    assert features[0] != features[1]


def test_an_unknown_perturbation_is_refused_at_once(data_set):
    with pytest.raises(ValueError, match="jpeg_Q"):
        data_set(perturbation="jpeg_101")


class WholeImages(NoiseExtractor):
    """Keeps images as they are, whatever their size, and refuses the small ones."""

    name = "whole"
    seen = None

    def prepare(self, image):
        if min(image.shape[1:]) < 18:
            msg = "smaller than 18 pixels"
            raise UnusableImageError(msg)
        return image

    def forward(self, images, prompts, seeds):
        type(self).seen.append(tuple(images.shape))
        return {"image": images, "mean": images.float().mean((1, 2, 3))}


@pytest.fixture
def sizes(data_set, tmp_path):
    rng = np.random.default_rng(1)
    for i, (height, width) in enumerate([(20, 24), (21, 30)] * 5 + [(20, 24), (17, 24)]):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    WholeImages.seen = []
    return data_set(extractor=WholeImages(str(data_set.model)))


def test_images_of_several_sizes_go_through_in_stacks_and_come_back_as_they_are(sizes):
    extract(sizes)
    assert {shape[1:] for shape in WholeImages.seen} == {(3, 20, 24), (3, 21, 30)}
    assert len(WholeImages.seen) == 6  # three batches of four, each of both sizes: never one pass an image
    assert sum(shape[0] for shape in WholeImages.seen) == 11
    by_key = {record.key: record for record in sizes.records()}
    shapes = set()
    for loader in (sizes.train_dataloader(), sizes.val_dataloader(), sizes.test_dataloader()):
        for batch in loader:
            for key, image, mean in zip(batch["key"], batch["features"]["image"], batch["features"]["mean"], strict=True):
                with Image.open(by_key[key].path) as stored:
                    pixels = np.asarray(stored)
                assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)
                assert float(mean) == pytest.approx(pixels.mean(), rel=1e-5)
                shapes.add(pixels.shape)
    assert len(shapes) == 2


def test_a_batch_of_several_sizes_is_a_list_and_of_one_size_a_tensor(sizes):
    extract(sizes)
    records = [record for record in sizes.records() if record.split == "train"]
    whole = next(iter(FeatureDataModule.loader(sizes, "train")))
    assert isinstance(whole["features"]["image"], list) == (len({tuple(image.shape) for image in whole["features"]["image"]}) > 1)
    assert isinstance(whole["features"]["mean"], torch.Tensor)
    assert len(records) >= len(whole["key"])


def test_an_image_that_the_extractor_cannot_take_is_a_recorded_skip(sizes):
    extract(sizes)
    manifest = json.loads((sizes.cache.folder / "manifest.json").read_text())
    [failure] = manifest["failures"]
    assert failure["where"].endswith("11.png")
    assert failure["reason"] == "smaller than 18 pixels"
    assert manifest["counts"]["images"] == 11


def test_an_image_that_a_perturbation_cannot_be_applied_to_is_a_recorded_skip(data_set):
    data = data_set(perturbation="crop_22")
    extract(data)
    manifest = json.loads((data.cache.folder / "manifest.json").read_text())
    assert manifest["counts"] == {"images": 0, "failures": 12}
    assert "crop" in manifest["failures"][0]["reason"]


def test_what_only_a_data_set_needs_is_not_made_for_verdicts(monkeypatch, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    record = Record("0" * 32, 0, "photos", "camera", path=str(tmp_path / "a.png"))
    noted = ImageDataset([record], ImageExtractor(), "none")[0]
    assert noted.look
    assert noted.facts
    for name in ("perceptual_hash", "facts_of"):
        monkeypatch.setattr(f"datamodules.batches.{name}", lambda *_: pytest.fail("measured"))
    plain = ImageDataset([record], ImageExtractor(), "none", noted=False)[0]
    assert torch.equal(plain.pixels, noted.pixels)
    assert not plain.facts


def test_batches_are_written_while_the_next_ones_are_computed(data_set, monkeypatch):
    """The network must not wait for the disk: the second batch begins before the first one is written."""
    events, may_write = [], threading.Event()
    compute, add = NoiseExtractor.forward, ShardWriter.add

    def forward(self, images, prompts, seeds):
        events.append("computed")
        if events.count("computed") == 2:
            may_write.set()
        return compute(self, images, prompts, seeds)

    def slow(self, *sample):
        assert may_write.wait(60)
        events.append("written")
        add(self, *sample)

    monkeypatch.setattr(NoiseExtractor, "forward", forward)
    monkeypatch.setattr(ShardWriter, "add", slow)
    data = data_set()
    extract(data)
    assert events[:2] == ["computed", "computed"]
    assert events.count("written") == len(data.reader)


def test_a_disk_that_fails_ends_the_extraction_with_its_sentence(data_set, monkeypatch):
    def full(self, *sample):
        raise ShardError("features cannot be written: the disk is full")

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(ShardError, match="the disk is full"):
        extract(data_set())


@pytest.mark.parametrize(
    ("gpu", "images", "given", "expected"),
    [
        (False, 10, (None, None), (16, 0)),
        (False, 10_000, (None, None), (16, 2)),
        (True, 10, (None, None), (64, 0)),
        (True, 10_000, (None, None), (64, 3)),
        (True, 9, (5, 2), (5, 2)),
    ],
)
def test_batches_and_decoders_fit_the_machine(data_set, monkeypatch, gpu, images, given, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * gpu)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    cache = data_set().cache
    loader = extraction_loader([None] * images, cache, *given)
    assert (loader.batch_size, loader.num_workers) == expected
    assert loader.pin_memory == gpu


@pytest.mark.parametrize(("cores", "ranks", "expected"), [(2, 1, 2), (2, 2, 0), (1, 1, 0), (3, 2, 1), (64, 1, 2)])
def test_where_every_core_has_a_network_none_decodes_beside_it(data_set, monkeypatch, cores, ranks, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores))
    cache = data_set().cache
    assert extraction_loader([None] * 10_000, cache, None, None, ranks).num_workers == expected
    assert extraction_loader([None] * 40_000, cache, None, None, 4 * ranks, nodes=4).num_workers == expected  # on each of four machines


@pytest.mark.parametrize(("gpu", "expected"), [(False, 10), (True, 0)])
def test_decoders_let_the_network_have_the_processor_first(data_set, monkeypatch, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    data = data_set()
    loader = extraction_loader(data.missing(), data.cache, 4, 2)
    if gpu:  # there is none that memory could be pinned for
        loader.pin_memory = False
    iterator = iter(loader)
    batches = [next(iterator), next(iterator)]  # one of each: both are running
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert [os.getpriority(os.PRIO_PROCESS, worker.pid) for worker in iterator._workers] == [min(19, before + expected)] * 2
    assert len([*batches, *iterator]) == len(loader)


def test_a_signal_while_an_error_is_dealt_with_loses_no_shard(data_set, monkeypatch, caplog):
    """SIGTERM comes while the last batches are written, as a cluster sends it after a failure."""
    data = data_set()
    writing = ShardWriting(data.cache, {}, [])
    writing.writer = ShardWriter(data.cache.folder, max_samples=100)
    writing.writer.add("0" * 32, {"mean": np.zeros(3)}, {})
    monkeypatch.setattr(writing.behind, "finish", lambda: signal.raise_signal(signal.SIGTERM))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    writing.stop.install([])
    try:
        writing.on_exception(SimpleNamespace(is_global_zero=True), None, ValueError())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert len(ShardReader(data.cache.folder)) == 1
    assert "stopped by SIGTERM: what was complete is in" in caplog.text
