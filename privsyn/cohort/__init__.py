"""The cohort: real images with patient, label and split, which never leave the study.

In the order of use: `sources` lists the entries of a source, `ingest` reads each one once (`reading`,
`pixels`, `dicom`, `nifti`) and hashes ids (`pseudonyms`), `scan` and `near_duplicates` look at the pixels,
`split` assigns patients to train, holdout and test, `records` and `document` describe the result. `prepare`
does all of it, and `cohort` opens what it wrote.
"""
