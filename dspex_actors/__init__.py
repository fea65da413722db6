"""The platform: DSPy programs on a supervised tree of actors.

    cli    the command `dspex`

Everything below the language models lives in `supervisors`, which knows nothing of this package.
Importing it stays light: neither dspy, torch nor thespian is loaded.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
