"""Typed records of the figures in `metrics.json`.

Figures are floats; None means that the images do not define the figure, such as the sensitivity of
a class without images. An `Interval` is [lower, upper] of a 95 % interval.
"""

from typing import Any, NotRequired, TypedDict

from leuko_tf.provenance import Source

Interval = list[float]


class ClassFigures(TypedDict):
    """One class against all others. A class that is never answered has precision 0."""

    images: int
    answered: int  # how often the class was the answer
    precision: float | None
    sensitivity: float | None
    specificity: float | None
    f1: float | None


class OperatingPoint(TypedDict):
    """Yes-or-no answers against the label; precision is 0 where nothing is called positive."""

    sensitivity: float
    specificity: float
    precision: float
    threshold: NotRequired[float]
    images: NotRequired[int]
    positives: NotRequired[int]


class QuestionFigures(TypedDict):
    """One binary question. Without positives or negatives, figures are None or empty."""

    positives: int
    negatives: int
    roc_auc: float | None
    roc_auc_interval: Interval | None  # DeLong's
    average_precision: float | None  # area under the precision-recall step function
    operating_points: dict[str, OperatingPoint]  # `threshold 0.5`, `specificity 0.90`, ...
    # By examiner: the examiner's own sensitivity and specificity, and the network's
    # `sensitivity_at_specificity` and `specificity_at_sensitivity`.
    at_examiners: dict[str, dict[str, float]]


class CalibrationErrors(TypedDict):
    expected_calibration_error: float  # Guo et al. 2017, arXiv 1706.04599
    brier: float  # squared distance from the right answer, 0 to 2
    log_loss: float  # nats


class Calibration(CalibrationErrors):
    bins: list[dict[str, Any]]  # from, to, images; confidence and accuracy, None without images


class Figures(TypedDict):
    """Figures of one set of images."""

    images: int
    overall: dict[str, Any]
    coarse: dict[str, Any]
    classes: dict[str, ClassFigures]
    confusion_matrix: dict[str, Any]  # `order`, `rows_are_labels`
    questions: dict[str, QuestionFigures]
    calibration: Calibration


class FoldTemperature(TypedDict):
    temperature: float
    before: CalibrationErrors
    after: CalibrationErrors


class Temperature(TypedDict):
    """Temperature scaling of each fold by the other folds; `before` and `after` of all images."""

    fitted_on: str
    folds: dict[str, FoldTemperature]
    before: CalibrationErrors
    after: Calibration


class Selective(TypedDict):
    """Accuracy against coverage, the share of images that the network answers."""

    curve: dict[str, list[float]]  # `coverage`, `accuracy`
    at_coverage: list[dict[str, Any]]  # asked, threshold, coverage, accuracy, classes
    at_accuracy: list[dict[str, Any]]  # asked; coverage, None where no share reaches it
    area_under_risk_coverage: float  # Geifman and El-Yaniv 2017, arXiv 1705.08500; lower is better


class PredictionSets(TypedDict):
    """Conformal prediction sets at one level, by one method."""

    level: float
    method: str  # `marginal`: one threshold for all; `by_class`: one for each class
    coverage: float  # share of sets that hold the right class
    folds: dict[str, float]  # coverage of each fold
    classes: dict[str, float | None]  # coverage of each class
    mean_size: float
    empty: float  # share of sets without a class
    single: float  # share of sets with one class
    always: list[str]  # classes in every set of some fold, for lack of calibration images


class PairAgreement(TypedDict):
    """Agreement of two columns of answers; see `measure_pair_agreement`."""

    images: int
    agreement: float | None
    agreement_interval: Interval | None
    kappa: float | None
    kappa_interval: Interval | None


class Agreement(TypedDict):
    """How far label and re-annotations agree; see `leuko_tf.metrics.agreement`."""

    images: int
    classes: dict[str, dict[str, Any]]  # by pair: `all`, `without_uncertain`, `confusion_matrix`
    questions: dict[str, dict[str, Any]]  # the same for each question, and `operating_points`
    disputes: dict[str, Any]  # `images`, `kinds`


class NetworkAgreement(Agreement):
    network: dict[str, Any]  # `agreement` by pair, `figures`, `disputes`


class PairedFigures(TypedDict):
    """Two networks on the images that both predicted. Differences are this minus other."""

    this: Figures
    other: Figures
    differences: dict[str, Any] | None  # bootstrap intervals, nested as `Figures`
    delong: dict[str, dict[str, Any] | None]  # by question: difference, interval, p_value


class Comparison(TypedDict):
    other: Figures  # of all images of the other table
    common_images: int
    paired: PairedFigures | None  # None without common images


class NamedComparison(Comparison):
    source: Source


class TableMetrics(TypedDict):
    """What `compute_metrics` computes from one table of predictions."""

    pooled: Figures
    intervals: dict[str, Any] | None  # bootstrap intervals, nested as `Figures`
    bootstrap_replicates: int
    folds: dict[str, Figures]
    mean: dict[str, Any] | None  # over the folds, nested as `Figures`; None with a single fold
    sd: dict[str, Any] | None  # the population's, as in the paper
    temperature: Temperature | None  # None with a single fold
    selective: Selective
    conformal: list[PredictionSets] | None  # None with a single fold


class Metrics(TableMetrics):
    """Everything in `metrics.json`."""

    leuko_tf: str  # version
    source: Source
    examiners: NetworkAgreement | None  # None without re-annotated images
    examiners_from: str | None  # `these images`, `published figures` or None
    comparisons: dict[str, NamedComparison]
