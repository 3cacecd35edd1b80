"""Values rows over HTTP: sources of bundles, the running model, the API, its protection."""
