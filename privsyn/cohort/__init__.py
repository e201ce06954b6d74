"""The cohort: real images with patient, label and split, which never leave the study.

In the order of use: `sources` finds images and what they claim to be, `pixels` makes each one what the
recipe declares, `split` divides the patients, `cohort` writes it all down and reads it back.
"""
