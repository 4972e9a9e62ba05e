"""The image browser of `report.html`: filters and orders against pandas, keys of the keyboard, links, and the address of what is shown."""

import re
from urllib.parse import parse_qsl, urlencode

import pytest
from playwright.sync_api import expect

from tests.evaluation.report.browsed import HOSTILE, LONG, OTHER, PATHS, PROBE, ordered

SIZE = 60  # tiles of a page
STANDS_OPEN = re.compile("image=")  # in the address; the browser tells the page a moment later that the viewer is closed


def found(page):
    """What was found, each as its address, in order."""
    return page.evaluate("rows.map(address)")


def usual(known):
    return known[(known["split"] == "test") & (known["perturbation"] == "none")]


def pages_of(rows):
    return max(1, -(-len(rows) // SIZE))


def choose(page, **wanted):
    """Set controls, and say so as the browser does when a reader has."""
    page.evaluate(
        """(wanted) => { for (const [name, value] of Object.entries(wanted)) $("filters").elements[name].value = value;
        $("filters").elements[Object.keys(wanted).at(-1) ?? "text"].dispatchEvent(new Event("change", { bubbles: true })); }""",
        wanted,
    )


def follow(page, link):
    """Click a link within the page; the browser tells the page of the new address with its next frame."""
    page.evaluate("() => { window.followed = new Promise((done) => addEventListener('hashchange', () => done(), { once: true })); }")
    link.click()
    page.evaluate("() => window.followed")


def told(page):
    """The fragment as the names and values of controls."""
    fragment = page.evaluate("location.hash")
    assert fragment == "" or fragment.partition("?")[0] == "#images"
    return dict(parse_qsl(fragment.partition("?")[2], keep_blank_values=True))


def seen(page):
    """What a reader sees of the browser."""
    return page.evaluate(
        """() => ({ count: $("count").textContent, page: $("page").textContent, open: $("viewer").open, view: $("view").innerText,
        tiles: [...document.querySelectorAll(".tile")].map((each) => each.getAttribute("aria-label")), hash: location.hash,
        controls: Object.fromEntries([...$("filters").elements].filter((each) => each.name).map((each) => [each.name, each.value])) })"""
    )


def check(page, rows):
    """The page shows these rows: their addresses, how many there are, and on the tiles of its first page what they are."""
    assert found(page) == rows["address"].tolist()
    view, fakes = seen(page), int(rows["label"].sum())
    several = view["controls"]["perturbation"] == ""
    count = f"{len(rows)} {'images and perturbations' if several else 'images'}: {len(rows) - fakes} real, {fakes} fake."
    assert view["count"] == (count if len(rows) else "No image is like that: widen a filter, or show all.")
    assert view["page"] == f"Page 1 of {pages_of(rows)}"
    assert len(view["tiles"]) == min(SIZE, len(rows))
    for label, (_, row) in zip(view["tiles"], rows.iterrows(), strict=False):
        answer = row[f"answer {view['controls']['detector']}"]
        assert label.startswith(f"{'fake' if row['label'] else 'real'} image from {row['source']}, {row['perturbation']}, score ")
        assert label.endswith(f", {answer}") if answer else label.count(",") == 2


def contains(rows, text):
    columns = (rows["path"].fillna(""), rows["key"], rows["group"])
    return sum(column.map(lambda value: text.lower() in value.lower()) for column in columns) > 0


FILTERS = {
    "nothing": ({}, lambda rows: rows["key"] != ""),
    "data set": ({"dataset": "scenes"}, lambda rows: rows["dataset"] == "scenes"),
    "generator": ({"source": "faces/sd"}, lambda rows: rows["source"] == "faces/sd"),
    "hostile generator": ({"source": f"faces/{HOSTILE}"}, lambda rows: rows["generator"] == HOSTILE),
    "generator and another data set": ({"source": "faces/sd", "dataset": "scenes"}, lambda rows: rows["key"] == ""),
    "reals": ({"label": "0"}, lambda rows: rows["label"] == 0),
    "fakes": ({"label": "1"}, lambda rows: rows["label"] == 1),
    "wrong": ({"answer": "wrong"}, lambda rows: rows[f"answer {PROBE}"].isin(["missed", "false alarm"])),
    "right": ({"answer": "right"}, lambda rows: rows[f"answer {PROBE}"] == "right"),
    "missed": ({"answer": "missed"}, lambda rows: rows[f"answer {PROBE}"] == "missed"),
    "alarms": ({"answer": "alarm"}, lambda rows: rows[f"answer {PROBE}"] == "false alarm"),
    "from": ({"from": "0.5"}, lambda rows: rows[f"score {PROBE}"] >= 0.5),
    "to": ({"to": "-0.25"}, lambda rows: rows[f"score {PROBE}"] <= -0.25),
    "range": ({"from": "-1e-1", "to": "0.75"}, lambda rows: rows[f"score {PROBE}"].between(-0.1, 0.75)),
    "path": ({"text": "FACES/test/img_01"}, lambda rows: contains(rows, "faces/test/img_01")),
    "key": ({"text": "a7"}, lambda rows: contains(rows, "a7")),
    "group": ({"text": "scenes-phot-test-1"}, lambda rows: contains(rows, "scenes-phot-test-1")),
    "hostile path": ({"text": PATHS[1][:8]}, lambda rows: rows["path"] == PATHS[1]),
    "several": (
        {"dataset": "faces", "label": "1", "answer": "right", "from": "1", "text": "test"},
        lambda rows: (rows["dataset"] == "faces") & (rows["label"] == 1) & (rows[f"score {PROBE}"] >= 1) & contains(rows, "test")
        & (rows[f"answer {PROBE}"] == "right"),
    ),
}  # fmt: skip


def test_each_filter_finds_what_pandas_finds(visit, known):
    page, rows = visit(), usual(known)
    for wanted, holds in FILTERS.values():
        choose(page, **wanted)
        expected = ordered(rows[holds(rows)])
        assert expected.empty == (wanted.get("source") == "faces/sd" and "dataset" in wanted)
        check(page, expected)
        assert told(page) == wanted
        page.evaluate("$('filters').querySelector('[type=reset]').click()")
        assert told(page) == {}


def test_splits_and_perturbations(visit, known):
    page = visit()
    for split in ("val", "", "test"):
        choose(page, split=split)
        for perturbation in ("jpeg_40", "", "none"):
            choose(page, perturbation=perturbation)
            rows = known[known["split"].isin([split] if split else ["test", "val"])]
            check(page, ordered(rows[rows["perturbation"].isin([perturbation] if perturbation else ["none", "jpeg_40"])]))


@pytest.mark.parametrize("detector", [PROBE, OTHER])
def test_each_order_is_that_of_pandas(visit, known, detector):
    page, rows = visit(), known[known["split"] == "test"]
    choose(page, detector=detector, perturbation="")
    for sort in ("high", "low", "apart", "source", "mistakes"):
        choose(page, sort=sort)
        check(page, ordered(rows, sort, detector))


def test_a_reader_chooses_and_types(visit, known):
    page, rows = visit(), usual(known)
    page.get_by_role("combobox", name="Generator", exact=True).select_option("faces/sd")
    rows = rows[rows["source"] == "faces/sd"]
    check(page, ordered(rows))
    page.locator("#filters").get_by_label("File, key or group").press_sequentially("01", delay=20)
    expect(page.locator(".tile")).to_have_count(int(contains(rows, "01").sum()))
    check(page, ordered(rows[contains(rows, "01")]))
    page.locator(".tile").nth(1).click()  # while the text has the focus
    assert page.locator("#viewer").is_visible()
    assert told(page)["image"] == ordered(rows[contains(rows, "01")])["address"].iloc[1]
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(STANDS_OPEN)
    page.get_by_label("File, key or group").press("Enter")  # the form is not sent anywhere
    assert told(page) == {"source": "faces/sd", "text": "01"}
    page.evaluate(
        """() => {
          const from = $("filters").elements.from;
          from.value = "0.5";
          for (const name of ["input", "change"]) from.dispatchEvent(new Event(name, { bubbles: true }));
          document.querySelector(".tile").click();
        }"""
    )  # faster than the text is looked for
    rows = ordered(rows[contains(rows, "01") & (rows[f"score {PROBE}"] >= 0.5)])
    assert told(page)["image"] == rows["address"].iloc[0]
    page.wait_for_timeout(300)  # nothing happens later
    assert told(page)["image"] == rows["address"].iloc[0]


def test_a_number_is_not_written_anew_while_it_is_typed(visit, known):
    page, rows = visit(), usual(known)
    field = page.get_by_label("Score from")
    field.press_sequentially("-1.5", delay=200)  # slower than the page waits
    assert field.input_value() == "-1.5"
    rows = rows[rows[f"score {PROBE}"] >= -1.5]
    page.wait_for_timeout(300)  # it is looked for a moment after the last key
    expect(page.locator("#count")).to_contain_text(f"{len(rows)} images")
    check(page, ordered(rows))


def test_a_detector_without_a_threshold_calls_nothing_and_says_so(visit, known):
    page, rows = visit(), usual(known)
    choose(page, answer="wrong")
    assert 0 < len(found(page)) < len(rows)
    choose(page, detector=OTHER)
    assert page.locator("#filters [name=answer]").is_disabled()
    assert "no threshold" in page.locator("#filters [name=answer]").get_attribute("title")
    assert page.locator(".tile .badge").count() == 0
    check(page, ordered(rows, "mistakes", OTHER))
    page.goto(page.url.partition("#")[0] + "#images?" + urlencode({"detector": OTHER, "answer": "wrong"}))
    assert len(found(page)) == len(rows)
    choose(page, detector=PROBE)
    assert page.locator("#filters [name=answer]").is_enabled()


def place(page):
    """Number of the tile that has the focus, how many take part in the order of Tab, and the page."""
    return page.evaluate(
        """() => {
          const all = [...document.querySelectorAll(".tile")], page = Number($("page").textContent.split(" ")[1]);
          return [all.indexOf(document.activeElement), all.filter((each) => each.tabIndex === 0).length, page];
        }"""
    )


def test_keys_go_from_tile_to_tile_and_from_page_to_page(visit, known):
    page = visit()
    last, rest = pages_of(usual(known)), len(usual(known)) % SIZE
    tops = page.locator(".tile").evaluate_all("all => all.map((each) => each.getBoundingClientRect().top)")
    across = tops.count(tops[0])
    assert 2 < across < SIZE / 2
    assert place(page) == [-1, 1, 1]
    page.locator("#filters [type=reset]").focus()
    page.keyboard.press("Tab")
    steps = [("ArrowLeft", 0, 1), ("ArrowUp", 0, 1), ("PageUp", 0, 1), ("ArrowRight", 1, 1), ("ArrowDown", 1 + across, 1)]
    steps += [("ArrowUp", 1, 1), ("ArrowLeft", 0, 1), ("End", SIZE - 1, 1), ("ArrowRight", 0, 2), ("ArrowLeft", SIZE - 1, 1)]
    steps += [("ArrowDown", 0, 2), ("ArrowUp", SIZE - 1, 1), ("Home", 0, 1), ("PageDown", 0, 2), ("PageUp", 0, 1)]
    steps += [("PageDown", 0, number) for number in range(2, last + 1)]
    steps += [("PageDown", 0, last), ("End", rest - 1, last), ("ArrowRight", rest - 1, last), ("ArrowDown", rest - 1, last)]
    assert place(page) == [0, 1, 1]
    for key, focused, number in steps:
        page.keyboard.press(key)
        assert place(page) == [focused, 1, number], key
    assert told(page) == {"page": str(last)}
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "before"  # `after` is disabled


def test_buttons_turn_pages(visit, known):
    page, rows = visit(), ordered(usual(known))
    shown, last = [], pages_of(rows)
    for number in range(1, last + 1):
        view = seen(page)
        assert view["page"] == f"Page {number} of {last}"
        assert page.locator("#before").is_disabled() == (number == 1)
        shown += view["tiles"]
        if number < last:
            page.locator("#after").click()
    assert page.locator("#after").is_disabled()
    assert len(shown) == len(rows)
    assert [label.startswith("fake") for label in shown] == (rows["label"] == 1).tolist()
    page.locator("#before").click()
    assert told(page) == {"page": str(last - 1)}
    choose(page, label="1")
    assert told(page) == {"label": "1"}  # from the first page
    page.get_by_role("button", name="Next page").click()
    page.get_by_role("button", name="Show all").click()
    assert told(page) == {}


STATES = [
    {"page": "3"},
    {"detector": OTHER, "sort": "apart", "perturbation": "", "page": "2"},
    {"split": "val", "answer": "wrong", "from": "-1", "to": "1.5"},
    {"source": f"scenes/{LONG}", "text": "&=#?+%", "label": "0"},
    {"text": PATHS[1], "sort": "low"},
]


@pytest.mark.parametrize("state", STATES)
def test_the_address_always_leads_to_the_view(visit, state):
    page = visit()
    choose(page, **{name: value for name, value in state.items() if name != "page"})
    for _ in range(int(state.get("page", "1")) - 1):
        page.locator("#after").click()
    assert told(page) == state
    views = [(page.url, seen(page))]
    if views[0][1]["tiles"]:
        page.locator(".tile").last.click()
        views.append((page.url, seen(page)))
        assert told(page) == state | {"image": found(page)[len(views[0][1]["tiles"]) + SIZE * (int(state.get("page", "1")) - 1) - 1]}
    for address, view in views[::-1]:
        page.goto("about:blank")
        page.goto(address)  # opened afresh
        assert seen(page) == view
    if len(views) > 1:
        page.goto(views[1][0])  # followed
        assert seen(page) == views[1][1]


def test_links_show_just_their_images(visit, known):
    page, rows = visit(), usual(known)
    link = page.get_by_role("link", name="faces/sd").first
    link.scroll_into_view_if_needed()
    follow(page, link)
    check(page, ordered(rows[rows["source"] == "faces/sd"]))
    assert page.locator("#filters").is_visible()
    assert page.evaluate("$('images').getBoundingClientRect().top") == pytest.approx(16, abs=17)  # scrolled to
    choose(page, label="1", text="a")  # what was chosen before plays no part
    answers = page.get_by_role("group", name="Answers at the threshold").first
    row = answers.locator("tr", has_text="faces/sd")
    wrong = rows[(rows["source"] == "faces/sd") & (rows[f"answer {PROBE}"] == "missed")]
    cell = row.locator("td a").first
    assert cell.inner_text() == str(len(wrong))
    follow(page, cell)
    check(page, ordered(wrong))
    follow(page, page.get_by_role("link", name=f"Worst mistakes of {OTHER}"))
    check(page, ordered(rows, "mistakes", OTHER))
    follow(page, page.get_by_role("link", name="Where the detectors disagree most"))
    check(page, ordered(rows, "apart"))
    page.go_back()
    check(page, ordered(rows, "mistakes", OTHER))


@pytest.mark.parametrize(
    "fragment",
    [
        "#images?source=none/such&dataset=x&label=7&sort=__proto__&detector=constructor&perturbation=blur&split=z&answer=maybe",
        "#images?page=999999&from=abc&to=%3Cb%3E",
        "#images?page=-5&page=NaN&unknown=1&__proto__=2",
        "#images?%E0%A4%A&%&=&==",
        "#images?",
        "#images",
        "#nowhere?source=faces/sd",
    ],
)
def test_what_an_address_says_that_is_not_there_does_no_harm(visit, known, fragment):
    page, rows = visit(fragment), usual(known)
    assert found(page) == ordered(rows)["address"].tolist()
    last = pages_of(rows)
    assert page.locator("#page").inner_text() == f"Page {last if '999' in fragment else 1} of {last}"
    choose(page, dataset="scenes")
    check(page, ordered(rows[rows["dataset"] == "scenes"]))


def test_an_image_that_is_not_there_is_said_to_be_missing(visit):
    page = visit("#images?image=faces/%3Cscript%3E@none")
    assert page.locator("#viewer").is_hidden()
    assert page.locator("#count").inner_text().startswith("There is no image faces/<script>@none here.")
