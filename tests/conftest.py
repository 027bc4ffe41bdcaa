"""Fixtures for all tests, and the profiles of Hypothesis; HYPOTHESIS_PROFILE chooses one.

`first` is `ci` that stops at the first failure it finds.
"""

import os

from hypothesis import Phase, settings

from tests.postgres import postgres as postgres
from tests.postgres import postgres_address as postgres_address
from tests.short_paths import short_path as short_path

settings.register_profile(
    "ci", max_examples=50, stateful_step_count=30, deadline=None, derandomize=True, database=None, print_blob=True
)
settings.register_profile("first", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.register_profile("deep", max_examples=2000, stateful_step_count=100, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
