"""The broker: the only place that knows kombu."""
