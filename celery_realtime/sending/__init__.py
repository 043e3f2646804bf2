"""From a call to the broker, without making the task wait."""
