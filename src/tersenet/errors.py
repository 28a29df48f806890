"""Every error a user can cause, in one tree.

TersenetError
├── ModelError (ValueError)        the network cannot be used: NaN weights, nothing prunable, bad input
│   └── TraceError                 the network cannot be traced
├── PolicyError (ValueError)       a policy or plan does not fit the network
├── TargetError (ValueError)       a target is out of range, contradictory or unreachable
├── DataError (ValueError)         a data set is missing parts, damaged, or its labels are wrong
├── WeightsError (ValueError)      weights do not fit the network, or the file is damaged
├── UnknownNameError (ValueError)  no recipe, criterion, model, ... has this name
├── NotFoundError (FileNotFoundError)  a file or folder does not exist
├── SearchError (RuntimeError)     calls in the wrong order, a reward that is not a number
├── TrainingError (RuntimeError) training diverged, or its checkpoint cannot be used
├── StudyError (RuntimeError)      a study belongs to another run, or is in use
├── ArtifactError (ValueError)     a packed file is damaged, truncated or of another version
└── MissingExtraError (ImportError)  an optional library is not installed

Each message names the argument, its value and the way out. A wrong tensor handed to a plain function is a
``ValueError``; ``assert`` is for our own bugs.
"""

from __future__ import annotations


class TersenetError(Exception):
    """Base of all errors that a user can cause; the command line prints them as one line."""


class ModelError(TersenetError, ValueError):
    """The network cannot be used as it is."""


class TraceError(ModelError):
    """The network cannot be traced."""


class PolicyError(TersenetError, ValueError):
    """A policy or plan does not fit the network."""


class TargetError(TersenetError, ValueError):
    """A target is out of range, contradictory or unreachable."""


class DataError(TersenetError, ValueError):
    """A data set is missing parts, damaged, or its labels are wrong."""


class WeightsError(TersenetError, ValueError):
    """Weights do not fit the network, or their file is damaged."""


class UnknownNameError(TersenetError, ValueError):
    """Nothing of this kind has this name."""


class NotFoundError(TersenetError, FileNotFoundError):
    """A file or folder does not exist."""


class SearchError(TersenetError, RuntimeError):
    """Calls in the wrong order, or an evaluation that cannot be used."""


class TrainingError(TersenetError, RuntimeError):
    """Training diverged, or its checkpoint belongs to another run or is damaged."""


class StudyError(TersenetError, RuntimeError):
    """A study belongs to another run, is in use, or is damaged."""


class ArtifactError(TersenetError, ValueError):
    """A packed file is damaged, truncated or of another version."""


class MissingExtraError(TersenetError, ImportError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"This needs {library}, which is not installed. Install it with: pip install 'tersenet[{extra}]'."
        )
