"""The model card."""


def write_model_card(metrics, path):
    path.write_text("card")
