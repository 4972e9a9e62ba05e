"""Figures as SVG inside of a page: in the colours of its light and its dark theme, in its font, and with nothing that could run."""

import hashlib
import re
import xml.etree.ElementTree as ET

from markupsafe import Markup

# What matplotlib draws with. Names of generators and files stand in figures, so nothing else is let through, whatever they were.
_TAGS = {"svg", "g", "defs", "path", "use", "text", "tspan", "rect", "clipPath", "image"}
_ATTRIBUTES = {"id", "d", "style", "x", "y", "width", "height", "transform", "clip-path", "viewBox", "href", "preserveAspectRatio"}
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FACTOR = re.compile("matrix|scale")  # of a picture, by which its sides are multiplied: two decimals would be seen
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_ELSEWHERE = re.compile(r"url\((?!#)")
_FAMILY = re.compile(r"(?:font-family:[^;]*;?\s*)")
_FONT = re.compile(r"font:\s*(?P<rest>[^;]*?)(?P<size>\d[\d.]*px)[^;]*")
_PICTURE = "data:image/png;base64,"
_SHAPED = {"d", "x", "y", "width", "height", "transform"}


def inline_svg(light: bytes, dark: bytes, alt: str) -> Markup:
    """One SVG element from the same figure drawn in the colours of a light and of a dark page.

    Colours that differ become `light-dark()` of both, and pictures of pixels that differ both stand there, of which the page's style sheet
    shows one (classes `on-light`, `on-dark`). Coordinates are rounded to a hundredth of a point.

    Args:
        light: SVG of `figures.svg(figure, outlines=False)`.
        dark: The same with other colours.
        alt: What it shows, for those who do not see it.

    Raises:
        ValueError: The two differ in more than colours.
    """
    roots = [ET.fromstring(drawn) for drawn in (light, dark)]
    prefix = f"f{hashlib.sha256(light).hexdigest()[:8]}-"
    root = _merged(roots[0], roots[1], prefix)
    used = {value for node in root.iter() for value in _references(node)}
    for node in root.iter():
        if node.get("id") not in used:
            node.attrib.pop("id", None)
    root.attrib = {"viewBox": root.get("viewBox", "0 0 1 1"), "role": "img", "aria-label": str(alt)}
    _flatten(root)
    return Markup(ET.tostring(root, encoding="unicode"))


def _merged(light: ET.Element, dark: ET.Element, prefix: str) -> ET.Element:
    """A copy of the elements that are let through, each with the colours of both."""
    tag = light.tag.rpartition("}")[2]
    children = [[child for child in node if _is_known(child)] for node in (light, dark)]
    if light.tag != dark.tag or len(children[0]) != len(children[1]) or _said(light) != _said(dark):
        msg = "a figure must be drawn the same in light and dark colours, but for the colours"
        raise ValueError(msg)
    made = ET.Element(tag, _attributes(light, dark, prefix))
    made.text = light.text if tag in {"text", "tspan"} else None
    for one, other in zip(*children, strict=True):
        if one.tag.endswith("}image") and _picture(one) != _picture(other):
            for node, name in ((one, "on-light"), (other, "on-dark")):
                shown = _merged(node, node, prefix)
                shown.set("class", name)
                made.append(shown)
        else:
            made.append(_merged(one, other, prefix))
        made[-1].tail = one.tail if tag == "text" else None
    return made


def _said(node: ET.Element) -> tuple[str, ...]:
    """What must be the same in both themes: text, shapes, and styles but for their colours."""
    text = (node.text or "").strip()
    return (text, *(node.get(name, "") for name in sorted(_SHAPED)), _COLOUR.sub("", node.get("style", "")))


def _is_known(node: ET.Element) -> bool:
    return isinstance(node.tag, str) and node.tag.rpartition("}")[2] in _TAGS


def _picture(node: ET.Element) -> str:
    return next((value for name, value in node.attrib.items() if name.rpartition("}")[2] == "href"), "")


def _attributes(light: ET.Element, dark: ET.Element, prefix: str) -> dict[str, str]:
    others = {name.rpartition("}")[2]: value for name, value in dark.attrib.items()}
    made = {}
    for full, value in light.attrib.items():
        name = full.rpartition("}")[2]
        if name not in _ATTRIBUTES or _ELSEWHERE.search(value):
            continue
        text = _both(value, others.get(name, value)) if name == "style" else value
        if name == "id":
            text = prefix + value
        elif name == "href":
            if not value.startswith(("#", _PICTURE)):
                continue
            text = f"#{prefix}{value[1:]}" if value.startswith("#") else value
        elif name in _SHAPED and not _FACTOR.match(value):
            text = _rounded(value)
            if name == "transform" and re.fullmatch(r"rotate\(-?0(\.0)?( [^)]*)?\)", text):
                continue
        text = _REFERENCE.sub(lambda match: f"url(#{prefix}{match[1]})", text)
        made[name] = text
    return made


def _both(light: str, dark: str) -> str:
    """A style with the colours of both; of other settings the first's, in the page's own font."""
    others = iter(_COLOUR.findall(dark))

    def pair(match: re.Match[str]) -> str:
        other = next(others, match[0])
        return match[0] if other.lower() == match[0].lower() else f"light-dark({match[0]},{other})"

    style = _COLOUR.sub(pair, light)
    style = _FONT.sub(lambda match: f"{_weight(match['rest'])}font-size: {match['size']}", _FAMILY.sub("", style))
    return style.replace("; ", ";").replace(": ", ":")


def _weight(rest: str) -> str:
    return "font-weight: bold; " if "bold" in rest or "700" in rest else ""


def _rounded(text: str) -> str:
    """Numbers with two decimals, a difference that nobody sees; a path on one line."""
    return " ".join(_NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), text).split())


def _references(node: ET.Element) -> list[str]:
    found = [name for value in node.attrib.values() for name in _REFERENCE.findall(value)]
    href = node.get("href", "")
    return [*found, href[1:]] if href.startswith("#") else found


def _flatten(node: ET.Element) -> None:
    """Take out groups that say nothing: matplotlib wraps every line in three."""
    kept: list[ET.Element] = []
    for child in node:
        _flatten(child)
        kept += list(child) if child.tag == "g" and not child.attrib else [child]
    node[:] = kept
