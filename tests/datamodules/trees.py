"""Small trees of the public benchmarks, as their makers or users describe them; each function says what its images are.

What is said of an image, by the end of its path: label, data set, generator, split, group, pair, caption, source of the caption, family.
"""

import csv
import json
import zlib

import numpy as np
from PIL import Image


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
