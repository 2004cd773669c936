"""How long commands and models take to be there."""

from benchmarks.contenders import OURS, SECONDS, Case, Contender, Options, Stage
from benchmarks.inference import STAGE as INFERENCE

COMMANDS = (
    "benchmarks",
    "benchmarks.precision",
    "leuko_tf.crossval",
    "leuko_tf.demo",
    "leuko_tf.evaluate",
    "leuko_tf.examiners",
    "leuko_tf.export",
    "leuko_tf.import_2019",
    "leuko_tf.predict",
    "leuko_tf.predictions",
    "leuko_tf.saliency",
    "leuko_tf.train",
    "serving.client",
    "serving.loadtest",
    "serving.local_server",
    "serving.ssl_config",
    "tfds_aml.synthetic_smear",
    "tfds_aml.synthetic_smear.contact_sheet",
)

_HERE = "benchmarks.startup.ours"


def _cases(options: Options) -> list[Case]:
    def asked(command: str) -> Contender:
        settings = {"command": command}
        return Contender(f"python -m {command}", OURS, f"{_HERE}:asking_for_help", settings, 1)

    settings = {"work": str(options.work)}
    loads = [
        Contender(name, OURS, f"{_HERE}:{builder}", settings, warm_up=0, fresh=True)
        for name, builder in (
            ("importing TensorFlow and Keras", "importing"),
            ("loading a .keras model, after imports", "loading_keras"),
            ("loading a SavedModel, after imports", "loading_export"),
        )
    ]
    return [Case("--help", [asked(command) for command in COMMANDS]), Case("first use", loads)]


STAGE = Stage(
    title="Start-up",
    unit=SECONDS,
    remarks=(
        "Wall time of the whole process for `--help`, its files in the page cache. Models: the "
        "paper's network, 23,112,975 parameters; a new process every round.",
    ),
    # The same network and export that inference runs.
    preparations=lambda options: INFERENCE.preparations(
        Options(options.short, peers=False, work=options.work)
    ),
    cases=_cases,
)
