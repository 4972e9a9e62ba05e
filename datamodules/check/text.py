"""What `python -m datamodules.check` prints: plain integers, and what to do next."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datamodules.records import SPLITS

Document = Mapping[str, Any]

_SHOWN = 8  # reasons
_WIDTH = 40  # characters of a name
_JOINED = "JoinedSource and its option dataset: docs/data_remote.md"


def shown(text: object, width: int = 200) -> str:
    """A name that comes from somebody else, on one line and without control characters."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in str(text))
    return plain if len(plain) <= width else plain[: width - 1] + "…"


def text(found: Document) -> str:
    """All that was found.

    Args:
        found: Of `findings`.
    """
    lines = [
        f"{shown(found['source']['path'])}: {found['source']['kind']}",
        f"{found['images']} images: {found['real']} real, {found['generated']} generated, of "
        f"{len(found['generators'])} generators in {len(found['datasets'])} data sets",
        "",
        *table(
            ["data set", "generator", "family", "images", *SPLITS, "no split", "captions", "groups", "pairs"],
            [
                [*_names(part), part["images"], *part["splits"].values(), part["captions"], part["groups"], part["pairs"]]
                for part in found["parts"]
            ],
        ),
        "",
        *table(
            ["data set", "generator", "formats", "width", "height", "most common", "bytes"],
            [
                [
                    *_names(part)[:2],
                    ", ".join(f"{name} {count}" for name, count in part["formats"].items()) or "-",
                    _spread(part["width"]),
                    _spread(part["height"]),
                    "{}×{}: {} of {} sizes".format(*part["most_common"], part["sizes"]) if part["most_common"] else "-",
                    _spread(part["bytes"]),
                ]
                for part in found["parts"]
            ],
            texts=7,
        ),
        "(width, height and bytes: smallest, median, largest)",
        "",
        *_reasons("left out by the source", found["left_out"]),
        *_reasons("unreadable" if found["decoded"] else "with an unreadable header (pixels were not looked at)", found["unreadable"]),
        *_doubles(found),
        *_shortcuts(found["shortcuts"]),
    ]
    said = warnings(found)
    lines += ["", *(f"warning: {sentence}" for sentence in said)] if said else ["", "No warnings."]
    return "\n".join(lines)


def _names(part: Document) -> list[str]:
    name = "real: " + part["generator"] if part["kind"] == "real" else part["generator"]
    return [shown(part["dataset"], _WIDTH), shown(name, _WIDTH), "-" if part["kind"] == "real" else shown(part["family"], _WIDTH)]


