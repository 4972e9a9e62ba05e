"""The shortcut audit: planted shortcuts are found and named, none are made up, and every number is that of an independent reference."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from evaluation.audit import ALL, COLUMNS, AuditError, audit, audit_data, facts_of, parts_of, text, write_audit
from evaluation.resampling import bootstrap

HOSTILE = '<script>alert(1)</script>=cmd|"\x1b[31m\u202e'


def images(n=120, groups=0, seed=0, generators=("sd",), shift=1.5, per_group=0.0, **facts):
    """`n` real images and `n` fakes of each generator with a detector's scores; facts are functions of the labels and a generator."""
    rng = np.random.default_rng(seed)
    parts = []
    for label, generator in [(0, "photos"), *((1, each) for each in generators)]:
        group = [f"{generator}-{i % groups}" if groups else "" for i in range(n)]
        parts.append(pd.DataFrame({"label": label, "dataset": "set", "generator": generator, "group": group}))
    table = pd.concat(parts, ignore_index=True)
    labels = table["label"].to_numpy()
    shared = {name: rng.normal() for name in table["group"].unique()} if groups else {}
    table["score"] = rng.normal(size=len(table)) + shift * labels + per_group * table["group"].map(shared).fillna(0).to_numpy()
    table = table.assign(key=[f"{i:032x}" for i in range(len(table))], detector="probe", perturbation="none", split="test")
    return table.assign(**{name: made(labels, rng) for name, made in facts.items()})


def noise(labels, rng):
    return rng.normal(size=labels.size)


def planted(labels, rng):
    return rng.normal(size=labels.size) - 4 * labels


def cell(document, fact, where="set/sd"):
    return document["generators"][where]["facts"][fact]


def test_a_planted_shortcut_is_found_and_named():
    document = audit(images(fact_width=planted, fact_red=noise, fact_bytes=noise))
    found = cell(document, "width")
    assert found["flagged"]
    assert found["auroc"]["value"] < 0.05
    assert found["auroc"]["low"] < found["auroc"]["value"] < found["auroc"]["high"] < 0.5
    assert found["strength"] == pytest.approx(1 - found["auroc"]["value"])
    assert document["flagged"] == 1
    (sentence,) = document["sentences"]
    strength, own = found["strength"], document["generators"]["set/sd"]["detector"]["value"]
    assert sentence.startswith(
        f"On set/sd `width`, smaller in fakes, alone reaches AUROC {strength:.3f} ({1 - found['auroc']['high']:.3f}–"
    )
    assert f"more than the detector, {own:.3f}" in sentence


def test_a_detector_far_better_than_the_fact_is_not_suspected():
    def weak(labels, rng):
        return rng.normal(size=labels.size) + labels  # 0.76

    strong = audit(images(shift=4, fact_width=weak))
    assert cell(strong, "width")["shown"]
    assert cell(strong, "width")["difference"]["low"] > 0.05
    assert strong["flagged"] == 0
    assert strong["sentences"][0].startswith("No trivial fact comes near the detector (strongest: width, 0.7")
    assert cell(audit(images(shift=1, fact_width=weak)), "width")["flagged"]
    assert cell(audit_data(images(fact_width=weak)), "width")["flagged"]  # nobody does better


def test_nothing_planted_nothing_said():
    """Many facts, few grouped images that share much, a detector as bad as they are: the hardest case."""
    silent = shown = 0
    repetitions = 80
    for seed in range(repetitions):

        def grouped(labels, rng):
            shared = rng.normal(size=2 * 12)
            return shared[12 * labels + np.arange(labels.size) % 12] + rng.normal(size=labels.size)

        document = audit(images(48, 12, seed, shift=0.0, per_group=1.0, **{f"fact_x{i}": grouped for i in range(10)}))
        silent += document["flagged"] == 0
        shown += any(each["shown"] for each in document["generators"]["set/sd"]["facts"].values())
    assert silent >= 0.95 * repetitions
    assert (
        shown <= 0.08 * repetitions
    )  # 5% and what the repetitions leave to chance; without Bonferroni, or without groups, a third and more


def test_groups_are_respected():
    def of_the_group(labels, rng):
        shared = rng.normal(size=2 * 12) + np.repeat([0, 0.8], 12)
        return shared[12 * labels + np.arange(labels.size) % 12]

    table = images(240, 12, 3, fact_width=of_the_group)
    grouped, alone = cell(audit(table), "width"), cell(audit(table.assign(group="")), "width")
    assert grouped["auroc"]["value"] == alone["auroc"]["value"]
    widths = [each["auroc"]["high"] - each["auroc"]["low"] for each in (grouped, alone)]
    assert widths[0] > 3 * widths[1]
    assert alone["shown"]
    assert not grouped["shown"]


