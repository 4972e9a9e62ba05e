import json
import pickle

import pytest

from datamodules.errors import DataError
from datamodules.families import BUILT_IN, FamilyMap
from datamodules.records import Record


def record(generator, family="unknown", label=1):
    return Record("k", label, "d", generator, family=family)


@pytest.fixture(scope="module")
def families():
    return FamilyMap.load()


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
