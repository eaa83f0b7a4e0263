"""uncrate opens Hugging Face-format checkpoints: seen and decided before anything runs.

opened = uncrate.open("nano")
answer, = opened.generate([[{"role": "user", "image": "digits.png", "content": "What digit is red?"}]])
"""

from uncrate import trust
from uncrate.errors import UncrateError
from uncrate.open import inspect, open, plan, verify
from uncrate.plan import Options

__version__ = "0.1.0"
__all__ = ["Options", "UncrateError", "inspect", "open", "plan", "trust", "verify"]