def mixed(n=150, seed=5):
    """Facts of all kinds, some not known."""
    table = images(n, 30, seed, generators=("sd", "gan"), fact_red=planted, fact_width=noise)
    rng = np.random.default_rng(seed)
    labels = table["label"].to_numpy()
    formats = np.where(rng.random(labels.size) < 0.3 + 0.4 * labels, "PNG", "JPEG").astype(object)
    formats[rng.random(labels.size) < 0.1] = "WebP"
    is_jpeg = formats == "JPEG"
    quality = np.where(is_jpeg, rng.integers(60, 96, labels.size), np.nan)
    source = np.where(rng.random(labels.size) < 0.6 + 0.3 * labels, rng.integers(100, 900, labels.size), np.nan)
    chroma = np.where(is_jpeg, rng.choice(["4:2:0", "4:4:4"], labels.size), None)
    return table.assign(fact_format=formats, fact_jpeg_quality=quality, fact_source_width=source, fact_chroma=chroma)


def test_aurocs_are_those_of_scikit_learn():
    table = mixed()
    document = audit(table)
    by_hand = {
        "mean red": table["fact_red"],
        "width": table["fact_width"],
        "JPEG quality": table["fact_jpeg_quality"].fillna(101),
        "source width": table["fact_source_width"],
        "source width is known": table["fact_source_width"].notna(),
        "chroma is 4:2:0": table["fact_chroma"] == "4:2:0",
        "chroma is 4:4:4": table["fact_chroma"] == "4:4:4",
    } | {f"format is {name}": table["fact_format"] == name for name in ("PNG", "JPEG", "WebP")}
    assert set(document["facts"]) == set(by_hand)
    rows = {f"set/{name}": table["generator"].isin(["photos", name]) for name in ("sd", "gan")} | {ALL: table["label"] >= 0}
    for where, chosen in rows.items():
        record = parts_of(document)[where]
        assert record["detector"]["value"] == pytest.approx(roc_auc_score(table["label"][chosen], table["score"][chosen]))
        for name, values in by_hand.items():
            known = chosen & values.notna()
            labels = table["label"][known]
            expected = roc_auc_score(labels, values[known].astype(float))
            entry = record["facts"][name]
            assert entry["auroc"]["value"] == pytest.approx(expected)
            assert (entry["n_real"], entry["n_fake"]) == ((labels == 0).sum(), (labels == 1).sum())
            own = roc_auc_score(labels, table["score"][known])
            assert entry["detector_auroc"] == pytest.approx(own)
            assert entry["difference"]["value"] == pytest.approx(max(own, 1 - own) - max(expected, 1 - expected))
    assert any("JPEG quality: 101 on files of other formats" in note for note in document["notes"])


def test_intervals_agree_with_the_group_bootstrap():
    table = images(200, 40, 7, shift=0.8, per_group=0.7, fact_red=lambda labels, rng: rng.normal(size=labels.size) - 0.5 * labels)
    found = cell(audit(table), "mean red")
    labels, codes = table["label"].to_numpy(), pd.factorize(table["group"])[0]
    samples = [
        bootstrap(labels, values, codes, lambda curves: curves.auroc(), 1000, 1) for values in (table["score"], 1 - table["fact_red"])
    ]
    for cell_, drawn, turned in ((found["auroc"], 1 - samples[1], True), (found["difference"], samples[0] - samples[1], False)):
        low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
        assert cell_["high"] - cell_["low"] == pytest.approx(high - low, rel=0.2), turned
        assert abs(cell_["low"] - low) < 0.03


def test_the_level_is_shared_between_the_facts_that_vary():
    """A fact that is just shown alone is not among a hundred others; constants do not count."""
    rng = np.random.default_rng(2)
    table = images(100, fact_red=lambda labels, _: rng.normal(size=labels.size) + 0.4 * labels)
    assert cell(audit_data(table), "mean red")["shown"]
    many = table.join(pd.DataFrame({f"fact_x{i}": rng.normal(size=len(table)) for i in range(100)}))
    assert not cell(audit_data(many), "mean red")["shown"]
    constant = table.join(pd.DataFrame({f"fact_x{i}": 7.0 for i in range(100)}, index=table.index))
    assert cell(audit_data(constant), "mean red")["shown"]
    assert audit_data(constant)["constant"] == {f"x{i}": "7" for i in range(100)}


