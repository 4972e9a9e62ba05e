"""`report.html` against the accessibility rules of axe-core: WCAG 2.1 A and AA, and good practice."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.evaluation.report.browsed import PROBE
from tests.evaluation.report.test_page import PHONE

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"], "resultTypes": ["violations"]}
WITHIN = {"rules": {"skip-link": {"enabled": False}}}  # links to views are taken for skip links where a dialog scrolls
SCREENS = {"wide": {"viewport": {"width": 1600, "height": 900}}, "phone": PHONE}


def violations(page, within=None):
    """What breaks a rule: the rule, how many elements, and the first of them with what is wrong."""
    found = Axe().run(page, within, RULES if within is None else RULES | WITHIN).response
    assert {"color-contrast", "button-name", "th-has-data-cells" if within is None else "image-alt"} <= {
        each["id"] for each in found["passes"]
    }
    told = [
        (each["id"], len(each["nodes"]), each["nodes"][0]["html"][:200], each["nodes"][0]["failureSummary"]) for each in found["violations"]
    ]
    return "\n".join(map(str, told))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_no_rule_is_broken_by_the_page_and_the_viewer(visit, screen, scheme):
    page = visit(bypass_csp=True, color_scheme=scheme, **SCREENS[screen])  # the policy would keep axe out, too
    if (screen == "wide") == (scheme == "light"):  # widths change no colours, and colours nothing else: two of four tell, and take long
        assert violations(page) == ""
    page.locator(".tile", has=page.locator("img")).first.click()
    assert page.locator("#viewer").is_visible()
    assert PROBE in page.locator("#view table").first.inner_text()
    assert violations(page, "#viewer") == ""
