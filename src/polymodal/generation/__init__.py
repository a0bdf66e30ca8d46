"""How answers are generated: decode state, sampling, stopping, beams, constraints, guidance, chat (rank 4)."""
