"""VisorGPT: prompts as its demo writes them, layouts read and written, drawings, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polymodal as pm
from polymodal.check.evidence import visorgpt
from polymodal.check.fixture import official_weights, read, store
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.visorgpt import layout
from polymodal.systems.visorgpt.layout import Thing, Wish
from polymodal.systems.visorgpt.painter import drawn

PEOPLE = "key point; multiple instances; large; 1; 14; person"
PERSON = Thing(name="person", kind="key point", points=(*((20 + 5 * i, 30 + 9 * i) for i in range(13)), (0, 0)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pm.Model:
    folder = tmp_path_factory.mktemp("visorgpt")
    visorgpt.write_tiny_folder(folder)
    return pm.load(folder)


def test_prompts_are_those_of_the_demo() -> None:
    assert Wish.read("Box; multiple instances;medium; 2; 0; person, frisbee").prompt == (
        "box; multiple instances; medium; 2; 0; person, frisbee"
    )
    assert Wish.read(PEOPLE).prompt == "key point; multiple instances; large; 1; 14 ; [person"
    assert Wish.read("mask; multiple instances; small; 3; 0; cup; bottle").names == ("cup", "bottle")


@pytest.mark.parametrize(("asked", "things"), [*visorgpt.LAYOUTS, (PEOPLE, (PERSON,))])
def test_layouts_are_written_and_read_again(asked: str, things: tuple[Thing, ...]) -> None:
    assert layout.read(layout.write(Wish.read(asked), things)) == things


def test_both_orders_of_the_training_texts_are_read() -> None:
    ahead = ("[CLS] box ; multiple instances ; medium ; 2 ; 0 ; person , frisbee ; "
             "[ xmin 1 ymin 2 xmax 3 ymax 4 ] [ xmin 5 ymin 6 xmax 7 ymax 8 ] [SEP]")  # fmt: skip
    inside = ("box ; multiple instances ; medium ; 2 ; 0 ; [ person xmin 1 ymin 2 xmax 3 ymax 4 ] "
              "[ frisbee xmin 5 ymin 6 xmax 7 ymax 8 ] [ cup xmin 5 ymin ]")  # fmt: skip
    wanted = (Thing(name="person", kind="box", points=((1, 2), (3, 4))),
              Thing(name="frisbee", kind="box", points=((5, 6), (7, 8))))  # fmt: skip
    assert layout.read(ahead) == layout.read(inside) == wanted
    outside = "box ; multiple instances ; medium ; 1 ; 0 ; [ person xmin 1 ymin 2 xmax 900 ymax 4 ]"
    assert layout.read(outside) == ()
    with pytest.raises(PromptError, match="expected a text like"):
        layout.read("a cat")


def test_a_layout_is_drawn_where_it_is() -> None:
    for asked, things in (*visorgpt.LAYOUTS, (PEOPLE, (PERSON,))):
        pixels = np.asarray(drawn(things))
        x, y = things[0].points[0]
        assert pixels.shape == (512, 512, 3) and tuple(pixels[500, 500]) == (50, 50, 50), asked
        assert tuple(pixels[y + 1, x + 1]) != (50, 50, 50), asked


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("a cat", "expected six fields, as in"),
        ("circle; multiple instances; large; 1; 0; cup", "kind: expected box, key point, mask, found 'circle'"),
        ("box; many; large; 1; 0; cup", "data: expected multiple instances, object centric, found 'many'"),
        ("box; multiple instances; huge; 1; 0; cup", "size: expected small, medium, large, random, found 'huge'"),
        ("box; multiple instances; large; 17; 0; cup", "expected 1 to 16 of kind box, found '17'"),
        ("mask; multiple instances; large; 9; 0; cup", "expected 1 to 8 of kind mask, found '9'"),
        ("key point; multiple instances; large; 1; 0; person", "expected 14 or 18 for kind key point, found '0'"),
        ("box; multiple instances; large; 1; 0; cup, person", "expected 1 to 1, as many as things at most, found 2"),
    ],
)
def test_wishes_of_another_form_cost_a_line(model: pm.Model, wish: str, told: str) -> None:
    with pytest.raises(PromptError, match=told):
        model.draw(wish, seed=0)


def test_no_layout_and_other_sizes_are_told(model: pm.Model) -> None:
    asked = visorgpt.LAYOUTS[0][0]
    with pytest.raises(PromptError, match=r"the model wrote no layout: .* another seed may do better"):
        model.draw(asked, seed=0)
    with pytest.raises(ConfigError, match="layouts have 512 x 512 pixels and no steps"):
        model.draw(asked, size=(64, 64))


@pytest.mark.parametrize("change", [{"tie_weights": False}, {"mask": "fully_visible"}, {"hidden_act": "swish"},
                                    {"emb_size": 3}])  # fmt: skip
def test_other_options_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        visorgpt.SYSTEM.formats[0].model_spec({**visorgpt.SMALL, **change})


def test_a_file_by_itself_is_known_by_its_names(tmp_path: Path) -> None:
    about, _ = read("visorgpt")
    store(official_weights(about), tmp_path / "visorgpt.pt", "module")
    model = pm.load(tmp_path / "visorgpt.pt")
    assert model.system.id == "visorgpt" and model.module.backbone.config.depth == 3
