"""Shares of a data set: together they hold each image once."""

import hashlib

import pytest

from datamodules.errors import DataError
from datamodules.records import Record
from datamodules.shares import WHOLE, Share


def records(count):
    return [Record(hashlib.sha256(str(i).encode()).hexdigest()[:32], i % 2, "d", "g", path=f"/{i}.png") for i in range(count)]


def test_each_image_is_in_one_share():
    found = records(1000)
    parts = [Share(number, 8).part(found) for number in range(1, 9)]
    assert sorted(record.key for part in parts for record in part) == sorted(record.key for record in found)
    assert all(80 < len(part) < 175 for part in parts)  # 125 on average
    assert WHOLE.part(found) == found


def test_the_place_of_a_file_does_not_matter():
    """Two jobs that list the files in another order, or mount them elsewhere, agree."""
    found = records(50)
    there = [Record(record.key, record.label, "d", "g", path=f"/mnt{record.path}") for record in reversed(found)]
    keys = {record.key for record in Share(2, 3).part(found)}
    assert keys == {record.key for record in Share(2, 3).part(there)}


def test_files_of_one_content_stay_together():
    """The second one of a content is told from the first by the order of the files only."""
    first = records(1)[0]
    second = Record(f"{first.key}-1", 0, "d", "g", path="/copy.png")
    assert {Share(1, 5).number_of(first)} == {Share(3, 5).number_of(second)}


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "3/0", "-1/8", "3/8/2", "1.5/8", "3/80000", "a/b"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(DataError, match="for example 3/8"):
        Share.parse(text)


def test_a_share_is_written_as_it_is_read():
    assert Share.parse(" 3/8 ") == Share(3, 8)
    assert str(Share(3, 8)) == "3/8"
