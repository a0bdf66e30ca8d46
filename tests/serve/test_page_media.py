"""The page in a real browser: answers read aloud, and pictures that a model draws."""

import io
import time
from collections.abc import Iterator

import pytest
from PIL import Image

import polymodal as pm
from headline_folders import captured
from humming import humming
from polymodal.pipelines import image_generation
from polymodal.serve.app import create_app
from polymodal.serve.models import ServedModel
from served import SETTINGS, complaint, running


@pytest.fixture(scope="module")
def address(llava, tmp_path_factory) -> Iterator[str]:
    """A server with a model that answers, one that draws too, and a voice."""
    emu3 = pm.load(captured("emu3", tmp_path_factory.mktemp("page") / "emu3"))
    models = {name: ServedModel(name, model, SETTINGS) for name, model in (("llava", llava), ("emu3", emu3))}
    with running(create_app(models, SETTINGS, {"kokoro": humming("af_heart")})) as address:
        yield address


@pytest.fixture
def page(browser, address) -> Iterator:
    complaints = []
    opened = browser.new_page(locale="en-GB", viewport={"width": 900, "height": 700})
    opened.on("console", lambda message: complaints.extend(complaint(message)))
    opened.on("pageerror", lambda problem: complaints.append(str(problem)))
    opened.goto(address)
    opened.wait_for_selector("#model option", state="attached")
    yield opened
    opened.close()
    assert not complaints


def test_an_answer_is_read_aloud(page, monkeypatch) -> None:
    assert page.locator("#model option").all_inner_texts() == ["llava", "emu3"], "a voice is no model to chat with"
    page.route("**/v1/audio/speech", lambda route: route.continue_(
        post_data={**route.request.post_data_json, "input": "a bed"}))  # fmt: skip
    page.fill("#question", "Hello?")
    page.press("#question", "Enter")
    page.locator(".retry").wait_for()
    page.click(".listen")
    page.wait_for_selector("li.assistant audio")
    seconds = "new Promise((go) => { const a = document.querySelector('li.assistant audio');" \
        " if (a.duration) go(a.duration); else a.onloadedmetadata = () => go(a.duration); })"  # fmt: skip
    assert page.evaluate(seconds) > 0.02
    assert page.locator(".listen").count() == 0 and page.locator("[role=alert]").count() == 0


def test_a_text_that_cannot_be_read_aloud_says_why(page, llava, monkeypatch) -> None:
    page.route("**/v1/audio/speech", lambda route: route.fulfill(
        status=400, json={"error": {"message": "the text holds no word that can be spoken"}}))  # fmt: skip
    page.fill("#question", "Hello?")
    page.press("#question", "Enter")
    page.click(".listen")
    page.get_by_role("alert").get_by_text("no word that can be spoken").wait_for()


def test_a_picture_is_drawn(page) -> None:
    assert page.locator("#draw").is_hidden() and page.locator("#send").is_visible()
    page.select_option("#model", "emu3")
    assert page.locator("#draw").is_visible() and page.locator("#send").is_visible()
    page.fill("#question", "a red cube")
    page.click("#draw")
    picture = page.locator("li.assistant .media img")
    picture.wait_for()
    assert picture.get_attribute("alt") == "a red cube"
    assert page.evaluate("document.querySelector('li.assistant img').naturalWidth") == 16
    assert "ids in" in page.locator("li.assistant small").inner_text()
    with page.expect_download() as saved:
        page.click(".download")
    assert Image.open(io.BytesIO(saved.value.path().read_bytes())).size == (16, 16)
    page.click(".retry")
    page.locator("li.assistant .media img").nth(1).wait_for()
    page.set_input_files("#files", {"name": "a.png", "mimeType": "image/png", "buffer": b"x"})
    page.fill("#question", "a red cube")
    page.click("#draw")
    assert "from words alone" in page.locator("#status").inner_text()


def test_drawing_can_be_stopped(page, monkeypatch) -> None:
    paint = image_generation.paint

    def slow(*given, step, **more):
        def watched(written, whole):
            time.sleep(0.05)
            step(written, whole)

        return paint(*given, step=watched, **more)

    monkeypatch.setattr(image_generation, "paint", slow)
    page.select_option("#model", "emu3")
    page.fill("#question", "a red cube")
    page.click("#draw")
    page.wait_for_selector("li.assistant[aria-busy]")
    assert page.locator("#draw").is_hidden() and page.locator("#send").is_hidden()
    page.click("#stop")
    page.locator("li.assistant small").get_by_text("stopped").wait_for()
    assert page.locator("#draw").is_visible()
