# SPDX-License-Identifier: Apache-2.0
# What is built: one list a part.
BPF := ingress egress sockops
LIB := option output address log histogram session_hash cache_event redis_config redis_conn redis_tls redis_url small_file
AGENT := admin admin_server affinity attach buffer client clock config conntrack datapath decide decide_name decide_state decision_log \
	devices dirty_queue discovery discovery_apply dns_reply dns_source dns_spec drift endpoint endpoints_file endpoints_yaml \
	engine engine_text events events_apply events_load events_queue events_read events_republish events_send events_snapshot \
	events_write exchange flow_adopt flow_cleanup flow_events flow_table forward handoff handoff_prepare health http_body http_fetch http_head \
	http_rewrite json k8s_model k8s_object k8s_source k8s_stream k8s_watch keeper kernel_features listener map_batch metrics \
	metrics_collect metrics_endpoint metrics_events metrics_kernel metrics_print mirror mirror_load netlink netlink_request older \
	pace peer pins pipe_pool port_pool prefix prefix_hash probe prober prompt reach response retry_budget session session_key \
	sockops standby status tcp_repair upstream
TOOLS := llmd-sim llmd-load llmd-maps llmd-doctor llmd-events
DOCTOR := main kernel node reach
SIM := main conn request answer scheduler cache pod_metrics
LOAD := main client dry_run pods prompt quantile report run sse synth trace
MAPS := affinity counter drain endpoint flow format percpu pin prefix records row session summary table verbs watch
UNIT := bpf_lib bpf_slot conntrack decide decide_rules discovery discovery_parse engine events health http_body http_head json lib load maps \
	metrics_kernel mirror netlink pins prompt redis_conn session_key sockops tcp_repair
EVENTS := main inject show snapshot tail
LIVE := connections net wire world sockets
TC := run world wire connections cases_parse cases_translate cases_close cases_agent cases_syn cases_straight cases_observe cases_too_big options sockets
FUZZ := dns endpoint endpoints engine event http json k8s maps mirror option packet prompt sse trace
FUZZED := dns_reply endpoint endpoints_yaml engine_text http_body http_head http_rewrite json k8s_model k8s_object k8s_stream \
	pace prefix_hash prompt session_key
MIRROR := decide decide_name decide_state dirty_queue drift map_batch mirror mirror_load prefix session
NET := netclient netpod
MAN := llmd-agent.8 llmd-maps.8 llmd-doctor.8 llmd-sim.1 llmd-load.1 llmd-events.8
