"""Evidence reads the transformers library through the doors of check/library.py only."""

import ast

import pytest
from project_source import PACKAGE, imports, parsed, python_files, short

CHECK = PACKAGE / "check"
# The one file of the proof that imports each library it compares with.
IMPORTED_BY = {
    "transformers": "check/library.py",
    "diffusers": "check/diffusion_pipelines.py",
    "flamingo_pytorch": "check/evidence/flamingo.py",
}
ORACLES = {*IMPORTED_BY, "timm", "peft", "sentencepiece", "tiktoken", "tokenizers.implementations", "open_clip"}
# What the library calls the fields of its outputs and the methods of its models and configs.
LIBRARY_NAMES = {
    "contrastive_logits_per_image", "hidden_states", "image_embeds", "image_hidden_states", "itm_score",
    "last_hidden_state", "logits_per_image", "logits_per_text", "multimodal_embeddings", "pooler_output",
    "reconstruction", "text_embeds", "generation_config", "get_image_features", "get_input_embeddings",
    "get_text_features", "get_video_features", "save_pretrained", "from_pretrained", "to_dict", "models",
}  # fmt: skip


def read_past_the_doors(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, name) of attributes that only the library has; our models' outputs have `logits` too, an oracle's are its.

    `library.logits` and its like are the doors.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            door = isinstance(node.value, ast.Name) and node.value.id == "library"
            output = node.attr == "logits" and ast.unparse(node.value).startswith("oracle")
            if not door and (node.attr in LIBRARY_NAMES or output):
                found.append((node.lineno, node.attr))
    return found


def test_each_library_is_imported_by_one_file_of_the_proof():
    wrong = [
        f"{short(path)}:{found.line}: {package} is imported by {IMPORTED_BY.get(package, 'no file')} alone"
        for path in python_files(CHECK)
        for found in imports(path)
        if (package := found.target.split(".")[0]) in ORACLES
        and path.relative_to(PACKAGE).as_posix() != IMPORTED_BY.get(package)
    ]
    assert not wrong, "\n".join(wrong)


def test_evidence_reads_the_library_through_its_doors():
    wrong = [
        f"{short(path)}:{line}: .{name} is the library's; read it through check/library.py"
        for path in python_files(CHECK / "evidence")
        for line, name in read_past_the_doors(parsed(path))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("oracle(**given).logits", ["logits"]),
        ("oracle.get_image_features(x).pooler_output", ["get_image_features", "pooler_output"]),
        ("model.logits(**given) + model(**given).logits", []),
        ("library.logits(oracle, given)", []),
        ("Reading(logits=library.logits)", []),
        ("transformers.models.blip.Text", ["models"]),
    ],
)
def test_the_rule_itself(code, names):
    assert sorted(name for _, name in read_past_the_doors(ast.parse(code))) == sorted(names)
