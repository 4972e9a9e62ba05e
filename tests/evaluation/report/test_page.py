"""`report.html` as a whole in a browser: it opens without a network, runs nothing but its own script, sorts, and bears all screens."""

import pytest
from playwright.sync_api import expect

from tests.evaluation.report import browsed as pages
from tests.evaluation.report.conftest import PATIENCE

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WIDER = "document.documentElement.scrollWidth - window.innerWidth"


def shown(page, selector):
    return page.eval_on_selector_all(selector, "all => all.filter((each) => each.checkVisibility()).map((each) => each.innerText)")


def column(page, place=1, caption="Metrics by generator"):
    """The texts of a column of the last table of that name, without what stands below them, and what the heads say of the order."""
    return page.evaluate(
        """([caption, place]) => {
          const table = [...document.querySelectorAll(`[aria-label="${caption}"] table`)].at(-1), rows = [...table.tBodies[0].rows];
          const text = (cell) => cell.tagName === "TH" ? cell.textContent : cell.firstChild.textContent;
          return [rows.map((row) => text(row.cells[place])), [...table.tHead.rows[0].cells].map((each) => each.getAttribute("aria-sort"))];
        }""",
        [caption, place],
    )


def head(page, name, caption="Metrics by generator"):
    return page.get_by_role("group", name=caption, exact=True).last.get_by_role("button", name=name, exact=True)


def numbers(texts):
    return [None if text == "–" else float(text.replace(",", "").rstrip("%")) for text in texts]


def in_order(values, descending):
    """Whether numbers are in order with those that are missing last."""
    found = [value for value in values if value is not None]
    return values == sorted(found, reverse=descending) + [None] * (len(values) - len(found))


def test_it_opens_and_nothing_hostile_runs(visit):
    page = visit()
    assert page.locator("h1").inner_text() == f"A study of {pages.HOSTILE}"
    assert page.evaluate("[...document.scripts].filter((each) => each.type !== 'application/json').length") == 1
    assert page.evaluate("document.querySelectorAll('[onerror], [onload], [onclick], iframe, object, embed, link, base').length") == 0
    assert page.evaluate("[...document.images].every((each) => each.src.startsWith('data:image/'))")
    assert page.locator("main b").count() == 0
    text = page.locator("main").inner_text()
    for name in (pages.HOSTILE, pages.OTHER, pages.IMAGE, "caf?.png"):
        assert name in text.replace("\u200b", "")
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_script_that_stands_in_the_page_may_not_run(report, tmp_path, chromium):
    """The content security policy is what keeps a mistake in escaping harmless."""
    path = tmp_path / "report.html"
    planted = f"<script>document.title = 'ran'</script><img src='{(tmp_path / 'x.png').as_uri()}'></main>"
    path.write_text(report.read_text().replace("</main>", planted))
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE)
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(path.as_uri())
    assert page.title() != "ran"
    assert sum("Content Security Policy" in each for each in refused) == 2
    page.close()


@pytest.mark.parametrize("by", ["mouse", "Enter", " "])
def test_a_table_is_sorted_by_click_and_by_keyboard(visit, by):
    page = visit()
    before, told = column(page)
    assert set(told) == {None}
    assert len(set(before)) > 2
    head(page, "AUROC").focus()
    for way in ("descending", "ascending", "descending"):
        head(page, "AUROC").click() if by == "mouse" else page.keyboard.press(by)
        cells, told = column(page)
        assert told == [None, way, *[None] * (len(told) - 2)]
        assert sorted(cells) == sorted(before)
        assert in_order(numbers(cells), way == "descending")


def test_numbers_are_sorted_as_numbers_and_what_is_missing_goes_last(visit):
    page = visit()
    made = page.evaluate(
        """() => {
          const cells = [["300", 300], ["–", null], ["2,000", 2000], ["−3", -3], ["", null], ["1e-5", 1e-5]];
          const table = document.querySelector("table.sortable"), body = table.tBodies[0], row = body.rows[0];
          body.replaceChildren(...cells.map(([text, value]) => {
            const copy = row.cloneNode(true), cell = copy.cells[1];
            cell.replaceChildren(text);
            if (value === null) delete cell.dataset.sort;
            else cell.dataset.sort = value;
            return copy;
          }));
          const read = () => [...body.rows].map((each) => each.cells[1].textContent);
          const button = table.tHead.rows[0].cells[1].querySelector("button");
          return [0, 1].map(() => { button.click(); return read(); });
        }"""
    )
    assert made == [["2,000", "300", "1e-5", "−3", "–", ""], ["−3", "1e-5", "300", "2,000", "–", ""]]


def test_names_are_sorted_from_a_and_one_column_tells_it(visit):
    page = visit()
    head(page, "AUROC").click()
    head(page, "data set / generator").click()
    names, told = column(page, 0)
    assert names == ["all", f"faces/{pages.HOSTILE}", "faces/sd", f"scenes/{pages.LONG}", "scenes/sd"]
    assert told == ["ascending", *[None] * (len(told) - 1)]
    head(page, "data set / generator").click()
    assert column(page, 0)[0] == names[::-1]


