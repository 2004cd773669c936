"""Jinja environment of the report's templates, number formats, and the limits to state."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from leuko_tf.provenance import Source

# Stated wherever results are shown.
LIMITS = (
    "Research use only: nothing here is a diagnosis, and a cell's class is not a patient's "
    "diagnosis.",
    "The data cannot be split by patient: images of one patient lie in several folds, so the "
    "figures are optimistic for new patients.",
    "Blasts come from patients and normal cells mostly from controls: a network can use stain and "
    "background to guess the class.",
    "The labels are those of one examiner. The re-annotations disagree with 15 to 20 % of them.",
    "Some classes have only 11 to 26 images, so averages over classes are uncertain.",
)
SYNTHETIC_LIMIT = (
    "The images are drawn by a program. The limits below are those of the real data set, which the "
    "drawn one imitates."
)


def list_limits(source: Source) -> list[str]:
    """Lists the limits to state for a source of predictions."""
    own = [SYNTHETIC_LIMIT] if source.get("synthetic") else []
    remark = [f"About these predictions: {source['remark']}."] if source.get("remark") else []
    return own + remark + list(LIMITS)


def make_environment(autoescape: bool) -> Environment:
    """Makes the templates' environment; `autoescape` is for HTML."""
    templates = Environment(
        loader=PackageLoader("leuko_tf.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "figure": format_figure,
        "interval": format_interval,
        "count": "{:,}".format,
        "share": format_share,
        "p_value": format_p_value,
        "probability": format_probability,
    }
    return templates


# A value that is not defined is shown as a dash.


def format_figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def format_interval(ends: list[float] | None, digits: int = 3) -> str:
    return "-" if ends is None else f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def format_p_value(p: float | None) -> str:
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def format_probability(value: float) -> str:
    """Formats three digits, but never rounds to 0 or 1."""
    if 0.9995 <= value < 1:
        return "> 0.999"
    return "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def format_share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
