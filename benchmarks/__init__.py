"""What the package costs, measured beside the stock way on real brokers: ``python -m benchmarks``."""
