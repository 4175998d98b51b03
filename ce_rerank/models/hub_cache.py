"""Names of before, for those who still use them."""

from .hub import hub_cache_folder as hub_cache_folder
from .hub import list_cached_names as list_cached_names
from .hub import measure_folder as measure_folder
