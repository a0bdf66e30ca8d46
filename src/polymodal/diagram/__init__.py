"""`show --svg` and `show --png`: pictures of architectures.

    built module + record -> graph (what there is) -> scene (boxes, texts and lines with coordinates) -> SVG or PNG

graph.py          nodes in columns and lanes, the arrows between them
describe.py       which function reads which model into a graph; one file per family of models
layout.py         graph -> scene: columns, lanes and frames
boxes.py          fills the frames, with rows.py (inside a backbone) and cells.py (inside a sequence)
routes.py         where arrows run
svg.py, png.py    the two writers of a scene
"""
