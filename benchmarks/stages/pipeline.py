"""From files to augmented batches: ours, a torch DataLoader, and parts of the work alone."""

from pathlib import Path

from benchmarks.contenders import Case, Contender, Options, Role, Stage

IMAGES = 300
BATCH = 32
SMEAR, BUILT, PNGS = "smear", "tfds", "png"  # what the preparation writes

TIFF, PNG, MEMORY = "TIFF", "PNG", "uint8 array in memory"  # what torch reads cells from
ROTATIONS = ("opencv", "pillow", "grid_sample")  # what rotates them for torch, the fastest first

_OURS = "benchmarks.builders.pipeline"
_TORCH = "benchmarks.builders.torch_loader:build_loader"
_FLOORS = "benchmarks.builders.floors"

# Two epochs: the first may still decode, the second fills the buffers.
_WARM_UP = 2 * IMAGES // BATCH


def find_tiffs(work: Path) -> list[Path]:
    """Finds the smear's TIFFs, in the same order every time."""
    return sorted((work / SMEAR).rglob("*.tiff"))


def find_pngs(work: Path) -> list[Path]:
    """Finds the same cells as PNGs."""
    return sorted((work / PNGS).glob("*.png"))


def _list_preparations(options: Options) -> list[Contender]:
    settings = {"work": options.work, "images": IMAGES}
    return [Contender("smear, data set and PNGs", "floor", f"{_OURS}:make_smear", settings)]


def _list_cases(options: Options) -> list[Case]:
    sizes, seconds = ((224,), 2.0) if options.short else ((224, 400), 4.0)
    return [
        Case("", _list_contenders(options, size), "float32", size, BATCH, seconds) for size in sizes
    ]


def _list_contenders(options: Options, size: int) -> list[Contender]:
    shared = {"work": options.work, "size": size, "batch": BATCH}
    batches = f"{_OURS}:build_batches"
    copying = f"{_FLOORS}:build_copying"

    def entry(name: str, role: Role, builder: str, **settings: object) -> Contender:
        group = str(settings.get("source", ""))
        return Contender(name, role, builder, {**shared, **settings}, _WARM_UP, group)

    contenders = [entry("leuko_tf, cells in memory", "ours", batches)]
    if options.peers:
        contenders += [
            entry(f"torch DataLoader, {source}, {by}", "peer", _TORCH, source=source, rotation=by)
            for source in (TIFF, PNG, MEMORY)
            for by in (ROTATIONS[:1] if options.short else ROTATIONS)
        ]
    return [
        *contenders,
        entry("cells on disk", "variant", batches, cache="disk"),
        entry("no cache: decoded every epoch", "variant", f"{_OURS}:build_uncached_batches"),
        entry("no rotation", "variant", batches, rotate=False),
        entry("no rotation, no flips", "variant", batches, rotate=False, flip=False),
        entry("PNG decoding alone, 400 px", "floor", f"{_FLOORS}:build_png_decoding"),
        entry("copying a decoded batch alone", "floor", copying),
        entry("the same into float32", "floor", copying, dtype="float32"),
    ]


STAGE = Stage(
    title="Pipeline: augmented batches, from the second epoch on",
    unit="images/s",
    remarks=(
        f"{IMAGES} synthetic cells of 400 px, all in the page cache; batches of float32 in 0 to "
        "255, rotated by any angle and flipped. Our batches are [batch, height, width, 3], "
        "torch's [batch, 3, height, width].",
        "torch: Pillow decodes and resizes (bilinear with antialiasing, as ours). There are as "
        "many worker processes as threads, persistent, without pinned memory, in addition to the "
        "main process. `opencv` and `pillow` rotate uint8 images, and the main process converts "
        "whole batches to float32; `grid_sample` rotates float32 images. Pillow fills the corners "
        "with black, the others by reflection, as ours does.",
        "The DataLoader's epochs follow each other without a gap, as ours do: with 300 images its "
        "workers would often wait for the next epoch.",
        "Variants and floors: the ratio is our speed over theirs, so it is below 1 for a floor.",
    ),
    preparations=_list_preparations,
    cases=_list_cases,
    peers_need=("torch",),
)
