"""One image in the viewer of `report.html`: what the detectors saw, exact verdicts, its place among the scores, and the way on and back."""

import re
from collections import Counter

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.evaluation.report.browsed import FAILING, OTHER, PATHS, PROBE, THRESHOLDS, VIEWS, colour, known, ordered
from tests.evaluation.report.test_page_browser import STANDS_OPEN, check, choose, follow, place, seen, told, usual

READ = """({
  title: $("viewed").textContent,
  heads: [...$("view").querySelector("thead tr").cells].map((each) => each.textContent),
  rows: [...$("view").querySelector("tbody").rows].map((row) => [...row.cells].map((each) => each.textContent)),
  facts: Object.fromEntries([...$("view").querySelectorAll("dt")].map((each) => [each.textContent, each.nextSibling.textContent])),
  notes: [...$("view").querySelectorAll(":scope > p")].map((each) => each.textContent),
})"""
COLOURS = """(selector) => Promise.all([...document.querySelectorAll(selector)].map(async (each) => {
  each.loading = "eager";
  await each.decode();
  const canvas = new OffscreenCanvas(1, 1), pen = canvas.getContext("2d");
  pen.drawImage(each, 4, 4, 8, 8, 0, 0, 1, 1);
  return [each.alt, [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3)];
}))"""
SHOWN = f"({COLOURS})('#view .views img')"
MOST = 190  # addresses at once: Chromium remembers no more than 200 within some seconds


def read(page):
    """What the viewer says."""
    return page.evaluate(READ)


def read_all(page, addresses):
    """What the viewer says of each."""
    assert len(addresses) <= MOST
    return page.evaluate(f"(all) => all.map((each) => {{ lookAt(each); return {READ}; }})", list(addresses))


def views_of(page, addresses):
    """Alternative texts and colours of each one's pictures."""
    code = f"async (all) => {{ const found = []; for (const each of all) {{ lookAt(each); found.push(await {SHOWN}); }} return found; }}"
    return page.evaluate(code, list(addresses))


def near(found, wanted):
    return np.abs(np.subtract(found, wanted)).max() <= 8  # WebP loses a little


def number(text):
    return float(text.replace("−", "-"))


def show(page, address):
    page.evaluate("(address) => lookAt(address)", address)


def below(rows, label, row, detector):
    """The share of measured images of a class that score below this one under the same perturbation, in percent."""
    own = rows[(rows["split"] == "test") & (rows["label"] == label) & (rows["perturbation"] == row["perturbation"])]
    scores = own[f"score {detector}"].dropna()
    return int(np.floor(100 * np.mean(scores < row[f"score {detector}"]) + 0.5))


def test_it_shows_the_pictures_of_its_own_image(visit, known):
    page, rows = visit(), ordered(usual(known))
    tiles = page.evaluate(COLOURS, ".tile img")
    keys = [key for key in rows["key"].head(60) if key != FAILING]
    assert len(tiles) == len(keys) == 59
    assert all(near(found, colour(key, "none", "image")) for (_, found), key in zip(tiles, keys, strict=True))
    assert page.locator(".tile .none").all_inner_texts() == ["no picture"]
    counts = Counter()
    some = known.groupby("perturbation").head(40)
    for (_, row), views in zip(some.iterrows(), views_of(page, some["address"]), strict=True):
        names = tuple(alt.partition(" of a")[0] for alt, _ in views)
        expected = VIEWS if int(row["key"], 16) % 2 else VIEWS[:1]
        counts[names] += 1
        if row["key"] == FAILING:
            assert names == ()
        elif names == ("thumbnail",):
            assert near(views[0][1], colour(row["key"], "none", "image"))
        else:
            assert names == tuple(view.replace("_", " ") for view in expected)
            assert all(near(found, colour(row["key"], row["perturbation"], view)) for (_, found), view in zip(views, expected, strict=True))
        assert all(f"{'fake' if row['label'] else 'real'} image from {row['source']}" in alt for alt, _ in views)
    assert counts[("thumbnail",)] > 5
    assert len(counts) >= 3
    assert min(count for names, count in counts.items() if names) >= 5


def test_an_image_without_a_picture_is_shown_without(visit):
    page = visit()
    show(page, f"faces/{FAILING}@none")
    assert read(page)["notes"][0] == "There is no picture of this image."
    assert page.locator("#view img").count() == 0
    assert page.locator("#images > p").first.inner_text().endswith("OSError: <b>disk</b> on fire.")


