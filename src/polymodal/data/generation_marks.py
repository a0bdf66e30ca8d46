"""What the sandbox writes for the tags `generation` and `endgeneration` of a chat template, which nobody can guess."""

import secrets

_SECRET = secrets.randbelow(10**18)
GENERATION_START, GENERATION_END = f"\ue000generation {_SECRET}\ue001", f"\ue000endgeneration {_SECRET}\ue001"
