"""What people see of a run: progress, tables, plots, pictures, TensorBoard events, one HTML page."""
