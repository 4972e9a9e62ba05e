"""Layouts of public benchmarks: each tree as its makers or users describe it, built by hand (trees.py) and not from the YAML under test."""

import os
from collections import Counter

import pytest

from datamodules.errors import DataError
from datamodules.families import UNKNOWN, FamilyMap
from datamodules.layouts import layout_names, load_layout
from datamodules.layouts.patterns import Names, Pattern, render
from datamodules.sources import FolderSource, LayoutSource
from datamodules.sources.found import find_source
from datamodules.splits import assign_splits, check_leaks
from tests.datamodules.trees import BENCHMARKS, flickr30k, genimage, image, laion, mscoco, openfake, synthbuster, tree


def records(root, tmp_path, **options):
    source = LayoutSource(str(root), **options)
    return source, source.records(tmp_path / "cache")


def test_every_layout_has_a_tree():
    assert layout_names() == sorted(BENCHMARKS)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_found_and_labelled(name, tmp_path):
    wanted = BENCHMARKS[name](tmp_path / "data")
    source, found = records(tmp_path / "data", tmp_path)
    assert source.found.name == name
    assert len(found) == len(wanted)
    for record in found:
        told = next(value for path, value in wanted.items() if record.path.endswith(os.sep + path))
        group = "" if record.group == record.content_hash else record.group
        fields = (record.label, record.dataset, record.generator, record.split, group, record.pair, record.caption)
        fields += (record.caption_source, record.family)
        if told[3] == "train":
            assert fields[3] in ("train", "val"), record.path  # a tenth is cut off for validation
            fields, told = (*fields[:3], *fields[4:]), (*told[:3], *told[4:])
        assert fields[: len(told)] == told, record.path
    assert not source.failures
    assert check_leaks(found) == found
    named = LayoutSource(str(tmp_path / "data"), layout=name, dataset="mine").records(tmp_path / "cache")
    assert [(r.key, r.label) for r in named] == [(r.key, r.label) for r in found]
    assert {r.dataset.partition("/")[0] for r in named} == {"mine"}


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_found_in_the_folder_of_a_download(name, tmp_path):
    wanted = BENCHMARKS[name](tmp_path / "downloads" / "unpacked" / "inner")
    source, found = records(tmp_path / "downloads", tmp_path)
    assert source.found.name == name
    assert len(found) == len(wanted)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_no_other_layout_reads_it_as_a_whole(name, tmp_path):
    """A layout that somebody names wrongly is refused, or leaves images out; only those without names of their own can be mistaken."""
    BENCHMARKS[name](tmp_path / "data")
    _, own = records(tmp_path / "data", tmp_path)
    for other in sorted(set(BENCHMARKS) - {name}):
        source = LayoutSource(str(tmp_path / "data"), layout=other)
        try:
            found = source.records(tmp_path / "cache")
        except DataError:
            continue
        assert source.failures, f"{other} reads all of {name}"
        assert len(found) < len(own)


def test_generators_have_families():
    families = FamilyMap.load()
    for name in layout_names():
        meanings = load_layout(name).names.get("generator")
        for folder, meaning in (meanings._exact if meanings else {}).items():
            assert families.family(meaning or folder) != UNKNOWN, f"{name}: {folder}"


def test_validation_is_cut_from_training_by_groups_and_the_same_every_time(tmp_path):
    names = [f"{i:012d}" for i in range(400)]
    root = tree(tmp_path / "data", *(f"DRCT-2M/sd-turbo/train2017/{n}.png" for n in names), *(f"MSCOCO/train2017/{n}.png" for n in names))
    _, found = records(root, tmp_path)
    splits = Counter(r.split for r in found)
    assert splits.keys() == {"train", "val"}
    assert 40 < splits["val"] < 140
    assert all(len({r.split for r in found if r.group == group}) == 1 for group in {r.group for r in found})
    os.rename(root, tmp_path / "moved")
    assert [r.split for r in records(tmp_path / "moved", tmp_path)[1]] == [r.split for r in found]
    _, cut = records(tmp_path / "moved", tmp_path, own_splits=False)
    assert {r.split for r in cut} == {None}
    assert {r.split for r in assign_splits(cut)} == {"train", "val", "test"}


