"""Two versions side by side: workers and web servers of earlier commits beside those of the present one."""
