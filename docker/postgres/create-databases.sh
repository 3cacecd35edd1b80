#!/bin/sh
# Runs once, on an empty volume: MLflow keeps its tables apart from the records.
set -eu
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c 'CREATE DATABASE mlflow'
