"""Figures inside of a page: the colours of both themes, nothing lost, and nothing that could run."""

import base64
import re
import xml.etree.ElementTree as ET
from functools import partial

import numpy as np
import pytest

from evaluation import figures
from evaluation.report.inline import inline_svg
from evaluation.report.parts import drawn, drawn_twice
from tests.evaluation.report.drawings import all_figures

TAGS = {"svg", "g", "defs", "path", "use", "text", "tspan", "rect", "clipPath", "image"}
ATTRIBUTES = {"id", "d", "style", "x", "y", "width", "height", "transform", "clip-path", "viewBox", "href", "preserveAspectRatio"}
OURS = {"class", "role", "aria-label"}
PIXELS = "data:image/png;base64,"
SVG = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
HOSTILE = "</text><script>alert(1)</script>&\"' onload=x <b>"


def page(inside, attributes=""):
    return f'<svg {SVG} viewBox="0 0 10 10" {attributes}>{inside}</svg>'.encode()


def made(inside, other=None, alt="a figure"):
    return ET.fromstring(inline_svg(page(inside), page(inside if other is None else other), alt))


def texts(root):
    return ["".join(each.itertext()).strip() for each in root.iter() if each.tag.rpartition("}")[2] == "text"]


def numbers(value):
    return [float(each) for each in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", value)]


def test_colours_are_pairs_where_they_differ_and_single_where_not():
    light = '<path d="M 0 0" style="fill: #112233; stroke: #445566; stroke-width: 2"/>'
    [path] = made(light, light.replace("#112233", "#aabbcc").replace("#445566", "#445566"))
    assert path.get("style") == "fill:light-dark(#112233,#aabbcc);stroke:#445566;stroke-width:2"
    [same] = made(light, light.replace("#445566", "#445566".upper()))
    assert same.get("style") == "fill:#112233;stroke:#445566;stroke-width:2"
    both = made('<path style="fill: #112233; stroke: #112233"/>', '<path style="fill: #112233; stroke: #999999"/>')
    assert both[0].get("style") == "fill:#112233;stroke:light-dark(#112233,#999999)"


def test_ids_have_a_prefix_and_stay_only_where_something_refers_to_them():
    inside = (
        '<defs><path id="m1" d="M 0 0"/><path id="unused" d="M 1 1"/>'
        '<clipPath id="c"><rect x="0" y="0" width="9" height="9"/></clipPath></defs>'
        '<g id="axes_1"><use xlink:href="#m1" x="3" y="4"/><path d="M 2 2" clip-path="url(#c)"/></g>'
    )
    root = made(inside)
    ids = {each.get("id") for each in root.iter() if each.get("id")}
    [use] = root.iter("use")
    assert len(ids) == 2
    assert use.get("href")[1:] in ids
    assert use.get("href").endswith("-m1")
    [clip] = [each.get("clip-path") for each in root.iter("path") if each.get("clip-path")]
    assert clip[5:-1] in ids
    assert clip.endswith("-c)")
    assert not list(root.iter("g"))


def test_two_figures_share_no_id_and_the_same_figure_has_the_same():
    one, other = (f'<defs><path id="m" d="M {x} 0"/></defs><use xlink:href="#m"/>' for x in (1, 2))
    ids = [{each.get("id") for each in made(each).iter() if each.get("id")} for each in (one, other, one)]
    assert not ids[0] & ids[1]
    assert ids[0] == ids[2] != set()


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        '<script href="data:,alert(1)"/>',
        "<style>@import url(https://example.org)</style>",
        '<foreignObject width="9" height="9"><body xmlns="http://www.w3.org/1999/xhtml" onload="x"/></foreignObject>',
        '<a xlink:href="javascript:alert(1)"><text>x</text></a>',
        '<g onload="alert(1)" onclick="alert(1)"/>',
        '<rect x="1" y="1" width="1" height="1" onmouseover="alert(1)"/>',
        '<animate attributeName="href" values="javascript:alert(1)"/>',
        '<set attributeName="onload" to="alert(1)"/>',
        '<use xlink:href="https://example.org/x.svg#a"/>',
        '<use href="data:image/svg+xml;base64,PHN2Zy8+#a"/>',
        '<image xlink:href="https://example.org/x.png"/>',
        '<image href="data:image/svg+xml;base64,PHN2Zy8+"/>',
        '<image href=" javascript:alert(1)"/>',
        '<iframe src="https://example.org"/>',
        '<path d="M 0 0" style="fill: url(https://example.org/#a)"/>',
        '<path d="M 0 0" clip-path="url(https://example.org/#a)"/>',
        '<path d="M 0 0" filter="url(#a)" mask="url(https://example.org)"/>',
        '<metadata><x xmlns="http://example.org"/></metadata>',
        '<x:script xmlns:x="http://www.w3.org/1999/xhtml">alert(1)</x:script>',
    ],
)
def test_nothing_but_what_is_known_is_let_through(inside):
    whole = page(inside, 'onload="alert(1)" style="fill: red"')
    text = inline_svg(whole, whole, "alt")
    root = ET.fromstring(text)
    assert {each.tag for each in root.iter()} <= TAGS
    assert {name for each in root.iter() for name in each.attrib} <= ATTRIBUTES | OURS
    for wrong in ("alert", "javascript", "example.org", "svg+xml", "onload", "import"):
        assert wrong not in text


