"""`turn`: what is refused before a model is loaded."""

import pytest
from outcome import is_one_line


@pytest.mark.parametrize("steps", [0, -1, 10_000])
def test_steps_that_no_diffusion_has_cost_a_line_and_no_model(polymodal, steps):
    outcome = polymodal("turn", "no-such-model", "a cat", "-i", "tok_rgb@224", f"--steps={steps}")
    assert is_one_line(outcome) and f"steps: expected 1 to 1000 steps of diffusion, found {steps}" in outcome.err
