"""Training images under several perturbations, held in memory, joined from several sources."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.datamodule import FeatureDataModule
from datamodules.errors import DataError
from datamodules.families import FamilyMap
from datamodules.sources import ImagesSource, JoinedSource, ManifestSource
from modules.extractors.base import Extractor
from modules.settings import settings_of
from workflow import pipeline

HARDWARE = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}


class MeanExtractor(Extractor):
    """Mean and spread of an image, as one vector."""

    name = "means"
    calls = 0

    def load(self):
        type(self).calls += 1

    def prepare(self, image):
        return image[:, :16, :16]

    def forward(self, images, prompts, seeds):
        pixels = images.float().flatten(1)
        return {"embedding": torch.stack([pixels.mean(1), pixels.std(1), pixels.amax(1)], 1)}


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), np.uint8)).save(path)


@pytest.fixture
def manifest(tmp_path):
    """Forty images: reals, fakes of two generators; each photograph has one fake of each."""
    lines = ["path,label,dataset,generator,pair,group"]
    for i in range(16):
        for number, (label, generator) in enumerate([(0, "laion"), (1, "stylegan2"), (1, "sdxl")][: 3 if i < 8 else 2]):
            picture(tmp_path / "images" / f"{i}-{number}.png", 10 * i + number)
            lines.append(f"images/{i}-{number}.png,{label},d,{generator},p{i},p{i}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    return tmp_path / "manifest.csv"


def module(manifest, **options):
    options = {"cache_dir": str(manifest.parent / "cache"), "batch_size": 8} | options
    return FeatureDataModule(options.pop("source", None) or ManifestSource(str(manifest)), MeanExtractor(), **options)


def trained(data):
    return [record for record in data.records() if record.split == "train"]


def test_each_training_image_comes_once_under_every_view(manifest):
    data = module(manifest, views=["none", "jpeg_40", "blur_2.0"])
    assert pipeline.extract_views(data, HARDWARE) == len(data.records()) + 2 * len(trained(data))
    calls = MeanExtractor.calls
    again = module(manifest, views=["none", "jpeg_40", "blur_2.0"])
    assert pipeline.extract_views(again, HARDWARE) == 0
    assert MeanExtractor.calls == calls
    batches = list(again.train_dataloader())
    keys = [key for batch in batches for key in batch["key"]]
    assert sorted(keys) == sorted(3 * [record.key for record in trained(data)])
    assert len({int(index) for batch in batches for index in batch["index"]}) == len(keys)
    vectors = {tuple(vector.tolist()) for batch in batches for vector in batch["features"]["embedding"]}
    assert len(vectors) == len(keys)
    assert len(list(again.cache.folder.parent.iterdir())) == 3
    # validation sees the images as they are
    plain = module(manifest)
    for ours, theirs in zip(again.val_dataloader(), plain.val_dataloader(), strict=True):
        torch.testing.assert_close(ours["features"]["embedding"], theirs["features"]["embedding"])


def test_views_of_a_training_condition_equal_that_perturbation_alone(manifest):
    viewed, perturbed = module(manifest, views=["jpeg_40"]), module(manifest, perturbation="jpeg_40")
    for data in (viewed, perturbed):
        pipeline.extract_views(data, HARDWARE)
    torch.testing.assert_close(viewed.samples().features["embedding"], perturbed.samples().features["embedding"])
    assert viewed.describe()["views"] == perturbed.describe()["views"] == ["jpeg_40"]
    assert (viewed.describe()["perturbation"], perturbed.describe()["perturbation"]) == ("none", "jpeg_40")


def test_one_view_needs_no_list(manifest):
    assert module(manifest, views="jpeg_40").training_views == ["jpeg_40"]


@pytest.mark.parametrize("options", [{"views": []}, {"views": ["jpeg_banana"]}, {"repeat": {"sdxl": 0}}])
def test_wrong_views_and_repeats_are_refused(manifest, options):
    with pytest.raises(DataError):
        module(manifest, **options)


def test_vectors_are_read_once_where_they_fit_into_memory(manifest, monkeypatch):
    data = module(manifest)
    pipeline.extract_views(data, HARDWARE)
    read = []
    original = type(data.reader).read
    monkeypatch.setattr(type(data.reader), "read", lambda self, *args: read.append(args) or original(self, *args))
    first = data.train_dataloader()
    read.clear()
    epochs = [list(first), list(first)]
    once = len(read)
    assert once <= len(trained(data)) + 8  # those of the first batch tell the size
    small = module(manifest, memory_limit=100)
    loader = small.train_dataloader()
    read.clear()
    again = [list(loader), list(loader)]
    assert len(read) <= 2 * len(trained(data)) + 1  # one more tells the size
    for ours, theirs in zip(epochs, again, strict=True):
        for kept, fresh in zip(ours, theirs, strict=True):
            assert kept["key"] == fresh["key"]
            torch.testing.assert_close(kept["features"], fresh["features"])


@pytest.mark.parametrize("limit", [10**9, 0])
def test_features_of_several_shapes_are_never_mixed_up(manifest, limit):
    class Odd(MeanExtractor):
        name = "odd"

        def forward(self, images, prompts, seeds):
            return {"embedding": torch.arange(2.0 + seeds[0] % 3).repeat(len(images), 1)}

    data = FeatureDataModule(
        ManifestSource(str(manifest)),
        Odd(),
        cache_dir=str(manifest.parent / "cache"),
        batch_size=3,
        extract_batch_size=1,
        memory_limit=limit,
    )
    pipeline.extract_views(data, HARDWARE)
    for _ in range(2):
        seen = {}
        for batch in data.train_dataloader():
            seen |= {key: vector.tolist() for key, vector in zip(batch["key"], batch["features"]["embedding"], strict=True)}
        assert seen == {record.key: list(range(2 + int(record.content_hash[:15], 16) % 3)) for record in trained(data)}


def test_training_samples_that_do_not_fit_are_refused(manifest):
    data = module(manifest, memory_limit=10)
    pipeline.extract_views(data, HARDWARE)
    with pytest.raises(DataError, match=r"more than data\.memory_limit allows"):
        data.samples()


def test_a_checkpoints_families_can_be_used_in_place_of_ones_own(manifest):
    data = module(manifest)
    assert {record.family for record in data.records() if record.generator == "sdxl"} == {"latent-diffusion"}
    data.use_families(FamilyMap({"mine": ["sdxl"]}, "a checkpoint"))
    assert {record.family for record in data.records() if record.generator == "sdxl"} == {"mine"}
    assert data.family_map.index("mine") == 1


def test_repeated_images_come_so_often_and_count_once(manifest):
    data = module(manifest, repeat={"sdxl": 3})
    pipeline.extract_views(data, HARDWARE)
    batches = list(data.train_dataloader())
    keys = [key for batch in batches for key in batch["key"]]
    expected = [record.key for record in trained(data) for _ in range(3 if record.generator == "sdxl" else 1)]
    assert sorted(keys) == sorted(expected)
    index = torch.cat([batch["index"] for batch in batches])
    assert len(index.unique()) == len(trained(data))


def test_pairs_come_in_one_batch_with_their_number(manifest):
    data = module(manifest, keep_pairs=True, batch_size=6)
    pipeline.extract_views(data, HARDWARE)
    by_key = {record.key: record for record in data.records()}
    seen = []
    for batch in data.train_dataloader():
        names = [by_key[key].pair for key in batch["key"]]
        assert len(set(zip(names, batch["pair"].tolist(), strict=True))) == len(set(names))
        seen += set(names)
    assert len(seen) == len(set(seen)) == len({record.pair for record in trained(data)})


def test_targets_are_the_classes_of_the_training_images(manifest):
    data = module(manifest)
    pipeline.extract_views(data, HARDWARE)
    assert data.learn("family") == ["real", "gan", "flow"] or data.learn("family")[0] == "real"
    names = {record.key: record.family for record in data.records()}
    for batch in data.val_dataloader():
        assert [data.classes[number] for number in batch["target"]] == [names[key] for key in batch["key"]]
    assert data.learn("generator") == ["real", "sdxl", "stylegan2"]
    held = module(manifest, train_generators=["stylegan2"])
    pipeline.extract_views(held, HARDWARE)
    assert held.learn("generator") == ["real", "stylegan2"]
    assert held.describe()["trained_generators"] == ["d/stylegan2"]
    assert data.learn("binary") is None


def test_row_37_a_generator_without_family_is_an_error_or_unknown_and_never_dropped(manifest):
    text = manifest.read_text().replace("sdxl", "nobody-knows-it")
    manifest.write_text(text)
    data = module(manifest)
    with pytest.raises(DataError, match=r"nobody-knows-it.*families\.yaml"):
        data.learn("family")
    asked = module(manifest, unknown_families="unknown")
    assert asked.learn("family") == ["real", "gan", "unknown"]
    pipeline.extract_views(asked, HARDWARE)
    samples = asked.samples()
    assert len(samples.labels) == len(trained(asked))
    assert set(samples.targets.tolist()) == {0, 1, 2}


def test_what_no_training_saw_is_what_a_study_measures(manifest):
    data = module(manifest, test_fraction=0.3)
    pipeline.extract_views(data, HARDWARE)
    tested = {record.key for record in data.records() if record.split == "test"}
    seen = set(data.describe()["trained_on"].tolist())
    measured = module(manifest, evaluate_only="test")
    measured.hold_out(seen)
    assert {record.key for record in measured.records()} == tested
    one = module(manifest, test_fraction=0.3, train_generators=["sdxl"])
    other = module(manifest, evaluate_only="test")
    other.hold_out(set(one.describe()["trained_on"].tolist()))
    photographs = {record.group for record in one.records() if record.split != "test"}
    assert {record.key for record in other.records()} == {record.key for record in data.records() if record.group not in photographs}
    with pytest.raises(DataError, match="empty"):
        other.hold_out({int(record.content_hash[:15], 16) for record in data.records()})


def test_sources_are_joined_with_their_own_names_and_splits(manifest, tmp_path):
    for i in range(5):
        picture(tmp_path / "new" / f"{i}.png", 1000 + i)
    new = ImagesSource(str(tmp_path / "new"), generator="flux", dataset="fresh")
    joined = JoinedSource({"old": ManifestSource(str(manifest)), "new": new}, splits={"new": "test"})
    data = module(manifest, source=joined)
    fresh = [record for record in data.records() if record.dataset == "fresh"]
    assert [(record.generator, record.label, record.family, record.split) for record in fresh] == [("flux", 1, "flow", "test")] * 5
    alone = {record.key: record.split for record in module(manifest).records()}
    assert {record.key: record.split for record in data.records() if record.dataset == "d"} == alone
    told = settings_of(joined)
    assert told["init_args"]["sources"]["new"]["init_args"]["generator"] == "flux"


def test_joined_sources_that_do_not_fit_are_refused(manifest, tmp_path):
    source = ManifestSource(str(manifest))
    with pytest.raises(DataError, match="splits names other"):
        JoinedSource({"a": source}, splits={"other": "test"})
    with pytest.raises(DataError, match="no source"):
        JoinedSource({})
    twice = JoinedSource({"a": source, "b": ManifestSource(str(manifest))})
    with pytest.raises(DataError, match="a and b both hold images of a data set named 'd'"):
        twice.records(tmp_path / "cache")
    with pytest.raises(DataError, match="does not exist"):
        ImagesSource(str(tmp_path / "nowhere")).records(tmp_path / "cache")
    with pytest.raises(DataError, match="split is 'dev'"):
        ImagesSource(str(tmp_path), split="dev")


def test_a_folder_of_real_images_is_real(tmp_path):
    picture(tmp_path / "mine" / "1.png", 1)
    (tmp_path / "mine" / "broken.png").write_bytes(b"")
    (tmp_path / "mine" / "phone.heic").write_bytes(b"x")
    (tmp_path / "mine" / "notes.txt").write_bytes(b"x")
    source = ImagesSource(str(tmp_path / "mine"), kind="real")
    assert [(record.label, record.generator, record.family) for record in source.records(tmp_path)] == [(0, "mine", "real")]
    assert {Path(failure.where).name for failure in source.failures} == {"broken.png", "phone.heic"}


def test_pictures_are_no_vectors(manifest):
    class Pictures(MeanExtractor):
        name = "pictures"

        def forward(self, images, prompts, seeds):
            return {"image": images}

    data = FeatureDataModule(ManifestSource(str(manifest)), Pictures(), cache_dir=str(manifest.parent / "cache"))
    pipeline.extract_views(data, HARDWARE)
    with pytest.raises(DataError, match=r"feature 'image' has shape .* reads vectors"):
        data.samples()
