"""Training batches from a web server: each sample once, in an order of seed and epoch, going on in mid-epoch, with flat memory."""

import itertools

import pytest
import torch

from benchmarks.scale import Memory
from datamodules.errors import DataError
from datamodules.loading import TrainingLoader
from datamodules.streaming.pipeline import StreamLoader
from tests.datamodules.streaming import served
from tests.datamodules.streaming.conftest import COUNT

TRAINED = [i for i in range(COUNT) if i % 5 < 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_images_come_once_an_epoch(remote, tmp_path, workers):
    address, _, handler = remote
    data = served.module(COUNT, tmp_path / "local", address, num_workers=workers)
    assert data.missing() == []
    loader = data.train_dataloader()
    assert isinstance(loader, StreamLoader)
    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert [len(batch["key"]) for batch in batches] == [8] * 15
        assert len(loader) == 15
        epochs.append(served.numbers_of(batches))
        assert sorted(epochs[-1]) == TRAINED
    assert epochs[0] == epochs[2] != epochs[1]
    again = served.module(COUNT, tmp_path / "other", address, num_workers=workers).train_dataloader()
    assert served.numbers_of(again) == epochs[0]
    assert not [path for path in (tmp_path / "local").rglob("*") if path.suffix == ".tar"], "no shard is kept"
    assert any(path.endswith("index.json") for path, _ in handler.asked)


def test_indexes_are_fetched_once(remote, tmp_path):
    address, _, handler = remote
    for _ in range(2):
        served.module(COUNT, tmp_path / "local", address).missing()
    indexes = [path for path, _ in handler.asked if path.endswith("index.json")]
    assert len(indexes) == len(set(indexes)) == 13


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_sees_every_image_once_by_few_requests(remote, tmp_path, split):
    address, _, handler = remote
    data = served.module(COUNT, tmp_path / "local", address)
    loader = data.loader(split)
    handler.asked.clear()
    numbers = served.numbers_of(loader)
    assert sorted(numbers) == [i for i in range(COUNT) if i % 5 == {"val": 3, "test": 4}[split]]
    assert len(handler.asked) <= 13 + 1, "one request a shard, not one a sample"


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("taken", [1, 6, 14])
def test_a_stopped_epoch_goes_on_with_the_very_next_batch(remote, tmp_path, workers, taken):
    address, _, handler = remote
    options = {"num_workers": workers, "buffer": 0.01, "batch_size": 8}
    whole = [served.numbers_of([batch]) for batch in served.module(COUNT, tmp_path / "local", address, **options).train_dataloader()]
    begun = served.module(COUNT, tmp_path / "local", address, **options).train_dataloader()
    batches = iter(begun)
    seen = [served.numbers_of([next(batches)]) for _ in range(taken)]
    state = begun.state_dict()
    del batches
    after = served.module(COUNT, tmp_path / "local", address, **options).train_dataloader()
    after.load_state_dict(state)
    handler.asked.clear()
    assert seen + [served.numbers_of([batch]) for batch in after] == whole
    if taken == 14:
        assert len([path for path, _ in handler.asked if path.endswith(".tar")]) <= 8 + 1, "what was delivered is not fetched again"
    after.set_epoch(1)
    assert sorted(served.numbers_of(after)) == TRAINED, "the next epoch is a whole one"


@pytest.mark.parametrize("changed", [{"buffer": 0.02}, {"blocks": 2}, {"num_workers": 2}, {"batch_size": 4}])
def test_another_order_is_no_place_to_go_on_from(remote, tmp_path, changed):
    address, _, _ = remote
    begun = served.module(COUNT, tmp_path / "local", address, buffer=0.01).train_dataloader()
    next(iter(begun))
    after = served.module(COUNT, tmp_path / "local", address, **({"buffer": 0.01} | changed)).train_dataloader()
    with pytest.raises(DataError, match="the place cannot be found"):
        after.load_state_dict(begun.state_dict())


def test_a_local_run_is_no_place_to_go_on_from(remote, tmp_path):
    address, folder, _ = remote
    local = served.module(COUNT, folder.parents[1]).train_dataloader()
    assert isinstance(local, TrainingLoader)
    next(iter(local))
    with pytest.raises(DataError, match="the place cannot be found"):
        served.module(COUNT, tmp_path / "local", address).train_dataloader().load_state_dict(local.state_dict())


def test_what_is_in_memory_is_not_streamed_again(remote, tmp_path):
    address, folder, handler = remote
    data = served.module(COUNT, tmp_path / "local", address)
    samples = data.samples()
    torch.testing.assert_close(samples.features["embedding"], served.module(COUNT, folder.parents[1]).samples().features["embedding"])
    assert len([path for path, _ in handler.asked if path.endswith(".tar")]) <= 13 + 4, "shard by shard, after looks at the first sample"
    handler.asked.clear()
    loader = data.train_dataloader()
    assert isinstance(loader, TrainingLoader)
    assert sorted(served.numbers_of(loader)) == TRAINED
    assert handler.asked == []


def test_images_that_come_several_times(remote, tmp_path):
    address, _, _ = remote
    data = served.module(COUNT, tmp_path / "local", address, repeat={"g1": 3})
    numbers = served.numbers_of(data.train_dataloader())
    assert sorted(numbers) == sorted([i for i in TRAINED for _ in range(3 if i // 5 % 2 else 1)])
    adjacent = sum(first == second for first, second in itertools.pairwise(numbers))
    assert adjacent < 10, "they are spread over the epoch"


def test_missing_images_are_an_error_or_left_out(remote, tmp_path, caplog):
    address, _, _ = remote
    with pytest.raises(DataError, match=f"10 of {COUNT + 10} images have no features in http.*on_missing"):
        served.module(COUNT + 10, tmp_path / "local", address).missing()
    data = served.module(COUNT + 10, tmp_path / "local", address, on_missing="skip")
    assert data.missing() == []
    assert f"10 of {COUNT + 10} images have no features" in caplog.text
    assert sorted(served.numbers_of(data.train_dataloader())) == TRAINED


def test_pairs_cannot_be_streamed(tmp_path):
    with pytest.raises(DataError, match="keep_pairs"):
        served.module(COUNT, tmp_path, "https://x.y", keep_pairs=True)


@pytest.mark.parametrize("wrong", [{"buffer": 0}, {"buffer": float("nan")}, {"blocks": 0}, {"url": " "}])
def test_wrong_options(tmp_path, wrong):
    with pytest.raises(DataError, match=r"data\.stream"):
        served.module(COUNT, tmp_path, **{"url": "https://x.y"} | wrong)


def test_memory_is_that_of_the_buffer(tmp_path):
    """200 MB of features through a buffer of 20 of them, 1 MB each: what is held is the buffer and a few blocks."""
    folder = served.module(COUNT, tmp_path / "remote").cache.folder
    served.fill(folder, range(COUNT), size=2**18)
    data = served.module(COUNT, tmp_path / "local", str(tmp_path / "remote"), buffer=20, batch_size=4)
    loader = data.train_dataloader()
    memory = Memory()
    for epoch in range(4):
        loader.set_epoch(epoch)
        assert sum(len(batch["key"]) for batch in loader) == 120
    assert memory.peak() < 60 * 2**20
