"""Formulas: from specs and measured rates to seconds, bytes, flops."""
