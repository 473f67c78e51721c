# SPDX-License-Identifier: Apache-2.0
# What is built: one list a part.
BPF := ingress egress sockops
LIB := option address cache_event log histogram redis_conn redis_tls redis_url session_hash
AGENT := admin affinity attach buffer client clock config conntrack datapath decide decide_name decision_log devices dirty_queue \
	endpoint events events_apply events_load events_queue events_read events_republish events_snapshot events_write exchange flow_adopt flow_events flow_table forward handoff handoff_prepare http_body http_head http_rewrite json \
	kernel_features listener map_batch metrics metrics_collect metrics_events metrics_kernel metrics_print mirror mirror_load netlink \
	netlink_request older peer pins pipe_pool port_pool prefix prefix_hash prober prompt reach response session session_key \
	sockops status tcp_repair upstream
TOOLS := llmd-sim llmd-load llmd-maps llmd-events
SIM := main conn request answer scheduler cache pod_metrics
LOAD := main client dry_run pods prompt quantile report run sse synth trace
MAPS := affinity counter drain endpoint flow format percpu pin prefix records row session summary table verbs watch
EVENTS := main inject show snapshot tail
UNIT := bpf_lib bpf_slot conntrack decide http_body http_head json lib load maps metrics_kernel mirror netlink prompt session_key
LIVE := connections net wire world
TC := run world wire connections cases_parse cases_translate cases_close cases_agent cases_syn cases_straight cases_observe options
FUZZ := endpoint event http json maps mirror option packet prompt sse trace
FUZZED := endpoint http_body http_head http_rewrite json prefix_hash prompt session_key
MIRROR := decide decide_name dirty_queue map_batch mirror mirror_load prefix session
NET := netclient netpod
MAN := llmd-agent.8 llmd-maps.8 llmd-events.8 llmd-sim.1 llmd-load.1