def test_colours_follow_the_system_and_the_button(visit):
    page = visit(color_scheme="dark")
    dark = colours(page)
    page.emulate_media(color_scheme="light")
    light = colours(page)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    button = page.get_by_role("button", name="Colours:")
    for told, found in (("light", light), ("dark", dark), ("as the system", light)):
        button.click()
        assert button.inner_text() == f"Colours: {told}"
        assert colours(page) == found
    page.emulate_media(color_scheme="dark")
    assert colours(page) == dark
    button.click()
    assert colours(page) == light


def colours(page):
    """Of the page, its text, a figure's text and a line of it, and which of a figure's two pictures of pixels is shown."""
    return page.evaluate(
        """() => {
          const style = (element) => getComputedStyle(element), figure = document.querySelector(".drawing svg");
          const both = document.createElement("p");
          both.innerHTML = '<span class="on-light">light</span><span class="on-dark">dark</span>';
          document.body.append(both);
          const shown = both.innerText;
          both.remove();
          const line = [...figure.querySelectorAll("[style*='stroke:light-dark']")][0];
          return [style(document.body).backgroundColor, style(document.body).color, style(figure.querySelector("text")).fill,
            style(line).stroke, style(document.querySelector("#filters")).backgroundColor, shown];
        }"""
    )


def test_a_phone_has_the_whole_page_without_scrolling_sideways(visit):
    page = visit(**PHONE)
    assert page.evaluate("window.innerWidth") == 390
    assert page.evaluate(WIDER) <= 0
    assert page.locator("#contents li").first.is_hidden()  # the contents are folded
    page.locator("#contents summary").tap()
    expect(page.locator("#contents li").first).to_be_visible()
    for name in ("detector", "sort", "dataset", "source", "label", "answer", "perturbation", "split", "from", "to", "text"):
        box = page.locator(f"#filters [name={name}]").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["height"] >= 24
        assert box["width"] >= 100
    page.locator("#filters [name=label]").select_option("1")
    assert page.locator("#count").inner_text() == "90 images: 0 real, 90 fake."
    page.locator(".tile").first.tap()
    expect(page.locator("#viewer")).to_be_visible()
    assert page.evaluate(WIDER) <= 0
    box = page.locator("#viewer").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_without_javascript_the_numbers_and_figures_are_there(visit):
    page = visit(java_script_enabled=False)
    for selector in ("h1", ".findings li", ".warnings", "table", ".drawing svg", ".card img"):
        assert page.locator(selector).first.is_visible()
    assert page.locator("noscript").inner_text().startswith("Browsing the images needs JavaScript")
    for selector in ("#browser", "#theme", "#viewer", "th button"):
        assert not any(each.is_visible() for each in page.locator(selector).all())
    assert page.locator("nav a[href='#images']").is_visible()


def test_printed_it_has_no_browser(visit):
    page = visit()
    assert page.locator("#browser").is_visible()
    page.emulate_media(media="print")
    for selector in ("#contents", "#images", "#theme", ".skip"):
        assert page.locator(selector).is_hidden()
    for selector in ("h1", "table", ".drawing svg", ".card"):
        assert page.locator(selector).first.is_visible()


def test_contents_lead_to_every_part(visit):
    page = visit()
    links = page.locator("#contents a").evaluate_all("all => all.map((each) => each.hash)")
    assert len(set(links)) == len(links)
    assert {"#top", "#images", "#what-was-run"} < set(links)
    for link in links:
        page.locator(f"#contents a[href='{link}']").click()
        top, room = page.evaluate("(id) => [document.getElementById(id).getBoundingClientRect().top, innerHeight]", link[1:])
        assert top < room
    names = page.eval_on_selector_all("[id]", "all => all.map((each) => each.id)")
    assert len(set(names)) == len(names)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return pages.write_large(tmp_path_factory.mktemp("large"), 10_000)


def test_ten_thousand_images_cost_a_page_of_them(visit, large):
    page = visit(path=large)
    state = """() => [document.querySelectorAll("*").length, document.querySelectorAll(".tile").length,
      ...["thumbnails", "pictures"].map((kind) => [...document.querySelectorAll(`script.${kind}`)].filter((each) => each.parsed).length)]"""
    assert page.locator("#count").inner_text() == "10,000 images: 5,000 real, 5,000 fake."
    assert page.locator("#page").inner_text() == "Page 1 of 167"
    assert page.locator("script.thumbnails").count() == 50
    before, tiles, parsed, pictures = page.evaluate(state)
    assert (tiles, pictures) == (60, 0)
    assert parsed <= 50
    page.goto(f"{large.as_uri()}#images?sort=source")  # within a generator they stand as in the file: all in the first chunk
    page.reload()
    assert page.evaluate(state)[1:] == [60, 1, 0]
    for _ in range(3):
        page.locator("#after").click()
    assert page.evaluate(state)[1] == 60
    page.locator("#filters [name=text]").fill("1234.png")
    expect(page.locator("#count")).to_have_text("1 images: 1 real, 0 fake.")
    assert page.evaluate(state)[0] < before
