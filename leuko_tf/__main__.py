"""`python -m leuko_tf` lists the commands."""

from leuko_tf import __version__

COMMANDS = {
    "tfds build": "build a data set from a download (tfds build --help)",
    "tfds_aml.synthetic_smear": "draw a synthetic smear, laid out as the download",
    "leuko_tf.train": "train a network, or resume a training",
    "leuko_tf.crossval": "train and test on five folds",
    "leuko_tf.evaluate": "evaluate a model or a table of predictions; write a report",
    "leuko_tf.examiners": "measure how far examiners agree",
    "leuko_tf.predictions": "check a table of predictions and write it as Parquet",
    "leuko_tf.predict": "classify image files",
    "leuko_tf.saliency": "draw where the network looks, or measure it",
    "leuko_tf.export": "export a model for TensorFlow Serving",
    "leuko_tf.import_2019": "convert the paper's weight file into a model",
    "leuko_tf.demo": "run all of this on a small example",
    "serving.local_server": "serve an exported model on this machine",
    "serving.client": "ask a server to classify images",
    "serving.loadtest": "measure a server under load",
    "serving.ssl_config": "write a TLS configuration for TensorFlow Serving",
}


def main() -> None:
    print(f"leuko_tf {__version__}: recognises leukocytes in blood smears. Research use only.\n")
    for command, purpose in COMMANDS.items():
        words = command if " " in command else f"python -m {command}"
        print(f"  {words:<37}{purpose}")
    print("\nEach command takes --help. In Python: import leuko_tf; help(leuko_tf)")


if __name__ == "__main__":
    main()