def test_perfect_separation_has_a_reason_in_place_of_an_interval_and_is_flagged():
    found = cell(audit(images(fact_source_format=lambda labels, _: np.where(labels == 1, "PNG", "JPEG"))), "source format is PNG")
    assert found["auroc"] == {"value": 1.0, "low": None, "high": None, "reason": found["auroc"]["reason"]}
    assert "variance" in found["auroc"]["reason"]
    assert found["shown"]
    assert found["flagged"]


def test_few_groups_have_no_interval_and_only_strong_facts_are_flagged():
    def weak(labels, rng):
        return rng.normal(size=labels.size) + 0.7 * labels  # 0.69

    document = audit(images(80, 4, fact_width=planted, fact_red=weak))
    for name in ("width", "mean red"):
        for part in ("auroc", "difference"):
            assert "too few groups" in cell(document, name)[part]["reason"]
            assert cell(document, name)[part]["low"] is None
    assert cell(document, "width")["flagged"]
    assert 0.6 < cell(document, "mean red")["strength"] < 0.75
    assert not cell(document, "mean red")["flagged"]
    assert "too few groups" in document["sentences"][0]


def test_what_is_known_of_one_class_only_is_itself_a_fact():
    document = audit(images(fact_source_format=lambda labels, _: np.where(labels == 1, "PNG", None)))
    assert document["facts"] == ["source format is known"]
    assert document["constant"] == {"source format": "PNG"}
    assert cell(document, "source format is known")["flagged"]
    assert cell(document, "source format is known")["auroc"]["value"] == 1


def test_a_fact_of_one_class_has_no_auroc():
    document = audit(images(fact_source_width=lambda labels, rng: np.where(labels == 1, rng.normal(size=labels.size), np.nan)))
    entry = cell(document, "source width")
    assert entry["auroc"]["value"] is None
    assert entry["auroc"]["reason"]
    assert not entry["flagged"]
    assert (entry["n_real"], entry["n_fake"]) == (0, 120)


def test_a_fact_that_orders_the_images_as_another_one_is_left_out_with_a_note():
    table = images(fact_bytes=noise).assign(fact_bits_per_pixel=lambda t: 3 * t["fact_bytes"], fact_aspect=lambda t: -t["fact_bytes"])
    found = facts_of(table)
    assert found.names == ("bytes",)
    assert [note.partition(":")[0] for note in found.notes] == ["bits per pixel", "aspect"]


def test_many_categories_do_not_make_many_facts():
    table = images(fact_format=lambda labels, rng: np.array([f"kind {i}" for i in rng.integers(0, 60, labels.size)]))
    assert len(facts_of(table).names) == 9
    assert facts_of(table).names[-1] == "format is none of 8"


def test_fourteen_generators_with_ten_shortcuts_are_told_of_in_a_few_sentences():
    names = [f"g{i:02d}" for i in range(14)]
    document = audit(images(30, generators=names, **{f"fact_x{i}": planted for i in range(10)}))
    assert document["flagged"] == 150
    assert len(document["sentences"]) <= 6
    assert "and 9 more" in document["sentences"][0] or "and 10 more" in document["sentences"][0]
    for i in range(10):
        assert any(f"`x{i}`" in sentence for sentence in document["sentences"])


def test_a_fact_that_turns_round_between_generators_is_said_to():
    def turning(labels, rng):
        return rng.normal(size=labels.size) + np.where(np.arange(labels.size) < 240, -9, 9) * labels

    (sentence,) = audit(images(generators=("a", "b"), fact_width=turning))["sentences"]
    first, second = ("a", "b") if sentence.startswith("On set/a") else ("b", "a")
    assert ("`width`, smaller in fakes," in sentence) == (first == "a")
    assert f"set/{second} 1.00 ({'larger' if first == 'a' else 'smaller'} in fakes)" in sentence


def test_degenerate_tables_say_why_nothing_is_found():
    table = images(20, fact_red=noise)
    none = audit(table.drop(columns="fact_red"))
    assert none["facts"] == []
    assert none["sentences"] == ["No facts of the files were measured: none are known."]
    constant = audit(table.assign(fact_red=5.0))
    assert constant["sentences"] == ["No facts of the files were measured: all that are known are the same on every image."]
    assert "constant: mean red (5)" in text(constant)
    unknown = audit(table.assign(fact_red=[np.nan, np.inf] * 20))
    assert unknown["facts"] == []
    for label in (0, 1):
        alone = audit(table[table["label"] == label])
        assert alone["flagged"] == 0
        assert "takes real images and fakes" in alone["sentences"][0]
        json.dumps(alone, allow_nan=False)
        assert text(alone)
    with pytest.raises(AuditError, match="no rows"):
        audit(table.iloc[:0])
    with pytest.raises(AuditError, match=r"jpeg_9.*there are none"):
        audit(table, perturbation="jpeg_9")
    with pytest.raises(AuditError, match="one detector's rows"):
        audit(pd.concat([table, table.assign(detector="other")]))


