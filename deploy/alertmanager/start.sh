#!/bin/sh
# Writes Alertmanager's configuration from the variables that the watcher reads too
# (TASADOR_ALERTS__*, see docs/how-to/watch-a-service.md), then runs its arguments.
# Alertmanager itself reads no variables. Secrets go into a file in memory that only it may read.
set -eu
umask 077

file=${ALERTMANAGER_CONFIG:-/tmp/alertmanager.yml}
webhook=${TASADOR_ALERTS__WEBHOOK_URL:-}
slack=${TASADOR_ALERTS__SLACK_URL:-}
email=${TASADOR_ALERTS__EMAIL_URL:-}
from=${TASADOR_ALERTS__EMAIL_FROM:-}
to=${TASADOR_ALERTS__EMAIL_TO:-}
user=${TASADOR_ALERTS__EMAIL_USER:-}
password=${TASADOR_ALERTS__EMAIL_PASSWORD:-}

fail() {
    echo "alertmanager: $1" >&2
    exit 1
}

quoted() { # as a YAML text
    printf "'%s'" "$(printf '%s' "$1" | sed "s/'/''/g")"
}

for url in "$webhook" "$slack"; do
    case $url in
    '' | http://* | https://*) ;;
    *) fail "TASADOR_ALERTS__WEBHOOK_URL and __SLACK_URL expect https://..." ;;
    esac
done

{
    cat <<'YAML'
route:
  receiver: tasador
  group_by: [alertname, job]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 24h
  routes:
    - matchers: [severity="page"]
      receiver: tasador
      repeat_interval: 1h
inhibit_rules:
  # of a service that does not answer, nothing else is news
  - source_matchers: [alertname="TasadorDown"]
    target_matchers: [alertname!="TasadorDown"]
    equal: [job]
receivers:
  - name: tasador
YAML
    if [ -n "$webhook" ]; then
        echo "    webhook_configs:"
        echo "      - url: $(quoted "$webhook")"
    fi
    if [ -n "$slack" ]; then
        echo "    slack_configs:"
        echo "      - api_url: $(quoted "$slack")"
        cat <<'YAML'
        send_resolved: true
        title: '[{{ .Status }}] {{ .CommonLabels.alertname }}: {{ .CommonAnnotations.summary }}'
        text: '{{ range .Alerts }}{{ .Annotations.description }} {{ end }}'
YAML
    fi
    if [ -n "$email" ]; then
        [ -n "$from" ] && [ -n "$to" ] ||
            fail "TASADOR_ALERTS__EMAIL_URL needs TASADOR_ALERTS__EMAIL_FROM and __EMAIL_TO"
        case $email in
        *@*) fail "name and password go into TASADOR_ALERTS__EMAIL_USER and __EMAIL_PASSWORD" ;;
        smtps://*) port=465 tls=true ;;
        smtp://*) port=25 tls=false ;;
        *) fail "TASADOR_ALERTS__EMAIL_URL expects smtp://host:port or smtps://host:port" ;;
        esac
        [ -z "$user" ] || tls=true # a password never travels in the clear
        host=${email#*://}
        host=${host%%/*}
        case $host in *:*) ;; *) host=$host:$port ;; esac
        echo "    email_configs:"
        echo "      - to: $(quoted "$to")"
        echo "        from: $(quoted "$from")"
        echo "        smarthost: $(quoted "$host")"
        echo "        require_tls: $tls"
        echo "        send_resolved: true"
        if [ -n "$user" ]; then
            echo "        auth_username: $(quoted "$user")"
            echo "        auth_password: $(quoted "$password")"
        fi
    fi
} >"$file"
[ -n "$webhook$slack$email" ] ||
    echo "alertmanager: alerts reach nobody: set one of TASADOR_ALERTS__* in docker/env/alerts.env" >&2
exec "$@"
