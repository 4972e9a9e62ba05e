"""Every shipped YAML is a configuration that the command accepts."""

from pathlib import Path

import pytest
import yaml

import evaluate
from cli import UndertowCLI
from datamodules import sources
from datamodules.families import FamilyMap
from datamodules.layouts import load_layout
from datamodules.layouts.patterns import Names, render
from datamodules.perturbations import PRESETS, expanded, perturbation
from evaluation.comparison import read_targets
from modules import extractors
from workflow.conditions import expanded as with_conditions
from workflow.fitting import FittedDetector, as_options
from workflow.study import chosen_baseline

CONFIGS = sorted(str(path) for path in Path("configs").glob("*.yaml"))
ABLATIONS = sorted(str(path) for path in Path("configs/ablations").glob("*.yaml"))
SOURCES = sorted(str(path) for path in Path("configs/sources").glob("*.yaml"))
INVERSION = [config for config in CONFIGS if "detectors.FakeInversion" in Path(config).read_text()]
STUDIES = sorted(str(path) for path in Path("configs/studies").glob("*.yaml"))
CHANNELS = {"rgb": 3, "residual": 3, "channels_9": 9, "channels_12": 12}
FAST = {"fast_steps": {"steps": 10}, "fast_solver": {"solver": "dpm++", "steps": 25}, "fast_reuse": {"reuse": 2}}


def resolved(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        UndertowCLI([*arguments, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("config", CONFIGS)
def test_config_is_accepted(config, capsys):
    told = yaml.safe_load(Path(config).read_text())
    printed = resolved(["--config", config], capsys)
    for part in ("model", "data"):
        assert told[part].keys() <= printed[part].keys()
    assert printed["model"]["class_path"] == told["model"]["class_path"]


@pytest.mark.parametrize("ablation", CHANNELS)
@pytest.mark.parametrize("config", INVERSION)
def test_ablations_are_laid_over_a_config(config, ablation, capsys):
    printed = resolved(["--config", config, "--config", f"configs/ablations/{ablation}.yaml"], capsys)
    assert 3 * len(printed["model"]["init_args"]["inputs"]) == CHANNELS[ablation]
    base = yaml.safe_load(Path(config).read_text())
    assert printed["model"]["init_args"]["backbone"] == base["model"]["init_args"]["backbone"]


@pytest.mark.parametrize("mode", FAST)
@pytest.mark.parametrize("config", INVERSION)
def test_faster_modes_change_these_options_of_the_extractor_alone(config, mode, capsys):
    plain = resolved(["--config", config], capsys)
    printed = resolved(["--config", config, "--config", f"configs/ablations/{mode}.yaml"], capsys)
    plain["data"]["extractor"]["init_args"].update(FAST[mode])
    assert {name: printed[name] for name in ("model", "data", "trainer")} == {name: plain[name] for name in ("model", "data", "trainer")}
    extractors.InversionExtractor(**printed["data"]["extractor"]["init_args"])  # refuses options that cannot be


def test_all_ablations_are_there_and_no_config_is_faster_by_itself(capsys):
    assert {Path(ablation).stem for ablation in ABLATIONS} == CHANNELS.keys() | FAST.keys()
    for config in INVERSION:
        extractor = resolved(["--config", config], capsys)["data"]["extractor"]["init_args"]
        assert (extractor["solver"], extractor["reuse"]) == ("ddim", 1)


def test_swapping_the_source_on_the_command_line(capsys):
    arguments = [
        "--config",
        "configs/quickstart.yaml",
        "--data.source",
        "datamodules.sources.ManifestSource",
        "--data.source.path",
        "y.csv",
    ]
    printed = resolved([*arguments, "--data.extractor.steps", "7"], capsys)
    assert printed["data"]["source"]["init_args"]["path"] == "y.csv"
    assert printed["data"]["extractor"]["init_args"]["steps"] == 7
    assert printed["data"]["extractor"]["init_args"]["size"] == 64


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_laid_over_a_config(source, capsys):
    printed = resolved(["--config", "configs/clip_svm.yaml", "--config", source], capsys)["data"]["source"]
    told = yaml.safe_load(Path(source).read_text())["data"]["source"]
    assert printed["class_path"] == told["class_path"]
    assert printed["init_args"] | told["init_args"] == printed["init_args"]
    getattr(sources, told["class_path"].rpartition(".")[2])(**printed["init_args"])  # refuses options that cannot be


LAYOUTS = {Path(source).stem: Path(source).stem for source in SOURCES} | {"tiny_genimage": "genimage"}


def _parts_of(layout):
    """What the parts of a layout's paths mean, of generators."""
    parts = yaml.safe_load(Path(layout.where).read_text()).get("parts", {}).get("generator", {})
    return parts.values() if isinstance(parts, dict) else parts


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"img2dataset"}))
def test_a_generator_has_one_name_from_the_hub_and_from_a_folder(name):
    options = yaml.safe_load(Path(f"configs/sources/{name}.yaml").read_text())["data"]["source"]["init_args"]
    layout = load_layout(LAYOUTS[name])
    assert options["dataset"] == name
    rules = [says["generator"] for rule in layout.rules for says in (rule.says, rule.real, rule.fake) if "generator" in says]
    known = {render(text, {}) or "" for text in rules} | set(_parts_of(layout))
    mapped = {*options.get("names", {}).values(), *options.get("image_columns", {}).values()}
    assert mapped <= known
    assert "unknown" not in {FamilyMap.load().family(generator) for generator in mapped - {"imagenet"}}
    told = {**layout.tables[0].parts, **layout.tables[0].more}.get("generator") if layout.tables else None
    assert told is None or (told == options["columns"]["generator"] and not mapped), "its own names in both"
    assert mapped or told


