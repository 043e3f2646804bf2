"""How much is tried: among all tests a little, and always the same; by ``make fuzz`` much, and new each time."""

from __future__ import annotations

import os

from hypothesis import Phase, settings

#: Examples of each target in a long run; 0 among all tests.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES") or 0)

settings.register_profile("fuzz", deadline=None, derandomize=not EXAMPLES)


def tried(examples: int, *, share: float = 1.0, shrinks: bool = True) -> settings:
    """Return the settings of a target.

    Args:
        examples: How many it gets among all tests.
        share: Of the examples of a long run, for targets that are slow.
        shrinks: Whether a failure is made as short as it can be; with servers, where each failure is a long wait, not.
    """
    most = max(1, int(EXAMPLES * share)) if EXAMPLES else examples
    phases = [phase for phase in Phase if shrinks or phase not in (Phase.shrink, Phase.explain)]
    return settings(settings.get_profile("fuzz"), max_examples=most, phases=phases)
