"""A synthetic blood smear: drawn cells of the 15 classes in the layout of the real download.

Every image is drawn from the table in `morphology`; none shows a patient's cell. Figures measured
on these images show that the code works, not how well real leukocytes are recognised.

    python -m tfds_aml.synthetic_smear --out DIR --images N --seed S
    python -m tfds_aml.synthetic_smear.contact_sheet DIR OUT.png
"""