def test_wrong_paths(tmp_path):
    with pytest.raises(DataError, match="does not exist: check the path"):
        records(tmp_path / "nowhere", tmp_path)
    with pytest.raises(DataError, match="is a file"):
        records(image(tmp_path / "a.png"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No image lies in"):
        records(tmp_path / "empty", tmp_path)
    with pytest.raises(DataError, match=r"There is no layout 'genimag'.*genimage"):
        records(tmp_path / "empty", tmp_path, layout="genimag")


def test_unknown_and_ambiguous_trees(tmp_path):
    with pytest.raises(DataError, match=r"No layout is known for .*It holds cats/old/, dogs/.*FolderSource"):
        records(tree(tmp_path / "pets", "cats/old/1.png", "dogs/2.png"), tmp_path)
    # Both layouts read these generators, and each one more: 19 of 20 images.
    shared = [f"{gan}/0_real/{i}.png" for gan in ("progan", "biggan") for i in range(9)]
    with pytest.raises(DataError, match="may be any of the layouts aigcdetectbenchmark, forensynths"):
        records(tree(tmp_path / "both", *shared, "crn/0_real/1.png", "wukong/0_real/1.png"), tmp_path)
    source, found = records(tmp_path / "both", tmp_path, layout="forensynths")
    assert len(found) == 19
    assert [os.path.basename(os.path.dirname(os.path.dirname(f.where))) for f in source.failures] == ["wukong"]
    # Chameleon's tree, but not its name.
    plain = tree(tmp_path / "plain", "test/0_real/1.jpg", "test/1_fake/1.jpg")
    with pytest.raises(DataError, match=r"No layout is known .*100% of the images lie where the layout chameleon has some"):
        records(plain, tmp_path)
    assert len(records(plain, tmp_path, layout="chameleon")[1]) == 2


@pytest.mark.parametrize(
    "names",
    [
        ("train/cat/0_real/1.png", "train/dog/1_fake/1.png"),  # classes of ForenSynths, but no generator
        ("dalle3/1.png", "firefly/2.png", "real/3.png"),  # generators of SynthWildX and Synthbuster, but not all of their names
        ("train/0_real/1.png", "val/1_fake/1.png"),  # WildRF's, but no platform
        ("MSCOCO/train2017/000000000009.jpg", "MSCOCO-2/1.png"),  # reals of DRCT-2M, but no fakes
        ("train/real/1.png", "val/real/2.png"),  # ELSA_D3's, but no fakes
    ],
)
def test_common_names_are_no_benchmark(tmp_path, names):
    with pytest.raises(DataError, match="No layout is known"):
        records(tree(tmp_path / "data", *names), tmp_path)


def test_a_generator_of_ones_own_beside_a_benchmark_is_left_out_and_said(tmp_path):
    genimage(tmp_path / "data")
    image(tmp_path / "data" / "README-figure.png")
    for i in range(30):
        image(tmp_path / "data" / "wukong" / "train" / "ai" / f"{i}.png")
    source, found = records(tmp_path / "data", tmp_path)
    assert len(found) == 36
    assert [os.path.basename(f.where) for f in source.failures] == ["README-figure.png"]
    assert "genimage has no images" in source.failures[0].reason


def test_hostile_names_links_and_tables(tmp_path):
    root = tmp_path / "data"
    synthbuster(root)
    image(root / "dalle3" / "r0;rm -rf ~$(x)\nt.png")
    image(root / "glide" / os.fsdecode(b"r\xff\xfet.png"))
    (root / "glide" / "loop").symlink_to(root)
    (root / "glide" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "secret.csv").write_text("image name (matching Raise-1k),Prompt\n../../etc/passwd,stolen\n")
    source, found = records(root, tmp_path)
    assert len(found) == 5
    assert {os.path.basename(f.where): f.reason for f in source.failures} == {
        "loop": "a link to a folder that was read already",
        "gone.png": "no such file or directory",
        os.fsdecode(b"r\xff\xfet.png"): "the name is not valid UTF-8, which no table can hold: rename the file",
    }
    (root / "prompts.csv").write_text("wrong,columns\n1,2\n")
    with pytest.raises(DataError, match=r"prompts.csv has no column image name"):
        records(root, tmp_path)


@pytest.mark.parametrize(
    ("benchmark", "file"),
    [
        (synthbuster, "prompts.csv"),
        (openfake, "train/metadata.csv"),
        (mscoco, "annotations/captions_val2014.json"),
        (flickr30k, "results_20130124.token"),
        (laion, "laion400m/00000/000000012.txt"),
    ],
)
def test_a_table_that_is_a_link_leading_out_is_not_opened(benchmark, file, tmp_path):
    benchmark(tmp_path / "data")
    place = tmp_path / "data" / file
    place.rename(tmp_path / "secret")
    place.symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"is a link that leads out of .*put the file itself there"):
        records(tmp_path / "data", tmp_path)
    with pytest.raises(DataError, match="is a link that leads out of"):
        records(tmp_path / "data", tmp_path, layout=benchmark.__name__)
    place.unlink()
    (tmp_path / "secret").rename(place.parent / "kept")
    place.symlink_to("kept")
    assert any(record.caption for record in records(tmp_path / "data", tmp_path)[1])


def test_a_tree_of_links_to_folders_has_the_tables_in_them(tmp_path):
    """Images are read through links to folders, and so is what lies beside them there."""
    openfake(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name)
    source, found = records(tmp_path / "data", tmp_path)
    assert (source.found.name, [record.caption for record in found]) == ("openfake", ["a flood"] * 2)
    laion(tmp_path / "stored")
    (tmp_path / "linked" / "laion400m").mkdir(parents=True)
    for name in ("00000", "00001"):
        (tmp_path / "linked" / "laion400m" / name).symlink_to(tmp_path / "stored" / "laion400m" / name)
    assert [record.caption for record in records(tmp_path / "linked", tmp_path)[1]] == ["blue shoes", None]


@pytest.mark.parametrize("damage", ["first row", "later row"])
def test_a_layout_with_a_damaged_table_is_not_taken_for_folders_of_classes(damage, tmp_path):
    root = tree(tmp_path / "data", "train/real/0.png", "train/fake/1.png", "test/real/2.png", "test/fake/3.png")
    table = root / "test" / "metadata.csv"
    rows = ["file_name,label,model,prompt", "real/2.png,real,laion,x", "fake/3.png,fake,flux,x"]
    table.write_text("\n".join(rows))
    (root / "train" / "metadata.csv").write_text("file_name,label,model,prompt\nreal/0.png,real,laion,x\nfake/1.png,fake,flux,x\n")
    assert isinstance(find_source(root), LayoutSource)
    if damage == "first row":
        table.write_bytes(b"PAR1\0\0\0")
    else:
        table.write_text("\n".join([*rows, "torn"]))
    with pytest.raises(DataError, match=r"metadata\.csv is binary|metadata\.csv, line 4: 1 cells for 4 columns"):
        find_source(root).records(tmp_path / "cache")
    assert len(find_source(root, layout="folders").records(tmp_path / "cache")) == 4
    table.write_text("name,size\na,1\n")  # somebody's own table: no layout's
    assert isinstance(find_source(root), FolderSource)


def test_an_annotation_file_that_is_none_is_told_without_an_option(tmp_path):
    mscoco(tmp_path / "data")
    (tmp_path / "data" / "annotations" / "captions_val2014.json").write_text("{}")
    with pytest.raises(DataError, match=r"^the annotation file .*captions_val2014.json has no lists"):
        records(tmp_path / "data", tmp_path)


def test_one_path_of_a_table_that_leads_out_names_nothing(tmp_path):
    openfake(tmp_path / "data")
    secret = image(tmp_path / "secret.png")
    with (tmp_path / "data" / "test" / "metadata.csv").open("a") as file:
        file.write(f"../../secret.png,fake,x,y,z\n{secret},fake,x,y,z\n")
    image(tmp_path / "data" / "test" / "unnamed.png")
    for i in range(30):
        image(tmp_path / "data" / "train" / "y" / f"{i}.png")
    source, found = records(tmp_path / "data", tmp_path)
    assert len(found) == 2
    assert len(source.failures) == 31
    assert {f.reason for f in source.failures} == {"metadata.csv does not name it"}


OWN = """
title: Mine
parts: {kind: {photo: real, made: fake}, split: {one: train, two: test}}
rules:
  - path: "{split}/{kind}/{generator}/**/{id:#}*"
    label: "{kind}"
    dataset: "{generator}"
    group: "mine/{id}"
    real: {generator: camera}
"""


def test_a_layout_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN)
    root = tree(tmp_path / "data", "one/photo/x/007a.png", "two/MADE/x/deep/er/7b.png")
    _, found = records(root, tmp_path, layout=str(tmp_path / "mine.yaml"))
    assert [(r.label, r.dataset, r.generator, r.split, r.group) for r in found] == [
        (0, "mine/x", "camera", "train", "mine/7"),
        (1, "mine/x", "x", "test", "mine/7"),
    ]
    with pytest.raises(DataError, match=r"do not lie as the layout mine says: it expects \{split\}"):
        records(tree(tmp_path / "other", "a/b.png"), tmp_path, layout=str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: Mine", "titel: Mine"), "the file has 'titel'"),
        (('"{split}/{kind}/{generator}/**/{id:#}*"', '"../{split}/{kind}/{generator}/{id:#}"'), "pattern '../"),
        (('"{split}/{kind}/{generator}/**/{id:#}*"', '"/etc/{split}/{kind}/{generator}/{id:#}"'), "pattern '/etc"),
        (('"{split}/{kind}/{generator}/**/{id:#}*"', '"{split}/{kind}/{generator}/**"'), "is none"),
        (('"{split}/{kind}/{generator}/**/{id:#}*"', '"{split}/{kind}/{generator}/{a}{b}{c}{id:#}"'), "more than 3"),
        (('"mine/{id}"', '"mine/{prompt}"'), "not every image of that rule has the part prompt"),
        (('label: "{kind}"', "split: train"), "does not say whether its images are real"),
        (("{generator: camera}", "{label: fake}"), "what a rule says of real images"),
        (("parts: {kind", "tables: [{file: ../../etc/passwd, key: a, parts: {a: b}}]\nparts: {kind"), "leads out of the data's folder"),
        (("parts: {kind", "validation: 2\nparts: {kind"), "no share from 0"),
        (("parts: {kind", "parts: [1, 2]\nx: {kind"), "the file has 'x'"),
        (("rules:", "rules: none\nwhat:"), "the file has 'what'"),
        (("title: Mine", "title: !!python/object/apply:os.system [id]"), "is not YAML"),
    ],
)
def test_what_a_layout_must_not_say(tmp_path, change, message):
    (tmp_path / "mine.yaml").write_text(OWN.replace(*change))
    with pytest.raises(DataError, match=r"mine\.yaml") as error:
        load_layout(str(tmp_path / "mine.yaml"))
    assert message in str(error.value)


def test_patterns():
    pattern = Pattern("{a}/x*/**/{n:#}_{b:y|z*}", {"a": ["one", "t*"]})
    assert pattern.match("One/X1/0070_zebra") == {"a": "One", "n": "70", "b": "zebra"}
    assert pattern.match("two/x/p/q/7_y") == {"a": "two", "n": "7", "b": "y"}
    for other in ("three/y/7_y", "four/x/7_y", "one/x/7_x", "one/x/y_7", "one/a/x/7_y", "one/x/7_y/z"):
        assert pattern.match(other) is None
    assert Pattern("{a}/*").match("line\nbreak/.png") == {"a": "line\nbreak"}
    assert render("{a}/{b}", {"a": "1", "b": ""}) is None
    names = Names({"ADM": "adm", "sd*": "", "*": "other"})
    assert [names.get(n) for n in ("adm", "SD3", "x")] == ["adm", "SD3", "other"]
    assert Names({"a": "b"}).get("c") is None


def test_a_long_name_costs_no_time():
    pattern = Pattern("{a}_{b}_*/**/{c}", None)
    assert pattern.match("_" * 255 + "/" + "/".join(["x"] * 200) + "/") is None
