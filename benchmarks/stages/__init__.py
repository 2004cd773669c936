"""The stages: what is measured, with which contenders. Imports nothing heavy.

Small stages hold the builders of their contenders, too, which import inside functions.
"""