def test_names_of_tiny_genimage():
    names = Names(yaml.safe_load(Path("configs/sources/tiny_genimage.yaml").read_text())["data"]["source"]["init_args"]["names"])
    own = ["Real", "ADM", "BigGAN", "GLIDE", "Midjourney", "SD14", "SD15", "VQDM", "Wukong"]
    wanted = "imagenet adm biggan glide midjourney stable-diffusion-1.4 stable-diffusion-1.5 vqdm wukong"
    assert [names.get(name) for name in own] == wanted.split()


def test_the_paper_is_what_the_config_says(capsys):
    printed = resolved(["--config", "configs/fakeinversion.yaml"], capsys)
    extractor = printed["data"]["extractor"]["init_args"]
    assert (extractor["size"], extractor["steps"], extractor["guidance"], extractor["model_dtype"]) == (512, 50, 1.0, "bfloat16")
    assert printed["model"]["init_args"]["backbone"] == "resnet50"
    assert printed["model"]["init_args"]["crop"] == 224


@pytest.mark.parametrize("study", STUDIES)
def test_every_detector_of_a_study_is_one_that_train_accepts(study, capsys):
    """With the study's options and its own laid over its configuration, and an extractor and a detector that exist with these arguments."""
    parsed = evaluate.parser().parse_args(["--config", study])
    assert parsed.perturbations
    for name in expanded(parsed.perturbations):
        perturbation(name)
    for name, detector in parsed.detectors.items():
        assert all(Path(path).is_file() for path in [detector.config] if isinstance(path, str)), name
        paths = [detector.config] if isinstance(detector.config, str) else detector.config
        given = as_options(parsed.overrides) + as_options(detector.overrides)
        told = resolved([*(f"--config={path}" for path in paths), *given], capsys)
        extractor, model = told["data"]["extractor"], told["model"]
        assert extractor["class_path"].startswith("modules.extractors.")
        for option, value in detector.overrides.items():
            section, _, rest = option.partition(".")
            inner = rest.removeprefix("extractor.")
            where = extractor if rest.startswith("extractor.") else model if section == "model" else None
            if where is not None and "." not in inner and not isinstance(value, dict):
                assert where["init_args"][inner] == value, f"{name}: {option}"


@pytest.mark.parametrize("study", STUDIES)
def test_what_a_study_compares_is_there(study):
    """A baseline among its detectors, published numbers by the names of its own, an encoder of pairs that no detector uses, its command."""
    text = Path(study).read_text()
    assert f"evaluate.py --config {study}" in text
    told, parsed = yaml.safe_load(text), evaluate.parser().parse_args(["--config", study])
    fitted = {name: FittedDetector(**each) for name, each in told["detectors"].items()}
    detectors = with_conditions(fitted, parsed.train_conditions, ["a/b"], parsed.seeds)
    chosen_baseline(parsed.baseline, list(detectors))
    assert len(detectors) > 1
    if parsed.compare_to:
        assert {row.detector for row in read_targets(Path(parsed.compare_to)).rows} <= detectors.keys()
    if "matched_by" in told:
        encoder = told["matched_by"]["init_args"]["encoder"]
        assert all(encoder not in Path(path).read_text() for detector in fitted.values() for path in detector.files())
    assert ("sweep_" in study) == (parsed.choose_by is not None)


