"""Names of before, for those who still use them."""

from .store import find_model as find_model
