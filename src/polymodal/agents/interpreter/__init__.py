"""Programs that a language model wrote, run without Python's own machinery: a checker, values, and an evaluator."""
