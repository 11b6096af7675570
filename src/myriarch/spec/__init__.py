"""What there is and what is wanted: fleet, model, run, and the catalogue of chips."""
