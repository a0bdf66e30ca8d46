"""One file per system: the oracle it is compared with, the data that trains it, its headline."""
