"""The page in a real browser: answers read aloud, and pictures that a model draws."""

import base64
import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import polymodal as pm
from headline_folders import captured
from humming import humming
from polymodal.pipelines import image_generation
from polymodal.pipelines.grounding import Grounding, Joint, Pose, Thing
from polymodal.serve.app import create_app
from polymodal.serve.models import ServedModel
from served import SETTINGS, call, complaint, error_of, running

CAT = "data:image/jpeg;base64," + base64.b64encode(Path("examples/cat.jpg").read_bytes()).decode()


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


@pytest.fixture
def grounded(llava, monkeypatch) -> list:
    """The tiny LLaVA says of every answer that it is about two things; what it was asked."""
    asked = []

    def ground(answer, pictures):
        asked.append((answer, pictures))
        things = (Thing(label="a cat", box=(0.1, 0.2, 0.6, 0.9), score=0.8), Thing(label="", box=(0.5, 0.0, 1.2, 0.5)))
        point = (0.25, 0.5)
        pose = Pose(joints=(Joint(name="nose", point=point), Joint(name="left eye", point=point, seen=False)))
        return Grounding(text="A cat & <b>more</b>.", things=things, poses=(pose,) if answer == "<pose>" else ())

    monkeypatch.setattr(llava, "_parts", replace(llava._parts, ground=ground))
    return asked


def test_boxes_of_an_answer_over_the_api(address, grounded) -> None:
    image = {"type": "image_url", "image_url": {"url": CAT}}
    given = {"model": "llava", "answer": "<cat>", "images": [image]}
    status, found = call(address, "/v1/grounding", given)
    assert status == 200 and found["text"] == "A cat & <b>more</b>."
    assert found["things"][0] == {"label": "a cat", "box": [0.1, 0.2, 0.6, 0.9], "score": 0.8, "picture": 0}
    assert found["things"][1]["box"] == [0.5, 0.0, 1.0, 0.5] and found["things"][1]["score"] is None
    assert grounded[0][0] == "<cat>" and len(grounded[0][1]) == 1
    posed = call(address, "/v1/grounding", given | {"answer": "<pose>"})[1]["poses"]
    joints = [{"name": "nose", "point": [0.25, 0.5], "seen": True},
              {"name": "left eye", "point": [0.25, 0.5], "seen": False}]  # fmt: skip
    assert posed == [{"joints": joints, "whole": True, "picture": 0}] and "poses" not in found
    for changes, status, told in (
        ({"answer": ""}, 400, "answer"),
        ({"images": []}, 400, "images"),
        ({"images": [{"type": "text", "text": "a"}]}, 400, "pictures alone"),
        ({"images": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}, 400, "URL"),
        ({"images": [image] * 17}, 413, "the limit is 16"),
        ({"answer": "a" * 500_000}, 413, "characters"),
        ({"model": "emu3"}, 400, "cannot ground"),
        ({"model": "x"}, 404, "llava"),
    ):
        refused = call(address, "/v1/grounding", given | changes)
        assert refused[0] == status and told in error_of(refused), (changes, refused)


def test_boxes_are_drawn_on_the_picture(browser, address, grounded) -> None:
    page = browser.new_page(locale="en-GB", viewport={"width": 900, "height": 700})
    page.goto(address)
    page.wait_for_selector("#model option", state="attached")
    page.set_input_files("#files", Path("examples/cat.jpg").absolute())
    page.fill("#question", "What is it?")
    page.press("#question", "Enter")
    page.locator("figure.boxed rect").nth(1).wait_for(state="attached")
    assert page.locator("li.assistant p").inner_text() == "A cat & <b>more</b>."
    assert page.locator("figure.boxed text").all_text_contents() == ["a cat"]
    assert page.locator("figure.boxed img").get_attribute("alt") == "a cat"
    picture, rect = (page.locator(f"figure.boxed {each}").first.bounding_box() for each in ("img", "rect"))
    assert rect["x"] == pytest.approx(picture["x"] + 0.1 * picture["width"], abs=3)
    assert rect["height"] == pytest.approx(0.7 * picture["height"], abs=5)
    page.close()
