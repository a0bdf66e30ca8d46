"""What the commands give: the documented JSON keys, answers as they are written, drawings, the machine."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy
import pytest
from outcome import is_one_line

import polymodal as pm
from polymodal.check import randomise
from polymodal.errors import PromptError
from polymodal.nn.lora import apply_lora, lora_state

SECONDS = {"load", "decode", "encode", "prefill", "generate"}
COMMANDS = (
    "ask",
    "chat",
    "transcribe",
    "classify",
    "embed",
    "search",
    "act",
    "systems",
    "show",
    "check",
    "pull",
    "doctor",
    "bench",
    "study",
)


def test_ask_json_contract(polymodal, tiny, photo, sound):
    outcome = polymodal("ask", photo, sound, "what?", "-m", tiny, "--max-tokens", 5, "--json")
    found = outcome.json
    assert outcome.code == 0 and found.keys() >= {"answer", "model", "tokens", "seconds"}
    assert found["model"] == "tiny:toy"
    assert found["tokens"]["image"] == 4 and found["tokens"]["audio"] == 4 and found["tokens"]["text"] > 0
    assert 1 <= found["tokens"]["generated"] <= 5
    assert found["seconds"].keys() == SECONDS and all(value >= 0 for value in found["seconds"].values())


def test_ask_prints_the_same_answer_as_it_is_written(polymodal, tiny, photo):
    arguments = ("ask", photo, "what?", "-m", tiny, "--max-tokens", 9)
    assert polymodal(*arguments).out == polymodal(*arguments, "--json").json["answer"] + "\n"


def test_an_adapter_of_an_own_system_changes_its_answers(polymodal, tiny, tmp_path):
    model = pm.load(tiny)
    apply_lora(model.module, ("backbone",), rank=2, alpha=8)
    for name, tensor in lora_state(model.module).items():
        tensor.copy_(randomise.tensor(name, tensor.shape))
    folder = model.save_adapter(tmp_path / "adapter")
    expected = model.chat("what?", max_tokens=9).text
    arguments = ("ask", "what?", "-m", tiny, "--max-tokens", 9, "--json")
    assert polymodal(*arguments, "--adapter", folder).json["answer"] == expected != polymodal(*arguments).json["answer"]


def test_seed_decides(polymodal, tiny):
    def sampled(seed):
        arguments = ("-m", tiny, "--max-tokens", 12, "--temperature", 2, "--seed", seed, "--json")
        return polymodal("ask", "what?", *arguments).json["answer"]

    assert sampled(1) == sampled(1) != sampled(2)


def test_text_file_is_read(polymodal, tiny, tmp_path):
    (tmp_path / "note.txt").write_text("a long note " * 5)
    short = polymodal("ask", "what?", "-m", tiny, "--max-tokens", 1, "--json").json["tokens"]["text"]
    long = polymodal("ask", tmp_path / "note.txt", "what?", "-m", tiny, "--max-tokens", 1, "--json").json
    assert long["tokens"]["text"] == short + 60


def test_chat_remembers_and_survives_mistakes(polymodal, tiny, photo, monkeypatch):
    lines = iter([f"/file {photo}", "what?", "/fle", "/file missing.jpg", "and now?", "/new", "", "hello", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    outcome = polymodal("chat", tiny, "--max-tokens", 4)
    assert outcome.code == 0 and outcome.out.count("\n") >= 3
    assert outcome.err.count("polymodal: ") == 2
    assert "did you mean 'file'" in outcome.err and "missing.jpg" in outcome.err


def conversation(polymodal, monkeypatch, *lines, arguments=()):
    """A chat in which these lines are typed."""
    typed = iter([*lines, "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    return polymodal("chat", *arguments)


def test_chat_undo_system_and_save(polymodal, tiny, photo, tmp_path, monkeypatch):
    talk, words = tmp_path / "talk.json", tmp_path / "a talk.txt"
    lines = [
        "/undo", "/system Be short.", f"/file {photo}", "what?", "and now?", "/undo", f"/save {talk}",
        f"/save '{words}'", "/save", "/new", f"/save {tmp_path}/empty.json", "/system", f"/save {tmp_path}/none.json",
    ]  # fmt: skip
    outcome = conversation(polymodal, monkeypatch, *lines, arguments=(tiny, "--max-tokens", 1))
    assert outcome.code == 0 and len(outcome.out.splitlines()) == 2, "stdout holds the answers alone"
    for note in (
        "nothing to undo", "system message is set", "a picture of 60 x 40 pixels; it goes with your next question",
        "took back: and now?", "1 question and", "needs one file name", "a new conversation", "no system message now",
        "(stopped at 1 token)",
    ):  # fmt: skip
        assert note in outcome.err, note
    system, question, answer = json.loads(talk.read_text())
    assert system == {"role": "system", "content": "Be short."}
    assert question == {"role": "user", "content": "what?", "files": [str(photo)]}
    assert answer == {"role": "assistant", "content": outcome.out.splitlines()[0]}
    assert words.read_text().startswith(f"system: Be short.\n\n[{photo}]\n> what?\n")
    assert json.loads((tmp_path / "empty.json").read_text()) == [system]
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_chat_forgets_what_is_undone(polymodal, tiny, monkeypatch):
    options = (tiny, "--max-tokens", 2, "--json")
    once, again = (
        [json.loads(line) for line in conversation(polymodal, monkeypatch, *lines, arguments=options).out.splitlines()]
        for lines in (["hello", "and?"], ["hello", "what?", "/undo", "and?"])
    )
    assert again[2]["tokens"] == once[1]["tokens"] and again[2]["answer"] == once[1]["answer"]


def test_media_that_a_model_cannot_read(tiny):
    model = pm.load(tiny)
    with pytest.raises(PromptError, match=r"tiny cannot read video; it takes .*; try .*lwm"):
        model.require_input(pm.video("clip.mp4"))
    with pytest.raises(PromptError, match=r"conversations\[1\]: tiny cannot read thermal; it takes .*; try pandagpt"):
        model.chat_batch(["hello", pm.image("heat.png", "thermal")])
    model.require_input(pm.image("a.jpg"), pm.text("words"))


def test_an_answer_that_was_cut_says_so(polymodal, tiny):
    for count, words in ((1, "(stopped at 1 token)\n"), (2, "(stopped at 2 tokens)\n")):
        outcome = polymodal("ask", "what?", "-m", tiny, "--max-tokens", count)
        assert words in outcome.err and "stopped" not in outcome.out


def test_chat_json_is_one_line_an_answer(polymodal, tiny, monkeypatch):
    lines = iter(["hello", "and?"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines, "/quit"))
    outcome = polymodal("chat", tiny, "--max-tokens", 2, "--json")
    first, second = map(json.loads, outcome.out.splitlines())
    assert first["seconds"].keys() == SECONDS and second["tokens"]["text"] > first["tokens"]["text"]


def test_transcribe_classify_embed(polymodal, tiny, photo, sound, tmp_path):
    (heard,) = polymodal("transcribe", sound, "-m", tiny, "--json").json
    assert heard["file"] == str(sound) and len(heard["text"]) == 1 and "seconds" in heard
    seen = polymodal("classify", photo, "cat", "dog", "owl", "-m", tiny, "--json").json
    assert sum(each["probability"] for each in seen["labels"]) == pytest.approx(1, abs=1e-5)
    assert seen["label"] == seen["labels"][0]["label"]
    target = tmp_path / "vectors.npy"
    made = polymodal("embed", photo, sound, "-m", tiny, "--json", "--out", target).json
    rows = numpy.array([each["vector"] for each in made["items"]])
    assert "1 vector of 32 numbers; --json prints it" in polymodal("embed", photo, "-m", tiny).out
    assert made["width"] == 32 and numpy.allclose((rows**2).sum(1), 1, atol=1e-5)
    assert numpy.allclose(numpy.load(target), rows, atol=1e-6)


def test_classify_takes_several_files(polymodal, tiny, photo, sound, tmp_path):
    one = polymodal("classify", photo, "cat", "dog", "-m", tiny, "--json").json
    several = polymodal("classify", photo, sound, photo, "cat", "dog", "-m", tiny, "--json").json
    assert [each["file"] for each in several] == [str(photo), str(sound), str(photo)] and several[2] == several[0]
    assert several[0]["label"] == one["label"] and several[0].keys() == one.keys()
    for mine, alone in zip(several[0]["labels"], one["labels"], strict=True):
        assert mine["probability"] == pytest.approx(alone["probability"], abs=1e-5)
    lines = polymodal("classify", photo, sound, "cat", "dog", "-m", tiny).out.splitlines()
    assert len(lines) == 2 and lines[1].endswith(f"  {sound}")


def test_classify_with_labels_that_are_files(polymodal, tiny, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").write_text("a file")
    found = polymodal("classify", photo, "-l", "cat", "-l", "dog", "-m", tiny, "--json").json
    assert {each["label"] for each in found["labels"]} == {"cat", "dog"}
    outcome = polymodal("classify", photo, "cat", "dog", "-m", tiny)
    assert outcome.code == 2 and "two labels" in outcome.err


def test_batch_size_changes_nothing(polymodal, tiny, photo, sound):
    def vectors(size):
        made = polymodal("embed", photo, sound, photo, "-m", tiny, "--json", "--batch-size", size).json
        return numpy.array([each["vector"] for each in made["items"]])

    assert numpy.allclose(vectors(1), vectors(32), atol=1e-6)


def test_transcribe_needs_sound(polymodal, tiny, photo):
    outcome = polymodal("transcribe", photo, "-m", tiny)
    assert outcome.code == 2 and "no sound" in outcome.err


def test_systems_json_contract(polymodal):
    outcome = polymodal("systems", "--json")
    facts = ["id", "names", "year", "fusion", "assembly", "inputs", "outputs"]
    keys = [*facts, "variants", "weights", "headline", "sheet", "proved"]
    assert outcome.code == 0
    for each in outcome.json:
        assert list(each) == keys and each["variants"]
        assert all(source.keys() == {"source", "license"} for source in each["weights"])
    shown = polymodal("systems")
    assert shown.code == 0 and "2 variants (8.8B)" in shown.out and "8.8B to 8.8B" not in shown.out


def test_show_counts_what_each_stage_trains(polymodal, tiny):
    found = polymodal("show", tiny, "--json").json
    sizes = {part["prefix"]: part["parameters"] for part in found["parts"]}
    assert found["parameters"] == sum(sizes.values()) and found["other_parameters"] == 0
    connectors = sizes["connectors.image"] + sizes["connectors.audio"]
    assert [stage["parameters"] for stage in found["stages"]] == [connectors, connectors + sizes["backbone"]]
    assert found["stages"][0]["share"] == pytest.approx(connectors / found["parameters"])
    assert found["memory_bytes"] == {
        "float32": 4 * found["parameters"],
        "bfloat16": 2 * found["parameters"],
        "int8": found["parameters"],
    }


def test_show_counts_parts_beside_the_assembly(tiny):
    from dataclasses import replace

    from polymodal.checkpoints.record import Part
    from polymodal.cli.drawing import draw
    from polymodal.systems import find

    system, variant = find(tiny)
    beside = Part(slot="encoder", name="ears", prefix="", input="sound", output="words", modality="audio", parameters=7)
    alone, both = draw(system, variant), draw(replace(system, parts=lambda v: (*system.parts(v), beside)), variant)
    assert both.parameters == alone.parameters + 7 and both.other == alone.other


def test_show_in_words(polymodal, tiny):
    words = polymodal("show", tiny).out
    for expected in ("encoder", "connector", "backbone", "[N, 4, 32]", "4 tokens per item", "align", "float32"):
        assert expected in words


def test_show_as_a_picture(polymodal, tiny, tmp_path):
    target = tmp_path / "tiny.svg"
    assert polymodal("show", tiny, "--svg", target).code == 0
    root = ElementTree.parse(target).getroot()
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "tiny decoder" in words and any("Babbles & nothing else" in each for each in words)


def test_doctor(polymodal):
    found = polymodal("doctor", "--json").json
    assert found["versions"]["torch"] and found["cpu"]["threads"] >= 1
    assert {"h264", "flac"} <= set(found["codecs"])
    assert found["measured"]["read_gb_s"] > 0 and found["measured"]["gemm_gflop_s"] > 0
    assert polymodal("doctor", "--quick").out.count("torch") >= 1


def test_doctor_says_whether_there_are_native_kernels(polymodal, monkeypatch):
    from polymodal.nn.native import library as native

    found = polymodal("doctor", "--quick", "--json").json["native_kernels"]
    assert found["available"] is (native.library() is not None) is (not found["why_not"])
    monkeypatch.setenv("POLYMODAL_NATIVE", "0")
    native.looked_for.cache_clear()
    try:
        told = " ".join(polymodal("doctor", "--quick").out.split())
        assert "native kernels none, decoding uses torch's operators: POLYMODAL_NATIVE says so" in told
    finally:
        native.looked_for.cache_clear()


def test_doctor_says_what_is_wrong(polymodal, monkeypatch):
    from polymodal.cli import machine

    monkeypatch.setattr(machine, "LOW_DISK", 1e18)
    outcome = polymodal("doctor", "--quick")
    assert outcome.code == 1 and "GB free" in outcome.out


def test_help_of_every_command(polymodal):
    listing = polymodal("--help").out
    for name in COMMANDS:
        assert name in listing
        shown = polymodal(name, "--help")
        assert shown.code == 0 and "<bool>" not in shown.out, "a flag takes no value"
    assert "<bool>" not in listing
    assert "polymodal ask [OPTIONS] [FILE...] [QUESTION]" in polymodal("ask", "--help").out
    assert "polymodal classify [OPTIONS] FILE... LABEL LABEL...\n" in re.sub(
        " +\n", "\n", polymodal("classify", "-h").out
    )


def test_version_and_module_entry():
    done = subprocess.run([sys.executable, "-m", "polymodal", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("polymodal ")


def test_json_is_all_that_stands_on_stdout(tiny, photo, tmp_path):
    command = [sys.executable, "-m", "polymodal", "ask", str(photo), "what?", "-m", tiny, "--max-tokens", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["model"] == "tiny:toy" and not done.stderr


def test_loading_options_reach_the_model(polymodal, tiny, tmp_path, photo, sound, monkeypatch):
    import polymodal as package

    seen = []
    original = package.load

    def watched(address, **options):
        seen.append(options)
        return original(address, **options)

    monkeypatch.setattr(package, "load", watched)
    options = ("--device", "cpu", "--dtype", "bfloat16")
    for command in (("ask", "what?"), ("transcribe", sound), ("classify", photo, "a", "b"), ("embed", photo)):
        polymodal(*command, "-m", tiny, *options)
        chosen = {name: seen[-1][name] for name in ("device", "dtype", "quantise")} if seen else {}
        assert chosen == {"device": "cpu", "dtype": "bfloat16", "quantise": None}, command
        seen.clear()
    outcome = polymodal("ask", "what?", "-m", tiny, "--quantise", "int8")
    assert outcome.code == 2 and "tiny has no int8 form" in outcome.err


def test_several_answers_with_a_system_message_and_a_stop_text(polymodal, tiny, photo):
    sampled = ("-m", tiny, "--max-tokens", 12, "--temperature", 2, "--seed", 5, "--json")
    alone = [polymodal("ask", photo, "what?", *sampled[:-2], seed, "--json").json["answer"] for seed in (5, 6, 7)]
    found = polymodal("ask", photo, "what?", *sampled, "-n", 3).json
    assert [each["answer"] for each in found["answers"]] == alone and found["answer"] == alone[0]
    assert len(set(alone)) == 3
    words = polymodal("ask", photo, "what?", *sampled[:-1], "-n", 3)
    assert words.out == "".join(f"{each}\n" for each in alone) and words.err.count("tiny:toy") == 3
    rows = polymodal("ask", photo, "what?", *sampled[:-1], "-n", 3, "--jsonl").json
    assert [each["answer"] for each in rows["answers"]] == alone and rows["file"] == str(photo)
    told = polymodal("ask", photo, "what?", *sampled, "--system", "Be brief.").json
    expected = pm.load(tiny).chat(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [pm.image(photo), "what?"]}],
        max_tokens=12, temperature=2, seed=5,
    )  # fmt: skip
    assert told["answer"] == expected.text and told["tokens"]["text"] > found["tokens"]["text"]
    letter = alone[0][3]
    stopped = polymodal("ask", photo, "what?", *sampled, "--stop", "never said", "--stop", letter).json
    assert stopped["answer"] == alone[0].partition(letter)[0] and stopped["finish"] == "stop"
    few = polymodal("ask", photo, "what?", *sampled, "--top-p", 1e-6).json["answer"]
    assert few == polymodal("ask", photo, "what?", "-m", tiny, "--max-tokens", 12, "--json").json["answer"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--top-p", "0.5"], "--temperature"), (["-n", "2"], "--temperature"), (["--stop", ""], "empty")],
)
def test_options_that_would_change_nothing(polymodal, tiny, arguments, word):
    outcome = polymodal("ask", "what?", "-m", tiny, *arguments)
    assert is_one_line(outcome) and word in outcome.err
