"""Layouts of public benchmarks: each tree as its makers or users describe it, built here by hand and not from the YAML under test."""

import csv
import json
import os
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.families import UNKNOWN, FamilyMap
from datamodules.layouts import layout_names, load_layout
from datamodules.layouts.patterns import Names, Pattern, render
from datamodules.sources import LayoutSource
from datamodules.splits import assign_splits, check_leaks


def image(path):
    """A tiny picture whose content follows from its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF"}.get(path.suffix[1:].lower(), "PNG")
    seed = zlib.crc32(str(path).encode("utf-8", "surrogateescape"))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path, form)
    return path


def tree(root, *names):
    for name in names:
        image(root / name)
    return root


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def captions(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name} for i, name in enumerate(files)]
    annotations = [{"id": 10 * i + k, "image_id": i, "caption": f"{k} {name}"} for i, name in enumerate(files) for k in (2, 1)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def genimage(root):
    tree(
        root,
        "ADM/imagenet_ai_0508_adm/train/ai/12_adm_3.PNG",
        "ADM/imagenet_ai_0508_adm/train/nature/n01440764_10026.JPEG",
        "ADM/imagenet_ai_0508_adm/val/nature/ILSVRC2012_val_00000001.JPEG",
        "stable_diffusion_v_1_5/imagenet_ai_0424_sdv5/val/ai/001_sdv5_00000.png",
        "stable_diffusion_v_1_5/imagenet_ai_0424_sdv5/val/nature/n01440764/n01440764_7.JPEG",
        "Midjourney/imagenet_midjourney/val/ai/1_midjourney_1.png",
    )
    return {
        "12_adm_3.PNG": (1, "genimage/adm", "adm", "train", ""),
        "n01440764_10026.JPEG": (0, "genimage/adm", "imagenet", "train", "imagenet/n01440764_10026"),
        "ILSVRC2012_val_00000001.JPEG": (0, "genimage/adm", "imagenet", "test", "imagenet/ILSVRC2012_val_00000001"),
        "001_sdv5_00000.png": (1, "genimage/stable-diffusion-1.5", "stable-diffusion-1.5", "test", ""),
        "n01440764_7.JPEG": (0, "genimage/stable-diffusion-1.5", "imagenet", "test", "imagenet/n01440764_7"),
        "1_midjourney_1.png": (1, "genimage/midjourney", "midjourney", "test", ""),
    }


def forensynths(root):
    tree(
        root,
        "progan_train/train/0_real/a.png",  # pictures of trains
        "progan_val/cat/1_fake/b.png",
        "CNN_synth_testset/biggan/0_real/c.png",
        "CNN_synth_testset/stylegan2/horse/1_fake/d.png",
        "CNN_synth_testset/crn/1_fake/e.png",
    )
    return {
        "a.png": (0, "forensynths/progan", "lsun", "train", ""),
        "b.png": (1, "forensynths/progan", "progan", "val", ""),
        "c.png": (0, "forensynths/biggan", "real", "test", ""),
        "d.png": (1, "forensynths/stylegan2", "stylegan2", "test", ""),
        "e.png": (1, "forensynths/crn", "crn", "test", ""),
    }


def aigcdetectbenchmark(root):
    tree(
        root,
        "test/progan/airplane/0_real/00001.png",
        "test/progan/airplane/1_fake/00002.png",
        "test/ADM/0_real/ILSVRC2012_val_00019159.JPEG",
        "test/ADM/1_fake/624_adm_34.PNG",
        "test/stable_diffusion_v_1_4/1_fake/3.png",
        "test/whichfaceisreal/0_real/4.jpeg",
    )
    return {
        "00001.png": (0, "aigcdetectbenchmark/progan", "real", "test", ""),
        "00002.png": (1, "aigcdetectbenchmark/progan", "progan", "test", ""),
        "ILSVRC2012_val_00019159.JPEG": (0, "aigcdetectbenchmark/adm", "imagenet", "test", "imagenet/ILSVRC2012_val_00019159"),
        "624_adm_34.PNG": (1, "aigcdetectbenchmark/adm", "adm", "test", ""),
        "3.png": (1, "aigcdetectbenchmark/stable-diffusion-1.4", "stable-diffusion-1.4", "test", ""),
        "4.jpeg": (0, "aigcdetectbenchmark/whichfaceisreal", "real", "test", ""),
    }


def synthbuster(root):
    tree(
        root, "dalle2/r000da54ft.png", "midjourney-v5/r000da54ft.png", "stable-diffusion-1-4/r001d260dt.png", "real_RAISE_1k/r000da54ft.TIF"
    )
    table(root / "prompts.csv", [{"image name (matching Raise-1k)": "r000da54ft", "Prompt": "a road, at night"}])
    pair = "raise/r000da54ft"
    return {
        "dalle2/r000da54ft.png": (1, "synthbuster", "dalle2", "test", pair, pair, "a road, at night", "prompt"),
        "midjourney-v5/r000da54ft.png": (1, "synthbuster", "midjourney-5", "test", pair, pair, "a road, at night", "prompt"),
        "r001d260dt.png": (1, "synthbuster", "stable-diffusion-1.4", "test", "raise/r001d260dt", "raise/r001d260dt", None, None),
        "r000da54ft.TIF": (0, "synthbuster", "raise-1k", "test", pair, pair, "a road, at night", "prompt"),
    }


def synris(root):
    (root / "lists").mkdir(parents=True)
    (root / "lists" / "dalle3.jsonl").write_text('{"prompt_index": 1, "url": "https://a.example/1.jpg"}\n')
    tree(root, "reals/dalle3/1.jpg", "fakes/dalle3/00001.png")
    return {
        "1.jpg": (0, "synris/dalle3", "reverse-image-search", "test", "synris/prompt-1", "dalle3/1"),
        "00001.png": (1, "synris/dalle3", "dalle3", "test", "synris/prompt-1", "dalle3/1"),
    }


def elsa_d3(root):
    tree(root, "train/real/7.jpg", "train/df_if/7.png", "train/sd_xl/7.png", "val/sd_14/7.png", "val/real/8.jpg")
    return {
        "train/real/7.jpg": (0, "elsa_d3", "laion", "train", "elsa_d3/train/7"),
        "train/df_if/7.png": (1, "elsa_d3", "deepfloyd-if", "train", "elsa_d3/train/7"),
        "train/sd_xl/7.png": (1, "elsa_d3", "stable-diffusion-xl", "train", "elsa_d3/train/7"),
        "val/sd_14/7.png": (1, "elsa_d3", "stable-diffusion-1.4", "test", "elsa_d3/test/7"),
        "8.jpg": (0, "elsa_d3", "laion", "test", "elsa_d3/test/8"),
    }


def community_forensics(root):
    tree(root, "train/0.png", "train/1.jpg", "CompEval/2.png")
    row = {"file_name": "0.png", "label": 1, "model_name": "someone/finetuned-7", "real_source": "LAION", "architecture": "LatDiff"}
    real = {"file_name": "1.jpg", "label": 0, "model_name": "", "real_source": "COCO", "architecture": ""}
    table(root / "train" / "metadata.csv", [row | {"prompt": "a cat"}, real | {"prompt": ""}])
    flux = {"file_name": "2.png", "label": 1, "model_name": "FLUX-dev", "architecture": "Commercial"}
    (root / "CompEval" / "metadata.jsonl").write_text(json.dumps(flux) + "\n")
    return {
        "0.png": (1, "community_forensics", "someone/finetuned-7", "train", "", None, "a cat", "prompt", "latent-diffusion"),
        "1.jpg": (0, "community_forensics", "COCO", "train", "", None, None, None, "real"),
        "2.png": (1, "community_forensics", "FLUX-dev", "test", "", None, None, None, "unknown"),
    }


def diffusionforensics(root):
    tree(
        root,
        "images/train/imagenet/real/n01440764/n01440764_18.JPEG",
        "images/train/imagenet/adm/0/1.png",
        "images/test/lsun_bedroom/real/2.png",
        "images/test/lsun_bedroom/sdv1_new1/3.png",
        "images/val/celebahq/if/4.png",
        "dire/test/lsun_bedroom/real/2.png",
        "recons/test/lsun_bedroom/real/2.png",
    )
    return {
        "n01440764_18.JPEG": (0, "diffusionforensics/imagenet", "imagenet", "train", "imagenet/n01440764_18"),
        "1.png": (1, "diffusionforensics/imagenet", "adm", "train", ""),
        "2.png": (0, "diffusionforensics/lsun_bedroom", "lsun_bedroom", "test", ""),
        "3.png": (1, "diffusionforensics/lsun_bedroom", "stable-diffusion-1", "test", ""),
        "4.png": (1, "diffusionforensics/celebahq", "deepfloyd-if", "train", ""),
    }


def chameleon(root):
    tree(root / "Chameleon", "test/0_real/0a4d.jpg", "test/1_fake/1b.jpg")
    return {"0a4d.jpg": (0, "chameleon", "real", "test", ""), "1b.jpg": (1, "chameleon", "unknown", "test", "")}


def wildrf(root):
    tree(root, "train/0_real/a.jpg", "val/1_fake/b.png", "test/facebook/1_fake/c.jpg", "test/twitter/0_real/d.jpg")
    return {
        "a.jpg": (0, "wildrf/reddit", "reddit", "train", ""),
        "b.png": (1, "wildrf/reddit", "unknown", "val", ""),
        "c.jpg": (1, "wildrf/facebook", "unknown", "test", ""),
        "d.jpg": (0, "wildrf/twitter", "twitter", "test", ""),
    }


def synthwildx(root):
    tree(root, "dalle3/a.jpg", "firefly/b.jpg", "midjourney_v5/c.jpg", "real/d.jpg")
    return {
        "a.jpg": (1, "synthwildx", "dalle3", "test", ""),
        "b.jpg": (1, "synthwildx", "firefly", "test", ""),
        "c.jpg": (1, "synthwildx", "midjourney-5", "test", ""),
        "d.jpg": (0, "synthwildx", "x-twitter", "test", ""),
    }


def drct_2m(root):
    tree(
        root,
        "DRCT-2M/stable-diffusion-v1-4/train2017/000000000078.png",
        "DRCT-2M/ldm-text2im-large-256/val2017/000000000139.png",
        "DRCT-2M/stable-diffusion-2-inpainting/masks/val2017/000000000139.png",
        "MSCOCO/train2017/000000000078.jpg",
        "MSCOCO/val2017/000000000139.jpg",
        "DR/DRCT-2M/stable-diffusion-v1-4/full_inpainting/train2017/000000000078.png",
    )
    captions(root / "MSCOCO" / "annotations" / "captions_train2017.json", ["000000000078.jpg"])
    told = ("coco/78", "coco/78", "1 000000000078.jpg", "human")
    other = ("coco/139", "coco/139", None, None)
    return {
        "train2017/000000000078.png": (1, "drct_2m", "stable-diffusion-1.4", "train", *told),
        "val2017/000000000139.png": (1, "drct_2m", "ldm-text2im-large-256", "test", *other),
        "train2017/000000000078.jpg": (0, "drct_2m", "mscoco", "train", *told),
        "val2017/000000000139.jpg": (0, "drct_2m", "mscoco", "test", *other),
    }


def openfake(root):
    tree(root, "train/x/0.png", "test/1.jpg")
    columns = {"prompt": "a flood", "type": "base"}
    table(root / "train" / "metadata.csv", [{"file_name": "x/0.png", "label": "fake", "model": "flux.1-dev"} | columns])
    table(root / "test" / "metadata.csv", [{"file_name": "1.jpg", "label": "real", "model": "imagenet"} | columns])
    return {
        "0.png": (1, "openfake", "flux.1-dev", "train", "", None, "a flood", "prompt"),
        "1.jpg": (0, "openfake", "real", "test", "", None, "a flood", "prompt"),
    }


def ai_genbench(root):
    tree(root, "train/0.jpg", "validation/1.jpg")
    rows = [
        {"file_name": "train/0.jpg", "label": 1, "generator": "Stable Diffusion 1.4", "origin_dataset": "DRCT", "positive_prompt": "a dog"},
        {"file_name": "validation/1.jpg", "label": 0, "generator": "", "origin_dataset": "RAISE", "positive_prompt": ""},
    ]
    table(root / "metadata.csv", rows)
    return {
        "0.jpg": (1, "ai_genbench", "Stable Diffusion 1.4", "train", "", None, "a dog", "prompt"),
        "1.jpg": (0, "ai_genbench", "RAISE", "test", "", None, None, None),
    }


def mscoco(root):
    tree(root, "val2014/COCO_val2014_000000000042.jpg", "train2017/000000000009.jpg")
    captions(root / "annotations" / "captions_val2014.json", ["COCO_val2014_000000000042.jpg", "COCO_val2014_000000000099.jpg"])
    return {
        "COCO_val2014_000000000042.jpg": (0, "mscoco", "mscoco", None, "coco/42", None, "1 COCO_val2014_000000000042.jpg", "human"),
        "000000000009.jpg": (0, "mscoco", "mscoco", None, "coco/9", None, None, None),
    }


def laion(root):
    tree(root / "laion400m", "00000/000000012.jpg", "00001/000010003.jpg")
    (root / "laion400m" / "00000" / "000000012.txt").write_text("blue\nshoes ")
    (root / "laion400m" / "00001" / "000010003.txt").write_text("")
    return {
        "000000012.jpg": (0, "laion", "laion", None, "", None, "blue shoes", "alt-text"),
        "000010003.jpg": (0, "laion", "laion", None, "", None, None, None),
    }


def flickr30k(root):
    tree(root, "flickr30k-images/1000092795.jpg", "flickr30k-images/10002456.jpg")
    (root / "results_20130124.token").write_text("1000092795.jpg#0\tTwo men .\n1000092795.jpg#1\tsecond\nbroken line\n", encoding="utf-8")
    return {
        "1000092795.jpg": (0, "flickr30k", "flickr30k", None, "flickr30k/1000092795", None, "Two men .", "human"),
        "10002456.jpg": (0, "flickr30k", "flickr30k", None, "flickr30k/10002456", None, None, None),
    }


BENCHMARKS = {
    builder.__name__: builder
    for builder in (
        *(ai_genbench, aigcdetectbenchmark, chameleon, community_forensics, diffusionforensics, drct_2m, elsa_d3, flickr30k, forensynths),
        *(genimage, laion, mscoco, openfake, synris, synthbuster, synthwildx, wildrf),
    )
}


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
