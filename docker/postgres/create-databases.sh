#!/bin/sh
# Runs once, on an empty volume: one role each for the API, the watcher and MLflow, none of which may
# do more than its work. The passwords are read from the environment, not from arguments.
set -eu
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres <<'SQL'
\getenv api API_PASSWORD
\getenv watcher WATCHER_PASSWORD
\getenv mlflow MLFLOW_PASSWORD
CREATE ROLE tasador_api LOGIN PASSWORD :'api';
CREATE ROLE tasador_watcher LOGIN PASSWORD :'watcher';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE tasador OWNER tasador_watcher;
REVOKE ALL ON DATABASE postgres, template1, mlflow, tasador FROM PUBLIC;
GRANT CONNECT ON DATABASE tasador TO tasador_api;

\connect mlflow
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO mlflow;

-- The watcher makes the tables, judges, and removes old rows. The API adds rows and changes what is
-- shared between servers; a record or a line of the history stays as it was written.
\connect tasador
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO tasador_watcher;
GRANT USAGE ON SCHEMA public TO tasador_api;
ALTER DEFAULT PRIVILEGES FOR ROLE tasador_watcher IN SCHEMA public
  GRANT SELECT, INSERT, UPDATE ON TABLES TO tasador_api;
CREATE FUNCTION public.only_added_to() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made record;
BEGIN
  FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands()
    WHERE command_tag = 'CREATE TABLE'
      AND object_identity IN ('public.records', 'public.audit', 'public.tasador_schema')
  LOOP
    EXECUTE format('REVOKE UPDATE ON %s FROM tasador_api', made.object_identity);
  END LOOP;
END $$;
CREATE EVENT TRIGGER only_added_to ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
  EXECUTE FUNCTION public.only_added_to();
SQL