def test_every_detectors_score_answer_and_place(visit, known):
    page = visit()
    exact = {"right": 0, "missed": 0, "false alarm": 0, "–": 0}
    some = known.iloc[::2].head(MOST)
    for (_, row), view in zip(some.iterrows(), read_all(page, some["address"]), strict=True):
        assert view["title"] == f"{'Fake' if row['label'] else 'Real'}: {row['source']}, {row['perturbation']}"
        assert view["heads"] == ["detector", "score", "probability", "threshold", "answer", "its place among all scores"]
        assert [cells[0] for cells in view["rows"]] == [PROBE, OTHER]
        for name, (_, score, probability, threshold, answer, words) in zip(THRESHOLDS, view["rows"], strict=True):
            assert (threshold == "–") == (name == OTHER)
            exact[answer] += 1
            value = row[f"exact {name}"]
            if np.isnan(value):
                assert (score, probability, answer, words) == ("–", "–", "–", "no score")
                continue
            assert number(score) == pytest.approx(value, rel=1e-3)
            assert answer == (row[f"answer {name}"] or "–")
            if name == PROBE:
                assert answer == ("right" if (value > 0.5) == (row["label"] == 1) else "missed" if row["label"] else "false alarm")
                assert number(probability) == pytest.approx(row[f"probability {name}"], rel=1e-3)
            reals, fakes = (int(share) for share in re.findall(r"(\d+)%", words))
            assert (reals, fakes) == (below(known, 0, row, name), below(known, 1, row, name))
        assert view["facts"]["key"] == row["key"]
        assert view["facts"]["split"] == row["split"]
        assert view["facts"].get("group", "") == row["group"]
        if row["path"] not in PATHS:
            assert view["facts"]["file"] == row["path"]
    assert min(exact.values()) > 10
    tied = some[(some[f"score {PROBE}"] == 0.5)]
    assert {(label, answer) for label, answer in zip(tied["label"], tied[f"answer {PROBE}"], strict=True)} == {
        *((0, "right"), (0, "false alarm"), (1, "right"), (1, "missed"))
    }


