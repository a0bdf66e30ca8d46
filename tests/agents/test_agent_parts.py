"""Tools, files, planners and the loop of thoughts: what goes in is checked, and what is wrong is named and told on."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import numpy as np
import pytest

from polymodal.agents.files import Files, new_name
from polymodal.agents.pictures import canny, edited
from polymodal.agents.planner import Endpoint, PlannerError, Scripted, cut
from polymodal.agents.react import ReactAgent, Wording, split_input
from polymodal.agents.record import AgentLimits
from polymodal.agents.tools import Box, Tool, Toolbox, ToolError, as_text
from polymodal.api.agent_tools import reading_tools
from polymodal.data.media import Audio, Image
from polymodal.errors import ConfigError, Unreachable, WeightsError


def picture(colour: int = 0) -> Image:
    return Image(np.full((20, 30, 3), colour, dtype=np.uint8))


def tool(run=lambda text: text, **changes) -> Tool:
    return Tool(**{"name": "echo", "task": "own", "inputs": {"text": "text"}, "output": "text", "run": run} | changes)


def test_a_tool_takes_and_gives_what_it_says() -> None:
    assert tool().call({"text": "a"}) == "a" and tool().signature == "(text: text) -> text"
    wrong = (
        ({}, "needs text"), ({"text": "a", "more": 1}, "takes no 'more'"),
        ({"text": 3}, "expected text, found number"), ({"text": picture()}, "found image"),
    )  # fmt: skip
    for arguments, why in wrong:
        with pytest.raises(ToolError, match=why):
            tool().call(arguments)
    with pytest.raises(ToolError, match="gave number, where text was expected"):
        tool(lambda text: 3).call({"text": "a"})
    with pytest.raises(ToolError, match="echo failed: ZeroDivisionError"):
        tool(lambda text: 1 / 0).call({"text": "a"})
    assert tool(lambda text="none": text, optional=("text",)).call({}) == "none"


def test_a_tool_that_is_described_wrongly_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of text"):
        tool(output="smell")
    with pytest.raises(ConfigError, match=r"a tool for image-to-text is \(image: image\) -> text"):
        tool(task="image-to-text")
    with pytest.raises(ConfigError, match="optional names 'x'"):
        tool(optional=("x",))
    with pytest.raises(ConfigError, match="two tools have the same name, 'echo'"):
        Toolbox((tool(), tool()))


def test_results_in_words() -> None:
    assert as_text((Box(label="cat", left=1, top=2, right=3, bottom=4),)) == "cat at 1, 2, 3, 4"
    assert as_text((("cat", 0.5), ("dog", 0.25))) == "cat (0.50), dog (0.25)" and as_text(()) == "nothing was found"


def test_only_files_that_were_given_or_made_can_be_opened() -> None:
    files = Files()
    given = files.give(picture())
    made = files.keep(picture(9), "edge", given)
    assert made.split("/")[1].split("_")[1:] == ["edge", given[6:14], f"{given[6:14]}.png"] and files.made == [made]
    assert files.open(f"/{given}", "image") is files.open(f"public/{given}", "image")
    for name in ("/etc/passwd", "../x.png", "image/0000.png", "http://a.b/c.png", "~/.ssh/id_rsa", "", f"{given}/../x"):
        with pytest.raises(ToolError, match=r"there is no file .* neither given nor made; image: image/"):
            files.open(name, "image")
    with pytest.raises(ToolError, match="expected audio, found image"):
        files.open(given, "audio")
    sound = files.keep(Audio((np.zeros(9, np.float32), 8000)), "say", given)
    assert sound.startswith("audio/") and sound.endswith(".wav")
    again = Files()
    assert again.give(picture()) == given and again.keep(picture(), "edge", given) == made, "runs can be repeated"
    assert new_name("image/a_b_c_d.png", "x_y", "1234") == "image/1234_x-y_a_d.png"


def test_scripts_and_stop_texts() -> None:
    planner = Scripted(["a\nObservation: b", "c"])
    assert planner([{"role": "user", "content": "x"}], ["\nObservation: "]) == "a" and planner([]) == "c"
    with pytest.raises(PlannerError, match="has 2 outputs and was asked once more"):
        planner([])
    assert planner.asked[0][0]["content"] == "x" and cut("abc", ("c", "b")) == "a"
    with pytest.raises(ConfigError, match="a list of texts"):
        Scripted("text")


class Server(BaseHTTPRequestHandler):
    answer: object = None
    seen: ClassVar[list] = []

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        self.reply(self.answer)

    def reply(self, value: object) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(500 if value == "broken" else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *given: object) -> None:
        pass


@pytest.fixture
def server():
    Server.seen.clear()
    http = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    thread.join()
    http.server_close()


def test_an_endpoint_of_openai_s_kind(server: str) -> None:
    Server.answer = {"choices": [{"message": {"content": "yes\nObservation: no"}}]}
    planner = Endpoint(server, key="abc")
    assert planner([{"role": "user", "content": "x"}], ["\nObservation: "]) == "yes"
    path, key, body = Server.seen[0]
    assert (
        path == "/v1/chat/completions" and key == "Bearer abc" and body["model"] == "tiny" and body["temperature"] == 0
    )
    assert body["messages"] == [{"role": "user", "content": "x"}] and body["stop"] == ["\nObservation: "]
    for answer, why in ((b"<html>", "expected JSON"), ({"choices": []}, "choices\\[0\\]"), ("broken", "500")):
        Server.answer = answer
        with pytest.raises(PlannerError, match=why):
            planner([{"role": "user", "content": "x"}])


def test_an_endpoint_that_is_not_there_or_not_safe() -> None:
    with pytest.raises(Unreachable, match="gives no answer"):
        Endpoint("http://127.0.0.1:9/v1", model="m")([{"role": "user", "content": "x"}])
    with pytest.raises(ConfigError, match="a key is not sent over plain http"):
        Endpoint("http://example.org/v1", key="abc")
    with pytest.raises(WeightsError, match="no address of a server"):
        Endpoint("file:///etc/passwd")


def agent(outputs: list[str], tools=None, **limits) -> ReactAgent:
    wording = Wording(prefix="P", suffix="{chat_history}|{input}|{agent_scratchpad}")
    return ReactAgent(planner=Scripted(outputs), tools=[tool()] if tools is None else tools, wording=wording,
                      limits=AgentLimits(**limits))  # fmt: skip


SAY = " Yes\nAction: echo\nAction Input: "


def test_the_loop_answers_and_remembers() -> None:
    talk = agent([f"{SAY}one", " No\nAI: done", " No\nAI: again"])
    answer = talk.ask("What?", [], Files())
    assert answer.text == "done" and answer.finish == "stop" and [s.result for s in answer.steps] == ["one"]
    assert "Observation: one\nThought:" in talk.planner.asked[1][0]["content"]
    talk.ask("And?", [], Files())
    assert talk.planner.asked[2][0]["content"].split("\n\n")[-1].startswith("Human: What?\nAI: done|And?|")


def test_nonsense_loops_unknown_tools_and_foreign_files_are_named_and_the_rest_is_told() -> None:
    answer = agent(["blah"] * 9, retries=2).ask("x", [], Files())
    assert answer.finish == "unreadable" and len(answer.steps) == 3 and "neither an action nor" in answer.steps[0].error
    answer = agent([f"{SAY}one"] * 9).ask("x", [], Files())
    assert answer.finish == "loop" and len(answer.steps) == 3 and answer.text.endswith("echo: one; echo: one)")
    answer = agent([f"{SAY}{i}" for i in range(9)], steps=4).ask("x", [], Files())
    assert answer.finish == "steps" and len(answer.steps) == 4
    look = tool(lambda image: "seen", name="look", inputs={"image": "image"})
    talk = agent([" Yes\nAction: Fly\nAction Input: x", " Yes\nAction: look\nAction Input: /etc/passwd", f"{SAY}two",
                  " No\nAI: done"], [look, tool()])  # fmt: skip
    errors = [step.error for step in talk.ask("x", [], Files()).steps]
    assert errors == ["there is no tool 'Fly'; there are: look, echo",
                      "there is no file '/etc/passwd': it was neither given nor made; image: none", ""]  # fmt: skip


def test_inputs_are_split_at_the_first_commas() -> None:
    three = tool(lambda **given: "", inputs={"image": "image", "text": "text", "more": "text"})
    assert split_input(three, "a.png, b , c, d") == {"image": "a.png", "text": "b", "more": "c, d"}
    assert split_input(tool(), "one, two") == {"text": "one, two"}


def test_reading_is_a_tool_where_its_program_is_installed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reading_tools() == ()
    program = tmp_path / "tesseract"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nassert sys.stdin.buffer.read()[1:4] == b'PNG'\nprint(sys.argv[1:])\n"
    )
    program.chmod(0o755)
    (read,) = reading_tools()
    assert read.call({"image": picture()}) == "['stdin', 'stdout']"
    program.write_text(f'#!{sys.executable}\nimport sys\nsys.exit("no language data")\n')
    with pytest.raises(ToolError, match="tesseract: no language data"):
        read.call({"image": picture()})


def test_edges_and_plain_changes() -> None:
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[10:30, 10:30] = 255
    edges = np.asarray(canny(Image(pixels)).picture)[..., 0]
    rows, columns = np.nonzero(edges)
    assert set(np.unique(edges)) == {0, 255} and 60 <= len(rows) <= 90
    assert rows.min() in (9, 10) and rows.max() in (29, 30) and columns.min() in (9, 10) and columns.max() in (29, 30)
    assert not np.asarray(canny(picture(7)).picture).any()
    assert edited(picture(), "turn it by 90 degrees, please").picture.size == (20, 30)
    assert np.asarray(edited(picture(10), "invert the colours").picture).max() == 245
    with pytest.raises(ToolError, match="expected one of grey, invert"):
        edited(picture(), "make it a painting by Monet")
