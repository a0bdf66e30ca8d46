"""The page in a real browser, where one is installed: chat, files, stop, retry, key, languages, catalogue, phone."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from polymodal.serve.app import create_app
from polymodal.serve.models import ServedModel
from polymodal.serve.site import FILES
from served import SETTINGS, complaint, running

CAT = Path("examples/cat.jpg").absolute()
KEY = "a key of more than sixteen letters"


@pytest.fixture
def page(browser, served) -> Iterator:
    """The page of the running server; whatever the browser complains of fails the test."""
    complaints, asked = [], []
    opened = browser.new_page(locale="en-GB", viewport={"width": 900, "height": 700})
    opened.on("console", lambda message: complaints.extend(complaint(message)))
    opened.on("pageerror", lambda problem: complaints.append(str(problem)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(served[0])
    opened.wait_for_selector("#model option", state="attached")
    yield opened
    opened.close()
    assert not complaints
    assert all(url.startswith((served[0], "blob:", "data:")) for url in asked), "the page asks another server"


def answer(page, count: int = 1) -> str:
    """The text of the `count`-th answer, once it is whole."""
    item = page.locator("li.assistant").nth(count - 1)
    item.locator(".retry").wait_for()
    return item.locator("p").inner_text()


def test_a_question_about_a_picture(page, served) -> None:
    assert page.locator("#takes").inner_text() == "takes text, pictures"
    page.set_input_files("#files", CAT)
    page.fill("#question", "What is this?")
    page.press("#question", "Enter")
    first = answer(page)
    assert page.locator("li.user img").count() == 1 and page.locator("#attached li").count() == 0
    assert "tokens in" in page.locator("li.assistant small").inner_text()
    page.click(".retry")
    assert answer(page) == first
    page.fill("#question", "And?")
    page.click("#send")
    answer(page, 2)
    assert page.locator(".retry").count() == 1
    page.click("#new")
    assert page.locator("#messages li").count() == 0


def test_an_answer_can_be_stopped(page, llava, monkeypatch) -> None:
    import time

    step = llava.module.backbone.forward
    monkeypatch.setattr(llava.module.backbone, "forward", lambda *a, **k: (time.sleep(0.05), step(*a, **k))[1])
    page.fill("#question", "Talk for long.")
    page.click("#send")
    page.wait_for_selector("li.assistant[aria-busy]")
    page.click("#stop")
    page.wait_for_selector(".retry")
    assert "stopped" in page.locator("li.assistant small").inner_text()
    assert page.locator("#send").is_visible()


def test_files_that_do_not_fit_are_named(page, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("x")
    page.set_input_files("#files", tmp_path / "a.txt")
    assert "a.txt is no picture, sound or video" in page.locator("#status").inner_text()
    page.set_input_files("#files", Path("examples/speech.flac").absolute())
    page.fill("#question", "What is said?")
    page.click("#send")
    assert "takes no sound" in page.locator("#status").inner_text()
    page.click("#attached button")
    assert page.locator("#attached li").count() == 0


def test_what_the_server_refuses_is_shown(page) -> None:
    page.fill("#question", "word " * 5000)
    page.click("#send")
    page.wait_for_selector("[role=alert]")
    assert "limit of 2048" in page.locator("[role=alert]").inner_text()


def test_a_picture_that_is_dropped_or_pasted(page) -> None:
    make = "const t = new DataTransfer(); t.items.add(new File([new Uint8Array(9)], 'a.png', {type: 'image/png'}));"
    page.evaluate(f"{make} dispatchEvent(new DragEvent('dragenter', {{dataTransfer: t}}));")
    assert page.locator("#drop").is_visible()
    page.evaluate(f"{make} dispatchEvent(new DragEvent('drop', {{dataTransfer: t, cancelable: true}}));")
    assert page.locator("#drop").is_hidden() and page.locator("#attached li").count() == 1
    paste = "document.getElementById('question').dispatchEvent(new ClipboardEvent('paste', {clipboardData: t}))"
    page.evaluate(f"{make} {paste};")
    assert page.locator("#attached li").count() == 2


def test_languages_and_colours(page) -> None:
    page.click("#language")
    assert page.locator("#send").inner_text() == "发送" and page.evaluate("document.documentElement.lang") == "zh"
    assert page.locator("#takes").inner_text() == "可接受文本、图片"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    assert page.locator("#send").inner_text() == "发送"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_the_catalogue_is_searched(page) -> None:
    page.click("[data-view=catalogue]")
    page.wait_for_selector("#systems tr")
    everything = page.locator("#systems tr").count()
    page.select_option("#fusion", "A")
    assert 0 < page.locator("#systems tr").count() < everything
    page.select_option("#fusion", "")
    page.fill("#find", "llava-1.5")
    assert page.locator("#systems tr").count() == 1 and page.locator("#map button").count() == 1
    page.fill("#find", "nothing like it")
    assert page.locator("#count").inner_text() == "No system is called like that."


def test_a_system_is_drawn(page) -> None:
    page.click("[data-view=catalogue]")
    page.fill("#find", "llava-1.5")
    page.locator("#systems .link").first.click()
    page.wait_for_selector("#drawing img")
    assert page.evaluate("(i => i.decode().then(() => i.naturalWidth))(document.querySelector('#drawing img'))") > 500
    assert page.locator("#drawing svg, #drawing object, #drawing iframe").count() == 0, "a drawing runs nothing"
    assert "LLaVA-1.5" in page.locator("#detail-name").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#detail").is_hidden()
    page.fill("#find", "")
    page.evaluate("document.querySelector('#systems .link').click()")
    page.wait_for_selector("#drawing img")


def test_a_phone_shows_all_of_it(browser, served) -> None:
    phone = browser.new_page(viewport={"width": 320, "height": 560})
    phone.goto(served[0])
    phone.wait_for_selector("#model option", state="attached")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 320
    assert phone.locator("#send").is_visible() and phone.locator("#question").is_visible()
    phone.close()


def test_everything_is_reached_by_keyboard_and_has_a_name(page) -> None:
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea')].filter((each) =>
            !each.hidden && !(each.innerText || each.ariaLabel || each.labels?.length)).map((each) => each.id)"""
    )
    assert unnamed == []
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"model", "new", "question", "file", "record", "send", "theme", "language"} <= reached


def test_a_server_with_a_key_asks_for_it(browser, llava) -> None:
    settings = replace(SETTINGS, api_keys=frozenset({hashlib.sha256(KEY.encode()).hexdigest()}))
    with running(create_app({"llava": ServedModel("llava", llava, settings)}, settings)) as address:
        page = browser.new_page(locale="en-GB")
        page.goto(address)
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.get_by_text("This server needs an API key.").wait_for()
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        page.wait_for_selector("#model option", state="attached")
        assert page.locator("#key-form").is_hidden()
        page.close()


def test_no_answer_and_an_answer_that_breaks_off_are_said(browser, llava) -> None:
    page = browser.new_page(locale="en-GB")
    with running(create_app({"llava": ServedModel("llava", llava, SETTINGS)}, SETTINGS)) as address:
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")
    page.fill("#question", "Hello?")
    page.click("#send")
    page.wait_for_selector("[role=alert]")
    assert "does not answer" in page.locator("[role=alert]").inner_text()
    page.close()


def test_the_files_name_no_other_server() -> None:
    for name, data in FILES.items():
        text = data.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text, name
    assert "onclick=" not in FILES["index.html"].decode() and "<style" not in FILES["index.html"].decode()
