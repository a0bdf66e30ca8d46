"""`polymodal prepare`: what it says, and exit codes."""

import json

from PIL import Image as Pillow


def test_the_command_says_what_it_wrote(polymodal, tmp_path) -> None:
    Pillow.new("RGB", (60, 40), (9, 99, 200)).save(tmp_path / "0.png")
    rows = [{"image": f"{number}.png", "caption": "blue"} for number in range(2)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = polymodal("prepare", tmp_path / "a.jsonl", "--out", tmp_path / "out", "--side", 20)
    assert done.code == 0 and done.out.startswith("1 sample in 1 shard, ") and "1 damaged sample left out" in done.err
    found = polymodal("prepare", tmp_path / "a.jsonl", "--out", tmp_path / "out", "--side", 20, "--json").json
    assert found["side"] == 20 and found["shards"][0]["samples"] == 1
    assert polymodal("prepare", tmp_path, "--out", tmp_path / "x").code == 2
