"""`python -m uncrate` is `uncrate`."""

from uncrate.cli.main import run

run()
