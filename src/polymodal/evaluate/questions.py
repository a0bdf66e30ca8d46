"""Answers to questions: VQA accuracy as its official evaluation computes it, exact match, the edit distance of ANLS.

VQA accuracy (arXiv 1505.00468, the evaluation of 2015 that VQAv2 uses): of the ten people's answers, for each one the
number among the other nine that equal the model's answer, min(number / 3, 1); the mean of the ten.
"""
