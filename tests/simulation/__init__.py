"""A whole site in one deterministic run: a seed decides what every register sells and what fails when.

``python -m tests.simulation --help`` runs seeds; :func:`tests.simulation.run.run` runs one.
"""
