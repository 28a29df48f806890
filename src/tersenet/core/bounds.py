"""Numbers with bounds, as fields of configurations."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Positive = Annotated[float, Field(gt=0.0)]
"""A number above 0."""

Count = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A number between 0 and 1, both included."""
