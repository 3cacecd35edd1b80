"""Group commit of records, and the spool for outages."""
