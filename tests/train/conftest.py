"""What several tests of training compare with."""

import json

import pytest

import polymodal as pm
from polymodal.check.fixture import official_weights, read, store
from polymodal.train import alignment as a


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Student, teacher (the file's momentum copies), queue and inputs of the fixture."""
    about, tensors = read("albef_pretrained")
    weights = official_weights(about)
    folder = tmp_path_factory.mktemp("albef")
    parts = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")

    def copied(name: str) -> str:
        part = name.split(".")[0]
        return name.replace(part, f"{part}_m", 1) if part in parts else name

    store(weights, folder / "student.pth", "model")
    teacher = {name: weights[copied(name)] for name in weights}
    teacher |= {name: teacher[original] for name, original in json.loads(about["ties"]).items()}
    store(teacher, folder / "teacher.pth", "model")
    student = pm.load(folder / "student.pth").module
    a.keep_within(student.temperature, 0.001, 0.5)
    queue = a.FeatureQueue(16, 20)
    queue.images.copy_(weights["image_queue"])
    queue.texts.copy_(weights["text_queue"])
    return student, pm.load(folder / "teacher.pth").module, queue, tensors