def _spread(values: Sequence[int] | None) -> str:
    return "-" if values is None else str(values[0]) if values[0] == values[-1] else "–".join(map(str, values))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], texts: int = 3) -> list[str]:
    """Lines of a table; the first `texts` columns are aligned on the left."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    sides = [str.ljust if i < texts else str.rjust for i in range(len(heads))]
    aligned = [[side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)] for row in cells]
    return ["  ".join(row).rstrip() for row in aligned]


def _reasons(what: str, reasons: Sequence[Document]) -> list[str]:
    total = sum(each["images"] for each in reasons)
    lines = [f"{total} {what}"]
    lines += [f"  {each['images']}  {shown(each['reason'])} (first: {shown(each['example'])})" for each in reasons[:_SHOWN]]
    return lines + ([f"  and {len(reasons) - _SHOWN} other reasons"] if len(reasons) > _SHOWN else [])


def _doubles(found: Document) -> list[str]:
    same, near = found["duplicates"], found["near_duplicates"]
    if same is None or near is None:
        return ["copies of files and near-duplicates were not looked for (--fast)"]
    lines = [
        f"{same['copies']} copies of another file: {same['across_classes']} contents are both real and generated, "
        f"{same['across_splits']} lie in several splits",
        *(f"  {' and '.join(map(shown, pair))}" for pair in same["examples"]),
    ]
    where = "splits as they would be cut by default" if near["splits_cut_here"] else "splits"
    return [
        *lines,
        f"near-duplicates without a common group or pair: {near['across_classes']} real images look like a generated one, "
        f"{near['across_splits']} images like one of a later split ({where})",
        *(f"  {' and '.join(map(shown, pair))}" for pair in near["examples"]),
    ]


def _shortcuts(flagged: Sequence[Document]) -> list[str]:
    by_fact: dict[str, list[Document]] = {}
    for each in flagged:
        by_fact.setdefault(shown(each["fact"]).removeprefix("fact_"), []).append(each)
    lines = [f"{len(by_fact)} trivial facts tell the fakes of some generator from real images by themselves"]
    for fact, own in by_fact.items():
        where = [f"{each['dataset']}/{each['generator']} {each['strength']:.2f}{'↓' if each['auroc'] < 0.5 else ''}" for each in own]
        lines.append(f"  {fact}: {_listed(where, 3)}")
    return lines + (["(AUROC of the fact alone; ↓: smaller, or rarer, in fakes)"] if flagged else [])


def warnings(found: Document) -> list[str]:
    """What should be looked at before training, each with what to do; none where all is well."""
    return [*_of_classes(found), *_of_names(found), *_of_files(found), *_of_splits(found), *_of_shortcuts(found)]


def _of_classes(found: Document) -> Iterable[str]:
    kinds: dict[str, set[str]] = {}
    for part in found["parts"]:
        kinds.setdefault(part["dataset"], set()).add(part["kind"])
    lonely = {kind: sorted(name for name, own in kinds.items() if own == {kind}) for kind in ("generated", "real")}
    if names := lonely["generated"]:
        yield (
            f"{_listed(names)} {_have(names)} no real images: in a study, measure against another data set's by reals_from: "
            f"{{{shown(names[0], _WIDTH)}: OTHER}}, or join a source of reals as one data set ({_JOINED})"
        )
    if names := lonely["real"]:
        yield (
            f"{_listed(names)} {_have(names)} no generated images: join them with fakes as one data set ({_JOINED}), "
            "or name them in reals_from"
        )


def _of_names(found: Document) -> Iterable[str]:
    if names := found["unknown_families"]:
        yield f"no family is known for {_listed(names)}: add them in a YAML file of your own (--families FILE), or a column family"
    sources = found["caption_sources"]
    if sources["real"] and sources["generated"] and sources["real"].keys() != sources["generated"].keys():
        told = " and ".join(f"{_listed(list(own))} on {kind} images" for kind, own in sources.items())
        yield f"captions come from different sources ({told}): a run refuses them; caption all images alike, or leave captions out"


def _of_files(found: Document) -> Iterable[str]:
    left, bad = (sum(each["images"] for each in found[name]) for name in ("left_out", "unreadable"))
    if left:
        yield f"{left} files are left out (reasons above): move or rename them, or name another layout by --layout"
    if bad:
        yield f"{bad} images are unreadable and will be skipped (reasons above): fetch them again, or remove them"


def _of_splits(found: Document) -> Iterable[str]:
    same, near, leaks = found["duplicates"] or {}, found["near_duplicates"] or {}, found["leaks"]
    if same.get("across_classes"):
        yield f"{same['across_classes']} contents are both a real and a generated image: one of the labels is wrong"
    if same.get("across_splits") or leaks["groups"]:
        yield (
            f"{same.get('across_splits', 0)} contents and {leaks['groups']} groups or pairs lie in several splits: correct the splits, "
            "or train with --data.on_leak drop"
        )
    if near.get("across_splits"):
        yield f"{near['across_splits']} images look like one of a later split: give them a common group, or train with --data.on_leak drop"
    if near.get("across_classes"):
        yield f"{near['across_classes']} real images look like a generated one: give both a common pair, or look whether a label is wrong"
    counts = {split: sum(part["splits"][split] for part in found["parts"]) for split in (*SPLITS, "none")}
    if counts["none"] == 0 and (missing := [split for split in SPLITS if not counts[split]]):
        yield f"there are no images of the split {' and '.join(missing)}: enough to evaluate if it is not test, not enough to train alone"


def _of_shortcuts(found: Document) -> Iterable[str]:
    if flagged := found["shortcuts"]:
        facts = list(dict.fromkeys(shown(each["fact"]).removeprefix("fact_") for each in flagged))
        yield (
            f"{_listed(facts)} tell fakes from real images: a detector can learn that instead. `python -m workflow.audit PATH` says how "
            "well, with intervals; --perturbation equalise_192 there and in training takes format and size away"
        )


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(shown(name, _WIDTH) for name in names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
