# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # variables that scripts/demo sets and uses
# Read by scripts/demo with DASHBOARD=1 (make demo-dashboard): the demo's pods and agent under load until Ctrl-C or for DASHBOARD_SECONDS, with a
# Redis (where it is installed) and a Prometheus beside them, which scrapes every second and has the rules of deploy/monitoring, and a Grafana with the
# dashboards where grafana-server is installed. With namespaces Prometheus runs on the node, which gets a cable to this machine for the browser.

dashboard_needs() {
    local missing=()
    command -v prometheus >/dev/null || missing+=(prometheus)
    [ ${#missing[@]} -eq 0 ] || { echo "Missing: ${missing[*]} (Debian's package)" >&2; exit 1; }
}

free_port() { # FROM
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

dashboard_cable() {
    cable=llmd$$
    cable=${cable:0:14}
    ip link add "$cable" type veth peer name machine netns "$name-node"
    ip addr add "10.89.$(($$ % 256)).2/30" dev "$cable"
    ip link set "$cable" up
    prometheus_ip=10.89.$(($$ % 256)).1
    ip -n "$name-node" addr add "$prometheus_ip/30" dev machine
    ip -n "$name-node" link set machine up
}

# The agent alone has nobody to share with; that it tells and reads what there would be shows in the dashboards.
start_redis() {
    command -v redis-server >/dev/null || { echo "Redis: not installed; its panels stay empty"; return; }
    redis-server --port 0 --unixsocket "$work/redis.sock" --save '' --appendonly no --dir "$work" >"$work/redis.log" &
    pids+=($!)
    od -An -N 16 -tx1 /dev/urandom | tr -d ' \n' >"$work/session-secret"
    chmod 600 "$work/session-secret"
    extra+=(--redis "unix://$work/redis.sock" --session-secret-file "$work/session-secret")
}

start_prometheus() {
    local targets
    targets=$(printf '"%s",' "${metrics[@]}")
    targets=${targets//\"--pod-metrics\",/}
    cat >"$work/prometheus.yml" <<-YAML
	global: {scrape_interval: 1s, evaluation_interval: 1s}
	rule_files: [rules.yml]
	scrape_configs:
	- job_name: llmd
	  static_configs: [{targets: ["$metrics_listen"]}]
	- job_name: vllm
	  static_configs: [{targets: [${targets%,}]}]
	YAML
    sed 's/interval: 15s/interval: 1s/' deploy/monitoring/rules.yml >"$work/rules.yml"
    "${in_node[@]}" prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" --web.listen-address="${prometheus#http://}" \
        2>"$work/prometheus.log" &
    pids+=($!)
}

start_grafana() {
    local grafana_port
    command -v grafana-server >/dev/null || { echo "Grafana: not installed; its dashboards are deploy/monitoring/dashboards/*.json"; return; }
    mkdir -p "$work/grafana/provisioning/"{datasources,dashboards} "$work/grafana/data"
    cat >"$work/grafana/provisioning/datasources/llmd.yaml" <<-YAML
	apiVersion: 1
	datasources: [{name: Prometheus, type: prometheus, access: proxy, url: "$prometheus", isDefault: true}]
	YAML
    cat >"$work/grafana/provisioning/dashboards/llmd.yaml" <<-YAML
	apiVersion: 1
	providers: [{name: llmd, type: file, options: {path: "$PWD/deploy/monitoring/dashboards"}}]
	YAML
    grafana_port=$(free_port 3000)
    GF_PATHS_DATA=$work/grafana/data GF_PATHS_PROVISIONING=$work/grafana/provisioning GF_SERVER_HTTP_ADDR=127.0.0.1 \
        GF_SERVER_HTTP_PORT=$grafana_port GF_AUTH_ANONYMOUS_ENABLED=true grafana-server --homepath /usr/share/grafana >"$work/grafana.log" 2>&1 &
    pids+=($!)
    echo "Grafana: http://127.0.0.1:$grafana_port/dashboards"
}

# Replays the trace again and again: sessions of several turns, streamed.
load_for() { # SECONDS, 0 for ever
    local end=$((SECONDS + $1))
    while [ "$1" -eq 0 ] || [ "$SECONDS" -lt "$end" ]; do
        run "${in_client[@]}" build/llmd-load --target "http://$front" --trace "$trace" --time-scale "${SCALE:-100}" --limit 200 \
            --output-max 64 --session "$session" --stream --json "$work/load.json" >/dev/null
        run "${in_client[@]}" build/llmd-load --target "http://$front" --concurrency 4 --requests 40 --json "$work/load.json" >/dev/null
    done
}

dashboard() {
    dashboard_needs
    metrics_listen=127.0.0.1:$(free_port 9471)
    prometheus=http://127.0.0.1:$(free_port 9090)
    if $kernel; then
        dashboard_cable
        prometheus=http://$prometheus_ip:9090
    fi
    extra=(--metrics-listen "$metrics_listen")
    start_redis
    start prefix-cache-aware
    await_agent
    start_prometheus
    echo "Prometheus: $prometheus"
    start_grafana
    echo "Load runs $([ -n "${DASHBOARD_SECONDS:-}" ] && echo "for $DASHBOARD_SECONDS s" || echo "until Ctrl-C")"
    load_for "${DASHBOARD_SECONDS:-0}"
    echo "Load has ended"
    [ -z "${DASHBOARD_HOLD:-}" ] || run sleep "$DASHBOARD_HOLD"
}
