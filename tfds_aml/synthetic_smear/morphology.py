"""The table of morphology from which synthetic cells are drawn, one row per class.

Sizes, nucleus-to-cytoplasm ratios, lobes, chromatin, nucleoli and granules are remembered, rounded
textbook figures for smears with Pappenheim or Wright stain; colours are chosen by eye to resemble
such smears. Nothing is measured on patients, and results on these cells say nothing about real
cells.
"""

from dataclasses import dataclass

# In real images of the data set, red cells are about 100 to 115 pixels wide. A red cell measures
# 7.2 to 8 µm (remembered textbook figure). Hence 14 pixels per µm; 400 pixels = 28.6 µm.
PIXELS_PER_UM = 14.0
RED_CELL_DIAMETER_UM = 7.4
RED_CELL_DIAMETER_SD_UM = 0.45

Colour = tuple[int, int, int]  # RGB, each 0..255, before tint and stain strength

# Colours of a nucleus by density: (position in 0..1, colour), from the palest smudge to the almost
# black nucleus of a late erythroblast.
CHROMATIN_RAMP: tuple[tuple[float, Colour], ...] = (
    (0.0, (190, 118, 214)),
    (0.35, (150, 52, 196)),
    (0.7, (96, 14, 176)),
    (1.0, (40, 4, 118)),
)


@dataclass(frozen=True)
class Chromatin:
    """Chromatin of a nucleus.

    Attributes:
      density: mean position on `CHROMATIN_RAMP`.
      grain_um: 0.2 (fine, blast) to 0.7 µm (clumped).
      contrast: amplitude of the grain on `CHROMATIN_RAMP`, 0 to 0.4.
    """

    density: float
    grain_um: float
    contrast: float


@dataclass(frozen=True)
class Granules:
    """Granules of one kind.

    Attributes:
      diameter_um: mean diameter in µm, 0.3 (dust-like) to 1.1 (coarse).
      per_um2: mean number per µm² of cytoplasm, 0.3 (sparse) to 3 (packed).
      opacity: 0 to 1; at 1, granules hide what is below.
      over_nucleus: share of the opacity over the nucleus, 0 to 1.
    """

    diameter_um: float
    per_um2: float
    colour: Colour
    opacity: float
    over_nucleus: float = 0.0


@dataclass(frozen=True)
class Morphology:
    """Appearance of the cells of one class. Lengths are in µm, areas in µm².

    Attributes:
      cell_um: (mean, SD) of the cell's diameter, 9 to 19 µm; of a smudge, of the whole smear.
      elongation: upper limit of long axis / short axis of the cell, 1 (round) to 1.4.
      irregularity: relative amplitude of the waves in the cell's outline, 0 to 0.15.
      nucleus: shape: "round", "bean" (one indentation), "folded" (deep indentation with a crease),
        "cleft" (two halves), "band", "lobed" or "smudge" (no cell around it).
      nucleus_ratio: (low, high) of nuclear diameter / cell diameter. The diameter of bands and
        lobes is that of the circle around the nucleus.
      eccentricity: (low, high) of the nucleus's position, 0 (centre) to 1 (touches the membrane).
      cytoplasm: colour half-way between nucleus and membrane.
      lobes: (fewest, most) lobes of a "lobed" nucleus.
      lobe_um: diameter of a lobe, or width of the band.
      indentation: (low, high) of the depth of an indentation / nuclear radius.
      nucleoli: (fewest, most) paler spots in the nucleus.
      nucleolus_um: diameter of a nucleolus, 1 to 3 µm.
      rim: how much deeper the colour is at the membrane (basophilic rim), 0 to 1.
      hof: how much paler it is beside an eccentric nucleus (Golgi zone), 0 to 1.
      vacuoles: (fewest, most) clear vacuoles of 0.6 to 1.3 µm.
    """

    cell_um: tuple[float, float]
    irregularity: float
    nucleus: str
    nucleus_ratio: tuple[float, float]
    eccentricity: tuple[float, float]
    chromatin: Chromatin
    cytoplasm: Colour
    elongation: float = 1.2
    lobes: tuple[int, int] = (1, 1)
    lobe_um: float = 0.0
    indentation: tuple[float, float] = (0.0, 0.0)
    nucleoli: tuple[int, int] = (0, 0)
    nucleolus_um: float = 0.0
    rim: float = 0.0
    hof: float = 0.0
    granules: Granules | None = None
    vacuoles: tuple[int, int] = (0, 0)


