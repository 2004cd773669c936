"""The table of morphology from which the synthetic cells are drawn, one row per class.

Where the numbers come from: sizes, nucleus-to-cytoplasm proportions, lobes, chromatin, nucleoli
and granules are remembered textbook figures for Pappenheim- or Wright-stained smears, rounded;
the colours were chosen by eye to resemble such smears. Neither is a measurement of patients, and
nothing learned from cells drawn with this table says anything about real ones.
"""

from dataclasses import dataclass

# Real images of the data set show red cells about 100 to 115 pixels across, and a red cell is
# 7.2 to 8 µm wide (remembered textbook figure); hence 14 pixels per µm, 400 pixels = 28.6 µm.
PIXELS_PER_UM = 14.0
RED_CELL_DIAMETER_UM = 7.4
RED_CELL_DIAMETER_SD_UM = 0.45

Colour = tuple[int, int, int]  # RGB, each 0..255, before tint and stain strength

# A nucleus takes its colour from this ramp: (position in 0..1, colour), from the palest smudge
# to the almost black nucleus of a late erythroblast.
CHROMATIN_RAMP: tuple[tuple[float, Colour], ...] = (
    (0.0, (190, 118, 214)),
    (0.35, (150, 52, 196)),
    (0.7, (96, 14, 176)),
    (1.0, (40, 4, 118)),
)


@dataclass(frozen=True)
class Granules:
    """Granules of one kind.

    Attributes:
      diameter_um: float. Mean diameter in µm, 0.3 (dust-like) to 1.1 (coarse).
      per_um2: float. Mean number per µm² of cytoplasm, 0.3 (sparse) to 3 (packed).
      colour: RGB, 0..255.
      opacity: float in 0..1. 1 hides what lies below.
      over_nucleus: float in 0..1. How much of that opacity remains over the nucleus.
    """

    diameter_um: float
    per_um2: float
    colour: Colour
    opacity: float
    over_nucleus: float = 0.0


