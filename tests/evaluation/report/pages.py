"""Reading a report's page, and what its tests share."""

import base64
import contextlib
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
SIZE = (48, 64)
_LEADS = ("data:image/", "#", "metrics.json", "predictions.parquet", "figures/", "tables/")
_REFERRING = {"src", "href", "xlink:href", "srcset", "action", "formaction", "data", "poster", "srcdoc", "from", "to", "values"}


class Page(HTMLParser):
    """Tags, their attributes, the text of a page, and its scripts: one to run, the others data."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.run, self.data, self._inside = [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag in {"script", "style"}:
            self._inside = (tag, dict(attributes).get("type"))
            if tag == "script":
                (self.data if self._inside[1] == "application/json" else self.run).append("")

    def handle_endtag(self, tag):
        if self._inside and tag == self._inside[0]:
            self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.text += data
        elif self._inside[0] == "script":
            (self.data if self._inside[1] == "application/json" else self.run)[-1] += data

    def values(self, name, of=None):
        return [value for tag, found, value in self.attributes if found == name and of in {None, tag}]


def checked(html):
    """A page that runs one script, known by its hash, and takes nothing from elsewhere."""
    page = Page(html)
    [script] = page.run
    [policy] = [value for value in page.values("content", "meta") if "default-src" in value]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules == {"default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'", "script-src": f"'sha256-{digest}'"} | {
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert page.values("type", "script") == ["application/json"] * len(page.data)
    for data in page.data:
        json.loads(data)
        assert not set("<>&") & set(data)
    assert not {"link", "iframe", "frame", "object", "embed", "base", "foreignobject", "animate", "set", "a:href"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for _, name, value in page.attributes:
        assert name not in _REFERRING or value.startswith(_LEADS), (name, value)
        assert "javascript:" not in value.lower()
    style = " ".join([*re.findall(r"<style>(.*?)</style>", html, re.DOTALL), *page.values("style")])
    assert not re.search(r"url\((?!#)|@import|expression\(", style)
    return page


def pictures(key, _="none"):
    rng = np.random.default_rng(int(key[:8], 16))
    return {name: rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for name in ("image", "noise_map", "reconstruction")}


@contextlib.contextmanager
def without_drawings(*saved):
    """Drawing takes most of the time of a report and has tests of its own; `saved` are functions of `results` that save figures."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "savefig", lambda figure, file, **_: file.write(b"<svg/>"))
        for name in saved:
            patched.setattr(f"evaluation.results.{name}", lambda *_: [])
        yield


def alt_of(chart):
    """What a chart says to those who do not see it."""
    return ET.fromstring(chart.svg).get("aria-label")
