"""The web app: forms and charts over the API, which is all that it knows of the service."""