@dataclass(frozen=True)
class Morphology:
    """How cells of one class look. Lengths are in µm, areas in µm².

    Attributes:
      cell_um: (mean, SD) of the cell's diameter, 9 to 19 µm. For a smudge: of the smear.
      elongation: float. Upper limit of long axis / short axis of the cell, 1 (round) to 1.4.
      irregularity: float in 0..0.15. Relative amplitude of the waves in the cell's outline.
      nucleus: str. Which shape: "round", "bean" (one indentation), "folded" (deep indentation
        with a crease), "cleft" (two halves), "band", "lobed" or "smudge" (no cell around it).
      nucleus_ratio: (low, high), 0..1. Nuclear diameter / cell diameter, for bands and lobes that
        of the circle around the nucleus: the nucleus-to-cytoplasm ratio, as lengths.
      lobes: (fewest, most) lobes of a "lobed" nucleus; (1, 1) elsewhere.
      lobe_um: float. Diameter of a lobe, or width of the band; 0 where neither exists.
      indentation: (low, high), 0..1. Depth of the indentation / nuclear radius; 0 where none.
      eccentricity: (low, high), 0..1. How far the nucleus lies from the centre towards the
        membrane; 1 touches it.
      density: float in 0..1. Position on `CHROMATIN_RAMP` about which the chromatin varies.
      chromatin_um: float. Grain of the chromatin, 0.2 (fine, blast) to 0.7 µm (clumped).
      chromatin_contrast: float in 0..0.4. Amplitude of the grain on `CHROMATIN_RAMP`.
      nucleoli: (fewest, most) paler spots in the nucleus.
      nucleolus_um: float. Diameter of a nucleolus, 1 to 3 µm; 0 where none.
      cytoplasm: RGB, 0..255. Colour half-way between nucleus and membrane.
      rim: float in 0..1. How much deeper the colour is at the membrane (basophilic rim).
      hof: float in 0..1. How much paler it is beside an eccentric nucleus (the Golgi zone).
      granules: None or `Granules`.
      vacuoles: (fewest, most) clear vacuoles of 0.6 to 1.3 µm.
    """

    cell_um: tuple[float, float]
    elongation: float
    irregularity: float
    nucleus: str
    nucleus_ratio: tuple[float, float]
    eccentricity: tuple[float, float]
    density: float
    chromatin_um: float
    chromatin_contrast: float
    cytoplasm: Colour
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
    # Three to five dense lobes on thin filaments in pale pink, dust-like granules.
    "NGS": Morphology(
        cell_um=(13.6, 0.8),
        elongation=1.2,
        irregularity=0.05,
        nucleus="lobed",
        nucleus_ratio=(0.7, 0.8),
        lobes=(3, 5),
        lobe_um=3.9,
        eccentricity=(0.0, 0.5),
        density=0.8,
        chromatin_um=0.5,
        chromatin_contrast=0.13,
        cytoplasm=(224, 194, 224),
        granules=_FINE_LILAC,
    ),
    # The same cell with an unsegmented nucleus: a C, U or S of even width.
    "NGB": Morphology(
        cell_um=(13.6, 0.8),
        elongation=1.2,
        irregularity=0.05,
        nucleus="band",
        nucleus_ratio=(0.66, 0.76),
        lobe_um=3.2,
        eccentricity=(0.0, 0.4),
        density=0.74,
        chromatin_um=0.5,
        chromatin_contrast=0.13,
        cytoplasm=(224, 194, 224),
        granules=_FINE_LILAC,
    ),
    # Small; the dense round nucleus leaves a thin pale blue rim.
    "LYT": Morphology(
        cell_um=(10.6, 0.8),
        elongation=1.2,
        irregularity=0.04,
        nucleus="round",
        nucleus_ratio=(0.78, 0.88),
        indentation=(0.0, 0.12),
        eccentricity=(0.2, 0.9),
        density=0.76,
        chromatin_um=0.5,
        chromatin_contrast=0.13,
        cytoplasm=(190, 186, 236),
    ),
    # Larger, of angular outline, with deep blue cytoplasm that darkens at the membrane.
    "LYA": Morphology(
        cell_um=(15.0, 1.1),
        elongation=1.4,
        irregularity=0.12,
        nucleus="round",
        nucleus_ratio=(0.6, 0.7),
        indentation=(0.0, 0.25),
        eccentricity=(0.2, 0.8),
        density=0.62,
        chromatin_um=0.5,
        chromatin_contrast=0.11,
        cytoplasm=(136, 132, 216),
        rim=0.75,
    ),
    # Large; folded nucleus of lacy chromatin, dull grey-blue cytoplasm with vacuoles.
    "MON": Morphology(
        cell_um=(15.6, 1.0),
        elongation=1.25,
        irregularity=0.07,
        nucleus="folded",
        nucleus_ratio=(0.68, 0.78),
        indentation=(0.45, 0.65),
        eccentricity=(0.0, 0.7),
        density=0.48,
        chromatin_um=0.45,
        chromatin_contrast=0.13,
        cytoplasm=(192, 178, 218),
        granules=Granules(0.3, 0.8, (160, 112, 190), 0.35),
        vacuoles=(2, 7),
    ),
    # Two, seldom three lobes among packed large orange-red granules.
    "EOS": Morphology(
        cell_um=(14.2, 0.9),
        elongation=1.2,
        irregularity=0.05,
        nucleus="lobed",
        nucleus_ratio=(0.72, 0.82),
        lobes=(2, 2),
        lobe_um=5.0,
        eccentricity=(0.1, 0.6),
        density=0.64,
        chromatin_um=0.55,
        chromatin_contrast=0.13,
        cytoplasm=(222, 176, 196),
        granules=Granules(0.75, 2.0, (204, 106, 116), 0.88, 0.12),
    ),
    # Coarse violet-black granules that hide a plump, poorly lobed nucleus.
    "BAS": Morphology(
        cell_um=(12.6, 0.8),
        elongation=1.2,
        irregularity=0.06,
        nucleus="lobed",
        nucleus_ratio=(0.78, 0.86),
        lobes=(2, 3),
        lobe_um=5.4,
        eccentricity=(0.0, 0.5),
        density=0.5,
        chromatin_um=0.6,
        chromatin_contrast=0.12,
        cytoplasm=(214, 172, 220),
        granules=Granules(1.05, 0.9, (74, 4, 130), 0.92, 0.85),
    ),
    # A large round nucleus of fine chromatin with nucleoli nearly fills the cell.
    "MYO": Morphology(
        cell_um=(14.4, 1.0),
        elongation=1.2,
        irregularity=0.05,
        nucleus="round",
        nucleus_ratio=(0.82, 0.9),
        indentation=(0.0, 0.12),
        eccentricity=(0.2, 0.9),
        density=0.5,
        chromatin_um=0.22,
        chromatin_contrast=0.1,
        nucleoli=(1, 3),
        nucleolus_um=1.9,
        cytoplasm=(164, 154, 228),
        rim=0.3,
    ),
    # The largest: eccentric round nucleus, abundant azurophil granules, also over the nucleus.
    "PMO": Morphology(
        cell_um=(18.2, 1.1),
        elongation=1.2,
        irregularity=0.04,
        nucleus="round",
        nucleus_ratio=(0.62, 0.7),
        indentation=(0.0, 0.1),
        eccentricity=(0.55, 0.95),
        density=0.5,
        chromatin_um=0.3,
        chromatin_contrast=0.14,
        nucleoli=(0, 2),
        nucleolus_um=1.7,
        cytoplasm=(188, 164, 226),
        hof=0.5,
        granules=Granules(0.55, 1.7, (136, 22, 146), 0.8, 0.4),
    ),
    # As in variant promyelocytic leukaemia: two halves of nucleus, a cleft between them.
    "PMB": Morphology(
        cell_um=(15.2, 1.0),
        elongation=1.25,
        irregularity=0.06,
        nucleus="cleft",
        nucleus_ratio=(0.78, 0.86),
        indentation=(0.35, 0.55),
        eccentricity=(0.0, 0.5),
        density=0.6,
        chromatin_um=0.3,
        chromatin_contrast=0.12,
        cytoplasm=(160, 142, 216),
        rim=0.2,
        granules=Granules(0.5, 1.0, (142, 30, 150), 0.7, 0.2),
    ),
    # Oval eccentric nucleus without nucleoli, pinkish cytoplasm of fine granules.
    "MYB": Morphology(
        cell_um=(15.4, 1.0),
        elongation=1.2,
        irregularity=0.04,
        nucleus="round",
        nucleus_ratio=(0.55, 0.63),
        indentation=(0.0, 0.1),
        eccentricity=(0.6, 0.95),
        density=0.62,
        chromatin_um=0.5,
        chromatin_contrast=0.14,
        cytoplasm=(220, 176, 214),
        hof=0.2,
        granules=Granules(0.45, 1.8, (182, 92, 166), 0.6, 0.05),
    ),
    # A bean: indented, not yet a band, in pink cytoplasm.
    "MMZ": Morphology(
        cell_um=(13.6, 0.8),
        elongation=1.2,
        irregularity=0.04,
        nucleus="bean",
        nucleus_ratio=(0.62, 0.7),
        indentation=(0.38, 0.55),
        eccentricity=(0.3, 0.8),
        density=0.68,
        chromatin_um=0.55,
        chromatin_contrast=0.13,
        cytoplasm=(226, 188, 220),
        granules=Granules(0.4, 1.6, (184, 104, 176), 0.5),
    ),
    # Larger than the myeloblast, more grey-blue cytoplasm, one big nucleolus.
    "MOB": Morphology(
        cell_um=(17.4, 1.0),
        elongation=1.25,
        irregularity=0.08,
        nucleus="round",
        nucleus_ratio=(0.68, 0.76),
        indentation=(0.08, 0.25),
        eccentricity=(0.1, 0.7),
        density=0.42,
        chromatin_um=0.28,
        chromatin_contrast=0.12,
        nucleoli=(1, 1),
        nucleolus_um=3.0,
        cytoplasm=(176, 164, 218),
        rim=0.25,
        vacuoles=(0, 2),
    ),
    # Small, clean of outline; the nucleus round, black and small in grey-lilac cytoplasm.
    "EBO": Morphology(
        cell_um=(10.6, 0.8),
        elongation=1.12,
        irregularity=0.02,
        nucleus="round",
        nucleus_ratio=(0.54, 0.64),
        eccentricity=(0.0, 0.6),
        density=0.92,
        chromatin_um=0.6,
        chromatin_contrast=0.14,
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
        density=0.26,
        chromatin_um=0.4,
        chromatin_contrast=0.08,
        cytoplasm=(255, 255, 255),
    ),
}
