// SPDX-License-Identifier: Apache-2.0
/*
 * When requests start. Closed loop: --concurrency at a time. Open loop: --rate a second, with exponential gaps. Trace: at
 * its timestamps, divided by --time-scale; 0: as a closed loop. The list ends with --requests, --duration or the trace.
 */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "tools/load/load.h"

uint64_t load_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static bool is_timed(const struct load *load)
{
	return load->config->rate > 0 || (load->trace && load->config->time_scale > 0);
}

static bool is_exhausted(const struct load *load)
{
	const struct load_config *config = load->config;

	if (load->stopping)
		return true;
	if (config->duration_ms && load_now_ns() - load->begun_ns > config->duration_ms * 1000000)
		return true;
	if (load->trace)
		return load->next >= load->trace->n;
	return config->requests ? load->next >= config->requests + config->warmup : !config->duration_ms;
}

static void start_next(struct load *load)
{
	struct order order = { .from = load->trace ? &load->trace->at[load->next] : NULL, .number = load->next };

	load->next++;
	client_start(load, &order);
}

static void end_if_over(struct load *load)
{
	if (!load->inflight && is_exhausted(load))
		event_base_loopbreak(load->base);
}

void load_request_over(struct load *load)
{
	if (!is_timed(load))
		while (load->inflight < load->config->concurrency && !is_exhausted(load))
			start_next(load);
	end_if_over(load);
}

/* Nanoseconds from the begin at which the next request is due. */
static uint64_t due_at(struct load *load)
{
	static double at_s;
	static uint64_t of = UINT64_MAX;

	if (load->trace)
		return (uint64_t)((double)(load->trace->at[load->next].at_ms - load->trace->at[0].at_ms) * 1e6 / load->config->time_scale);
	if (of != load->next) {
		at_s += -log(1 - drand48()) / load->config->rate;
		of = load->next;
	}
	return (uint64_t)(at_s * 1e9);
}

static void on_due(evutil_socket_t fd, short what, void *arg)
{
	struct load *load = arg;
	struct timeval wait = { 0 };

	(void)fd, (void)what;
	while (!is_exhausted(load)) {
		uint64_t now = load_now_ns() - load->begun_ns, due = due_at(load);

		if (due > now) {
			wait.tv_sec = (time_t)((due - now) / 1000000000);
			wait.tv_usec = (suseconds_t)((due - now) % 1000000000 / 1000);
			event_add(load->due, &wait);
			return;
		}
		start_next(load);
	}
	end_if_over(load);
}

static void on_clock(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	report_progress(arg);
	end_if_over(arg);
}

static void on_interrupt(evutil_socket_t fd, short what, void *arg)
{
	struct load *load = arg;

	(void)fd, (void)what;
	load->stopping = true;
	event_base_loopbreak(load->base);
}

int load_run(struct load *load)
{
	const struct timeval second = { .tv_sec = 1 };
	struct event *interrupt;

	signal(SIGPIPE, SIG_IGN);
	srand48((long)load->config->seed);
	load->base = event_base_new();
	if (!load->base)
		return -1;
	interrupt = evsignal_new(load->base, SIGINT, on_interrupt, load);
	load->due = evtimer_new(load->base, on_due, load);
	load->clock = event_new(load->base, -1, EV_PERSIST, on_clock, load);
	if (!interrupt || !load->due || !load->clock || event_add(interrupt, NULL) || event_add(load->clock, &second))
		return -1;
	load->begun_ns = load_now_ns();
	if (is_timed(load))
		on_due(-1, 0, load);
	else
		load_request_over(load);
	event_base_dispatch(load->base);
	clients_close(load);
	return 0;
}
