"""How the report's templates are filled: number formats, and what has to be said in any case."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

# To be stated wherever results are shown.
LIMITS = (
    "Research use only: nothing here is a diagnosis, and a cell's class is not a patient's.",
    "No split by patient is possible: images of one patient lie in several folds, so the figures "
    "are optimistic for new patients.",
    "Blasts come from patients and normal cells mostly from controls: stain and background can "
    "give the class away.",
    "The labels are one examiner's; the re-annotators disagree with 15 to 20 % of them.",
    "Classes of 11 to 26 images make averages over classes swing.",
)
SYNTHETIC_LIMIT = (
    "The images are drawn by a program. The limits below are those of the real data set, whose "
    "form they have."
)


def list_limits(source: dict[str, Any]) -> list[str]:
    """What the figures cannot say, for a source of predictions."""
    own = [SYNTHETIC_LIMIT] if source.get("synthetic") else []
    remark = [f"Of these predictions: {source['remark']}."] if source.get("remark") else []
    return own + remark + list(LIMITS)


def make_environment(autoescape: bool) -> Environment:
    """The templates' environment.

    Args:
      autoescape: for HTML.
    """
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
        "count": format_count,
        "share": format_share,
        "p_value": format_p_value,
        "probability": format_probability,
    }
    return templates


def format_figure(value: float | None, digits: int = 3) -> str:
    """A dash where the figure is not defined."""
    return "-" if value is None else f"{value:.{digits}f}"


def format_interval(ends: list[float] | None, digits: int = 3) -> str:
    """Both ends; a dash where there is no interval."""
    return "-" if ends is None else f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def format_p_value(p: float | None) -> str:
    """Three digits, or how small it is; a dash where it is not defined."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def format_probability(value: float) -> str:
    """Three digits, but never a 0 or 1 that it is not."""
    if 0.9995 <= value < 1:
        return "> 0.999"
    return "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def format_count(number: int) -> str:
    """With a comma for the thousands."""
    return f"{number:,}"


def format_share(value: float | None) -> str:
    """Percent with one digit; a dash where it is not defined."""
    return "-" if value is None else f"{100 * value:.1f} %"