_FINE_LILAC = Granules(0.35, 2.0, (176, 108, 190), 0.55)

MORPHOLOGY: dict[str, Morphology] = {
    # Three to five dense lobes on thin filaments; pale pink cytoplasm, dust-like granules.
    "NGS": Morphology(
        cell_um=(13.6, 0.8),
        irregularity=0.05,
        nucleus="lobed",
        nucleus_ratio=(0.7, 0.8),
        lobes=(3, 5),
        lobe_um=3.9,
        eccentricity=(0.0, 0.5),
        chromatin=Chromatin(0.8, 0.5, 0.13),
        cytoplasm=(224, 194, 224),
        granules=_FINE_LILAC,
    ),
    # The same cell with an unsegmented nucleus: a C, U or S of even width.
    "NGB": Morphology(
        cell_um=(13.6, 0.8),
        irregularity=0.05,
        nucleus="band",
        nucleus_ratio=(0.66, 0.76),
        lobe_um=3.2,
        eccentricity=(0.0, 0.4),
        chromatin=Chromatin(0.74, 0.5, 0.13),
        cytoplasm=(224, 194, 224),
        granules=_FINE_LILAC,
    ),
    # Small; a dense round nucleus, and a thin pale blue rim of cytoplasm.
    "LYT": Morphology(
        cell_um=(10.6, 0.8),
        irregularity=0.04,
        nucleus="round",
        nucleus_ratio=(0.78, 0.88),
        indentation=(0.0, 0.12),
        eccentricity=(0.2, 0.9),
        chromatin=Chromatin(0.76, 0.5, 0.13),
        cytoplasm=(190, 186, 236),
    ),
    # Larger, with an angular outline; deep blue cytoplasm, darker at the membrane.
    "LYA": Morphology(
        cell_um=(15.0, 1.1),
        elongation=1.4,
        irregularity=0.12,
        nucleus="round",
        nucleus_ratio=(0.6, 0.7),
        indentation=(0.0, 0.25),
        eccentricity=(0.2, 0.8),
        chromatin=Chromatin(0.62, 0.5, 0.11),
        cytoplasm=(136, 132, 216),
        rim=0.75,
    ),
    # Large; folded nucleus with lacy chromatin, dull grey-blue cytoplasm with vacuoles.
    "MON": Morphology(
        cell_um=(15.6, 1.0),
        elongation=1.25,
        irregularity=0.07,
        nucleus="folded",
        nucleus_ratio=(0.68, 0.78),
        indentation=(0.45, 0.65),
        eccentricity=(0.0, 0.7),
        chromatin=Chromatin(0.48, 0.45, 0.13),
        cytoplasm=(192, 178, 218),
        granules=Granules(0.3, 0.8, (160, 112, 190), 0.35),
        vacuoles=(2, 7),
    ),
    # Two lobes among packed large orange-red granules.
    "EOS": Morphology(
        cell_um=(14.2, 0.9),
        irregularity=0.05,
        nucleus="lobed",
        nucleus_ratio=(0.72, 0.82),
        lobes=(2, 2),
        lobe_um=5.0,
        eccentricity=(0.1, 0.6),
        chromatin=Chromatin(0.64, 0.55, 0.13),
        cytoplasm=(222, 176, 196),
        granules=Granules(0.75, 2.0, (204, 106, 116), 0.88, 0.12),
    ),
    # Coarse violet-black granules that hide a plump, poorly lobed nucleus.
    "BAS": Morphology(
        cell_um=(12.6, 0.8),
        irregularity=0.06,
        nucleus="lobed",
        nucleus_ratio=(0.78, 0.86),
        lobes=(2, 3),
        lobe_um=5.4,
        eccentricity=(0.0, 0.5),
        chromatin=Chromatin(0.5, 0.6, 0.12),
        cytoplasm=(214, 172, 220),
        granules=Granules(1.05, 0.9, (74, 4, 130), 0.92, 0.85),
    ),
    # A large round nucleus of fine chromatin with nucleoli nearly fills the cell.
    "MYO": Morphology(
        cell_um=(14.4, 1.0),
        irregularity=0.05,
        nucleus="round",
        nucleus_ratio=(0.82, 0.9),
        indentation=(0.0, 0.12),
        eccentricity=(0.2, 0.9),
        chromatin=Chromatin(0.5, 0.22, 0.1),
        nucleoli=(1, 3),
        nucleolus_um=1.9,
        cytoplasm=(164, 154, 228),
        rim=0.3,
    ),
    # The largest; eccentric round nucleus, many azurophil granules, also over the nucleus.
    "PMO": Morphology(
        cell_um=(18.2, 1.1),
        irregularity=0.04,
        nucleus="round",
        nucleus_ratio=(0.62, 0.7),
        indentation=(0.0, 0.1),
        eccentricity=(0.55, 0.95),
        chromatin=Chromatin(0.5, 0.3, 0.14),
        nucleoli=(0, 2),
        nucleolus_um=1.7,
        cytoplasm=(188, 164, 226),
        hof=0.5,
        granules=Granules(0.55, 1.7, (136, 22, 146), 0.8, 0.4),
    ),
    # As in variant promyelocytic leukaemia: a nucleus of two halves with a cleft between them.
    "PMB": Morphology(
        cell_um=(15.2, 1.0),
        elongation=1.25,
        irregularity=0.06,
        nucleus="cleft",
        nucleus_ratio=(0.78, 0.86),
        indentation=(0.35, 0.55),
        eccentricity=(0.0, 0.5),
        chromatin=Chromatin(0.6, 0.3, 0.12),
        cytoplasm=(160, 142, 216),
        rim=0.2,
        granules=Granules(0.5, 1.0, (142, 30, 150), 0.7, 0.2),
    ),
    # Oval eccentric nucleus without nucleoli, pinkish cytoplasm with fine granules.
    "MYB": Morphology(
        cell_um=(15.4, 1.0),
        irregularity=0.04,
        nucleus="round",
        nucleus_ratio=(0.55, 0.63),
        indentation=(0.0, 0.1),
        eccentricity=(0.6, 0.95),
        chromatin=Chromatin(0.62, 0.5, 0.14),
        cytoplasm=(220, 176, 214),
        hof=0.2,
        granules=Granules(0.45, 1.8, (182, 92, 166), 0.6, 0.05),
    ),
    # Bean-shaped nucleus, indented but not yet a band, in pink cytoplasm.
    "MMZ": Morphology(
        cell_um=(13.6, 0.8),
        irregularity=0.04,
        nucleus="bean",
        nucleus_ratio=(0.62, 0.7),
        indentation=(0.38, 0.55),
        eccentricity=(0.3, 0.8),
        chromatin=Chromatin(0.68, 0.55, 0.13),
        cytoplasm=(226, 188, 220),
        granules=Granules(0.4, 1.6, (184, 104, 176), 0.5),
    ),
    # Larger than a myeloblast; more grey-blue cytoplasm, one big nucleolus.
    "MOB": Morphology(
        cell_um=(17.4, 1.0),
        elongation=1.25,
        irregularity=0.08,
        nucleus="round",
        nucleus_ratio=(0.68, 0.76),
        indentation=(0.08, 0.25),
        eccentricity=(0.1, 0.7),
        chromatin=Chromatin(0.42, 0.28, 0.12),
        nucleoli=(1, 1),
        nucleolus_um=3.0,
        cytoplasm=(176, 164, 218),
        rim=0.25,
        vacuoles=(0, 2),
    ),
    # Small, with a smooth outline; a small, round, black nucleus in grey-lilac cytoplasm.
    "EBO": Morphology(
        cell_um=(10.6, 0.8),
        elongation=1.12,
        irregularity=0.02,
        nucleus="round",
        nucleus_ratio=(0.54, 0.64),
        eccentricity=(0.0, 0.6),
        chromatin=Chromatin(0.92, 0.6, 0.14),
        cytoplasm=(168, 156, 204),
        rim=0.15,
    ),
    # A burst cell: the bare nucleus, pale and smeared into streaks; no cytoplasm.
    "KSC": Morphology(
        cell_um=(15.0, 1.3),
        elongation=1.4,
        irregularity=0.14,
        nucleus="smudge",
        nucleus_ratio=(1.0, 1.0),
        eccentricity=(0.0, 0.0),
        chromatin=Chromatin(0.26, 0.4, 0.08),
        cytoplasm=(255, 255, 255),
    ),
}
