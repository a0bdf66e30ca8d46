"""How Qwen2-VL was trained (arXiv 2409.12191): data and parts are published; rates, batches and steps are not."""

from polymodal.systems import DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="see",
        data=(
            DataSource(
                name="pairs, text in pictures, classification", kind="image-text pairs", tokens=600_000_000_000
            ),
        ),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image"),
        start="parts",
    ),
    Stage(
        name="all",
        data=(
            DataSource(
                name="pages, questions, videos, text", kind="interleaved documents", tokens=800_000_000_000
            ),
        ),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone"),
        start="see",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="ChatML instructions", kind="conversations"),),
        objective=LanguageModeling(),
        train=("connectors.image", "backbone"),
        start="all",
    ),
)  # fmt: skip