def test_pictures_in_a_page_are_png_only():
    [image] = made(f'<image xlink:href="{PIXELS}AAAA" x="1" y="2" width="3" height="4"/>')
    assert image.attrib == {"href": f"{PIXELS}AAAA", "x": "1", "y": "2", "width": "3", "height": "4"}


def test_pictures_that_differ_stand_there_twice():
    light, dark = (f'<g><image id="i" xlink:href="{PIXELS}{each}" width="3"/><path d="M 0 0"/></g>' for each in ("AAAA", "BBBB"))
    root = made(light, dark)
    assert [(each.get("class"), each.get("href")) for each in root.iter("image")] == [
        ("on-light", f"{PIXELS}AAAA"),
        ("on-dark", f"{PIXELS}BBBB"),
    ]
    assert [each.get("class") for each in made(light).iter("image")] == [None]


def test_labels_and_the_alternative_text_are_text():
    escaped = HOSTILE.replace("&", "&amp;").replace("<", "&lt;")
    root = made(f"<text>{escaped}</text>", alt=HOSTILE)
    assert root.attrib == {"viewBox": "0 0 10 10", "role": "img", "aria-label": HOSTILE}
    assert [each.tag for each in root] == ["text"]
    assert root[0].text == HOSTILE
    text = inline_svg(page(f"<text>{escaped}</text>"), page(f"<text>{escaped}</text>"), HOSTILE)
    assert "<script" not in text
    assert "<b>" not in text
    assert text.partition(">")[0].count('"') == 2 * 3


def test_text_has_the_size_and_weight_but_not_the_font():
    style = "font: {}9.5px 'DejaVu Sans', sans-serif; text-anchor: middle; fill: #112233"
    [plain] = made(f'<text style="{style.format("")}">x</text>')
    [bold] = made(f'<text style="{style.format("700 ")}">x</text>')
    [other] = made("<text style=\"font-size: 8px; font-family: 'DejaVu Sans'; fill: #112233\">x</text>")
    assert plain.get("style") == "font-size:9.5px;text-anchor:middle;fill:#112233"
    assert bold.get("style") == "font-weight:bold;font-size:9.5px;text-anchor:middle;fill:#112233"
    assert other.get("style") == "font-size:8px;fill:#112233"


@pytest.mark.parametrize(
    ("light", "dark"),
    [
        ("<path/><path/>", "<path/>"),
        ("<path/>", "<text/>"),
        ("<g><path/></g>", "<g/>"),
        ("<text>a</text>", "<text>b</text>"),
        ('<path d="M 0 0"/>', '<path d="M 0 1"/>'),
        ('<rect x="1"/>', '<rect x="2"/>'),
        ('<path style="fill: none"/>', '<path style="fill: #112233"/>'),
        ('<path style="fill: #112233; opacity: 0.5"/>', '<path style="fill: #112233; opacity: 0.7"/>'),
    ],
)
def test_figures_that_differ_in_more_than_colours_are_refused(light, dark):
    with pytest.raises(ValueError, match="drawn the same in light and dark colours"):
        made(light, dark)


def test_coordinates_keep_two_decimals_and_factors_all():
    path = "M 1.234567 -0.004 L 10.995 100.0001\nL 3 4.5 L 0.0049 -7.126z"
    root = made(
        f'<path d="{path}"/><rect x="1.2345" y="0.0" width="7.777777" height="1"/>'
        '<g transform="translate(1.23456 2)"><path d="M 0 0"/></g>'
        f'<image xlink:href="{PIXELS}A" transform="matrix(0.294678 0 0 2.231156 22.957741 35.744624)"/>'
    )
    np.testing.assert_allclose(numbers(root[0].get("d")), numbers(path), atol=0.005 + 1e-9)
    assert root[0].get("d") == "M 1.23 -0 L 10.99 100 L 3 4.5 L 0 -7.13z"
    assert (root[1].get("x"), root[1].get("width")) == ("1.23", "7.78")
    assert root[2].get("transform") == "translate(1.23 2)"
    assert root[3].get("transform") == "matrix(0.294678 0 0 2.231156 22.957741 35.744624)"


