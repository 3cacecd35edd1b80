"""Appraisal reports: one page a property, as HTML or PDF, in English or Spanish."""