def test_the_mark_stands_at_the_score_and_the_dashes_at_the_threshold(visit, known):
    page = visit()
    lines = """() => [...$("view").querySelectorAll("svg.place")].map((svg) => [...svg.querySelectorAll("path")].map((each) =>
      [each.getAttribute("style"), Number(each.getAttribute("d").match(/^M([-\\d.e]+)/)[1])]))"""
    rows = usual(known).dropna(subset=[f"score {PROBE}"]).sort_values(f"score {PROBE}")
    inside, marks, dashes = rows.iloc[len(rows) // 4 : -len(rows) // 4 : 12], [], []
    for address in inside["address"]:
        show(page, address)
        first, second = page.evaluate(lines)
        assert not any("dasharray" in style for style, _ in second)
        dashes += [x for style, x in first if "dasharray" in style]
        marks.append(first[-1][1])
    scores = inside[f"score {PROBE}"].to_numpy()
    slope, start = np.polyfit(scores, marks, 1)
    assert np.allclose(slope * scores + start, marks, atol=1e-3)
    assert slope > 0
    assert len(dashes) == len(marks)
    assert np.allclose(dashes, slope * 0.5 + start, atol=1e-3)


def test_keys_and_buttons_go_through_all_that_were_found(visit, known):
    page, rows = visit(), usual(known)
    rows = ordered(rows[rows["label"] == 1])
    choose(page, label="1")
    page.locator(".tile").first.click()
    assert page.locator("#previous").is_disabled()
    walked = [told(page)["image"]]
    for _ in range(len(rows) - 1):
        page.keyboard.press("ArrowRight")
        walked.append(told(page)["image"])
    assert walked == rows["address"].tolist()
    assert told(page)["page"] == "2"
    assert seen(page)["page"] == "Page 2 of 2"
    assert len(seen(page)["tiles"]) == len(rows) - 60
    assert page.locator("#next").is_disabled()
    page.keyboard.press("ArrowRight")
    assert told(page)["image"] == walked[-1]
    page.locator("#previous").click()
    assert told(page)["image"] == walked[-2]
    page.locator("#next").click()  # and is disabled under the mouse
    page.keyboard.press("ArrowLeft")
    assert told(page)["image"] == walked[-2]
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(STANDS_OPEN)
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.locator("#previous").click()  # to the page before
    assert told(page) == {"label": "1", "image": walked[59]}
    assert seen(page)["page"] == "Page 1 of 2"
    page.keyboard.press("Control+ArrowRight")
    assert told(page)["image"] == walked[59]


@pytest.mark.parametrize("way", ["Escape", "button", "outside"])
def test_closed_it_gives_the_focus_back_to_the_tile(visit, way):
    page = visit()
    page.locator(".tile").nth(4).click()
    assert page.get_by_role("dialog", name=re.compile("Fake|Real: ")).is_visible()
    assert page.evaluate("$('viewer').contains(document.activeElement)")
    page.keyboard.press("ArrowRight")
    if way == "Escape":
        page.keyboard.press("Escape")
    elif way == "button":
        page.get_by_role("button", name="Close").click()
    else:
        page.mouse.click(5, 450)
    expect(page).not_to_have_url(STANDS_OPEN)
    assert page.locator("#viewer").is_hidden()
    assert place(page) == [5, 1, 1]
    assert told(page) == {}
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("$('viewer').contains(document.activeElement) || document.activeElement === document.body")


def test_opened_again_before_the_browser_told_that_it_was_closed(visit):
    """As by Escape and Enter on a page whose frames are slow: the viewer goes on as if it had not been closed."""
    page = visit()
    page.locator(".tile").first.click()
    page.evaluate("$('viewer').close(); document.querySelectorAll('.tile')[1].click()")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")
    second = told(page)["image"]
    page.keyboard.press("ArrowRight")
    assert told(page)["image"] != second
    page.keyboard.press("ArrowLeft")
    assert told(page)["image"] == second
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(STANDS_OPEN)
    assert place(page) == [1, 1, 1]


def test_perturbations_lead_to_each_other(visit, known):
    page, rows = visit(), known[known["split"] == "test"]
    both = rows.groupby(["dataset", "key"])["perturbation"].transform("nunique") == 2
    row = ordered(rows[both & (rows["perturbation"] == "none") & (rows["path"] != PATHS[0])]).iloc[0]
    show(page, row["address"])
    table = page.get_by_role("group", name="Scores under each perturbation")
    assert table.get_by_role("link").all_inner_texts() == ["jpeg_40"]
    other = row["address"].replace("@none", "@jpeg_40")
    there = rows[rows["address"] == other].iloc[0]
    told_scores = table.locator("tbody tr").nth(1).locator("td").all_inner_texts()
    for text, name in zip(told_scores, THRESHOLDS, strict=True):
        assert number(text.split()[0]) == pytest.approx(there[f"exact {name}"], rel=1e-3)
        answer = there[f"answer {name}"]
        assert text.partition(" ")[2] == (answer if answer in {"missed", "false alarm"} else "")
    follow(page, table.get_by_role("link"))
    assert told(page)["image"] == other
    assert read(page)["title"].endswith(", jpeg_40")
    assert page.evaluate("$('viewer').contains(document.activeElement)")  # the link is gone, the focus is not
    follow(page, page.get_by_role("group", name="Scores under each perturbation").get_by_role("link", name="none"))
    assert told(page)["image"] == row["address"]
    page.keyboard.press("ArrowRight")
    assert told(page)["image"] != row["address"]
    alone = rows[~both & (rows["perturbation"] == "none")].iloc[0]
    show(page, alone["address"])
    assert page.get_by_role("group", name="Scores under each perturbation").get_by_role("link").count() == 0


def test_a_group_leads_to_all_its_images(visit, known):
    page = visit()
    row = known[known["group"] == "faces-ffhq-test-1"].iloc[0]
    show(page, row["address"])
    follow(page, page.get_by_role("link", name="faces-ffhq-test-1"))
    assert page.locator("#viewer").is_hidden()
    rows = usual(known)
    check(page, ordered(rows[rows["group"] == "faces-ffhq-test-1"]))
    assert told(page) == {"text": "group:faces-ffhq-test-1"}
    expect(page.locator(".tile").first).to_be_focused()  # the browser tells the page a moment later that the viewer is closed
    assert place(page) == [0, 1, 1]


def test_a_mistakes_card_and_an_address_lead_to_the_image(visit):
    worst = ordered(usual(known()))
    fakes = worst[worst["label"] == 1]
    page = visit()
    card = page.locator(".card", has_text="caf?.png")
    assert card.locator("p.soft").inner_text() == "No picture: OSError: <b>disk</b> on fire"
    card = page.locator(".card").nth(1)
    follow(page, card.get_by_role("link", name="all scores"))
    assert page.locator("#viewer").is_visible()
    assert told(page)["image"] == fakes["address"].iloc[1]
    assert read(page)["facts"]["file"] == PATHS[1]
    elsewhere = known()
    row = elsewhere[(elsewhere["split"] == "val") & (elsewhere["perturbation"] == "jpeg_40")].iloc[0]
    page = visit(f"#images?image={row['address']}")  # not among those that are found
    assert read(page)["facts"]["key"] == row["key"]
    assert page.locator("#previous").is_disabled()
    assert page.locator("#next").is_disabled()
    page.keyboard.press("ArrowRight")
    assert told(page) == {"image": row["address"]}
