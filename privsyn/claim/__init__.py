"""The privacy claim of a model: its document, its wording, and its recomputation by anybody.

Standard library only, because a recipient checks a claim where nothing else is installed.
"""
