"""A synthetic blood smear: drawn cells of the 15 classes, laid out as the real download.

Every image is drawn by a program from the table in `morphology`. None is a patient's cell, and a
figure measured on them says whether the code works, not how well leukocytes are recognised.

    python -m tfds_aml.synthetic_smear --out DIR --images N --seed S
    python -m tfds_aml.synthetic_smear.contact_sheet DIR OUT.png
"""