def test_scores_that_are_missing_take_the_detector_and_not_the_facts():
    table = images(fact_width=planted)
    table.loc[3, "score"] = np.nan
    document = audit(table)
    assert document["generators"]["set/sd"]["detector"]["value"] is None
    assert cell(document, "width")["detector_auroc"] is None
    assert cell(document, "width")["flagged"]
    assert "the detector has no AUROC" in document["sentences"][0]
    table["score"] = np.where(table["label"] == 1, np.inf, -np.inf)
    assert audit(table)["generators"]["set/sd"]["detector"]["value"] == 1


def test_rows_are_those_of_the_unperturbed_images_or_of_the_named_perturbation():
    clean = images(fact_width=planted)
    both = pd.concat([clean, images(fact_width=noise).assign(perturbation="jpeg_40")])
    assert audit(both) == audit(clean)
    other = audit(both, perturbation="jpeg_40")
    assert other["perturbation"] == "jpeg_40"
    assert other["flagged"] == 0


def test_reals_come_from_where_they_are_said_to():
    table = images(fact_width=planted)
    other = images(seed=1, fact_width=planted).assign(dataset="other")
    other = other[other["label"] == 1]
    both = pd.concat([table, other.assign(key=[f"o{i}" for i in range(len(other))])])
    assert audit(both)["generators"]["other/sd"]["n_real"] == 0
    assert audit(both, {"other": "set"})["generators"]["other/sd"]["n_real"] == 120


def test_the_document_is_plain_json_and_the_order_of_the_rows_does_not_matter():
    document = audit(mixed())
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    shuffled = audit(mixed().sample(frac=1, random_state=0))
    for where, record in document["generators"].items():
        for name, entry in record["facts"].items():
            assert shuffled["generators"][where]["facts"][name]["auroc"]["low"] == pytest.approx(entry["auroc"]["low"])


def test_the_table_for_a_terminal_marks_direction_and_flags():
    shown = text(audit(images(generators=("a", "b"), fact_width=planted, fact_red=noise)))
    lines = {line.split("  ")[0]: line for line in shown.splitlines()}
    assert lines["width"].count("↓!") == 3
    assert "!" not in lines["mean red"]
    assert "detector: probe" in lines
    assert lines["fact"].split()[1:] == ["set/a", "set/b", "all"]


def test_hostile_names_reach_no_terminal_and_no_line_of_a_table(tmp_path):
    table = images(generators=(HOSTILE,), fact_format=lambda labels, _: np.where(labels == 1, HOSTILE, "JPEG"))
    document = audit(table.assign(detector=HOSTILE))
    for shown in (text(document), "\n".join(document["sentences"])):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    assert document["flagged"] == 1
    with write_audit(tmp_path, [document]).open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["fact"].startswith("format is <script>")
    assert "\x1b" not in "".join(row.values())


def test_the_csv_has_a_row_a_document_generator_and_fact(tmp_path):
    documents = [audit(mixed()), audit_data(mixed().drop(columns=["score", "detector"]))]
    with write_audit(tmp_path, documents).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * 3 * len(documents[0]["facts"])
    assert [row["generator"] for row in rows[:: len(documents[0]["facts"])]] == ["gan", "sd", "", "gan", "sd", ""]
    found = cell(documents[0], "mean red")
    row = next(row for row in rows if (row["detector"], row["generator"], row["fact"]) == ("probe", "sd", "mean red"))
    for name, value in (
        ("auroc", found["auroc"]["value"]),
        ("high", found["auroc"]["high"]),
        ("difference_low", found["difference"]["low"]),
    ):
        assert float(row[name]) == value
    assert row["flagged"] == str(found["flagged"])
    assert rows[-1]["detector"] == rows[-1]["detector_auroc"] == rows[-1]["difference"] == ""


def test_what_may_be_chance_is_said_to_be():
    rng = np.random.default_rng(0)
    assert audit_data(images(12, fact_red=noise))["sentences"][0].endswith("which may be chance).")
    real = images(400, fact_red=lambda labels, _: rng.normal(size=labels.size) + 0.4 * labels)
    expected = roc_auc_score(real["label"], real["fact_red"])
    assert 0.6 < expected < 0.65
    told = f"No trivial fact tells fakes from real images by itself (strongest: mean red, {expected:.2f}, on set/sd)."
    assert audit_data(real)["sentences"] == [told]
