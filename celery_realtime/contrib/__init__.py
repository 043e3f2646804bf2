"""What fits this package into web frameworks: a module for each, which imports only its own framework."""
