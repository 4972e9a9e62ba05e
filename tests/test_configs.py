"""Every shipped YAML is a configuration that the command accepts."""

from pathlib import Path

import pytest
import yaml

import evaluate
from cli import UndertowCLI
from datamodules.perturbations import perturbation
from modules import extractors
from workflow.fitting import as_options

CONFIGS = sorted(str(path) for path in Path("configs").glob("*.yaml"))
ABLATIONS = sorted(str(path) for path in Path("configs/ablations").glob("*.yaml"))
INVERSION = [config for config in CONFIGS if "detectors.FakeInversion" in Path(config).read_text()]
CHANNELS = {"rgb": 3, "residual": 3, "channels_9": 9, "channels_12": 12}


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


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("config", INVERSION)
def test_ablations_are_laid_over_a_config(config, ablation, capsys):
    printed = resolved(["--config", config, "--config", ablation], capsys)
    assert 3 * len(printed["model"]["init_args"]["inputs"]) == CHANNELS[Path(ablation).stem]
    base = yaml.safe_load(Path(config).read_text())
    assert printed["model"]["init_args"]["backbone"] == base["model"]["init_args"]["backbone"]


def test_all_four_ablations_are_there():
    assert {Path(ablation).stem for ablation in ABLATIONS} == CHANNELS.keys()


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


def test_the_paper_is_what_the_config_says(capsys):
    printed = resolved(["--config", "configs/fakeinversion.yaml"], capsys)
    extractor = printed["data"]["extractor"]["init_args"]
    assert (extractor["size"], extractor["steps"], extractor["guidance"], extractor["model_dtype"]) == (512, 50, 1.0, "bfloat16")
    assert printed["model"]["init_args"]["backbone"] == "resnet50"
    assert printed["model"]["init_args"]["crop"] == 224


@pytest.mark.parametrize("study", sorted(str(path) for path in Path("configs/studies").glob("*.yaml")))
def test_every_detector_of_a_study_is_one_that_train_accepts(study, capsys):
    """With the study's options and its own laid over its configuration, and an extractor and a detector that exist with these arguments."""
    parsed = evaluate.parser().parse_args(["--config", study])
    assert parsed.perturbations
    for name in parsed.perturbations:
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


def test_a_statistic_of_a_config_is_a_column_of_its_extractor(capsys):
    """By name: the columns that each extractor documents."""
    for config in CONFIGS:
        told = yaml.safe_load(Path(config).read_text())
        if told["model"]["class_path"].endswith("ScoreDetector"):
            kind = getattr(extractors, told["data"]["extractor"]["class_path"].rpartition(".")[2])
            statistic = told["model"]["init_args"]["statistic"].rpartition(".")[2]
            named = [f"`{statistic}`", f"<model>.{statistic}`", "`<space>_<norm>`"]
            assert any(each in kind.__doc__ for each in named), config