def test_turning_by_nothing_is_left_out_and_turning_is_not():
    turned = ("rotate(-0 1.5 2)", "rotate(-0.0 1.5 2)", "rotate(-90 1.5 2)", "rotate(-0.5 1 2)")
    root = made("".join(f'<text transform="{each}">x</text>' for each in turned))
    assert [each.get("transform") for each in root] == [None, None, *turned[2:]]


def test_parts_of_a_text_keep_their_words_and_the_order_of_what_is_drawn():
    root = made(
        '<g id="a"><g><path d="M 1 1"/></g><text>x<tspan>10</tspan><tspan style="font-size: 5px">−3</tspan></text></g><path d="M 2 2"/>'
    )
    assert [each.tag for each in root] == ["path", "text", "path"]
    assert texts(root) == ["x10−3"]


@pytest.fixture(scope="module")
def everything():
    """By name each figure of the project: as it was drawn in both themes, and what the page shows of it."""
    found, contents, draw_svg = {}, [], figures.svg

    def kept(figure, **options):
        contents.append(draw_svg(figure, **options))
        return contents[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("evaluation.figures.svg", kept)
        for name, draw, (light, dark), can_be_recoloured in all_figures():
            contents.clear()
            chart = drawn(draw(light), name, "", light, dark) if can_be_recoloured else drawn_twice(draw, name)
            both = [contents[0], figures.recoloured(contents[0], light, dark)] if can_be_recoloured else contents
            found[name] = (*both, chart)
    return found


def shapes(root):
    return [each for each in root.iter() if each.tag.rpartition("}")[2] in {"path", "use", "rect", "text", "image"}]


def test_every_figure_of_the_project_stands_in_a_page_with_all_that_it_says(everything):
    assert len(everything) == 19
    for name, (light, dark, chart) in everything.items():
        root, drawn_as = ET.fromstring(chart.svg), ET.fromstring(light)
        assert root.get("aria-label") == name
        assert texts(root) == texts(drawn_as) == texts(ET.fromstring(dark)) != [], name
        assert {each.tag for each in root.iter()} <= TAGS
        assert {key for each in root.iter() for key in each.attrib} <= ATTRIBUTES | OURS
        assert chart.width == pytest.approx(float(drawn_as.get("width").removesuffix("pt")) / 72 * 100, abs=1)
        shown = [each for each in shapes(root) if each.get("class") != "on-dark"]
        assert len(shown) == len(shapes(drawn_as)), name
        for one, other in zip(shown, shapes(drawn_as), strict=True):
            for place in ("d", "x", "y", "width", "height"):
                np.testing.assert_allclose(numbers(one.get(place, "")), numbers(other.get(place, "")), atol=0.0051, err_msg=name)


def test_every_figure_has_the_colours_of_both_themes(everything):
    for name, (light, dark, chart) in everything.items():
        colours = [re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(href|id)="[^"]*"|url\([^)]*\)', "", each.decode())) for each in (light, dark)]
        pairs = {(one, other) for one, other in zip(*colours, strict=True) if one != other}
        assert pairs, name
        assert set(re.findall(r"light-dark\((#\w{6}),(#\w{6})\)", chart.svg)) == pairs, name


def test_figures_in_one_page_share_no_id_and_all_references_lead_somewhere(everything):
    seen = set()
    for name, (*_, chart) in everything.items():
        ids = re.findall(r' id="([^"]+)"', chart.svg)
        references = {*re.findall(r'href="#([^"]+)"', chart.svg), *re.findall(r"url\(#([^)]+)\)", chart.svg)}
        assert len(ids) == len(set(ids)), name
        assert set(ids) == references, name
        assert not seen & set(ids), name
        seen |= set(ids)


def test_pictures_within_figures_are_those_of_matplotlib(everything):
    light, _, chart = everything["spectra"]
    stored = [re.findall(r"data:image/png;base64,\s*([^\"]+)", each) for each in (light.decode(), chart.svg)]
    assert len(stored[0]) >= 3
    for one, other in zip(*stored, strict=True):
        assert base64.b64decode(one) == base64.b64decode(other)


def test_a_figure_whose_drawing_depends_on_the_theme_in_more_than_colours_is_refused():
    def draw(theme, words):
        figure = next(all_figures())[1](theme)
        figure.axes[0].set_xlabel(words[theme is figures.ON_DARK])
        return figure

    assert "same" in drawn_twice(partial(draw, words=("same", "same")), "x").svg
    with pytest.raises(ValueError, match="drawn the same"):
        drawn_twice(partial(draw, words=("one", "other")), "x")