def inverted(study):
    """By detector the channels that its network sees, and what decides over its features: captions and steps."""
    told = yaml.safe_load(Path(study).read_text())
    found = {}
    for name, detector in told["detectors"].items():
        base, ablation = (yaml.safe_load(Path(path).read_text()) for path in detector["config"])
        own = detector.get("overrides", {})
        assert all(option.startswith("data.extractor.") for option in own)
        features = base["data"]["extractor"]["init_args"] | {option.rpartition(".")[2]: value for option, value in own.items()}
        found[name] = (3 * len(ablation["model"]["init_args"]["inputs"]), features["prompt_source"], features["steps"], str(features))
    return told, found


@pytest.mark.parametrize(("study", "steps"), [("ablations", (50, 20, 10)), ("ablations_builtin", (10, 5, 3))])
def test_the_ablations_are_all_there_one_at_a_time_and_share_features(study, steps):
    told, found = inverted(f"configs/studies/{study}.yaml")
    assert told["seeds"] == [0, 1, 2]
    captions = found["channels_9"][1]
    assert captions != "empty"
    assert {each[:3] for each in found.values()} == {
        *((channels, captions, steps[0]) for channels in (3, 9, 12)),
        (9, "empty", steps[0]),
        *((9, captions, fewer) for fewer in steps[1:]),
    }
    same = {found[name][3] for name in ("rgb", "residual", "channels_9", "channels_12")}
    assert len(same) == 1
    assert len({each[3] for each in found.values()}) == 4
    assert told["baseline"] == "channels_9"


@pytest.mark.parametrize(("study", "name"), [("equalised", "equalise_224"), ("equalised_builtin", "equalise_48")])
def test_the_equalised_arm_trains_and_tests_under_both(study, name):
    told = yaml.safe_load(Path(f"configs/studies/{study}.yaml").read_text())
    assert told["train_conditions"] == told["perturbations"] == ["none", name]


@pytest.mark.parametrize("study", ["robustness", "robustness_builtin"])
def test_robustness_is_measured_under_the_whole_preset(study):
    told = yaml.safe_load(Path(f"configs/studies/{study}.yaml").read_text())
    assert expanded(told["perturbations"]) == list(PRESETS["robustness"])
    assert len(told["detectors"]) == 3


@pytest.mark.parametrize("study", ["likelihood", "likelihood_builtin"])
def test_the_likelihood_study_names_columns_that_its_models_have(study):
    parsed = evaluate.parser().parse_args(["--config", f"configs/studies/{study}.yaml"])
    models = parsed.overrides["data.extractor.models"]
    columns = {f"{model}.{column}" for model in models for column in ("log_likelihood", "log_prior", "reconstruction")}
    statistics = {name: detector.overrides["model.statistic"] for name, detector in parsed.detectors.items()}
    assert set(statistics.values()) <= columns
    assert {f"{model}.log_likelihood" for model in models} <= set(statistics.values())
    for name, statistic in statistics.items():  # a large distance, a small likelihood
        larger = parsed.detectors[name].overrides.get("model.orientation") == "larger_is_fake"
        assert larger == statistic.endswith("reconstruction")


def test_a_statistic_of_a_config_is_a_column_of_its_extractor(capsys):
    """By name: the columns that each extractor documents."""
    for config in CONFIGS:
        told = yaml.safe_load(Path(config).read_text())
        if told["model"]["class_path"].endswith("ScoreDetector"):
            kind = getattr(extractors, told["data"]["extractor"]["class_path"].rpartition(".")[2])
            statistic = told["model"]["init_args"]["statistic"].rpartition(".")[2]
            named = [f"`{statistic}`", f"<model>.{statistic}`", "`<space>_<norm>`"]
            assert any(each in kind.__doc__ for each in named), config
