"""What fits this package to other libraries: a module for each, which imports only its own."""
