"""From files to augmented batches: ours, a torch DataLoader, and parts of the work alone."""

from benchmarks.contenders import (
    FLOOR,
    IMAGES_A_SECOND,
    OURS,
    PEER,
    VARIANT,
    Case,
    Contender,
    Options,
    Stage,
)

IMAGES = 300
BATCH = 32
SMEAR, BUILT, PNGS = "smear", "tfds", "png"

TURNS = ("opencv", "pillow", "grid_sample")  # what turns images for torch, the fastest first

_OURS = "benchmarks.pipeline.ours:batches"
_UNCACHED = "benchmarks.pipeline.ours:batches_without_cache"
_TORCH = "benchmarks.pipeline.torch_loader:batches"
_FLOORS = "benchmarks.pipeline.floors"

# Two epochs: the first may still decode, the second fills what is prepared ahead.
_WARM_UP = 2 * IMAGES // BATCH


def _preparations(options: Options) -> list[Contender]:
    settings = {"work": str(options.work), "images": IMAGES}
    builder = "benchmarks.material:make_smear"
    return [Contender("smear, data set and PNGs", FLOOR, builder, settings, warm_up=0)]


def _cases(options: Options) -> list[Case]:
    return [
        Case(
            "",
            _contenders(options, size),
            precision="float32",
            size=size,
            batch=BATCH,
            seconds=2.0 if options.short else 4.0,
        )
        for size in ((224,) if options.short else (224, 400))
    ]


def _contenders(options: Options, size: int) -> list[Contender]:
    shared = {"work": str(options.work), "size": size, "batch": BATCH}

    def entry(name: str, role: str, builder: str, **settings: object) -> Contender:
        group = str(settings.get("source", ""))
        return Contender(name, role, builder, {**shared, **settings}, _WARM_UP, group)

    contenders = [entry("leuko_tf, cells in memory", OURS, _OURS)]
    if options.peers:
        turns = TURNS[:1] if options.short else TURNS
        contenders += [
            entry(f"torch DataLoader, {source}, {turn}", PEER, _TORCH, source=source, turn=turn)
            for source in ("TIFF", "PNG", "uint8 array in memory")
            for turn in turns
        ]
    return [
        *contenders,
        entry("cells on disk", VARIANT, _OURS, cache="disk"),
        entry("no cache: decoded every epoch", VARIANT, _UNCACHED),
        entry("no rotation", VARIANT, _OURS, rotate=False),
        entry("no rotation, no flips", VARIANT, _OURS, rotate=False, flip=False),
        entry("PNG decoding alone, 400 px", FLOOR, f"{_FLOORS}:png_decoding"),
        entry("copying a decoded batch alone", FLOOR, f"{_FLOORS}:copying"),
        entry("the same into float32", FLOOR, f"{_FLOORS}:copying", dtype="float32"),
    ]


STAGE = Stage(
    title="Pipeline: augmented batches, from the second epoch on",
    unit=IMAGES_A_SECOND,
    remarks=(
        f"{IMAGES} synthetic cells of 400 px, all in the page cache; batches of float32 in 0 to "
        "255, turned by any angle and flipped. Ours come as [batch, height, width, 3], torch's as "
        "[batch, 3, height, width].",
        "torch: Pillow decodes and resizes (bilinear with antialiasing, as ours), as many worker "
        "processes as threads, persistent, no pinned memory, and the main process beside them. "
        "`opencv` and `pillow` turn uint8 images, and the main process makes float32 of whole "
        "batches; `grid_sample` turns float32 images. Pillow fills laid-bare corners with black, "
        "the others by reflection, as ours does.",
        "The epochs of the DataLoader follow each other without a gap, as ours do: with 300 images "
        "its workers would often wait for the next one.",
        "Variants and floors: ratio of ours to theirs, so that a floor's is below 1.",
    ),
    preparations=_preparations,
    cases=_cases,
    peers_need=("torch",),
)
