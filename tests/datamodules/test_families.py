import json
import pickle

import pytest

from datamodules.errors import DataError
from datamodules.families import BUILT_IN, FamilyMap, class_numbers, classes_of
from datamodules.records import Record


def record(generator, family="unknown", label=1):
    return Record("k", label, "d", generator, family=family)


@pytest.fixture(scope="module")
def families():
    return FamilyMap.load()


# Names as the sets themselves publish them: folders, columns, or the papers' tables.
PUBLISHED = {
    "synthbuster": {
        "pixel-diffusion": "dalle2, glide",
        "commercial-unknown": "dalle3, firefly, midjourney-v5",
        "latent-diffusion": "stable-diffusion-1-3, stable-diffusion-1-4, stable-diffusion-2, stable-diffusion-xl",
    },
    "genimage": {
        "pixel-diffusion": "ADM, glide",
        "gan": "BigGAN",
        "commercial-unknown": "Midjourney",
        "latent-diffusion": "stable_diffusion_v_1_4, stable_diffusion_v_1_5, sdv4, sdv5, VQDM, wukong",
    },
    "forensynths": {
        "gan": "progan, stylegan, stylegan2, biggan, cyclegan, stargan, gaugan, whichfaceisreal",
        "regression": "crn, imle, san, seeingdark, sitd",
        "face-swap": "deepfake",
    },
    "aigcdetectbenchmark": {
        "gan": "ProGAN, StyleGAN, BigGAN, CycleGAN, StarGAN, GauGAN, StyleGAN2, WFIR",
        "pixel-diffusion": "ADM, Glide, DALLE2",
        "latent-diffusion": "SDv1.4, SDv1.5, sd_xl, VQDM, Wukong",
        "commercial-unknown": "Midjourney",
    },
    "universalfakedetect": {
        "pixel-diffusion": "guided, glide_100_10, glide_100_27, glide_50_27",
        "latent-diffusion": "ldm_100, ldm_200, ldm_200_cfg",
    },
    "elsa_d3": {
        "pixel-diffusion": "DeepFloyd IF, DF-IF, DeepFloyd/IF-II-L-v1.0",
        "latent-diffusion": "SD-1.4, SD-2.1, SD-XL, Stable Diffusion 1.4, Stable Diffusion 2.1, Stable Diffusion XL 1.0, "
        "CompVis/stable-diffusion-v1-4, stabilityai/stable-diffusion-2-1-base, stabilityai/stable-diffusion-xl-base-1.0",
    },
    "synris": {
        "commercial-unknown": "dalle3, DALL·E 3, midjourney, mj, midjourney-v5, midjourney-v6",
        "latent-diffusion": "kandinsky2, kandinsky3, pixart-alpha, pixart-alpha-512, pixart-alpha-1024, pixart1024, PixArt-α, "
        "playground-25, sd-15, sd-21, sd-turbo, sdxl, sdxl-dpo, sdxl_dpo, sdxl-turbo, segmoe, ssd1b, vega, stable-cascade, wurstchen2, "
        "Würstchen 2, wuerstchen, lcm, dreamlike-art, dreamlike-photo, dreamshaper-xl-turbo, koala-1b-llava, openjourney",
        "pixel-diffusion": "imagen, deepfloyd",
        "masked-tokens": "amused",
    },
    "community-forensics": {  # the named generators of the small set and those of the evaluation set, with most of the images
        "gan": "GigaGAN, BigGAN, StyleSANXL, StyleGANXL, StyleGAN2, StyleGAN2-ADA, StyleGAN3, StyleSwin, ProGAN, ProjectedGAN, Gansformer, "
        "CIPS, DFGAN, GALIP",
        "pixel-diffusion": "glide, guidedDiffusion, DeepFloyd, Hourglass, Dalle2",
        "latent-diffusion": "VQDiffusion, DiT, stable_cascade, LCM_lora_sdxl, LCM_lora_sdv15, LCM_lora_ssd1b, kandinsky_2_2, "
        "DeciDiffusionV2, kvikontent_midjourney_v6, Imagen3, stabilityai/stable-diffusion-2, "
        "Charles-Elena/playground-v2-1024px-aesthetic-ce",
        "autoregressive": "tamingTransformers",
        "flow": "LFM, FLUX-dev, FLUX-schnell, black-forest-labs/FLUX.1-dev, stabilityai/stable-diffusion-3-medium",
        "commercial-unknown": "MidjourneyV5_2, MidjourneyV6_1, Firefly_Image2, Firefly_Image3, Dalle3, IdeogramV1, IdeogramV2",
    },
    "realset": {
        "gan": "stylegan2",
        "latent-diffusion": "glid-3-xl, latent-diffusion, stable-diffusion, stable-diffusion-2.1",
        "autoregressive": "dalle-mini",
        "commercial-unknown": "midjourney",
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_generators_of_a_set_are_known(families, name):
    wanted = {generator: family for family, listed in PUBLISHED[name].items() for generator in listed.split(", ")}
    assert {generator: families.family(generator) for generator in wanted} == wanted


def test_the_sets_are_whole():
    sizes = {name: sum(len(listed.split(", ")) for listed in families.values()) for name, families in PUBLISHED.items()}
    assert sizes["synthbuster"] == 9
    assert sizes["genimage"] == 8 + 2  # two go by another name in their archives
    assert sizes["forensynths"] == 13 + 1  # seeingdark is the folder of SITD
    assert sizes["aigcdetectbenchmark"] == 17


def test_what_a_name_only_looks_like_is_not_guessed(families):
    names = ("dalle", "user/my-midjourney", "kukuhtw/ganjarpranowo", "sdfd", "imagen-4", "")
    assert {families.family(name) for name in names} == {"unknown"}


@pytest.mark.parametrize(
    ("generators", "family"),
    [
        ("ProGAN StyleGAN StyleGAN2 BigGAN CycleGAN StarGAN GauGAN WFIR", "gan"),
        ("SDv1.4 SDv1.5 Wukong VQDM sdxl ssd1b vega segmoe kandinsky2 kandinsky3 pixart1024 playground-25", "latent-diffusion"),
        ("stable-diffusion-1-3 stable-diffusion-2.1 stable_diffusion_xl stable-cascade wurstchen2", "latent-diffusion"),
        ("builtin-img2img builtin-txt2img glid-3-xl", "latent-diffusion"),
        ("ADM GLIDE Glide DALLE2 dall-e-2", "pixel-diffusion"),
        ("stable-diffusion-3-medium sd3.5 FLUX.1-dev", "flow"),
        ("dalle-mini", "autoregressive"),
        ("Midjourney midjourney-v5 dalle3 firefly", "commercial-unknown"),
        ("builtin-autoencoder", "autoencoder"),
        ("something-else sdfd", "unknown"),
    ],
)
def test_known_generators(families, generators, family):
    assert {families.family(generator) for generator in generators.split()} == {family}


def test_numbers_and_back(families):
    assert families.index("real") == 0
    assert families.index("unknown") == families.index("never heard of") == -1
    assert [families.name(families.index(name)) for name in families.names] == families.names
    assert families.name(-1) == families.name(10_000) == "unknown"


def test_spelling_makes_no_difference(families):
    names = ("Stable Diffusion 1.5", "stable_diffusion-1.5", "STABLE-DIFFUSION 1 5")
    assert {families.family(name) for name in names} == {"latent-diffusion"}


def test_real_then_the_record_then_the_map(families):
    assert families.of(record("stylegan2", label=0)) == "real"
    assert families.of(record("stylegan2", family="mine")) == "mine"
    assert families.of(record("stylegan2")) == "gan"
    assert families.of(record("strange")) == "unknown"
    assert [r.family for r in families.resolve([record("stylegan2"), record("ffhq", label=0)])] == ["gan", "real"]


def test_a_users_file_is_read_on_top(tmp_path, families):
    path = tmp_path / "own.yaml"
    path.write_text("gan: [mygan]\nlatent-diffusion: [Fire Fly]\nstylegans: ['stylegan*', stylegan2]\n")
    own = FamilyMap.load(path)
    assert own.names == [*families.names, "stylegans"]
    assert [own.family(name) for name in ("mygan", "fire-fly", "stylegan3", "StyleGAN2", "progan")] == [
        "gan",
        "latent-diffusion",
        "stylegans",
        "stylegans",
        "gan",
    ]


def test_exact_over_pattern_and_long_over_short():
    families = FamilyMap({"a": ["x*"], "b": ["x-y*"], "c": ["x-y-z"]})
    assert [families.family(name) for name in ("x1", "x-y-1", "x.y.z")] == ["a", "b", "c"]
    assert families.names == ["real", "a", "b", "c"]


def test_round_trip_in_plain_types(families):
    state = json.loads(json.dumps(families.to_dict()))
    back = FamilyMap.from_dict(state)
    assert back.to_dict() == families.to_dict()
    assert back.names == families.names
    assert back.family("stylegan3") == "gan"
    assert pickle.loads(pickle.dumps(families)).names == families.names


def test_families_that_only_the_source_names(families):
    extended = families.including([record("m", "zeta"), record("n", "alpha"), record("strange"), record("ffhq", label=0)])
    assert extended.names == [*families.names, "alpha", "zeta"]
    assert families.including([]).names == families.names


def test_row_37_unknown_generator(families):
    families.check_known([record("stylegan2"), record("ffhq", label=0)])
    with pytest.raises(DataError, match=r"'strange'.*families\.yaml"):
        families.check_known([record("stylegan2"), record("strange")])
    with pytest.raises(DataError, match="'odd'"):
        families.check_known([record("odd", "family of the manifest")])
    assert families.index(families.of(record("strange"))) == -1


def test_no_generator_stands_twice_in_the_built_in_file(families):
    entries = [entry for listed in families.families.values() for entry in listed]
    assert len(families._exact) == len(entries)
    assert BUILT_IN.is_file()


@pytest.mark.parametrize("text", ["- gan", "gan: stylegan", "gan: [1]", "1: [a]", "gan: [", "unknown: [a]", "\x00", "just text"])
def test_files_of_another_form(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"own\.yaml"):
        FamilyMap.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="check the path"):
        FamilyMap.load(tmp_path / "missing.yaml")


def test_classes_of_families_come_in_the_maps_order(families):
    trained = [record("sdxl"), record("progan"), record("ffhq", label=0), record("BigGAN"), record("flux-dev")]
    classes = classes_of(trained, "family", families)
    assert classes == ["real", "gan", "latent-diffusion", "flow"]
    assert class_numbers(trained, classes, "family", families) == [2, 1, 0, 1, 3]


def test_classes_of_a_training_set_may_be_fewer_than_those_of_the_test(families):
    classes = classes_of([record("progan")], "family", families)
    tested = [record("glide"), record("strange"), record("laion", label=0), record("stargan")]
    assert class_numbers(tested, classes, "family", families) == [-1, -1, 0, 1]


def test_classes_of_generators_are_sorted_and_one_however_they_are_spelled(families):
    spelled = ["Stable-Diffusion 1.4", "stable_diffusion_1.4", "stable_diffusion_1.4", "ProGAN", "strange"]
    trained = [record(name) for name in spelled]
    classes = classes_of(trained, "generator", families)
    assert classes == ["real", "ProGAN", "stable_diffusion_1.4", "strange"]
    assert class_numbers([*trained, record("STABLE DIFFUSION 1-4"), record("sdxl")], classes, "generator", families) == [
        2,
        2,
        2,
        1,
        3,
        2,
        -1,
    ]


def test_the_order_of_the_records_makes_no_difference(families):
    trained = [record(name) for name in ("a b", "a_b", "c", "A-B", "progan", "C")]
    assert classes_of(trained, "generator", families) == classes_of(trained[::-1], "generator", families)


def test_row_37_unknown_is_an_error_or_the_last_class_when_asked(families):
    trained = [record("zeta"), record("progan"), record("ffhq", label=0), record("omega", "family nobody numbered")]
    with pytest.raises(DataError, match=r"'omega', 'zeta'.*families\.yaml"):
        classes_of(trained, "family", families)
    classes = classes_of(trained, "family", families, unknown=True)
    assert classes == ["real", "gan", "unknown"]
    assert class_numbers(trained, classes, "family", families) == [2, 1, 0, 2]
    assert classes_of(trained[1:3], "family", families, unknown=True) == ["real", "gan"]


def test_row_37_generators_without_a_name(families):
    trained = [record("unknown"), record(" "), record("Unknown"), record("progan")]
    with pytest.raises(DataError, match="3 generated images have no generator"):
        classes_of(trained, "generator", families)
    classes = classes_of(trained, "generator", families, unknown=True)
    assert classes == ["real", "progan", "unknown"]
    assert class_numbers(trained, classes, "generator", families) == [2, 2, 2, 1]


def test_families_of_the_manifest_are_classes(families):
    trained = [record("m", "zeta"), record("progan")]
    extended = families.including(trained)
    assert classes_of(trained, "family", extended) == ["real", "gan", "zeta"]


@pytest.mark.parametrize(("target", "fake"), [("family", record("m", "real")), ("generator", record("Real"))])
def test_no_generated_image_is_of_the_class_real(families, target, fake):
    with pytest.raises(DataError, match=f"correct the label or the {target}"):
        classes_of([fake], target, families)
    assert class_numbers([fake], ["real", "gan"], target, families) == [-1]


def test_a_target_that_has_no_classes(families):
    with pytest.raises(ValueError, match="'binary'"):
        classes_of([], "binary", families)
