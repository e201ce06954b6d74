"""The synthetic set in the layouts of other tools; see docs/formats.md.

`source` reads a set from its folder alone, as a recipient has it; `pictures` and `dicom` write it; `layout`
puts the folder together, with a card that says what it is and what protects the patients.
"""
